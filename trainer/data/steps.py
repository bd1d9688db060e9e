"""What each process computes in each optimizer step, at any number of processes.

A step takes `accumulation` batches, whatever the number of processes, and deals them out one by one; a
process that gets fewer than the others computes one with weight 0, so that all take part in every
exchange of gradients. A position in the data is therefore the same for any number of processes.
"""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from shared.model import MultimodalModel
from trainer.config import TrainConfig
from trainer.data.features import FeatureCache
from trainer.data.loader import PackLoader
from trainer.data.packing import Pack, PackedBatch, collate, padded_tokens
from trainer.state import Position
from trainer.teacher_forcing import draw_replaced, teacher_forcing_ratio

T = TypeVar("T")
Rows = list[list[Pack]]


@dataclass
class Batch:
    """One forward pass.

    Attributes:
        features: `[images, patches, width]`, one of each run of image slots.
        replaced: indices of the labels whose own input tokens the model's predictions replace; None: no first pass.
        weight: of its loss; 0 where it only fills up.
    """

    packed: PackedBatch
    features: Tensor
    replaced: Tensor | None = None
    weight: float = 1.0

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        tensors = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self.packed)
            if isinstance(value := getattr(self.packed, field.name), Tensor)
        }
        return dataclasses.replace(
            self,
            packed=dataclasses.replace(self.packed, **tensors),
            features=self.features.to(device, non_blocking=True),
            replaced=None if self.replaced is None else self.replaced.to(device, non_blocking=True),
        )


@dataclass
class Step:
    """One process's part of an optimizer step.

    Attributes:
        position: where the run stands behind this step.
        epoch: passes over the data then, with its fraction.
        labels, tokens: of all processes; tokens with their padding.
        ratio: of teacher forcing.
    """

    batches: list[Batch]
    position: Position
    epoch: float
    labels: int
    tokens: int
    ratio: float


class BatchMaker:
    """Rows of packs to a `Batch`: token tensors and the images' features."""

    def __init__(self, model: MultimodalModel, features: FeatureCache | None, *, flat: bool = False):
        self.pad_token_id = model.tokenizer.pad_token_id
        self.end_token_id = model.prompt.end_token_id
        self._features, self._flat = features, flat
        self._none = torch.empty(0, model.vision.num_patches, model.vision.width)

    def make(self, rows: Rows, views: list[int] | None = None) -> Batch:
        """Collate `rows`; `views[i]` is 1 where the i-th image is mirrored."""
        packed = collate(rows, self.pad_token_id, with_mask=not self._flat)
        features = self._features.get(packed.images, views) if packed.images else self._none
        return Batch(packed, features)


def deal_steps(
    loader: PackLoader,
    maker: BatchMaker,
    config: TrainConfig,
    start: Position,
    total_steps: int,
    *,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Step]:
    """This process's part of all steps from `start` to `total_steps`, made ahead in a thread of its own."""

    def steps() -> Iterator[Step]:
        for rows, position, epoch in _walk(loader, config.accumulation, start):
            yield _make_step(rows, maker, config, position, epoch, total_steps, process, processes)
            if position.step >= total_steps:
                return

    if start.step < total_steps:
        yield from prefetch(steps())


def _walk(
    loader: PackLoader, accumulation: int, start: Position
) -> Iterator[tuple[list[Rows], Position, float]]:
    """Groups of batches for ever, each with the position behind it."""
    position, first = start, start.batch
    while True:
        batches = loader.batches(position.epoch)
        for index in range(first, len(batches), accumulation):
            group = batches[index : index + accumulation]
            after = index + len(group)
            ends = after == len(batches)
            position = Position(
                step=position.step + 1,
                epoch=position.epoch + ends,
                batch=0 if ends else after,
                labels_seen=position.labels_seen + sum(_labels(rows) for rows in group),
            )
            yield group, position, position.epoch + position.batch / len(batches)
        if first >= len(batches):  # a checkpoint from exactly the epoch's end
            position = dataclasses.replace(position, epoch=position.epoch + 1, batch=0)
        first = 0


def _make_step(
    group: list[Rows],
    maker: BatchMaker,
    config: TrainConfig,
    position: Position,
    epoch: float,
    total_steps: int,
    process: int,
    processes: int,
) -> Step:
    step = position.step - 1
    rng = random.Random(f"{config.seed}-{step}-views")
    views = [[int(config.mirror and ok and rng.random() < 0.5) for ok in _mirrorable(rows)] for rows in group]
    ratio = 1.0
    if config.teacher_forcing != "off":
        ratio = teacher_forcing_ratio(
            step, total_steps, shape=config.teacher_forcing,
            cycles=config.teacher_forcing_cycles, low=config.teacher_forcing_low,
        )  # fmt: skip
    batches = []
    for index in range(process, processes * -(-config.accumulation // processes), processes):
        real = index < len(group)
        batch = maker.make(group[index], views[index]) if real else maker.make(group[0])
        if ratio < 1:
            batch.replaced = draw_replaced(
                batch.packed.targets, batch.packed.labels, ratio,
                end_token_id=maker.end_token_id, seed=[config.seed, step, index],
            )  # fmt: skip
        batch.weight = float(real)
        batches.append(batch)
    tokens = sum(map(padded_tokens, group))
    return Step(batches, position, epoch, sum(map(_labels, group)), tokens, ratio)


def _labels(rows: Rows) -> int:
    return sum(len(pack.labels) for row in rows for pack in row)


def _mirrorable(rows: Rows) -> Iterator[bool]:
    return (ok for row in rows for pack in row for ok in pack.mirrorable)


def prefetch(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """`items`, computed in one other thread, at most `depth` of them ahead."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="data") as pool:
        ahead = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, items, end))
            yield item
