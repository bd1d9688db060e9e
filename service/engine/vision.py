"""Images to embeddings: batched through tower and projector, and remembered by content."""

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor

from service.engine.interface import GenerationRequest, ImageInput
from shared.model import MultimodalModel


class ImageEncoder:
    """Projected image embeddings, `[patches, hidden]` each, with a least-recently-used cache.

    Args:
        batch_size: images that share one pass of the tower.
        cache_entries: images whose embeddings are kept.
    """

    def __init__(self, model: MultimodalModel, *, batch_size: int, cache_entries: int) -> None:
        self._model = model
        self.batch_size = batch_size
        self._cache_entries = cache_entries
        self._cache: OrderedDict[bytes, Tensor] = OrderedDict()

    def encode(self, images: Iterable[ImageInput]) -> dict[bytes, Tensor]:
        """The embeddings of `images` by their keys; equal images are computed once."""
        pending: dict[bytes, ImageInput] = {}
        found: dict[bytes, Tensor] = {}
        for image in images:
            if image.key in self._cache:
                self._cache.move_to_end(image.key)
                found[image.key] = self._cache[image.key]
            else:
                pending[image.key] = image
        keys = list(pending)
        for start in range(0, len(keys), self.batch_size):
            batch = keys[start : start + self.batch_size]
            pixel_values = torch.stack([pending[key].pixel_values for key in batch])
            embeds = self._model.project(self._model.encode_images(pixel_values.to(self._model.device)))
            found.update(zip(batch, embeds, strict=True))
        self._cache.update((key, found[key].clone()) for key in keys)
        while len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)
        return found


def embed_prompt(
    model: MultimodalModel, request: GenerationRequest, image_embeds: dict[bytes, Tensor]
) -> Tensor:
    """A prompt as `inputs_embeds`, `[tokens, hidden]`, its slots filled from `ImageEncoder.encode`."""
    input_ids = torch.tensor([request.input_ids], device=model.device)
    images = [image_embeds[image.key] for image in request.images]
    return model.embed(input_ids, torch.stack(images) if images else None)[0]
