"""What a run writes down: `metrics.jsonl`, TensorBoard, W&B where asked for, sample answers, curves as PNG."""

from __future__ import annotations

import json
import logging
import secrets
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

log = logging.getLogger(__name__)


class Tracker:
    """Logs of one run directory; a resumed run forgets what came after its checkpoint.

    Args:
        start: optimizer steps behind the run already.
        wandb: mode of Weights & Biases, `off` for none.
        settings: the run's configuration, for W&B.
        active: False in all processes but one, whose trackers do nothing.
    """

    def __init__(
        self,
        out: Path,
        total_steps: int,
        *,
        start: int = 0,
        stage: str = "train",
        wandb: str = "off",
        project: str = "multimodal-llm",
        settings: dict | None = None,
        active: bool = True,
    ):
        self.out, self.path, self.active = out, out / "metrics.jsonl", active
        self._run = None
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        out.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read_metrics(out) if row["step"] <= start] if start else []
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start or None)
        if wandb != "off":
            self._run = _start_wandb(out, wandb, project, stage, settings or {}, resumed=start > 0)
        self._bar = tqdm(total=total_steps, initial=start, desc=stage, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """One optimizer step done."""
        if self.active:
            self._bar.update()

    def log(self, step: int, **values: float) -> None:
        """Numbers at an optimizer step."""
        if not self.active:
            return
        self._write({"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._run:
            self._run.log(values, step=step)
        if "loss" in values:
            self._bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)

    def samples(self, step: int, rows: list[dict], images: list[Image.Image | None]) -> None:
        """Sample questions with the model's and the reference answer, each beside its image."""
        if not self.active:
            return
        self._write({"step": step, "samples": rows})
        text = "\n\n".join(f"**{row['image']}** {row['question']}  \n{row['answer']}" for row in rows)
        self._board.add_text("samples", text, step)
        for index, (row, image) in enumerate(zip(rows, images, strict=True)):
            if image is not None:
                self._board.add_image(f"samples/{index}", np.asarray(image), step, dataformats="HWC")
            tqdm.write(
                f"  {row['image']}: {row['question']!r} -> {row['answer']!r} (reference {row['reference']!r})"
            )
        if self._run:
            import wandb

            table = wandb.Table(columns=["picture", *rows[0]])
            for row, image in zip(rows, images, strict=True):
                table.add_data(None if image is None else wandb.Image(image), *row.values())
            self._run.log({"samples": table}, step=step)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush, and draw `curves.png`; of a run that fails too, whose own fault is then the one that is said."""
        if not self.active:
            return
        self._bar.close()
        try:
            self._finish()
        except Exception as error:
            if kind is None:
                raise
            log.warning("the logs could not be finished: %s", error)
        finally:
            if self._run:
                self._run.finish(exit_code=int(kind is not None))

    def _finish(self) -> None:
        self._board.close()
        plot_curves(self.out)
        if self._run:
            import wandb

            self._run.log({"curves": wandb.Image(str(self.out / "curves.png"))})

    def _write(self, row: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "time": round(time.time(), 3)}, ensure_ascii=False) + "\n")


def _start_wandb(out: Path, mode: str, project: str, stage: str, settings: dict, *, resumed: bool):
    """A W&B run; a resumed training run continues the same one."""
    import wandb

    known = out / "wandb-id"
    name = known.read_text("utf-8").strip() if resumed and known.is_file() else secrets.token_hex(4)
    known.write_text(name + "\n", "utf-8")
    return wandb.init(
        project=project, id=name, name=f"{stage}-{out.name}", job_type=stage, dir=str(out), mode=mode,
        config=settings, resume="allow" if mode == "online" else None,
    )  # fmt: skip


def read_metrics(out: Path) -> list[dict]:
    """All whole lines of `metrics.jsonl`."""
    path = out / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text("utf-8").split("\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the end, or a line cut by a crash
    return rows


def plot_curves(out: Path) -> None:
    """Loss, learning rates, gradient norm, throughput and reward over the steps, into `curves.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(out)
    panels = [
        ("loss per token (nats)", ("loss", "val_loss")),
        ("learning rate", ("lr_projector", "lr_adapter")),
        ("gradient norm", ("grad_norm",)),
        ("tokens per second", ("tokens_per_second",)),
    ]
    if any("reward" in row for row in rows):
        panels.append(("reward of sampled answers (CIDEr)", ("reward",)))
    width = 4.25 * len(panels)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(width, 3.6), constrained_layout=True)
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
