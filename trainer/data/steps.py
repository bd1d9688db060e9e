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
class Draft:
    """A forward pass whose answers are not sampled yet: `trainer.self_critical` makes it a `Batch`.

    Attributes:
        seed: of the samples.
    """

    rows: Rows
    seed: list[int]
    weight: float = 1.0


@dataclass
class Step:
    """One process's part of an optimizer step.

    Attributes:
        position: where the run stands behind this step.
        epoch: passes over the data then, with its fraction.
        labels, tokens: of all processes; tokens with their padding. Of answers to be sampled, as many as
            people's answers have.
        ratio: of teacher forcing.
    """

    batches: list[Batch | Draft]
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

    def make(self, rows: Rows) -> Batch:
        """Collate `rows`."""
        packed = collate(rows, self.pad_token_id, with_mask=not self._flat)
        return Batch(packed, self.features(packed.images, packed.views))

    def features(self, images: list[str], views: list[int]) -> Tensor:
        """Features `[images, patches, width]`; `views[i]` is 1 for the i-th image's mirror image."""
        return self._features.get(images, views) if images else self._none


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
    for pack in (pack for rows in group for row in rows for pack in row):
        pack.mirrored = config.mirror and pack.mirrorable and rng.random() < 0.5
    ratio = 1.0
    if config.teacher_forcing != "off":
        ratio = teacher_forcing_ratio(
            step, total_steps, shape=config.teacher_forcing,
            cycles=config.teacher_forcing_cycles, low=config.teacher_forcing_low,
        )  # fmt: skip
    batches = []
    for index in range(process, processes * -(-config.accumulation // processes), processes):
        real = index < len(group)
        rows = group[index if real else 0]
        if any(pack.rollouts for row in rows for pack in row):
            batches.append(Draft(rows, [config.seed, step, index], float(real)))
            continue
        batch = maker.make(rows)
        if ratio < 1:
            batch.replaced = draw_replaced(
                batch.packed.targets, batch.packed.labels, ratio,
                end_token_id=maker.end_token_id, seed=[config.seed, step, index],
            )  # fmt: skip
        batch.weight = float(real)
        batches.append(batch)
    tokens = sum(map(_tokens, group))
    return Step(batches, position, epoch, sum(map(_labels, group)), tokens, ratio)


def _labels(rows: Rows) -> int:
    return sum(pack.num_labels for row in rows for pack in row)


def _tokens(rows: Rows) -> int:
    rollouts = [rollout for row in rows for pack in row for rollout in pack.rollouts]
    return padded_tokens(rows) + sum(len(rollout.prompt) + rollout.num_labels for rollout in rollouts)


def prefetch(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """`items`, computed in one other thread, at most `depth` of them ahead."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="data") as pool:
        ahead = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, items, end))
            yield item
