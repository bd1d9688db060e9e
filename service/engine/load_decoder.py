"""The choice of a decoder: the fastest that computes this model on its device."""

import logging
from typing import Literal

import torch

from service.engine.decoder import Decoder
from service.engine.native.build import BuildError
from service.engine.native.decoder import NativeDecoder
from service.engine.native.weights import Format, Unsupported
from service.engine.slotted import SlottedDecoder
from shared.model import MultimodalModel

logger = logging.getLogger(__name__)

DecoderKind = Literal["auto", "native", "transformers"]
Quantize = Literal["none", "int8"]


class DecoderUnavailable(ValueError):
    """The decoder that the operator asked for cannot be had; the message says why."""


def load_decoder(
    model: MultimodalModel,
    *,
    kind: DecoderKind = "auto",
    quantize: Quantize = "none",
    max_rows: int,
    max_positions: int,
    max_sequences: int,
    max_tokens: int,
    release_weights: bool = False,
) -> Decoder:
    """The fastest decoder for `model` on its device.

    Args:
        kind: `auto` takes `native` wherever it works.
        quantize: `int8` weights; `native` only.
        max_rows: tokens in one pass at most.
        max_positions: tokens of the longest sequence.
        max_sequences: sequences with memory at once.
        max_tokens: budget that `footprint` is kept within.
        release_weights: the model's own copy of what the decoder packs may go; the model then only embeds.

    Raises:
        DecoderUnavailable: `native` or int8 was asked for and does not work here.
    """
    if kind != "transformers":
        try:
            return NativeDecoder(
                model.causal_lm,
                format=_format(model, quantize),
                max_rows=max_rows,
                max_positions=max_positions,
                threads=torch.get_num_threads(),
                release=release_weights,
            )
        except (BuildError, Unsupported) as error:
            if kind == "native" or quantize == "int8":
                raise DecoderUnavailable(f"the native decoder cannot serve this model: {error}") from error
            level = logging.WARNING if isinstance(error, BuildError) else logging.INFO
            logger.log(level, "using transformers, which is slower on a CPU: %s", error)
    elif quantize == "int8":
        raise DecoderUnavailable("int8 weights need the native decoder, not transformers")
    return SlottedDecoder(model.causal_lm, max_slots=max_sequences, max_tokens=max_tokens)


def _format(model: MultimodalModel, quantize: Quantize) -> Format:
    if model.device.type != "cpu":
        raise Unsupported(f"the model is on {model.device}, not on the CPU")
    if quantize == "int8":
        return "int8"
    name = str(model.dtype).removeprefix("torch.")
    if name not in ("float32", "bfloat16"):
        raise Unsupported(f"its weights are {name}")
    return name
