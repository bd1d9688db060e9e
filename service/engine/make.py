"""The engine that the settings ask for."""

from collections.abc import Callable

import torch

from service.engine.context import stable_context
from service.engine.continuous import ContinuousEngine
from service.engine.interface import Engine
from service.engine.load_decoder import DecoderUnavailable, load_decoder
from service.engine.sequential import SequentialEngine
from service.engine.vision import ImageEncoder
from service.engine.vllm import VllmEngine
from service.settings import Settings
from shared.model import MultimodalModel


def make_engine(
    model: MultimodalModel, settings: Settings, *, on_step: Callable[[int], None] = lambda rows: None
) -> Engine:
    """An engine that is not started yet. It may keep its own copy of `model`'s weights in place of the model's.

    Args:
        on_step: told how many requests got a token in each step, in the engine's thread.

    Raises:
        DecoderUnavailable: the settings ask for what cannot serve this model here.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    images = ImageEncoder(
        model, batch_size=settings.vision_batch_size, cache_entries=settings.image_cache_entries
    )
    if settings.engine != "continuous" and settings.quantize != "none":
        raise DecoderUnavailable(
            f"the {settings.engine} engine has no int8 weights here; use the continuous one"
        )
    if settings.engine == "vllm":
        key = settings.vllm_api_key
        return VllmEngine(
            model,
            images,
            url=settings.vllm_url,
            api_key=key.get_secret_value() if key else None,
            max_context_tokens=settings.max_context_tokens,
        )
    if settings.engine == "sequential":
        return SequentialEngine(model, images, max_context_tokens=settings.max_context_tokens)
    decoder = load_decoder(
        model,
        kind=settings.decoder,
        quantize=settings.quantize,
        max_rows=settings.prefill_chunk_tokens + settings.max_batch_size,
        max_positions=min(
            settings.max_context_tokens, settings.cache_tokens, stable_context(model.causal_lm.config)
        ),
        max_sequences=settings.max_batch_size,
        max_tokens=settings.cache_tokens,
        release_weights=True,
    )
    return ContinuousEngine(
        model,
        images,
        decoder,
        max_batch_size=settings.max_batch_size,
        max_context_tokens=settings.max_context_tokens,
        cache_tokens=settings.cache_tokens,
        prefix_cache_tokens=settings.prefix_cache_tokens,
        prefill_chunk_tokens=settings.prefill_chunk_tokens,
        on_step=on_step,
    )
