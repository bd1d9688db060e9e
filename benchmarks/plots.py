"""Plots of `serve.py`'s results: throughput by number of clients, and latency by load."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_serving(results: Path, out: Path) -> None:
    """Writes serve-throughput.png and serve-first-token.png into `out`, the last record of each load."""
    records = [json.loads(line) for line in results.read_text().splitlines()]
    peers = list(dict.fromkeys(record["peer"] for record in records))
    for name, load, x, value, label in (
        ("serve-throughput", "closed", "clients", lambda r: r["tokens_per_second"], "tokens a second"),
        (
            "serve-first-token",
            "open",
            "share",
            lambda r: r["first_token_ms"]["p95"],
            "p95 time to the first token, ms",
        ),
    ):
        figure, axes = plt.subplots(figsize=(7, 4.5))
        for peer in peers:
            chosen = [r for r in records if r["peer"] == peer and r["load"] == load and r["first_token_ms"]]
            points = sorted({record[x]: value(record) for record in chosen}.items())
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=peer)
        axes.set_xlabel("clients" if load == "closed" else "arrivals, as a share of the closed loop's rate")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(out / f"{name}.png", dpi=120)
        plt.close(figure)
