"""What is minimised: the summed cross-entropy over the answers' tokens, as one module.

One forward call holds the whole computation, so that DDP, FSDP and DeepSpeed can wrap it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from shared.model import MultimodalModel
from trainer.data.steps import Batch
from trainer.teacher_forcing import replace_inputs


class Objective(nn.Module):
    """A batch of token trees to its summed loss."""

    def __init__(self, model: MultimodalModel):
        super().__init__()
        self.model = model
        self._no_split_modules = model.causal_lm._no_split_modules  # the layers that FSDP shards

    def forward(self, batch: Batch) -> Tensor:
        """Summed cross-entropy of the batch's labels, each by its weight: a float32 scalar.

        The batch is on the model's device.
        """
        packed, dtype = batch.packed, self.model.dtype
        with torch.autocast(self.model.device.type, dtype, enabled=dtype != torch.float32):
            # A batch of text alone projects no images: the projector's gradient is zero, not missing,
            # and every process computes the same graph.
            image_embeds = self.model.project(batch.features)
        input_ids = packed.input_ids
        if batch.replaced is not None:
            with torch.no_grad():
                logits = self._logits(batch, input_ids, image_embeds, packed.predictors[batch.replaced])
            input_ids = replace_inputs(input_ids, packed.targets[batch.replaced], logits.argmax(-1))
        logits = self._logits(batch, input_ids, image_embeds, packed.predictors).float()
        if packed.temperatures is not None:
            logits = logits / packed.temperatures[:, None]
        if packed.weights is None:
            return cross_entropy(logits, packed.labels, reduction="sum")
        return cross_entropy(logits, packed.labels, reduction="none") @ packed.weights

    def _logits(self, batch: Batch, input_ids: Tensor, image_embeds: Tensor, positions: Tensor) -> Tensor:
        """Logits `[positions, vocabulary]` at the flattened `positions`: nowhere else are they needed."""
        hidden = self.model.hidden_states(
            self.model.embed(input_ids, image_embeds),
            attention_mask=batch.packed.attention_mask,
            position_ids=batch.packed.position_ids,
        )
        return self.model.logits(hidden.flatten(0, 1)[positions])
