"""The verbs of `python -m trainer`: flags come from each verb's pydantic model, so help and file agree.

Exit codes: 0 done, 2 bad arguments or data, 130 interrupted after a checkpoint.
"""

from __future__ import annotations

import argparse
import logging
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from trainer.config import AverageConfig, PrepareConfig, Settings, TrainConfig, load_config
from trainer.evaluation.config import EvaluateConfig
from trainer.exporting.config import ExportConfig
from trainer.planning.config import PlanConfig
from trainer.tuning.config import TuneConfig

DONE, BAD, INTERRUPTED = 0, 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        return args.verb(args)
    except ValidationError as error:
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"]) or "configuration"
            print(f"{parser.prog}: {place}: {problem['msg']}", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return BAD


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Trains the multimodal model.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _config_verb(
        verbs, "prepare", PrepareConfig, _prepare, "LLaVA records and images to clean, split training data"
    )
    _config_verb(verbs, "pretrain", TrainConfig, _pretrain, "stage 1: only the projector learns")
    _config_verb(
        verbs, "finetune", TrainConfig, _finetune, "stage 2: LoRA or QLoRA adapters and the projector learn"
    )
    _config_verb(
        verbs, "evaluate", EvaluateConfig, _evaluate, "score captions and answers beside their baselines"
    )
    _config_verb(verbs, "plan", PlanConfig, _plan, "memory, time and settings of a run, before it begins")
    _config_verb(verbs, "tune", TuneConfig, _tune, "search hyper-parameters of a run")
    _config_verb(
        verbs, "average", AverageConfig, _average, "the mean of the weights of checkpoints of one model"
    )
    _config_verb(verbs, "export", ExportConfig, _export, "write a checkpoint for other programs")
    from trainer.data.dialogues import generate

    text = "make LLaVA records by rules from captions and object boxes"
    verb = verbs.add_parser("dialogues", help=text, description=text)
    generate.add_arguments(verb)
    verb.set_defaults(verb=generate.run)
    return parser


def _config_verb(
    verbs: argparse._SubParsersAction,
    name: str,
    kind: type[Settings],
    run: Callable[[Settings], int],
    text: str,
) -> None:
    verb = verbs.add_parser(name, help=text, description=text, argument_default=argparse.SUPPRESS)
    verb.add_argument(
        "--config", type=Path, default=None, metavar="FILE.toml", help="settings; flags override them"
    )
    for field, info in kind.model_fields.items():
        verb.add_argument(f"--{field.replace('_', '-')}", **_flag(info))

    def call(args: argparse.Namespace) -> int:
        given = {field: value for field, value in vars(args).items() if field in kind.model_fields}
        return run(load_config(kind, args.config, given))

    verb.set_defaults(verb=call)


def _flag(info) -> dict:
    """argparse options of a pydantic field; pydantic itself checks the value."""
    default = (
        "" if info.is_required() or info.default in (None, "", [], {}) else f" (default: {info.default})"
    )
    options: dict = {"help": ((info.description or "") + default).strip().replace("%", "%%") or None}
    origin = typing.get_origin(info.annotation)
    if info.annotation in (bool, bool | None):
        options["action"] = argparse.BooleanOptionalAction
    elif origin is list:
        options["nargs"] = "+"
    elif origin is dict:
        options |= {"nargs": "+", "metavar": "KEY=VALUE", "action": _Pairs}
    elif origin is typing.Literal:
        options["choices"] = typing.get_args(info.annotation)
    else:
        kinds = (
            typing.get_args(info.annotation)
            if origin in (types.UnionType, typing.Union)
            else (info.annotation,)
        )
        plain = typing.get_args(kinds[0]) if typing.get_origin(kinds[0]) is typing.Annotated else kinds
        options["metavar"] = plain[0].__name__.upper()
    return options


class _Pairs(argparse.Action):
    """`--shares caption=1 yesno=0.5` to a dict."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if bad := [value for value in values if "=" not in value]:
            parser.error(f"{option_string}: {bad[0]!r} is not KEY=VALUE")
        setattr(namespace, self.dest, dict(value.split("=", 1) for value in values))


def _prepare(config: PrepareConfig) -> int:
    from trainer.data.prepare import prepare

    report = prepare(config).to_json()
    print(
        f"{report['read']} records read, {report['kept']} kept, {report['dropped']} dropped -> {config.out}"
    )
    for reason, dropped in report["dropped_by_reason"].items():
        print(f"  {dropped['count']:>8}  {reason}   e.g. {dropped['first'][0]}")
    return DONE


def _pretrain(config: TrainConfig) -> int:
    from trainer.stages import pretrain

    return DONE if pretrain(config) else INTERRUPTED


def _finetune(config: TrainConfig) -> int:
    from trainer.stages import finetune

    return DONE if finetune(config) else INTERRUPTED


def _evaluate(config: EvaluateConfig) -> int:
    from trainer.evaluate import evaluate

    return evaluate(config)


def _plan(config: PlanConfig) -> int:
    from trainer.plan import plan

    return plan(config)


def _tune(config: TuneConfig) -> int:
    from trainer.tune import tune

    tune(config)
    print(f"best settings: {config.out / 'best.toml'}")
    return DONE


def _average(config: AverageConfig) -> int:
    from trainer.average import average

    average(config)
    print(f"mean of {len(config.checkpoints)} checkpoints: {config.out}")
    return DONE


def _export(config: ExportConfig) -> int:
    from trainer.export import run

    return run(config)
