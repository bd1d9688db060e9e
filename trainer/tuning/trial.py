"""One trial: a training run in a process of its own, watched through its `metrics.jsonl`.

A run that crashes or fills the memory ends its trial and not the study. The processes are forked from a server that
has imported torch and transformers once and computed nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna

from trainer.tracking import read_metrics

POLL = 0.5  # seconds
STOP = 120.0  # seconds that a pruned run gets to end by itself

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["trainer.stages", "torch.utils.tensorboard", "matplotlib.pyplot"])


class TrialError(RuntimeError):
    """A run ended with an error; the message holds its last words."""


def run_trial(trial: optuna.Trial, stage: str, config: Path, out: Path) -> float:
    """Train with `config` into `out` and report every validation loss to `trial`.

    Returns:
        The last validation loss.

    Raises:
        TrialPruned: the trial is not worth its time.
        TrialError: the run failed, or never validated.
    """
    log = out.with_suffix(".log")
    process = _context.Process(target=_train, args=(stage, str(config), str(log)))
    process.start()
    try:
        return _watch(trial, process, out, log)
    finally:
        _end(process)


def _train(stage: str, config: str, log: str) -> None:
    """What the process does: the verb, with its output in `log`."""
    from shared.runtime import tune_process
    from trainer.cli import main

    tune_process(keep_freed_memory=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.exit(main([stage, "--config", config]))


def _watch(trial: optuna.Trial, process: BaseProcess, out: Path, log: Path) -> float:
    reported: dict[int, float] = {}
    while True:
        ended = not process.is_alive()
        if ended and process.exitcode != 0:
            raise TrialError(f"{log}: {_last_words(log)}")
        rows = read_metrics(out)
        losses = {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}
        for step, loss in losses.items():
            if step in reported:
                continue
            reported[step] = loss
            trial.report(loss, step)
            # Also of a run that was faster than this look at it; only a whole run's last loss is its result
            if trial.should_prune() and not (ended and step == max(losses)):
                raise optuna.TrialPruned(f"validation loss {loss:.4f} at step {step}")
        if ended:
            break
        time.sleep(POLL)
    if not reported:
        raise TrialError(f"{log}: the run never validated: has its data a validation split?")
    return reported[max(reported)]


def _end(process: BaseProcess) -> None:
    process.terminate()  # the run finishes its step; nothing where it has ended
    process.join(STOP)
    if process.is_alive():
        process.kill()
        process.join()


def _last_words(log: Path) -> str:
    try:
        lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        lines = []
    return lines[-1][:300] if lines else "the run ended without a word"
