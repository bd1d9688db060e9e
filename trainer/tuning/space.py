"""What can be searched, and how a trial's values become settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import optuna

from shared.checkpoint import atomic_folder, checkpoint_folder, read_config, verify
from shared.config import ModelConfig, load_preset


@dataclass(frozen=True)
class Parameter:
    """`values`: lowest and highest of a range, or the choices."""

    kind: Literal["log", "range", "choice"]
    values: tuple[float, ...]
    whole: bool = False

    def suggest(self, trial: optuna.Trial, name: str) -> float | int:
        """A value from the sampler."""
        if self.kind == "choice":
            value = trial.suggest_categorical(name, list(self.values))
        else:
            low, high = self.values
            value = trial.suggest_float(name, low, high, log=self.kind == "log")
        return int(value) if self.whole else value


SPACE: dict[str, Parameter] = {
    "learning_rate": Parameter("log", (1e-4, 3e-3)),
    "adapter_learning_rate": Parameter("log", (1e-4, 3e-3)),
    "lora_rank": Parameter("choice", (4, 8, 16, 32), whole=True),
    "lora_alpha_per_rank": Parameter("choice", (1, 2, 4)),
    "lora_dropout": Parameter("range", (0.0, 0.1)),
    "warmup_ratio": Parameter("range", (0.0, 0.1)),
    "grid": Parameter("choice", (3, 4, 5), whole=True),
    "teacher_forcing_low": Parameter("choice", (1.0, 0.75, 0.5)),
}
_OF_ADAPTERS = frozenset(("adapter_learning_rate", "lora_rank", "lora_alpha_per_rank", "lora_dropout"))


def search_space(
    names: list[str], ranges: Mapping[str, list[float]], *, stage: str, model: ModelConfig, new_adapter: bool
) -> dict[str, Parameter]:
    """The parameters to search.

    Args:
        names: of them; empty for all that apply.
        ranges: values instead of the default ones.
        new_adapter: the run starts LoRA anew; one that goes on has its rank already.

    Raises:
        ValueError: an unknown name, one that does not apply, or a range that is none.
    """
    applicable = dict(SPACE)
    if stage == "pretrain":
        applicable = {name: p for name, p in applicable.items() if name not in _OF_ADAPTERS}
    elif not new_adapter:
        for name in _OF_ADAPTERS - {"adapter_learning_rate"}:
            del applicable[name]
    if model.vision.tower == "clip":
        del applicable["grid"]  # a ViT's patches are what they are
    if unknown := [name for name in [*names, *ranges] if name not in applicable]:
        raise ValueError(
            f"cannot search {', '.join(unknown)} here; this run has {', '.join(sorted(applicable))}"
        )
    space = {}
    for name in names or applicable:
        parameter = applicable[name]
        if name in ranges:
            values = tuple(ranges[name])
            if parameter.kind != "choice" and (len(values) != 2 or values[0] >= values[1]):
                raise ValueError(f"space.{name}: give the lowest and the highest value")
            if parameter.kind == "log" and values[0] <= 0:
                raise ValueError(f"space.{name}: the lowest value must be above 0")
            if not values:
                raise ValueError(f"space.{name}: give the choices")
            parameter = Parameter(parameter.kind, values, parameter.whole)
        space[name] = parameter
    return space


def run_settings(base: Mapping, values: Mapping[str, float], *, stage: str, folder: Path) -> dict:
    """`base` with a trial's values, as `pretrain` or `finetune` takes them.

    Another grid is another model: its preset, or the checkpoint to start from, is written below `folder`.
    """
    settings = dict(base)
    for name, value in values.items():
        if name == "lora_alpha_per_rank":
            settings["lora_alpha"] = value * values.get("lora_rank", base.get("lora_rank", 16))
        elif name == "teacher_forcing_low":
            if value < 1:
                shape = base.get("teacher_forcing", "off")
                settings |= {
                    "teacher_forcing": "linear" if shape == "off" else shape,
                    "teacher_forcing_low": value,
                }
            else:
                settings["teacher_forcing"] = "off"
        elif name == "grid":
            settings |= _with_grid(base, int(value), stage, folder)
        else:
            settings[name] = value
    return settings


def _with_grid(base: Mapping, grid: int, stage: str, folder: Path) -> dict:
    if stage == "finetune":
        source = checkpoint_folder(base["init"])
        config = read_config(source)
        if config.vision.grid == grid:
            return {}
        target = folder / f"grid-{grid}"
        if not target.is_dir():
            _copy_with_grid(source, config, grid, target)
        return {"init": str(target)}
    config = load_preset(str(base.get("preset", "embedded")))
    if config.vision.grid == grid:
        return {}
    target = folder / f"grid-{grid}.toml"
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(dump_toml(_grid(config, grid).model_dump(mode="json", exclude_none=True)), "utf-8")
    return {"preset": str(target)}


def _grid(config: ModelConfig, grid: int) -> ModelConfig:
    return config.model_copy(update={"vision": config.vision.model_copy(update={"grid": grid})})


def _copy_with_grid(source: Path, config: ModelConfig, grid: int, target: Path) -> None:
    """The projector works patch by patch, so the same tensors fit any grid."""
    verify(source)
    with atomic_folder(target) as scratch:
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source)
            if path.is_file() and name.as_posix() != "manifest.json":
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).write_bytes(path.read_bytes())
        (scratch / "config.json").write_text(_grid(config, grid).model_dump_json(indent=2) + "\n", "utf-8")


def dump_toml(values: Mapping, prefix: str = "") -> str:
    """TOML of plain values, lists of them, and tables."""
    lines = [
        f"{_key(key)} = {_value(value)}" for key, value in values.items() if not isinstance(value, Mapping)
    ]
    for key, value in values.items():
        if isinstance(value, Mapping):
            name = f"{prefix}{_key(key)}"
            lines += ["", f"[{name}]", dump_toml(value, f"{name}.").rstrip("\n")]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else _value(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        import json

        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)
