"""Prefix-tree packing: dialogues share a row, and every common prefix of theirs is computed once.

Five captions of a photograph repeat the same image embeddings and question; unpacked, they would be
computed five times. Here the dialogues about an image are a tree of tokens: each token attends to its
ancestors only, its position is its depth, and a token followed by different answers predicts each of
them. The loss is that of the separate dialogues, exactly (tests/trainer/test_packing.py), as in the tree
attention of speculative decoding (Miao et al. 2023, SpecInfer). A row holds the trees of several images
side by side, which see nothing of one another.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from shared.prompt import IGNORE_INDEX, EncodedPrompt

P = TypeVar("P", bound=Sized)  # packs, built or planned: their lengths are all that arranging them takes

ATTENTION_COST = 1e-3  # of one more token in a row, relative to the rest of a token's work


@dataclass(frozen=True)
class Rollout:
    """A question that the model answers itself, by sampling, to learn from a reward (trainer/self_critical.py).

    Attributes:
        prompt: token ids up to the answer.
        image: key of its features.
        references: token ids of people's answers to it, each with the token that ends it.
        samples: how many answers are to be drawn.
    """

    prompt: list[int]
    image: str
    references: list[list[int]]
    samples: int

    @property
    def num_labels(self) -> int:
        """Tokens of the answers to be drawn, if they are as long as people's."""
        return round(self.samples * sum(map(len, self.references)) / len(self.references))


@dataclass
class Pack:
    """Dialogues about one image, or one of text alone, with common beginnings as one token tree.

    Attributes:
        input_ids, parents: of each token; a root's parent is -1.
        predictors, labels: token `predictors[i]` must predict id `labels[i]`, which is token `targets[i]`.
        weights, temperatures: of each label's loss; its logits are divided by the temperature.
        images: key of the features that fill each run of image slots, in token order.
        mirrorable: whether the image's mirror image may take its place.
        mirrored: whether it does.
        dialogues: how many were added.
        rollouts: questions whose answers are still to be sampled and added.
    """

    input_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    temperatures: list[float] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    mirrorable: bool = False
    mirrored: bool = False
    dialogues: int = 0
    rollouts: list[Rollout] = field(default_factory=list)
    _children: dict[tuple[int, int, int], int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_labels(self) -> int:
        """Labels, those of answers still to be sampled included."""
        return len(self.labels) + sum(rollout.num_labels for rollout in self.rollouts)

    def add(
        self, dialogue: EncodedPrompt, image: str | None, *, weight: float = 1.0, temperature: float = 1.0
    ) -> None:
        """Grow the tree by one dialogue that has labels."""
        self.dialogues += 1
        node, run = -1, 0
        for token, label in zip(dialogue.input_ids, dialogue.labels, strict=True):
            if label != IGNORE_INDEX:
                self.predictors.append(node)
                self.labels.append(label)
                self.weights.append(weight)
                self.temperatures.append(temperature)
            run = run + 1 if token < 0 else 0  # the n-th visual token of a run is a token of its own
            key = (node, token, run)
            if key not in self._children:
                self._children[key] = len(self.input_ids)
                self.input_ids.append(token)
                self.parents.append(node)
                if run == 1:
                    self.images.append(image)
            node = self._children[key]
            if label != IGNORE_INDEX:
                self.targets.append(node)

    def growth(self, dialogue: EncodedPrompt) -> int:
        """Tokens that `add` would append."""
        node, run = -1, 0
        for index, token in enumerate(dialogue.input_ids):
            run = run + 1 if token < 0 else 0
            node = self._children.get((node, token, run), -2)
            if node == -2:
                return len(dialogue) - index
        return 0


@dataclass
class PackedBatch:
    """Rows of packs, padded on the right.

    Attributes:
        input_ids, position_ids: `[batch, tokens]`.
        attention_mask: `[batch, 1, tokens, tokens]`, True where a token attends; None for chains in one row,
            which their positions tell apart.
        predictors: `[labels]`, indices into the flattened `[batch * tokens]` hidden states.
        labels: `[labels]`.
        targets: `[labels]`, indices of the labels' own tokens in the flattened input.
        images: keys of the features, one for each run of image slots, row by row.
        views: of each of them, 1 where its mirror image takes its place.
        weights, temperatures: `[labels]`, of each label's loss; None where all are 1.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    predictors: Tensor
    labels: Tensor
    targets: Tensor
    images: list[str]
    views: list[int]
    weights: Tensor | None = None
    temperatures: Tensor | None = None


def pack_dialogues(image: str | None, dialogues: list[EncodedPrompt], max_tokens: int) -> list[Pack]:
    """Fill packs of at most `max_tokens` in order; a dialogue longer than that gets a pack of its own."""
    packs: list[Pack] = []
    for dialogue in dialogues:
        if not packs or len(packs[-1]) + packs[-1].growth(dialogue) > max_tokens:
            packs.append(Pack())
        packs[-1].add(dialogue, image)
    return packs


def padded_tokens(rows: list[list[Sized]]) -> int:
    """Tokens of a batch, padding included."""
    return len(rows) * max(sum(map(len, row)) for row in rows)


def share_rows(packs: list[P]) -> list[list[P]]:
    """Put packs side by side in rows of like length, with little padding.

    First fit, longest first, for the highest numbers of rows that the longest pack allows; of these the
    least costly: attention makes a token of a long row dearer than one of a short row.
    """
    packs = sorted(packs, key=len, reverse=True)
    longest, total = len(packs[0]), sum(map(len, packs))
    most = max(1, total // longest) + 1
    candidates = [
        _first_fit(packs, max(longest, -(-total // rows))) for rows in range(max(1, most - 7), most + 1)
    ]
    return min(candidates, key=_cost)


def _first_fit(packs: list[P], row_tokens: int) -> list[list[P]]:
    rows: list[list[P]] = []
    room: list[int] = []
    for pack in packs:
        row = next((i for i, free in enumerate(room) if free >= len(pack)), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(row_tokens)
        rows[row].append(pack)
        room[row] -= len(pack)
    return rows


def _cost(rows: list[list[Sized]]) -> float:
    tokens = padded_tokens(rows)
    return tokens * (1 + ATTENTION_COST * tokens / len(rows))


def collate(rows: list[list[Pack]], pad_token_id: int, *, with_mask: bool = True) -> PackedBatch:
    """Rows of packs to tensors. Padding attends to itself, so that no row of the softmax is empty.

    `with_mask=False` is for packs of one dialogue each in a single row: flash attention, which takes no mask,
    sees a new sequence wherever the positions begin again.
    """
    tokens = max(sum(map(len, row)) for row in rows)
    input_ids = np.full((len(rows), tokens), pad_token_id, dtype=np.int64)
    position_ids = np.zeros((len(rows), tokens), dtype=np.int64)
    mask = None
    if with_mask:
        mask = np.zeros((len(rows), 1, tokens, tokens), dtype=bool)
        mask[:, :, range(tokens), range(tokens)] = True
    predictors, labels, targets, weights, temperatures = [], [], [], [], []
    for row, packs in enumerate(rows):
        start = 0
        for pack in packs:
            end, offset = start + len(pack), row * tokens + start
            input_ids[row, start:end] = pack.input_ids
            _fill_depths(position_ids[row, start:end], pack.parents)
            if mask is not None:
                _fill_ancestors(mask[row, 0, start:end, start:end], pack.parents)
            predictors += [offset + node for node in pack.predictors]
            targets += [offset + node for node in pack.targets]
            labels += pack.labels
            weights += pack.weights
            temperatures += pack.temperatures
            start = end
    packed = [pack for row in rows for pack in row]
    return PackedBatch(
        torch.from_numpy(input_ids),
        torch.from_numpy(position_ids),
        None if mask is None else torch.from_numpy(mask),
        torch.tensor(predictors),
        torch.tensor(labels),
        torch.tensor(targets),
        [image for pack in packed for image in pack.images],
        [int(pack.mirrored) for pack in packed for _ in pack.images],
        _unless_ones(weights),
        _unless_ones(temperatures),
    )


def _unless_ones(values: list[float]) -> Tensor | None:
    return None if all(value == 1 for value in values) else torch.tensor(values)


def _fill_depths(depth: np.ndarray, parents: list[int]) -> None:
    for node, parent in enumerate(parents):
        if parent >= 0:
            depth[node] = depth[parent] + 1


def _fill_ancestors(attends: np.ndarray, parents: list[int]) -> None:
    for node, parent in enumerate(parents):
        if parent >= 0:
            attends[node] |= attends[parent]
