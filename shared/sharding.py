"""Tensors that several processes hold together (DTensor of FSDP2), whole and back; plain tensors as they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor on the CPU, without gradient. All processes that share it must call this."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is spread over the processes; as it is where `like` is a plain tensor."""
    if not isinstance(like, DTensor):
        return tensor
    with torch.no_grad():
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
