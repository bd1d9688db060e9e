"""Many random requests at once against transformers' `generate` of each alone: none wrong, lost or mixed up."""

import asyncio
import os
import random
import shutil
from collections.abc import Callable

import pytest
import torch

from service.engine.continuous import ContinuousEngine
from service.engine.interface import GenerationRequest
from service.engine.load_decoder import load_decoder
from service.engine.sampling import Sampler
from service.engine.sequential import SequentialEngine
from service.engine.vision import ImageEncoder
from shared.model import MultimodalModel
from tests.service.test_engine import collect, make_request, settled, started

REQUESTS = int(os.environ.get("DIFFERENTIAL_REQUESTS", 60))
"""Each model and decoder gets as many; 300 takes some minutes."""
ROUNDING = 1e-4
"""What float32 may make of logits of about 10."""


def random_request(model: MultimodalModel, rng: random.Random) -> GenerationRequest:
    sampling = {"max_new_tokens": rng.randint(1, 24)}
    if rng.random() < 0.5:
        sampling |= {"temperature": rng.choice([0.3, 0.8, 1.5]), "seed": rng.randrange(2**40)}
        sampling |= rng.choice([{}, {"top_p": 0.8}, {"top_k": 20}, {"logprobs": 2}])
    if rng.random() < 0.2:
        sampling |= {"repetition_penalty": 1.3, "presence_penalty": 0.5}
    if rng.random() < 0.2:
        sampling["stop"] = (rng.choice("aeiou "),)
    words = rng.choice([1, rng.randint(2, 30), rng.randint(30, 200)])
    return make_request(model, rng, images=rng.choice([0, 0, 1, 1, 2, 3]), words=words, **sampling)


@torch.inference_mode()
def is_a_tie(
    model: MultimodalModel, request: GenerationRequest, expected: list[int], actual: list[int]
) -> bool:
    """Whether the first token that differs is, but for float32's rounding, as good as the one expected."""
    place = next(
        (i for i, (one, other) in enumerate(zip(expected, actual, strict=False)) if one != other), None
    )
    if place is None:
        return False
    pixels = [image.pixel_values for image in request.images]
    images = model.project(model.encode_images(torch.stack(pixels).to(model.device))) if pixels else None
    tokens = torch.tensor([[*request.input_ids, *expected[:place]]], device=model.device)
    embeds = model.embed(tokens, images)
    *before, last = model.causal_lm(inputs_embeds=embeds).logits[0, len(request.input_ids) - 1 :].cpu()
    sampler = Sampler(request.sampling, request.sampling.seed or 0, request.input_ids)
    for logits in before:
        sampler.choose(logits)
    last[actual[place]] += ROUNDING
    return sampler.choose(last).token_id == actual[place]


needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize(
    ("kind", "decoder", "device"),
    [
        ("llama", "native", "cpu"),
        ("phi", "native", "cpu"),
        ("phi3", "native", "cpu"),
        ("llama", "transformers", "cpu"),
        pytest.param("phi", "transformers", "cuda", marks=needs_gpu),
        pytest.param("phi3", "transformers", "cuda", marks=needs_gpu),
    ],
)
async def test_random_requests_equal_the_oracle(
    make_model: Callable, monkeypatch: pytest.MonkeyPatch, kind: str, decoder: str, device: str
):
    if decoder == "native" and shutil.which("c++") is None:
        pytest.skip("no C++ compiler is installed (g++)")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # a GPU's convolutions in float32, too
    model, rng = make_model(kind).to(device), random.Random(f"{kind}-{decoder}")
    requests = [random_request(model, rng) for _ in range(REQUESTS)]
    requests += rng.choices(requests, k=REQUESTS // 10)  # some come twice
    doomed = set(rng.sample(range(len(requests)), len(requests) // 10))
    limits = {"max_batch_size": 8, "cache_tokens": 4000, "prefill_chunk_tokens": 64}
    engine = ContinuousEngine(
        model,
        ImageEncoder(model, batch_size=4, cache_entries=16),
        load_decoder(model, kind=decoder, max_rows=72, max_positions=1000, max_sequences=8, max_tokens=4000),
        max_context_tokens=1000,
        prefix_cache_tokens=1600,
        **limits,
    )
    images = ImageEncoder(model, batch_size=4, cache_entries=16)
    async with started(SequentialEngine(model, images, max_context_tokens=1000)) as oracle:
        expected = [
            None if index in doomed else await collect(oracle.submit(request))
            for index, request in enumerate(requests)
        ]

    async def ask(index: int) -> tuple | None:
        await asyncio.sleep(arrivals[index])
        async with engine.submit(requests[index]) as generation:
            if index not in doomed:
                return await collect(generation)
            await asyncio.sleep(patience[index])
            return None

    arrivals = [rng.uniform(0, 2) for _ in requests]
    patience = [rng.uniform(0, 0.2) for _ in requests]
    async with started(engine):
        answers = await asyncio.gather(*(ask(index) for index in range(len(requests))))
        await settled(engine)
        assert engine.stats().prefix_tokens <= 1600
    different = [index for index in range(len(requests)) if answers[index] != expected[index]]
    for index in different:
        assert is_a_tie(model, requests[index], expected[index][0], answers[index][0]), requests[
            index
        ].sampling
    assert len(different) <= len(requests) / 30, "so many ties cannot be"
