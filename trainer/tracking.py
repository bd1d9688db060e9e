"""What a run writes down: `metrics.jsonl`, TensorBoard, a progress bar, sample answers, and curves as PNG."""

from __future__ import annotations

import json
from pathlib import Path

from tqdm import tqdm


class Tracker:
    """Logs of one run directory; a resumed run forgets what came after its checkpoint."""

    def __init__(self, out: Path, total_steps: int, *, start: int = 0, stage: str = "train"):
        from torch.utils.tensorboard import SummaryWriter

        out.mkdir(parents=True, exist_ok=True)
        self.out, self.path = out, out / "metrics.jsonl"
        rows = [row for row in read_metrics(out) if row["step"] <= start] if start else []
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start or None)
        self._bar = tqdm(total=total_steps, initial=start, desc=stage, unit="step", dynamic_ncols=True)

    def advance(self, loss: float) -> None:
        """One optimizer step done."""
        self._bar.update()
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def log(self, step: int, **values: float) -> None:
        """Numbers at an optimizer step, to JSONL and TensorBoard."""
        self._write({"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def samples(self, step: int, rows: list[dict]) -> None:
        """Sample questions with the model's and the reference answer."""
        self._write({"step": step, "samples": rows})
        text = "\n\n".join(f"**{row['image']}** {row['question']}  \n{row['answer']}" for row in rows)
        self._board.add_text("samples", text, step)
        for row in rows:
            tqdm.write(
                f"  {row['image']}: {row['question']!r} -> {row['answer']!r} (reference {row['reference']!r})"
            )

    def close(self) -> None:
        """Flush, and draw `curves.png`."""
        self._bar.close()
        self._board.close()
        plot_curves(self.out)

    def _write(self, row: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_metrics(out: Path) -> list[dict]:
    """All whole lines of `metrics.jsonl`."""
    path = out / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a line cut by a crash
    return rows


def plot_curves(out: Path) -> None:
    """Loss, learning rates and gradient norm over the steps, into `curves.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(out)
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    panels = (
        ("loss per token (nats)", ("loss", "val_loss")),
        ("learning rate", ("lr_projector", "lr_adapter")),
        ("gradient norm", ("grad_norm",)),
    )
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                marker = "o" if name == "val_loss" else None
                axis.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3, linewidth=1.2)
        axis.set_title(title)
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    figure.savefig(out / "curves.png", dpi=120)
    pyplot.close(figure)
