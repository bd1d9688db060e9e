"""From vision features to the language model's embeddings: the source's residual block, and LLaVA-1.5's MLP."""

from __future__ import annotations

from torch import Tensor, nn

from shared.config import ProjectorConfig


class ResBlock(nn.Module):
    """`x = LayerNorm(x); x + Linear(GELU(Linear(x)))`, `[..., hidden]` to the same shape."""

    def __init__(self, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, hidden)
        self.down = nn.Linear(hidden, hidden)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x + self.down(self.act(self.up(x)))


class ResBlockProjector(nn.Module):
    """The source's: `Linear(width, hidden)`, then a residual block. 15,086,080 parameters for CLIP B/32 and Phi-2."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.linear = nn.Linear(width, hidden)
        self.block = ResBlock(hidden)

    def forward(self, features: Tensor) -> Tensor:
        """`[..., width]` to `[..., hidden]`."""
        return self.block(self.linear(features))


class MlpProjector(nn.Sequential):
    """`mlp2x_gelu` of LLaVA-1.5 (Liu et al. 2023): Linear, GELU, Linear; `[..., width]` to `[..., hidden]`."""

    def __init__(self, width: int, hidden: int):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))


def build_projector(config: ProjectorConfig, width: int, hidden: int) -> nn.Module:
    """An untrained projector of the configured kind."""
    return {"resblock": ResBlockProjector, "mlp2x_gelu": MlpProjector}[config.kind](width, hidden)
