"""Stage 0: a projector that starts where captions live, instead of at random.

Ridge regression from an image's pooled vision features to the mean embedding of its captions' tokens
fills the Linear of the source's projector; the LayerNorm of its residual block is set to the scale of
the language model's embeddings, and the block itself starts as the identity. Closed form, seconds.
"""

from __future__ import annotations

import logging
from collections import defaultdict

import torch
from torch import Tensor

from shared.model import MultimodalModel
from shared.projector import ResBlockProjector
from shared.prompt import IGNORE_INDEX
from trainer.data.features import FeatureCache
from trainer.data.loader import PackLoader

log = logging.getLogger(__name__)

RIDGE = 0.1  # of the mean feature variance
MAX_IMAGES = 20_000  # ten times the unknowns of a row of the solution; more would only take memory


@torch.no_grad()
def align_projector(model: MultimodalModel, loader: PackLoader, features: FeatureCache) -> float:
    """Initialise `model.projector`.

    Returns:
        Explained share of the targets' variance on the images used, 0 to 1.

    Raises:
        ValueError: the projector has no residual block to align.
    """
    if not isinstance(model.projector, ResBlockProjector):
        raise ValueError("align needs the resblock projector; set align = false for mlp2x_gelu")
    embeddings = model.causal_lm.get_input_embeddings().weight.float()
    targets = _caption_embeddings(model, loader, embeddings)
    names = list(targets)
    pooled = torch.cat([features.get(names[i : i + 256]).mean(1) for i in range(0, len(names), 256)])
    pooled = pooled.to(embeddings.device, torch.float64)
    wanted = torch.stack([targets[name] for name in names]).double()
    x, y = pooled - pooled.mean(0), wanted - wanted.mean(0)
    gram = x.T @ x
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, x.T @ y).T
    linear, block = model.projector.linear, model.projector.block
    # The LayerNorm forgets the scale, Adam's steps do not: keep the weights as large as an untrained Linear's
    scale = linear.weight.double().square().mean().sqrt() / weight.square().mean().sqrt()
    linear.weight.copy_(scale * weight)
    linear.bias.copy_(-scale * weight @ pooled.mean(0))
    block.norm.weight.copy_(embeddings.std(0))
    block.norm.bias.copy_(wanted.mean(0))
    block.down.weight.zero_()
    block.down.bias.zero_()
    return 1 - float((y - x @ weight.T).square().sum() / y.square().sum())


def _caption_embeddings(model: MultimodalModel, loader: PackLoader, embeddings: Tensor) -> dict[str, Tensor]:
    """Mean embedding of the answer tokens of each image: of its captions, where it has any."""
    tokens: dict[str, list[int]] = defaultdict(list)
    captions = any(dialogue.kind == "caption" for dialogue in loader.dialogues)
    for dialogue in loader.dialogues:
        if len(tokens) == MAX_IMAGES and dialogue.image not in tokens:
            continue
        if dialogue.image and (not captions or dialogue.kind == "caption"):
            end = model.prompt.end_token_id
            tokens[dialogue.image] += [t for t in dialogue.encoded.labels if t not in (IGNORE_INDEX, end)]
    return {name: embeddings[ids].mean(0) for name, ids in tokens.items()}
