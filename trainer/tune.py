"""`python -m trainer tune`: hyper-parameter search by Optuna.

TPE (Bergstra et al. 2011) proposes, each trial is a real run of `pretrain` or `finetune`, and a run whose
validation loss is above the median of the earlier ones at the same step is stopped. The study lives in an SQLite
file: the same command goes on where it stopped, and several calls, or --jobs, work on one study. Beside it:
best.toml, which the verb takes as --config, trials.json, and plots of the history and the importances.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tomllib
import warnings
from pathlib import Path
from queue import SimpleQueue

import optuna
import torch
from filelock import FileLock
from optuna.trial import TrialState

from shared.checkpoint import checkpoint_folder, read_config
from shared.config import ModelConfig, load_preset
from trainer.config import TrainConfig, load_config
from trainer.data.prepared import PreparedData
from trainer.tuning.config import TuneConfig
from trainer.tuning.space import Parameter, dump_toml, run_settings, search_space
from trainer.tuning.trial import TrialError, run_trial

log = logging.getLogger(__name__)

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
WITHOUT_EFFECT = {
    "data", "init", "out", "device", "resume", "samples", "log_every", "checkpoint_every", "keep_checkpoints", "wandb",
    "wandb_project",
}  # on a trial's losses, or compared otherwise  # fmt: skip


def tune(config: TuneConfig) -> optuna.Study:
    """Run the study up to `config.trials` finished trials and write what came out.

    Raises:
        ValueError: settings that are wrong, or no trial that was trained to its end.
    """
    base = _read_base(config)
    model, new_adapter = _start(base, config.stage)
    space = search_space(
        config.search, config.space, stage=config.stage, model=model, new_adapter=new_adapter
    )
    config.out.mkdir(parents=True, exist_ok=True)
    study = _study(config)
    _refuse_another_base(study, base, config)
    devices = _devices(config.jobs, str(base.get("device", "auto")))
    if (left := config.trials - _finished(study)) > 0:
        study.optimize(
            lambda trial: _objective(trial, config, base, space, devices),
            n_trials=left,
            timeout=config.timeout,
            n_jobs=config.jobs,
            catch=(TrialError,),
            callbacks=[
                lambda study, _: _stop_when_done(study, config.trials),
                lambda study, _: _log_best(study),
            ],
        )
    write_results(study, config, base)
    return study


def write_results(study: optuna.Study, config: TuneConfig, base: dict) -> None:
    """`best.toml`, `trials.json`, `history.png` and, from two complete trials on, `importance.png`."""
    rows = [
        {"number": t.number, "state": t.state.name, "value": t.value, "params": t.params,
         "seconds": t.duration.total_seconds() if t.duration else None}
        for t in study.trials
    ]  # fmt: skip
    (config.out / "trials.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    complete = study.get_trials(states=[TrialState.COMPLETE])
    if not complete:
        raise ValueError(f"no trial was trained to its end; their logs are in {config.out / 'trials'}")
    best = run_settings(base, study.best_params, stage=config.stage, folder=config.out / "starts")
    head = (
        f"# Trial {study.best_trial.number} of {len(study.trials)}: validation loss {study.best_value:.4f}\n"
    )
    (config.out / "best.toml").write_text(head + dump_toml(best), "utf-8")
    _plot(study, config.out)


def _read_base(config: TuneConfig) -> dict:
    """The base settings as plain values, checked as a run would check them."""
    given = {name: str(value) for name in ("data", "init") if (value := getattr(config, name)) is not None}
    settings = load_config(TrainConfig, config.base, given | {"out": config.out / "trials" / "base"})
    if config.stage == "finetune" and settings.init is None:
        raise ValueError("finetune starts from a stage 1 checkpoint: give --init, or set it in the base")
    with config.base.open("rb") as file:
        return {key: value for key, value in (tomllib.load(file) | given).items() if key != "out"}


def _start(base: dict, stage: str) -> tuple[ModelConfig, bool]:
    """The model that runs start from, and whether LoRA starts anew."""
    if stage == "pretrain":
        return load_preset(str(base.get("preset", "embedded"))), False
    folder = checkpoint_folder(base["init"])
    return read_config(folder), not (folder / "adapter").is_dir()


def _study(config: TuneConfig) -> optuna.Study:
    url = config.storage or f"sqlite:///{config.out / 'study.db'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # A trial whose process died without a word is failed after a while, not kept for ever as running
        storage = optuna.storages.RDBStorage(url, heartbeat_interval=30, grace_period=120)
        pruner = (
            optuna.pruners.MedianPruner(n_startup_trials=config.warm_trials)
            if config.prune
            else optuna.pruners.NopPruner()
        )
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=config.warm_trials,
            multivariate=True,
            constant_liar=config.jobs > 1,
            seed=config.seed,
        )
        return optuna.create_study(
            study_name=config.study,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            direction="minimize",
            load_if_exists=True,
        )


def _refuse_another_base(study: optuna.Study, base: dict, config: TuneConfig) -> None:
    """Losses of other runs are no measure for these. Data and checkpoint are known by their content, since several
    machines may keep them in different places."""
    now = TrainConfig.model_validate(base | {"out": config.out}).model_dump(
        mode="json", exclude=WITHOUT_EFFECT
    )
    now |= {
        "stage": config.stage,
        "data": _digest(
            json.dumps(PreparedData(Path(base["data"])).index["shards"], sort_keys=True).encode()
        ),
        "init": _digest((checkpoint_folder(base["init"]) / "manifest.json").read_bytes())
        if "init" in base
        else None,
    }
    known = study.user_attrs.get("base")
    if known is None:
        study.set_user_attr("base", now)
        return
    if changed := sorted(key for key in known | now if known.get(key) != now.get(key)):
        raise ValueError(
            f"the study was begun with another {', '.join(changed)}; give another --out, or another --study"
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _devices(jobs: int, device: str) -> SimpleQueue[str]:
    """One for each of the trials at once: all GPUs in turn where the base leaves the choice."""
    gpus = torch.cuda.device_count()
    devices: SimpleQueue[str] = SimpleQueue()
    for job in range(jobs):
        devices.put(f"cuda:{job % gpus}" if device == "auto" and gpus > 1 else device)
    return devices


def _objective(
    trial: optuna.Trial,
    config: TuneConfig,
    base: dict,
    space: dict[str, Parameter],
    devices: SimpleQueue[str],
) -> float:
    if _finished(trial.study) >= config.trials:  # another process was faster
        trial.study.stop()
        raise TrialError("the study is complete")
    values = {name: parameter.suggest(trial, name) for name, parameter in space.items()}
    with FileLock(config.out / "starts.lock"):
        settings = run_settings(base, values, stage=config.stage, folder=config.out / "starts")
    folder = config.out / "trials" / f"{trial.number:03d}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    device = devices.get()
    settings |= {"out": str(folder), "samples": 0, "resume": False, "device": device}
    file = folder.with_suffix(".toml")
    file.write_text(dump_toml(settings), "utf-8")
    try:
        return run_trial(trial, config.stage, file, folder)
    finally:
        devices.put(device)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def _stop_when_done(study: optuna.Study, trials: int) -> None:
    if _finished(study) >= trials:
        study.stop()


def _log_best(study: optuna.Study) -> None:
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if complete:
        log.info(
            "%d trials finished, best validation loss %.4f in trial %d",
            _finished(study), study.best_value, study.best_trial.number,
        )  # fmt: skip


def _plot(study: optuna.Study, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    wanted = {"history": plots.plot_optimization_history}
    if len({t.value for t in study.get_trials(states=[TrialState.COMPLETE])}) > 1:
        wanted["importance"] = plots.plot_param_importances
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for name, plot in wanted.items():
            axes = plot(study)
            axes.figure.savefig(out / f"{name}.png", dpi=120, bbox_inches="tight")
            pyplot.close(axes.figure)
