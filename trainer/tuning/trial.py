"""One trial: a training run in a process of its own, watched through its `metrics.jsonl`.

A run that crashes or fills the memory ends its trial and not the study.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import optuna
from filelock import FileLock

from trainer.tracking import read_metrics

POLL = 0.5  # seconds
STOP = 120.0  # seconds that a pruned run gets to end by itself


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
    command = [sys.executable, "-m", "trainer", stage, "--config", str(config)]
    # Two runs that begin together would both compute the features of the same images
    starting = FileLock(out.parent / "starting.lock")
    starting.acquire()
    try:
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            return _watch(trial, process, out, starting, log)
        finally:
            _end(process)
    finally:
        starting.release(force=True)


def _watch(trial: optuna.Trial, process: subprocess.Popen, out: Path, starting: FileLock, log: Path) -> float:
    reported: dict[int, float] = {}
    while True:
        ended = process.poll() is not None
        rows = read_metrics(out)
        if rows and starting.is_locked:
            starting.release()
        for row in rows:
            if "val_loss" in row and row["step"] not in reported:
                reported[row["step"]] = row["val_loss"]
                trial.report(row["val_loss"], row["step"])
                if not ended and trial.should_prune():
                    raise optuna.TrialPruned(f"validation loss {row['val_loss']:.4f} at step {row['step']}")
        if ended:
            break
        time.sleep(POLL)
    if process.returncode != 0:
        raise TrialError(f"{log}: {_last_words(log)}")
    if not reported:
        raise TrialError(f"{log}: the run never validated: has its data a validation split?")
    return reported[max(reported)]


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "the run ended without a word"
