"""Half an hour near saturation: errors, growth of memory, and every answer beside the oracle's.

    python -m benchmarks.soak --images PHOTOGRAPHS --out RESULTS [--minutes 30] [--load 0.9]

First `--engine sequential` (transformers' `generate`, one request after another) answers every question, greedily.
Then the service is loaded by clients that wait for their answers, which tells its rate, and after that by random
arrivals at a share of it. Both run in float32, where only a tie of two tokens can make their answers differ;
those that do are named. Ends with 1 on an error or an answer that is not the oracle's. Memory swings by some
hundred MiB over minutes, so neighbouring samples are much alike: its growth is the slope of a straight line through
the means of ten parts of the run, with the standard error of those ten. The first minute is left out.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.load import Call, Outcome, closed_loop, open_loop, send, summary
from benchmarks.peers import form_call, service
from benchmarks.serve import QUESTIONS, commit
from benchmarks.server_process import Memory, ServerProcess

SETTLING = 60  # seconds
PARTS = 10


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    asked = questions(args)
    calls = [form_call(image.read_bytes(), question, tokens, False) for image, question, tokens in asked]
    with started("sequential", args) as server:
        expected = [outcome.text for outcome in asyncio.run(one_by_one(server.url, calls))]
    if not all(expected):
        sys.exit("the oracle did not answer everything; see sequential.log")

    with started("continuous", args) as server:
        asyncio.run(closed_loop(server.url, calls, 2, 10))
        closed = summary(asyncio.run(closed_loop(server.url, calls, 16, args.saturate)), args.objective)
        rate = args.load * closed["requests_per_second"]
        print(f"saturation {closed['requests_per_second']} requests a second, load {rate:.2f}", flush=True)
        with Memory(server, every=5) as memory:
            seconds = 60 * args.minutes
            outcomes = asyncio.run(open_loop(server.url, calls, rate, seconds, args.seed))
    wrong = [
        {"question": asked[i % len(asked)][1], "expected": expected[i % len(asked)], "answer": outcome.text}
        for i, outcome in enumerate(outcomes)
        if not outcome.error and outcome.text != expected[i % len(asked)]
    ]
    slope, error = growth(memory.samples)
    record = {
        "commit": commit(),
        "minutes": args.minutes,
        "rate": round(rate, 3),
        "different_calls": len(calls),
    }
    record |= summary(outcomes, args.objective) | {"peak_mib": memory.peak}
    record |= {"growth_mib_per_hour": round(slope, 1), "growth_standard_error": round(error, 1)}
    record |= {"answers_checked": sum(not outcome.error for outcome in outcomes), "different": len(wrong)}
    (args.out / "soak.json").write_text(
        json.dumps(record | {"wrong": wrong[:20], "memory_mib": memory.samples}) + "\n"
    )
    plot(outcomes, memory.samples, args.out / "soak.png")
    print(json.dumps(record, indent=2))
    sys.exit(bool(record["errors"] or wrong))


def started(engine: str, args: argparse.Namespace) -> ServerProcess:
    peer = service("--engine", engine, "--dtype", "float32", "--request-timeout", "600")
    return ServerProcess(engine, peer.command(args), peer.ready, args.out / f"{engine}.log")


def questions(args: argparse.Namespace) -> list[tuple[Path, str, int]]:
    """Photographs, questions, and the most tokens that each answer may have."""
    images = sorted(args.images.glob("*.jpg"))
    if not images:
        sys.exit(f"no .jpg files in {args.images}")
    rng = random.Random(args.seed)
    pairs = itertools.islice(zip(itertools.cycle(images), itertools.cycle(QUESTIONS)), args.calls)
    return [(image, question, rng.choice([8, 24, 64])) for image, question in pairs]


async def one_by_one(url: str, calls: list[Call]) -> list[Outcome]:
    return [await send(url, call, 0.0, 0.0) for call in calls]


def growth(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """MiB an hour and its standard error."""
    settled = np.array([sample for sample in samples if sample[0] >= SETTLING] or samples)
    hours, mib = np.array([part.mean(0) for part in np.array_split(settled, PARTS)]).T / [[3600], [1]]
    coefficients, covariance = np.polyfit(hours, mib, 1, cov=True)
    return float(coefficients[0]), float(np.sqrt(covariance[0, 0]))


def plot(outcomes: list[Outcome], samples: list[tuple[float, float]], path: Path) -> None:
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 5.5))
    above.plot([seconds / 60 for seconds, _ in samples], [mib for _, mib in samples])
    above.set_ylabel("memory, MiB")
    below.plot([o.due / 60 for o in outcomes], [o.latency for o in outcomes], ".", markersize=2)
    below.set_ylabel("seconds to the answer")
    below.set_xlabel("minutes")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs (.jpg)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument(
        "--load", type=float, default=0.9, help="arrivals, as a share of the closed loop's rate"
    )
    parser.add_argument(
        "--saturate", type=float, default=40, help="seconds of 16 waiting clients that tell the rate"
    )
    parser.add_argument("--calls", type=int, default=80, help="different questions")
    parser.add_argument(
        "--objective", type=float, default=10.0, help="seconds to an answer that count as good"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default="embedded")
    return parser.parse_args()


if __name__ == "__main__":
    main()
