"""Training at Phi-2's or Phi-3's full size on this machine's GPU: memory and speed of both stages beside `plan`.

    python -m benchmarks.gpu [--preset phi2] [--out gpu.json] [--steps 8] [--only NAME ...]

The weights are random, of the preset's sizes, written once as bfloat16 files that the trainer's own loading reads; a
byte-level tokenizer stands in for the real one. Each configuration runs in a process of its own: the trainer's model,
loss and optimizer, full rows of random tokens, one image to as many tokens as in LLaVA's data, 40 % of the tokens
learned. Those named for 10 GiB take the settings that `plan --gpu-memory 10` suggests, and PyTorch may allocate no more
than that, less what CUDA itself takes.

Memory is the allocator's highest, beside the plan's sum of tensors, and what the process takes of the device in all.
Speed is over `--steps` steps after two others; the share of the peak counts recomputation as work, as the plan does.
Exit code 1 where a plan of memory is more than 15 % off.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

GIB = 2**30
TOLERANCE = 0.15
CONFIGURATIONS = {
    "stage 1": {"stage": "pretrain", "batch_tokens": 6144},
    "stage 2": {"stage": "finetune", "batch_tokens": 6144},
    "stage 2, checkpointing": {"stage": "finetune", "batch_tokens": 6144, "gradient_checkpointing": True},
    "stage 2, NF4": {"stage": "finetune", "batch_tokens": 6144, "quantization": "nf4"},
    "stage 1 in 10 GiB": {"stage": "pretrain", "gpu_memory": 10},
    "stage 2 in 10 GiB": {"stage": "finetune", "gpu_memory": 10},
    "stage 2 in 10 GiB, NF4, 8-bit AdamW": {
        "stage": "finetune", "gpu_memory": 10, "quantization": "nf4", "optimizer": "adamw8bit",
    },
}  # fmt: skip


def main() -> int:
    """Plan and measure all configurations; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", default="phi2", choices=["phi2", "phi3"])
    parser.add_argument("--steps", type=int, default=8, help="measured steps")
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--out", type=Path, help="JSON with every part")
    parser.add_argument("--measure", nargs=2, metavar=("SETUP", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.preset, json.loads(args.measure[0]), Path(args.measure[1]))))
        return 0
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProcessPoolExecutor(len(args.only), mp_context=spawn) as pool,
    ):
        plans = {name: pool.submit(planned, args.preset, name) for name in args.only}
        writer = spawn.Process(target=write_random, args=(args.preset, Path(scratch)))
        writer.start()  # not in this process, which would keep a part of the device
        writer.join()
        if writer.exitcode:
            raise SystemExit("the random weights could not be written; what went wrong stands above")
        results = {}
        print(HEADER)
        for name in args.only:
            plan = plans[name].result()
            run = plan["setup"] | {"limit": CONFIGURATIONS[name].get("gpu_memory"), "steps": args.steps}
            command = [sys.executable, "-m", "benchmarks.gpu", "--preset", args.preset, "--measure",
                       json.dumps(run), scratch]  # fmt: skip
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            measured = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
            results[name] = {"plan": plan, "measured": measured}
            print(row(name, plan, measured), flush=True)
            if args.out:
                args.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return int(any(not r["measured"] or abs(off(**r)) > TOLERANCE for r in results.values()))


HEADER = (
    f"{'':<38}{'tokens':>7}{'plan GiB':>10}{'measured':>10}{'off':>8}{'device':>8}{'tokens/s':>10}{'peak':>7}"
)


def off(plan: dict, measured: dict) -> float:
    """How far the plan's memory is from the allocator's highest, as a share."""
    return plan["peak"] / measured["allocated"] - 1


def row(name: str, plan: dict, measured: dict | None) -> str:
    """A line of the table."""
    start = f"{name:<38}{plan['tokens']:>7}{plan['peak'] / GIB:>10.2f}"
    if measured is None:
        return f"{start}    failed"
    reached = plan["flops"] * measured["passes_per_second"] / measured["peak_flops"]
    return (
        f"{start}{measured['allocated'] / GIB:>10.2f}{100 * off(plan, measured):>+6.1f} %"
        f"{measured['device'] / GIB:>8.2f}{plan['tokens'] * measured['passes_per_second']:>10,.0f}"
        f"{100 * reached:>5.1f} %"
    )


def planned(preset: str, name: str) -> dict:
    """The plan's setup, peak bytes and floating-point operations of a pass."""
    from trainer.plan import make_plan
    from trainer.planning.config import PlanConfig

    plan = make_plan(PlanConfig(preset=preset, **CONFIGURATIONS[name]))
    setup, step = plan.setup, plan.step
    fields = ("stage", "rows", "row_tokens", "label_share", "dtype", "quantization", "gradient_checkpointing",
              "optimizer", "attention", "lora", "image_every", "accumulates")  # fmt: skip
    return {
        "setup": {field: getattr(setup, field) for field in fields},
        "peak": step.peak,
        "parts": step.memory,
        "flops": step.flops,
        "tokens": step.tokens,
    }


def write_random(preset: str, folder: Path) -> None:
    """Weights of the preset's sizes, as they lie on a hub: `FOLDER/language` and `FOLDER/vision`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, CLIPVisionModel, PreTrainedTokenizerFast

    from shared.config import load_preset
    from trainer.planning.model import architecture

    config = load_preset(preset)
    alphabet = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [config.prompt.end, *(part for part in config.prompt.user if part.startswith("<|"))]
    tokenizer.add_special_tokens(list(dict.fromkeys(special)))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=config.prompt.end).save_pretrained(
        folder / "language"
    )
    with torch.device("cuda"):
        sizes = architecture(config.language.source)
        AutoModelForCausalLM.from_config(sizes, dtype=torch.bfloat16).save_pretrained(folder / "language")
        sizes = architecture(config.vision.source)
        CLIPVisionModel(getattr(sizes, "vision_config", sizes)).save_pretrained(folder / "vision")


def measure(preset: str, run: dict, folder: Path) -> dict:
    """Train on one batch for some steps, in this process.

    Args:
        run: the plan's setup, `limit` in GiB or None, `steps`.
    """
    from shared.runtime import tune_process

    tune_process(keep_freed_memory=False)

    import torch

    from benchmarks.plan import make_optimizer, trained_model
    from shared.config import load_preset
    from trainer.objective import Objective
    from trainer.planning.fit import CUDA_CONTEXT
    from trainer.planning.simulate import Setup, make_batch
    from trainer.throughput import peak_flops

    limit, steps = run.pop("limit"), run.pop("steps")
    device = torch.device("cuda", 0)
    if limit:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction((limit * GIB - CUDA_CONTEXT) / total, device)
    torch.manual_seed(0)
    setup = Setup(with_files(load_preset(preset), folder), **run | {"lora": tuple(run["lora"])})
    model = trained_model(setup, "cuda")
    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], setup.optimizer)
    batch, objective = make_batch(model, setup), Objective(model).train()
    fill(batch, model.causal_lm.config.vocab_size)
    batch = batch.to(device)
    passes = 2 if setup.accumulates else 1

    def step() -> torch.Tensor:
        for _ in range(passes):
            loss = objective(batch) / len(batch.packed.labels)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    losses = [step()]
    torch.cuda.reset_peak_memory_stats()  # forget loading
    losses.append(step())
    torch.cuda.synchronize()
    started = time.perf_counter()
    losses += [step() for _ in range(steps)]
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    free, total = torch.cuda.mem_get_info()
    return {
        "gpu": torch.cuda.get_device_name(),
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "device": total - free,
        "passes_per_second": steps * passes / seconds,
        "peak_flops": peak_flops(device, model.dtype) or float("nan"),
        "losses": [float(loss) for loss in losses],
    }


def with_files(config, folder: Path):
    """The preset's configuration with what `write_random` wrote as its sources."""
    language, vision = (
        part.model_copy(update={"source": str(folder / name), "revision": None})
        for part, name in ((config.language, "language"), (config.vision, "vision"))
    )
    return config.model_copy(update={"language": language, "vision": vision})


def fill(batch, vocabulary: int) -> None:
    """Random tokens, features and labels, each token attending to those before it."""
    import torch

    packed = batch.packed
    rows, tokens = packed.input_ids.shape
    text = packed.input_ids >= 0
    packed.input_ids[text] = torch.randint(vocabulary, (int(text.sum()),))
    packed.position_ids[:] = torch.arange(tokens)
    packed.attention_mask[:] = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    packed.predictors[:] = torch.randperm(rows * tokens)[: len(packed.labels)].sort().values
    packed.labels[:] = torch.randint(vocabulary, packed.labels.shape)
    batch.features.normal_()


if __name__ == "__main__":
    sys.exit(main())
