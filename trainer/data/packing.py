"""Prefix-tree packing: the dialogues about one image share one row, and every common prefix once.

Five captions of a photograph repeat the same image embeddings and question; unpacked, they would be
computed five times. Here a row is a tree of tokens: each token attends to its ancestors only, its
position is its depth, and a token followed by different answers predicts each of them. The loss is
that of the separate dialogues, exactly (tests/trainer/test_packing.py), as in the tree attention of
speculative decoding (Miao et al. 2023, SpecInfer).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from shared.prompt import IGNORE_INDEX, EncodedPrompt


@dataclass
class Pack:
    """Dialogues of one image (or of none) as one token tree.

    Attributes:
        input_ids, parents: of each token; the root's parent is -1.
        predictors, labels: token `predictors[i]` must predict id `labels[i]`.
        image: key of the image's features, None for text only.
        mirrorable: nothing in the dialogues depends on left and right.
    """

    image: str | None
    mirrorable: bool = False
    input_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    _children: dict[tuple[int, int, int], int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.input_ids)

    def add(self, dialogue: EncodedPrompt) -> None:
        """Grow the tree by one dialogue that has labels."""
        node, run = -1, 0
        for token, label in zip(dialogue.input_ids, dialogue.labels, strict=True):
            if label != IGNORE_INDEX:
                self.predictors.append(node)
                self.labels.append(label)
            run = run + 1 if token < 0 else 0  # the n-th visual token of a run is a token of its own
            key = (node, token, run)
            if key not in self._children:
                self._children[key] = len(self.input_ids)
                self.input_ids.append(token)
                self.parents.append(node)
            node = self._children[key]

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
        attention_mask: `[batch, 1, tokens, tokens]`, True where a token attends.
        predictors: `[labels]`, indices into the flattened `[batch * tokens]` hidden states.
        labels: `[labels]`.
        images: keys of the features, one for each row that has an image, in row order.
        mirrorable: of each image, whether its mirror image may take its place.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    predictors: Tensor
    labels: Tensor
    images: list[str]
    mirrorable: list[bool]


def pack_dialogues(image: str | None, dialogues: list[EncodedPrompt], max_tokens: int) -> list[Pack]:
    """Fill packs of at most `max_tokens` in order; a dialogue longer than that gets a pack of its own."""
    packs: list[Pack] = []
    for dialogue in dialogues:
        if not packs or len(packs[-1]) + packs[-1].growth(dialogue) > max_tokens:
            packs.append(Pack(image))
        packs[-1].add(dialogue)
    return packs


def collate(packs: list[Pack], pad_token_id: int) -> PackedBatch:
    """Packs to tensors. Padding attends to itself, so that no row of the softmax is empty."""
    tokens = max(len(pack) for pack in packs)
    input_ids = np.full((len(packs), tokens), pad_token_id, dtype=np.int64)
    position_ids = np.zeros((len(packs), tokens), dtype=np.int64)
    mask = np.zeros((len(packs), 1, tokens, tokens), dtype=bool)
    mask[:, :, range(tokens), range(tokens)] = True
    predictors, labels = [], []
    for row, pack in enumerate(packs):
        input_ids[row, : len(pack)] = pack.input_ids
        ancestors, depth = mask[row, 0], position_ids[row]
        for node, parent in enumerate(pack.parents):
            if parent >= 0:
                ancestors[node] |= ancestors[parent]
                depth[node] = depth[parent] + 1
        predictors += [row * tokens + node for node in pack.predictors]
        labels += pack.labels
    return PackedBatch(
        torch.from_numpy(input_ids),
        torch.from_numpy(position_ids),
        torch.from_numpy(mask),
        torch.tensor(predictors),
        torch.tensor(labels),
        [pack.image for pack in packs if pack.image is not None],
        [pack.mirrorable for pack in packs if pack.image is not None],
    )
