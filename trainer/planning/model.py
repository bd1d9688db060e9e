"""A preset's model at full size without weights: fake tensors have shapes and no memory.

The same modules, the same LoRA and the same loss as in training; only the check that images fill the prompt's
slots is left out, since it looks at values. 4-bit layers are stand-ins with bitsandbytes' sizes.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import linear
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionModel, PreTrainedConfig

from shared.config import ModelConfig, VisionConfig, resolve_source
from shared.language import fuse_activations
from shared.lora import attach_lora
from shared.model import MultimodalModel
from shared.projector import build_projector
from shared.vision import ClipTower, VisionTower, load_vision_tower
from trainer.planning.tracker import StepTracker

NF4_BLOCK, ABSMAX_BLOCK = (
    64,
    256,
)  # weights per absmax, absmaxes per second-level absmax (Dettmers et al. 2023)


@cache
def _known() -> dict[str, dict]:
    return tomllib.loads((Path(__file__).parent / "architectures.toml").read_text("utf-8"))


def architecture(source: str) -> PreTrainedConfig:
    """The transformers configuration of a source, from the table or from its files.

    Raises:
        ValueError: it is neither in the table nor on this machine.
    """
    if source in _known():
        dimensions = dict(_known()[source])
        return AutoConfig.for_model(dimensions.pop("model_type"), **dimensions)
    try:
        return AutoConfig.from_pretrained(resolve_source(source))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the dimensions of {source!r} are not known here: download its config.json, or name a preset"
        ) from error


class PlannedModel(MultimodalModel):
    """A `MultimodalModel` of fake tensors, without a tokenizer."""

    def __init__(self, config: ModelConfig, vision: VisionTower, projector: nn.Module, language: nn.Module):
        nn.Module.__init__(self)
        self.config, self.vision, self.projector, self.language = config, vision, projector, language

    def embed(self, input_ids: Tensor, image_embeds: Tensor | None = None) -> Tensor:
        """Like the real one, with slots that the images are taken to fill."""
        slots = input_ids < 0
        embeds = self.causal_lm.get_input_embeddings()(input_ids.masked_fill(slots, 0))
        if image_embeds is None:
            return embeds
        return embeds.masked_scatter(slots[..., None], image_embeds.flatten(0, 1).to(embeds.dtype))


def build_planned(
    config: ModelConfig,
    *,
    stage: str,
    dtype: torch.dtype,
    quantization: str,
    attention: str,
    gpu: bool,
    checkpointing: bool,
    lora: tuple[int, float, float],
    layers: int | None = None,
) -> PlannedModel:
    """The model as `stage` trains it; call it inside a `FakeTensorMode`.

    Args:
        lora: rank, alpha and dropout.
        layers: of the language model, instead of its own number.
    """
    sizes = architecture(config.language.source)
    if layers is not None:
        sizes.num_hidden_layers = layers
    language = AutoModelForCausalLM.from_config(sizes, dtype=dtype, attn_implementation=attention)
    fuse_activations(language)
    language.requires_grad_(False).eval()
    if quantization == "nf4":
        _quantize(language, dtype)
    vision = _tower(config.vision)
    projector = build_projector(config.projector, vision.width, language.config.hidden_size)
    if checkpointing:
        language.activation_checkpointing_enable({"use_reentrant": False})
    if stage == "finetune":
        rank, alpha, dropout = lora
        with _nothing_moves():
            language = attach_lora(
                language, config.language.lora_targets, rank=rank, alpha=alpha, dropout=dropout
            )
    if gpu:
        _drop_out_as_a_gpu(language)
    return PlannedModel(config, vision, projector, language).train()


@contextlib.contextmanager
def _nothing_moves() -> Iterator[None]:
    """`Module.to` does nothing: newer torch (2.11) cannot move a module of fake tensors. PEFT asks for it when it
    makes adapters, which are where and as they shall be from the start."""
    to = nn.Module.to
    nn.Module.to = lambda self, *args, **kwargs: self
    try:
        yield
    finally:
        nn.Module.to = to


def visual_tokens(config: ModelConfig) -> int:
    """Tokens that an image takes in a prompt, without the one that ends it."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return _tower(config.vision).num_patches


@cache
def vision_flops(config: VisionConfig) -> int:
    """Floating-point operations of one image in the tower."""
    with FakeTensorMode(allow_non_fake_inputs=True), StepTracker() as tracker:
        _tower(config)(torch.empty(1, 3, config.image_size, config.image_size))
    return tracker.flops


def _tower(config: VisionConfig) -> VisionTower:
    if config.tower != "clip":
        return load_vision_tower(config, pretrained=False)
    sizes = architecture(config.source)
    return ClipTower(config, CLIPVisionModel(getattr(sizes, "vision_config", sizes)))


class MaskDropout(nn.Dropout):
    """Dropout as a GPU computes it: its mask is kept as booleans, on a CPU as numbers of the input's type."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, True)[0] if self.training else x


def _drop_out_as_a_gpu(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout and child.p:
                setattr(module, name, MaskDropout(child.p))


class Dequantised(torch.autograd.Function):
    """bitsandbytes' 4-bit matrix product: the weight in full is a passing buffer, forward and backward."""

    @staticmethod
    def forward(ctx, x: Tensor, packed: Tensor, bias: Tensor | None, shape: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.shape = shape
        return linear(x, x.new_empty(shape), bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad @ grad.new_empty(ctx.shape), None, None, None


class FakeLinear4bit(nn.Linear):
    """A 4-bit Linear's memory: two weights a byte, an 8-bit absmax per 64, a float32 one per 256 of those."""

    def __init__(self, like: nn.Linear, dtype: torch.dtype):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.compute = like.in_features, like.out_features, dtype
        count = like.in_features * like.out_features
        self.weight = nn.Parameter(torch.empty(count // 2, 1, dtype=torch.uint8), requires_grad=False)
        blocks = -(-count // NF4_BLOCK)
        self.register_buffer("absmax", torch.empty(blocks, dtype=torch.uint8))
        self.register_buffer("second_absmax", torch.empty(-(-blocks // ABSMAX_BLOCK)))
        self.bias = None if like.bias is None else nn.Parameter(like.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(self.compute)
        return Dequantised.apply(
            x.to(self.compute), self.weight, bias, (self.out_features, self.in_features)
        ).to(x.dtype)


def _quantize(language: nn.Module, dtype: torch.dtype) -> None:
    """Replace every Linear but `lm_head`, as transformers does."""
    for module in list(language.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child is not language.get_output_embeddings():
                setattr(module, name, FakeLinear4bit(child, dtype))
