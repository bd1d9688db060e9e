"""This trainer beside Hugging Face Trainer + PEFT as a user would write it: the same model, data and steps.

    python -m benchmarks.train --data PREPARED [--preset embedded] [--steps 20] [--rounds 2] [--out train.json]

Both stages. Both sides take the same dialogues in the same steps, start from the same weights, and follow the same
learning rate, so their losses must agree step by step; each runs in a process of its own, in turns. The other side
is `transformers.Trainer` over a module of tower, projector and PEFT model: images are decoded and encoded in every
step, every dialogue is a padded row, and the language model computes its own loss. Samples are dialogues; seconds
are those of the steps behind the first one. This trainer's vision features are computed before the first step:
`samples/s` counts that time for every image used (one epoch), `later epochs` does not.
Exit code 1 where the losses disagree.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SETTINGS = {
    "batch_tokens": 1280, "max_tokens": 384, "learning_rate": 4e-4, "warmup_ratio": 0.05, "align": False,
    "lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0.0, "log_every": 1, "samples": 0, "device": "cpu",
    "checkpoint_every": 10**6, "validate_every": 10**6, "validation_batches": 1, "seed": 0,
}  # fmt: skip
LOSS_TOLERANCE = 0.02  # relative, of the mean over all steps; single steps are printed


def main() -> int:
    """Run both sides in turns and print a table for each stage."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder that `trainer prepare` wrote")
    parser.add_argument("--preset", default="embedded")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side")
    parser.add_argument("--stages", nargs="+", default=["pretrain", "finetune"])
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--out", type=Path, help="JSON with every step")
    parser.add_argument("--worker", nargs=3, metavar=("SIDE", "STAGE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--init", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        side, stage, folder = args.worker
        measured = {"ours": train_here, "theirs": train_plainly}[side](args, stage, Path(folder))
        (Path(folder) / f"{side}.json").write_text(json.dumps(measured))
        return 0
    agree, results = True, {}
    with tempfile.TemporaryDirectory() as scratch:
        init = None
        for stage in args.stages:
            runs = {"ours": [], "theirs": []}
            if stage == "finetune" and init is None:
                init = untrained_start(args, Path(scratch))
            for number in range(args.rounds):
                for side, found in runs.items():
                    folder = Path(scratch) / f"{stage}-{number}-{side}"
                    folder.mkdir()
                    found.append(in_own_process(args, side, stage, folder, init))
            if stage == "pretrain":
                init = Path(scratch) / f"pretrain-{args.rounds - 1}-ours" / "run" / "final"
            results[stage] = runs
            agree &= report(stage, runs)
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if agree else 1


def in_own_process(args, side: str, stage: str, folder: Path, init: Path | None) -> dict:
    command = [
        sys.executable, "-m", "benchmarks.train", "--worker", side, stage, str(folder), "--data", str(args.data),
        "--preset", args.preset, "--steps", str(args.steps), "--dtype", args.dtype,
    ]  # fmt: skip
    if init is not None and stage == "finetune":
        command += ["--init", str(init)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (folder / "log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{side} {stage} failed:\n{(folder / 'log').read_text()[-3000:]}")
    return json.loads((folder / f"{side}.json").read_text())


def report(stage: str, runs: dict[str, list[dict]]) -> bool:
    """Print the stage's table. Returns whether the losses agree."""
    middle = {
        side: {key: statistics.median(run[key] for run in found) for key in
               ("samples_per_second", "later_epochs", "tokens_per_step", "peak_gib")}
        for side, found in runs.items()
    }  # fmt: skip
    print(f"\n{stage}, {len(runs['ours'])} runs of {len(runs['ours'][0]['losses'])} steps each, medians")
    print(f"{'':<26}{'samples/s':>11}{'later epochs':>14}{'tokens/step':>13}{'peak GiB':>10}")
    for side, name in (("ours", "this trainer"), ("theirs", "Hugging Face Trainer")):
        row = middle[side]
        print(f"{name:<26}{row['samples_per_second']:>11.2f}{row['later_epochs']:>14.2f}"
              f"{row['tokens_per_step']:>13.0f}{row['peak_gib']:>10.2f}")  # fmt: skip
    ratios = {key: middle["ours"][key] / middle["theirs"][key] for key in middle["ours"]}
    print(f"{'ratio':<26}{ratios['samples_per_second']:>11.2f}{ratios['later_epochs']:>14.2f}"
          f"{ratios['tokens_per_step']:>13.2f}{ratios['peak_gib']:>10.2f}")  # fmt: skip
    ours, theirs = runs["ours"][0]["losses"], runs["theirs"][0]["losses"]
    apart = max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))
    mean = abs(statistics.mean(ours) / statistics.mean(theirs) - 1)
    print(f"losses {ours[0]:.4f} -> {ours[-1]:.4f} and {theirs[0]:.4f} -> {theirs[-1]:.4f}: "
          f"{100 * apart:.2f} % apart at most, {100 * mean:.3f} % on the mean")  # fmt: skip
    return mean < LOSS_TOLERANCE


def settings(args, stage: str, out: Path):
    """The run, as this trainer is told it."""
    from trainer.config import TrainConfig

    more = {"init": args.init} if stage == "finetune" else {}
    return TrainConfig(
        **SETTINGS,
        **more,
        data=args.data,
        out=out,
        preset=args.preset,
        dtype=args.dtype,
        max_steps=args.steps,
    )


def untrained_start(args, scratch: Path) -> Path:
    """A checkpoint to finetune from, where no stage 1 ran."""
    import torch

    from shared.checkpoint import build_model, save_checkpoint
    from shared.config import load_preset

    torch.manual_seed(0)
    save_checkpoint(build_model(load_preset(args.preset)), scratch / "untrained")
    return scratch / "untrained"


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def summary(
    losses: list[float], times: list[float], samples: list[int], tokens: list[int], peak: float, extra=0.0
) -> dict:
    """Rates over the steps behind the first; `extra` seconds belong to the first epoch."""
    seconds, count = times[-1] - times[0], sum(samples[1:])
    return {
        "losses": losses,
        "samples_per_second": count / (seconds + extra),
        "later_epochs": count / seconds,
        "tokens_per_step": statistics.mean(tokens),
        "peak_gib": peak,
    }


# ------------------------------------------------------------------------------------- this trainer


def train_here(args, stage: str, folder: Path) -> dict:
    """`trainer pretrain` or `finetune`, its features computed anew in a folder of links to the data."""
    from shared.runtime import tune_process

    tune_process(keep_freed_memory=True)
    from shared.config import load_preset
    from shared.vision import load_vision_tower
    from trainer import stages
    from trainer.data.features import build_features
    from trainer.data.prepared import PreparedData

    data = folder / "data"
    data.mkdir()
    for path in args.data.iterdir():
        if not path.name.startswith("features-"):
            (data / path.name).symlink_to(path.resolve())
    config = settings(args, stage, folder / "run").model_copy(update={"data": data})

    if not getattr(stages, stage)(config):
        raise SystemExit("interrupted")
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    peak = peak_gib()
    steps = dealt_steps(args, stage)
    names = sorted({image for step in steps[1:] for image in step.images})
    tower = load_vision_tower(load_preset(args.preset).vision)
    started = time.perf_counter()
    build_features(tower, names, PreparedData(data).images, folder)
    features = time.perf_counter() - started
    return summary(
        [row["loss"] for row in rows],
        [row["time"] for row in rows],
        [len(step.dialogues) for step in steps],
        [step.tokens for step in steps],
        peak,
        features,
    )


@dataclass
class DealtStep:
    """What this trainer learns in one step: which dialogues, which images, and in how many tokens."""

    dialogues: list[int]
    images: list[str]
    tokens: int


def dealt_steps(args, stage: str) -> list[DealtStep]:
    """The first `steps` optimizer steps of the run."""
    from trainer.data.packing import padded_tokens

    loader = dialogues_of(args, stage)
    steps, epoch = [], 0
    while len(steps) < args.steps:
        batches = loader.batches(epoch)
        for index in range(min(len(batches), args.steps - len(steps))):
            rows = batches[index]
            images = [image for row in rows for pack in row for image in pack.images]
            steps.append(DealtStep(batches.dialogues(index), images, padded_tokens(rows)))
        epoch += 1
    return steps


def dialogues_of(args, stage: str):
    """The run's loader."""
    from shared.checkpoint import read_config
    from shared.config import load_preset
    from shared.language import load_tokenizer
    from shared.prompt import PromptBuilder
    from shared.vision import load_vision_tower
    from trainer.data.loader import PackLoader
    from trainer.data.prepared import PreparedData

    config = read_config(args.init) if stage == "finetune" else load_preset(args.preset)
    patches = load_vision_tower(config.vision).num_patches
    prompt = PromptBuilder(load_tokenizer(config.language), config.prompt, patches)
    return PackLoader(
        PreparedData(args.data), "train", prompt, batch_tokens=SETTINGS["batch_tokens"],
        max_tokens=SETTINGS["max_tokens"], shares={}, seed=SETTINGS["seed"], images_only=stage == "pretrain",
    )  # fmt: skip


# ------------------------------------------------------------------------------------- the other side


def train_plainly(args, stage: str, folder: Path) -> dict:
    """`benchmarks.plain_trainer` over the same weights, dialogues and steps."""
    import torch

    from benchmarks.plain_trainer import train
    from shared.checkpoint import build_model, load_projector, read_config
    from shared.config import load_preset
    from shared.lora import attach_lora
    from trainer.data.prepared import PreparedData

    config = settings(args, stage, folder / "run")
    torch.manual_seed(config.seed)
    source = read_config(args.init) if stage == "finetune" else load_preset(args.preset)
    model = build_model(source, dtype=args.dtype)
    if stage == "finetune":
        load_projector(model, args.init)
        model.language = attach_lora(
            model.language, model.config.language.lora_targets, rank=config.lora_rank, alpha=config.lora_alpha,
            dropout=config.lora_dropout,
        )  # fmt: skip
    steps = dealt_steps(args, stage)
    run = train(
        model, config, dialogues_of(args, stage).dialogues, PreparedData(args.data).images,
        [step.dialogues for step in steps],
    )  # fmt: skip
    if not all(math.isfinite(loss) for loss in run.losses):
        raise SystemExit("its loss is not finite")
    return summary(run.losses, run.times, [len(step.dialogues) for step in steps], run.tokens, peak_gib())


if __name__ == "__main__":
    raise SystemExit(main())
