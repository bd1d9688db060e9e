"""One training step on fake tensors: the peak of its memory by part, and its floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from shared.config import ModelConfig
from shared.model import MultimodalModel
from shared.prompt import IMAGE_TOKEN_ID
from trainer.data.packing import PackedBatch
from trainer.data.steps import Batch
from trainer.objective import Objective
from trainer.planning.model import PlannedModel, build_planned, vision_flops
from trainer.planning.tracker import StepTracker

ADAM_BYTES = {
    "adamw": 8.0,
    "adamw8bit": 2.0 + 2 * 4 / 256,
}  # per parameter: two moments, 8-bit ones in blocks of 256


@dataclass(frozen=True)
class Setup:
    """What decides a step's memory and arithmetic."""

    model: ModelConfig
    stage: str
    rows: int
    row_tokens: int
    label_share: float
    dtype: str = "bfloat16"
    quantization: str = "none"
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"
    attention: str = "sdpa"
    gpu: bool = True  # dropout keeps smaller masks there than on a CPU
    lora: tuple[int, float, float] = (16, 32, 0.05)
    image_every: int | None = None  # tokens of text and image per image; None: one image a row
    accumulates: bool = False  # gradients are there before a pass, of the step's passes before it
    layers: int | None = None  # of the language model instead of its own number, for estimates


@dataclass(frozen=True)
class Step:
    """One forward and backward pass.

    Attributes:
        parameters: part -> (trained, frozen).
        memory: part -> bytes at the peak, of all that is resident and of what the pass adds.
        most: part -> bytes at its own highest, whenever in the pass.
        flops: of the pass, gradient checkpointing's second forward pass included.
        vision_flops: of one image in the tower, computed once for the whole run.
        tokens, labels, images: of the pass.
    """

    parameters: dict[str, tuple[int, int]]
    memory: dict[str, int]
    most: dict[str, int]
    flops: int
    vision_flops: int
    tokens: int
    labels: int
    images: int

    @property
    def peak(self) -> int:
        """Bytes."""
        return sum(self.memory.values())


def parameters(setup: Setup) -> dict[str, tuple[int, int]]:
    """Part -> (trained, frozen), without a step."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return _counts(_build(setup))


def _build(setup: Setup) -> PlannedModel:
    return build_planned(
        setup.model,
        stage=setup.stage,
        dtype=getattr(torch, setup.dtype),
        quantization=setup.quantization,
        attention=setup.attention,
        gpu=setup.gpu,
        checkpointing=setup.gradient_checkpointing,
        lora=setup.lora,
        layers=setup.layers,
    )


def simulate(setup: Setup) -> Step:
    """Compute one step of `setup` without data."""
    tower = vision_flops(setup.model.vision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _build(setup)
        batch = make_batch(model, setup)
        objective = Objective(model).train()
        tracker = StepTracker(model.causal_lm.config.vocab_size)
        if setup.accumulates:
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        with tracker:
            objective(batch).backward()
        tracker.note_gradients(p.grad for p in model.parameters() if p.grad is not None)
        memory = _resident(model) | {"optimizer": _optimizer_bytes(model, setup.optimizer)}
        if setup.accumulates:
            memory["gradients"] = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        most = memory | tracker.most_of_parts()
        memory |= tracker.peak_parts()
        return Step(
            parameters=_counts(model),
            memory=memory,
            most=most,
            flops=tracker.flops,
            vision_flops=tower,
            tokens=setup.rows * setup.row_tokens,
            labels=len(batch.packed.labels),
            images=len(batch.features),
        )


def make_batch(model: MultimodalModel, setup: Setup) -> Batch:
    """A batch of the setup's shape: zeros, and as many image slots as its images fill."""
    rows, tokens = setup.rows, setup.row_tokens
    images = max(1, rows * tokens // (setup.image_every or tokens))
    labels = max(1, round(rows * tokens * setup.label_share))
    whole = {"dtype": torch.long}
    input_ids = torch.zeros(rows, tokens, **whole)
    input_ids.flatten()[: images * model.vision.num_patches] = IMAGE_TOKEN_ID
    packed = PackedBatch(
        input_ids=input_ids,
        position_ids=torch.zeros(rows, tokens, **whole),
        attention_mask=torch.zeros(rows, 1, tokens, tokens, dtype=torch.bool),
        predictors=torch.zeros(labels, **whole),
        labels=torch.zeros(labels, **whole),
        targets=torch.zeros(labels, **whole),
        images=[""] * images,
        views=[0] * images,
    )
    return Batch(packed, torch.zeros(images, model.vision.num_patches, model.vision.width))


def _parts(model: PlannedModel) -> dict[str, list[tuple[str, Tensor]]]:
    """Parameters and buffers by part, each storage once."""
    parts: dict[str, list[tuple[str, Tensor]]] = {
        "vision tower": [], "projector": [], "language model": [], "adapters": [], "quantisation constants": [],
    }  # fmt: skip
    seen: set[int] = set()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if name.startswith("vision."):
            part = "vision tower"
        elif name.startswith("projector."):
            part = "projector"
        elif "lora_" in name:
            part = "adapters"
        elif "absmax" in name:
            part = "quantisation constants"
        else:
            part = "language model"
        parts[part].append((name, tensor))
    return parts


def _resident(model: PlannedModel) -> dict[str, int]:
    """Bytes of weights by part."""
    sizes = {p: sum(t.numel() * t.element_size() for _, t in found) for p, found in _parts(model).items()}
    return {f"weights: {part}": size for part, size in sizes.items() if size}


def _counts(model: PlannedModel) -> dict[str, tuple[int, int]]:
    """(trained, frozen) parameters by part; a packed byte is two of them."""
    counts = {}
    names = dict(model.named_parameters())
    for part, found in _parts(model).items():
        trained = frozen = 0
        for name, tensor in found:
            if name in names:
                count = tensor.numel() * (2 if tensor.dtype == torch.uint8 else 1)
                trained, frozen = (
                    trained + count * tensor.requires_grad,
                    frozen + count * (not tensor.requires_grad),
                )
        if trained or frozen:
            counts[part] = (trained, frozen)
    return counts


def _optimizer_bytes(model: PlannedModel, optimizer: str) -> int:
    return round(sum(p.numel() for p in model.parameters() if p.requires_grad) * ADAM_BYTES[optimizer])
