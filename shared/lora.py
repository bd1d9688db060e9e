"""LoRA adapters through PEFT; everything takes PEFT from here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

# PEFT imports bitsandbytes wherever it is installed, for one helper that nothing here calls, and bitsandbytes
# loads torch's whole compiler: 5.6 of the 13.6 seconds of CPU that the service's imports took. transformers
# imports it where 4-bit weights are loaded.
_loaded = "bitsandbytes" in sys.modules
if not _loaded:
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
try:
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft.tuners.lora import LoraLayer
finally:
    if not _loaded:
        del sys.modules["bitsandbytes"]

__all__ = ["PeftModel", "attach_lora", "load_lora", "merged_adapters"]


def attach_lora(
    model: PreTrainedModel,
    targets: tuple[str, ...],
    *,
    rank: int,
    alpha: float,
    dropout: float,
) -> PeftModel:
    """LoRA adapters (Hu et al. 2021) on every Linear named in `targets`; float32 on a base of any dtype.

    Raises:
        ValueError: a target names no Linear of this model, so it would silently train nothing.
    """
    linears = {
        name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    if missing := sorted(set(targets) - linears):
        raise ValueError(
            f"no Linear is called {', '.join(missing)}; this model has {', '.join(sorted(linears))}"
        )
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), task_type="CAUSAL_LM"
    )
    return _in_dtype_of_inputs(get_peft_model(model, config))


def load_lora(model: PreTrainedModel, folder: Path, *, trainable: bool = False) -> PeftModel:
    """The adapters that PEFT saved in `folder`, on `model`."""
    return _in_dtype_of_inputs(PeftModel.from_pretrained(model, folder, is_trainable=trainable))


class _AdapterLinear(nn.Linear):
    """A Linear that keeps its weight in float32 for the optimizer and computes in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def _in_dtype_of_inputs(model: PeftModel) -> PeftModel:
    """Adapters compute as the model around them does; PEFT would take every input of theirs to float32."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False
            for part in (*layer.lora_A.values(), *layer.lora_B.values()):
                part.__class__ = _AdapterLinear
    return model


@contextlib.contextmanager
def merged_adapters(model: nn.Module) -> Iterator[None]:
    """Inside it, adapters are part of the weights they adapt, so that a pass costs what the base model's costs.

    Afterwards the weights are the old ones to the bit. Weights that are not float32 stay apart from their
    adapters: a sum in bf16 would round these away.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, LoraLayer) and module.get_base_layer().weight.dtype == torch.float32
    ]
    kept = [layer.get_base_layer().weight.detach().clone() for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.merge()
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.merged_adapters.clear()
            layer.get_base_layer().weight.data.copy_(weight)
