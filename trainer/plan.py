"""`python -m trainer plan`: what a run will take, before it begins, without weights, hub or GPU.

One step is computed on tensors without data (`trainer/planning/simulate.py`), so memory and arithmetic are those
of the trainer's own code at that size, not of a formula. With --gpu-memory it looks for the batch, and if need be
for gradient checkpointing and 4-bit weights, that fit.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shared.checkpoint import checkpoint_folder, read_config
from shared.config import ModelConfig, load_preset
from trainer.config import TrainConfig, load_config
from trainer.data.prepared import INDEX, PreparedData
from trainer.planning.config import PlanConfig
from trainer.planning.fit import CUDA_CONTEXT, FRAGMENTATION, LEAST_ROWS, fit
from trainer.planning.model import visual_tokens
from trainer.planning.simulate import Setup, Step, simulate
from trainer.throughput import GPU_PEAKS

GIB = 2**30
FITTED = {"batch_tokens", "accumulation", "gradient_checkpointing", "quantization"}  # by --gpu-memory
NO_DATA = Path(os.devnull)
RECORDS = {"pretrain": 595_375, "finetune": 157_712}  # LLaVA-CC3M-Pretrain-595K, LLaVA-Instruct-150K
TEXT_TOKENS = {"pretrain": 41, "finetune": 281}  # of a record of theirs, the end of the image included


@dataclass(frozen=True)
class Plan:
    """A setup, its step, and what the whole run takes."""

    setup: Setup
    step: Step
    accumulation: int
    tokens_per_step: int
    flops_per_step: float
    steps: int
    hours: float
    cost: float | None


def make_plan(config: PlanConfig) -> Plan:
    """The plan of `config`.

    Raises:
        ValueError: unknown preset, or nothing fits the memory given.
    """
    model, config = _with_run(config)
    if config.gpu not in GPU_PEAKS:
        raise ValueError(f"unknown gpu {config.gpu!r}: choose one of {', '.join(GPU_PEAKS)}")
    setup = Setup(
        model=model,
        stage=config.stage,
        rows=max(1, (config.batch_tokens or 1024) // config.max_tokens),
        row_tokens=min(config.max_tokens, config.batch_tokens or config.max_tokens),
        label_share=config.label_share,
        dtype=config.dtype,
        quantization="none" if config.quantization == "auto" else config.quantization,
        gradient_checkpointing=bool(config.gradient_checkpointing),
        optimizer=config.optimizer,
        attention="eager" if config.attention == "eager" else "sdpa",
        lora=(config.lora_rank, config.lora_alpha, config.lora_dropout),
        image_every=config.record_tokens or TEXT_TOKENS[config.stage] + visual_tokens(model),
        accumulates=config.accumulation != 1,
    )
    if config.gpu_memory is None:
        step = simulate(setup)
    else:
        wanted = max(1, (config.batch_tokens or -(-config.step_tokens // config.gpus)) // config.max_tokens)
        setup, step = fit(
            setup,
            config.gpu_memory,
            quantizations=["none", "nf4"] if config.quantization == "auto" else [config.quantization],
            checkpointing=[False, True]
            if config.gradient_checkpointing is None
            else [config.gradient_checkpointing],
            least_rows=wanted if config.batch_tokens else min(LEAST_ROWS, wanted),
            most_rows=wanted,
            simulate=simulate,
        )
    return _whole_run(config, setup, step)


def _with_run(config: PlanConfig) -> tuple[ModelConfig, PlanConfig]:
    """The model, and `config` with the settings of --run where no flag was given: of its TOML, else the trainer's
    defaults, but those that --gpu-memory is to find. The model is that of --preset, else of the checkpoint that the
    run starts from, else of its preset."""
    if config.run is None:
        return load_preset(config.preset), config
    run = load_config(TrainConfig, config.run, {"out": Path()}, {"data": NO_DATA})
    given = {name: getattr(config, name) for name in config.model_fields_set}
    found = FITTED - run.model_fields_set if config.gpu_memory is not None else set()
    taken = {
        name: value
        for name, value in run.model_dump(exclude={"out", *found}).items()
        if name in PlanConfig.model_fields and value != "auto"
    }
    if run.data != NO_DATA and (run.data / INDEX).is_file():
        taken["records"] = _count_records(run.data, config.stage)
    config = PlanConfig.model_validate(taken | given)
    if "preset" in given or run.init is None or config.stage == "pretrain":
        return load_preset(config.preset), config
    return read_config(checkpoint_folder(run.init)), config


def _count_records(data: Path, stage: str) -> int:
    """That the stage learns from: the first one leaves out plain text."""
    images = PreparedData(data).rows("train").column("image")
    return len(images) - (images.null_count if stage == "pretrain" else 0)


def _whole_run(config: PlanConfig, setup: Setup, step: Step) -> Plan:
    accumulation = config.accumulation or config.gpus * max(
        1, round(config.step_tokens / (step.tokens * config.gpus))
    )
    if accumulation < config.gpus:
        raise ValueError(
            f"{config.gpus} gpus share the {accumulation} batches of a step: give --accumulation {config.gpus}, or more"
        )
    tokens = accumulation * step.tokens
    records = (config.records or RECORDS[config.stage]) * config.epochs
    steps = math.ceil(records * setup.image_every / tokens)
    if config.max_steps is not None:
        steps = min(steps, config.max_steps)
    flops = accumulation * step.flops
    total = steps * flops + records / config.epochs * step.vision_flops
    hours = total / (GPU_PEAKS[config.gpu] * config.utilization * config.gpus) / 3600
    cost = None if config.price is None else hours * config.gpus * config.price
    return Plan(setup, step, accumulation, tokens, flops, steps, hours, cost)


def report(plan: Plan, config: PlanConfig) -> str:
    """The plan for people, with its assumptions."""
    _, config = _with_run(config)
    setup, step = plan.setup, plan.step
    lines = [
        f"{setup.model.name}, {'stage 1 (pretrain)' if setup.stage == 'pretrain' else 'stage 2 (finetune)'}"
    ]
    lines.append("\nparameters                        trained         frozen")
    for part, (trained, frozen) in step.parameters.items():
        lines.append(f"  {part:<24}{trained:>15,}{frozen:>15,}")
    lines += _memory(step, config.gpu_memory)
    shape = f"{plan.accumulation} x {setup.rows} rows of {setup.row_tokens}"
    lines += [
        "\narithmetic",
        f"  tokens per step        {plan.tokens_per_step:>15,}   ({shape})",
        f"  TFLOP per step         {plan.flops_per_step / 1e12:>15,.1f}",
        f"  steps                  {plan.steps:>15,}",
        f"  hours on {config.gpus} x {config.gpu:<12}{plan.hours:>15,.1f}",
    ]
    if plan.cost is not None:
        lines.append(f"  cost                   {plan.cost:>15,.2f}")
    lines += ["\nsettings of the run"] + [f"  {line}" for line in settings(plan)]
    lines += ["\nassumed", *(f"  {line}" for line in _assumptions(config, setup))]
    return "\n".join(lines)


def _memory(step: Step, gpu_memory: float | None) -> list[str]:
    lines = [f"\n{'memory of a step, in GiB':<34}{'at its peak':>12}{'at most':>12}"]
    for part in sorted(step.most, key=lambda part: (-step.memory.get(part, 0), -step.most[part])):
        now, most = step.memory.get(part, 0), step.most[part]
        lines.append(f"  {part:<32}{now / GIB:>12.3f}{most / GIB:>12.3f}")
    lines.append(f"  {'all tensors':<32}{step.peak / GIB:>12.3f}")
    if gpu_memory:
        reserve = CUDA_CONTEXT + FRAGMENTATION * gpu_memory * GIB
        free = gpu_memory - (reserve + step.peak) / GIB
        lines.append(f"  {'CUDA context and fragmentation':<32}{reserve / GIB:>12.3f}")
        lines.append(f"  {f'free of {gpu_memory:g} GiB':<32}{free:>12.3f}")
    return lines


def settings(plan: Plan) -> list[str]:
    """Lines of TOML that `pretrain` or `finetune` takes."""
    setup = plan.setup
    lines = [
        f"batch_tokens = {setup.rows * setup.row_tokens}",
        f"max_tokens = {setup.row_tokens}",
        f"accumulation = {plan.accumulation}",
        f'dtype = "{setup.dtype}"',
        f'quantization = "{setup.quantization}"',
        f"gradient_checkpointing = {str(setup.gradient_checkpointing).lower()}",
        f'optimizer = "{setup.optimizer}"',
    ]
    if setup.stage == "finetune":
        rank, alpha, dropout = setup.lora
        lines += [f"lora_rank = {rank}", f"lora_alpha = {alpha:g}", f"lora_dropout = {dropout:g}"]
    return lines


def _assumptions(config: PlanConfig, setup: Setup) -> list[str]:
    records = config.records or RECORDS[config.stage]
    tokens = setup.image_every
    learned, reached = 100 * config.label_share, 100 * config.utilization
    peak = GPU_PEAKS[config.gpu] / 1e12
    return [
        f"{records:,} records of {tokens} tokens, {config.epochs:g} epochs; {learned:.0f} % of the tokens learned",
        f"{reached:.0f} % of {peak:.0f} TFLOP/s (dense bf16, data sheet) reached, recomputation counted as work",
        f"attention: {setup.attention}; vision features computed once per image; rows full",
        "memory of tensors as PyTorch allocates them; one process, whole model on each GPU",
        "teacher_forcing, self_critical and shares: not planned",
    ]


def plan(config: PlanConfig) -> int:
    """Print the plan, and write it as JSON where `out` says; exit code 0."""
    made = make_plan(config)
    print(report(made, config))
    if config.out:
        values = asdict(replace(made, setup=None)) | {"setup": _plain(made.setup), "settings": settings(made)}
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    return 0


def _plain(setup: Setup) -> dict:
    return asdict(replace(setup, model=None)) | {"model": setup.model.name}
