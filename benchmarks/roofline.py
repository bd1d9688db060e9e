"""How near decoding comes to what the machine allows: measured memory and matrix rates -> tokens a second.

    python -m benchmarks.roofline [--checkpoint embedded] [--batches 1,16]

A decode step reads every weight and the keys and values once (memory) and multiplies each weight with each row
(matrix products); the slower of the two is the limit. The rates are measured anew before each line. They are what
torch reaches, so a share may come out above one.
"""

import argparse
import json
import statistics
import time

import torch

from service.engine.decoder import Span
from service.engine.native.decoder import NativeDecoder
from shared.checkpoint import load_model

BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0}


def memory_rate(size: int = 2**28, rounds: int = 5) -> float:
    """Bytes a second that all threads together read from memory far larger than the caches."""
    data = torch.ones(size // 4)
    return size / best(lambda: data.sum(), rounds)


def matrix_rate(dtype: torch.dtype, size: int = 1024, rounds: int = 5) -> float:
    """Operations a second of a square product; int8: of `torch._int_mm`, or of float32 where that is faster."""
    if dtype == torch.int8:
        a = torch.randint(-5, 5, (size, size), dtype=dtype)
        whole = 2 * size**3 / best(lambda: torch._int_mm(a, a), rounds)
        return max(whole, matrix_rate(torch.float32, size, rounds))
    a = torch.randn(size, size).to(dtype)
    return 2 * size**3 / best(lambda: a @ a, rounds)


def best(work, rounds: int) -> float:
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def decode_seconds(decoder: NativeDecoder, hidden: int, batch: int, context: int, steps: int) -> float:
    """Median seconds of a step with `batch` sequences of `context` tokens."""
    memories = [decoder.allocate(context + steps + 1) for _ in range(batch)]
    for memory in memories:
        decoder.forward(torch.randn(context, hidden) * 0.1, [Span(memory, 0, context, False)])
    times = []
    for step in range(steps):
        spans = [Span(memory, context + step, 1, True) for memory in memories]
        embeds = torch.randn(batch, hidden) * 0.1
        start = time.perf_counter()
        decoder.forward(embeds, spans)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument(
        "--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 16, 32]
    )
    parser.add_argument("--context", type=int, default=64, help="tokens before the measured steps")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--formats", type=lambda text: text.split(","), default=["bfloat16", "int8"])
    args = parser.parse_args()

    lm = load_model(args.checkpoint, device="cpu").causal_lm
    config = lm.config
    embedding = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    weights = sum(parameter.numel() for parameter in lm.parameters()) - embedding
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_values = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * args.context
    print(f"{weights / 1e6:.1f} M weights a token, {torch.get_num_threads()} threads")
    for name in args.formats:
        decoder = NativeDecoder(
            lm,
            format=name,
            max_rows=max(args.context, *args.batches),
            max_positions=args.context + args.steps + 1,
            threads=torch.get_num_threads(),
        )
        for batch in args.batches:
            bandwidth, rate = memory_rate(), matrix_rate(getattr(torch, name))
            seconds = decode_seconds(decoder, config.hidden_size, batch, args.context, args.steps)
            kv_bytes = kv_values * (4 if name == "float32" else 2)
            memory = (weights * BYTES[name] + kv_bytes * batch) / bandwidth
            compute = 2 * weights * batch / rate
            limit = batch / max(memory, compute)
            record = {
                "format": name,
                "batch": batch,
                "tokens_per_second": round(batch / seconds, 1),
                "limit": round(limit, 1),
                "bound_by": "memory" if memory > compute else "matrix products",
                "share": round(batch / seconds / limit, 3),
                "memory_gb_per_s": round(bandwidth / 1e9, 1),
                "matrix_gflop_per_s": round(rate / 1e9, 1),
            }
            print(json.dumps(record), flush=True)
        decoder.close()


if __name__ == "__main__":
    main()
