"""Is `trainer plan` right about memory? Six configurations, planned and then run on this machine's CPU.

    python benchmarks/plan.py [--out plan.json] [--rows 4] [--row-tokens 320] [--dtype bfloat16] [--only NAME ...]

The first three compute in float32, the others in `--dtype`: float32, too, on a CPU that multiplies no bfloat16, where
a step would take many minutes.
Each configuration runs two optimizer steps in a process of its own: the real model with its real weights, the real
loss, the real optimizer. Measured is the growth of the process's resident memory, from before the model is loaded to
its highest point in the second step; freed blocks go back to the system at once, so that what is resident is in use.
Pages of mapped files (weights as they lie on disk, libraries) are left out: the system takes them back at will.
Exit code 1 where a plan is more than 15 % off.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

TOLERANCE = 0.15
CONFIGURATIONS = {
    "stage 1, float32": {"stage": "pretrain", "dtype": "float32"},
    "stage 2, float32": {"stage": "finetune", "dtype": "float32"},
    "stage 2, float32, checkpointing": {
        "stage": "finetune", "dtype": "float32", "gradient_checkpointing": True,
    },
    "stage 1, checkpointing": {"stage": "pretrain", "gradient_checkpointing": True},
    "stage 2, 8-bit AdamW": {"stage": "finetune", "optimizer": "adamw8bit"},
    "stage 2, NF4, checkpointing, 8-bit AdamW": {
        "stage": "finetune", "quantization": "nf4", "gradient_checkpointing": True, "optimizer": "adamw8bit",
    },
}  # fmt: skip


def main() -> int:
    """Plan and measure all configurations; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--row-tokens", type=int, default=320)
    parser.add_argument("--out", type=Path, help="JSON with every part")
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="default: what this CPU multiplies")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    dtype = args.dtype or _fast_dtype()
    if args.measure:
        print(json.dumps(measure(setup_of(args.measure, args.rows, args.row_tokens, dtype))))
        return 0
    rows, results = [], {}
    for name in args.only:
        planned = plan(setup_of(name, args.rows, args.row_tokens, dtype))
        measured = in_own_process(name, args.rows, args.row_tokens, dtype)
        off = planned["peak"] / measured["peak"] - 1
        results[name] = {"planned": planned, "measured": measured, "off": off}
        rows.append(
            f"{name:<44}{planned['peak'] / 2**20:>10.0f}{measured['peak'] / 2**20:>10.0f}{100 * off:>+8.1f} %"
        )
        print(rows[-1], file=sys.stderr)
    print(f"embedded preset, {args.rows} rows of {args.row_tokens} tokens; float32, the last three {dtype}")
    print(f"{'':<44}{'plan MiB':>10}{'measured':>10}{'off':>8}")
    print("\n".join(rows))
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return int(any(abs(result["off"]) > TOLERANCE for result in results.values()))


def _fast_dtype() -> str:
    from shared.language import default_dtype

    return str(default_dtype()).removeprefix("torch.")


def setup_of(name: str, rows: int, row_tokens: int, dtype: str):
    """The plan's `Setup` on a CPU, where training takes eager attention."""
    from shared.config import load_preset
    from trainer.planning.simulate import Setup

    return Setup(
        load_preset("embedded"), rows=rows, row_tokens=row_tokens, label_share=0.4, attention="eager", gpu=False,
        image_every=120, **({"dtype": dtype} | CONFIGURATIONS[name]),
    )  # fmt: skip


def plan(setup) -> dict:
    """Planned bytes: by part, and their sum."""
    from trainer.planning.simulate import simulate

    step = simulate(setup)
    return {"peak": step.peak, "parts": step.memory}


def in_own_process(name: str, rows: int, row_tokens: int, dtype: str) -> dict:
    """`measure` in a fresh process that gives freed memory back."""
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    command = [
        sys.executable,
        __file__,
        "--measure",
        name,
        "--rows",
        str(rows),
        "--row-tokens",
        str(row_tokens),
        "--dtype",
        dtype,
    ]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(setup) -> dict:
    """Bytes that the model, its optimizer and two steps add to this process."""
    import gc

    import torch

    from trainer.objective import Objective
    from trainer.planning.simulate import make_batch

    for dtype in (
        torch.float32,
        torch.bfloat16,
    ):  # the libraries behind matrix products load at the first one
        torch.ones(64, 64, dtype=dtype) @ torch.ones(64, 64, dtype=dtype)
    make_optimizer([torch.nn.Parameter(torch.ones(2))], setup.optimizer)
    before, mapped = _resident("VmRSS"), _resident("RssFile")
    model = trained_model(setup)
    for parameter in model.parameters():  # out of the mapped file, whose pages would count as well
        parameter.data = parameter.data.clone()
    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], setup.optimizer)
    batch, objective = make_batch(model, setup), Objective(model).train()
    gc.collect()
    loaded = _resident("RssAnon") - (before - mapped)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    for _ in range(2):
        objective(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"peak": _resident("VmHWM") - before - (_resident("RssFile") - mapped), "loaded": loaded}


def trained_model(setup, device: str = "cpu"):
    """The model of a `Setup` with its weights, as its stage trains it."""
    from shared.checkpoint import build_model
    from shared.lora import attach_lora

    model = build_model(
        setup.model, dtype=setup.dtype, device=device, quantization=setup.quantization,
        attn_implementation=setup.attention,
    )  # fmt: skip
    if setup.gradient_checkpointing:
        model.language.activation_checkpointing_enable({"use_reentrant": False})
    if setup.stage == "finetune":
        rank, alpha, dropout = setup.lora
        targets = model.config.language.lora_targets
        model.language = attach_lora(model.language, targets, rank=rank, alpha=alpha, dropout=dropout)
    return model


def make_optimizer(parameters: list, name: str):
    """`adamw` or `adamw8bit`."""
    import torch

    if name == "adamw8bit":
        import bitsandbytes

        return bitsandbytes.optim.PagedAdamW8bit(parameters, lr=1e-4)
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}: this needs Linux")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
