"""Where a run computes: processes and devices through Accelerate, attention by what they can do.

Started by `python -m trainer`, a run uses one device; started by `accelerate launch -m trainer` or
`torchrun -m trainer`, all that the launcher gives it, as DDP, FSDP or DeepSpeed by the launcher's configuration.
"""

from __future__ import annotations

import importlib.util
import logging
from datetime import timedelta
from typing import Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from torch import nn

log = logging.getLogger(__name__)

PATIENCE = timedelta(hours=12)  # that processes wait for one another, as while one computes vision features

Attention = Literal["eager", "sdpa", "flash_attention_2"]


def start_accelerator(device: str, accumulation: int, max_grad_norm: float) -> Accelerator:
    """The processes of this run; `accumulation` batches a step are dealt out among them.

    Raises:
        ValueError: there are more processes than batches in a step, or the device is not there.
    """
    cuda = torch.cuda.is_available()
    if device.startswith("cuda"):
        if not cuda:
            raise ValueError(f"device {device!r}: this torch finds no CUDA device; use --device cpu or auto")
        torch.cuda.set_device(torch.device(device).index or 0)
    cpu = device == "cpu" or not cuda
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    if not state.is_main_process:
        logging.getLogger().setLevel(logging.ERROR)
    if state.num_processes > accumulation:
        raise ValueError(
            f"{state.num_processes} processes share the {accumulation} batches of a step: "
            f"set --accumulation to {state.num_processes} or more"
        )
    # The model computes in its own dtype; its projector and adapters are float32 and take care of themselves
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="no",
        gradient_accumulation_steps=-(-accumulation // state.num_processes),
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        ],
    )
    if accelerator.distributed_type == "DEEPSPEED":
        # It has no data loader to learn the batch size from, and clips by itself
        accelerator.state.deepspeed_plugin.deepspeed_config.update(
            train_micro_batch_size_per_gpu=1, gradient_clipping=max_grad_norm
        )
    return accelerator


def choose_attention(
    wanted: Literal["auto", "eager", "sdpa", "flash_attention_2"], device: torch.device
) -> Attention:
    """The attention implementation, logged with its reason.

    `auto` takes eager on a CPU, where the backward pass of the fused kernel with a mask is slow, and SDPA
    elsewhere. Flash attention takes no mask, hence no token trees: it is for data with one dialogue an image.

    Raises:
        ValueError: flash attention is asked for where it cannot run.
    """
    cuda = device.type == "cuda"
    if wanted == "auto":
        chosen: Attention = "sdpa" if cuda else "eager"
    else:
        chosen = wanted
    if chosen == "flash_attention_2":
        if not cuda or torch.cuda.get_device_capability(device) < (8, 0):
            raise ValueError(
                "flash_attention_2 needs an NVIDIA GPU of compute capability 8.0 (A100) or newer"
            )
        if importlib.util.find_spec("flash_attn") is None:
            raise ValueError(
                "flash_attention_2 needs the package flash-attn: install it, or use --attention sdpa"
            )
    log.info("attention: %s (%s)", chosen, "asked for" if wanted != "auto" else f"for {device.type}")
    return chosen


def compile_layers(model: nn.Module) -> None:
    """torch.compile on every decoder layer, each at its first call: one compilation serves all of them."""
    for layer in model.layers:
        layer.compile(dynamic=True)
