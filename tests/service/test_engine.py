"""The engines: continuous equals one at a time, whatever joins, leaves, fails or is cancelled meanwhile."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import torch

from service.engine.continuous import ContinuousEngine
from service.engine.interface import (
    Engine,
    EngineError,
    Generation,
    GenerationRequest,
    ImageInput,
    RequestTooLarge,
    SamplingParams,
)
from service.engine.load_decoder import load_decoder
from service.engine.sequential import SequentialEngine
from service.engine.vision import ImageEncoder
from shared.model import MultimodalModel
from shared.prompt import Message, question_content

WORDS = ["sea", "dog", "red", "on", "the", "a", "running", "child", "why", "two", "Ünïcode", "水", "house"]


@pytest.fixture(params=["native", "transformers"])
def continuous(request: pytest.FixtureRequest) -> Callable[..., ContinuousEngine]:
    """Makes a continuous engine over each decoder."""
    if request.param == "native" and shutil.which("c++") is None:
        pytest.skip("no C++ compiler is installed (g++)")

    def make(model: MultimodalModel, **settings) -> ContinuousEngine:
        defaults = {
            "max_batch_size": 4,
            "max_context_tokens": 600,
            "cache_tokens": 2400,
            "prefill_chunk_tokens": 48,
            "prefix_cache_tokens": 640,
        }
        settings = defaults | settings
        decoder = load_decoder(
            model,
            kind=request.param,
            max_rows=settings["prefill_chunk_tokens"] + settings["max_batch_size"],
            max_positions=settings["max_context_tokens"],
            max_sequences=settings["max_batch_size"],
            max_tokens=settings["cache_tokens"],
        )
        images = ImageEncoder(model, batch_size=4, cache_entries=8)
        return ContinuousEngine(model, images, decoder, **settings)

    return make


@asynccontextmanager
async def started(engine: Engine) -> AsyncIterator[Engine]:
    engine.start(asyncio.get_running_loop())
    try:
        yield engine
    finally:
        engine.stop()


def make_request(
    model: MultimodalModel, rng: random.Random, *, images: int = 0, words: int | None = None, **sampling
) -> GenerationRequest:
    torch.manual_seed(rng.randrange(2**31))
    size = model.config.vision.image_size
    question = " ".join(rng.choices(WORDS, k=words or rng.randint(1, 60)))
    prompt = model.prompt.encode([Message("user", question_content(question, images=images))])
    inputs = tuple(ImageInput(rng.randbytes(8), torch.randn(3, size, size)) for _ in range(images))
    params = {"max_new_tokens": rng.randint(1, 20)} | sampling
    return GenerationRequest(prompt.input_ids, inputs, SamplingParams(**params))


async def collect(generation: Generation) -> tuple[list[int], str, str]:
    events = [event async for event in generation]
    assert generation.completion_tokens == len(events)
    return [e.token_id for e in events], "".join(e.text for e in events), events[-1].finish_reason


def oracle(model: MultimodalModel, request: GenerationRequest) -> list[int]:
    """transformers' own greedy `generate(inputs_embeds=...)` of one request alone."""
    with torch.inference_mode():
        pixels = [image.pixel_values for image in request.images]
        embeds = model.project(model.encode_images(torch.stack(pixels))) if pixels else None
        return model.causal_lm.generate(
            inputs_embeds=model.embed(torch.tensor([request.input_ids]), embeds),
            attention_mask=torch.ones(1, len(request.input_ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=request.sampling.max_new_tokens,
            eos_token_id=list(model.eos_token_ids),
            pad_token_id=model.tokenizer.pad_token_id,
        )[0].tolist()


@pytest.mark.parametrize("kind", ["llama", "phi", "phi3"])
async def test_batched_greedy_equals_generate_alone(make_model: Callable, continuous: Callable, kind: str):
    model, rng = make_model(kind), random.Random(5)
    requests = [make_request(model, rng, images=rng.choice([0, 0, 1, 2])) for _ in range(24)]
    expected = [oracle(model, request) for request in requests]
    async with started(continuous(model)) as engine:

        async def ask(index: int) -> list[int]:
            await asyncio.sleep(index * 0.01)
            return (await collect(engine.submit(requests[index])))[0]

        answers = await asyncio.gather(*(ask(index) for index in range(len(requests))))
        assert answers == expected
        assert len({tuple(answer) for answer in answers}) > 12, "the model answers the same to everything"
        await settled(engine)
        assert engine.stats().cache_capacity == 0


async def settled(engine: Engine) -> None:
    """Waits until the engine holds no request any more."""
    async with asyncio.timeout(30):
        while (stats := engine.stats()).running or stats.waiting or stats.cache_capacity:
            await asyncio.sleep(0.01)


async def test_engines_agree_on_sampling_and_stops(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(11)
    settings = [{"temperature": 0.9, "seed": 7}, {"temperature": 1.3, "top_p": 0.6, "seed": 8}]
    settings += [{"temperature": 0.5, "top_k": 5, "seed": 9}, {"temperature": 1.0, "seed": 7, "stop": ("e",)}]
    requests = [make_request(model, rng, max_new_tokens=16, **sampling) for sampling in settings]
    encoder = ImageEncoder(model, batch_size=4, cache_entries=8)
    async with (
        started(continuous(model)) as batched,
        started(SequentialEngine(model, encoder, max_context_tokens=600)) as alone,
    ):
        together = await asyncio.gather(*(collect(batched.submit(request)) for request in requests))
        assert together == [await collect(alone.submit(request)) for request in requests]


async def test_a_seed_gives_the_same_text_whatever_else_runs(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(2)
    request = make_request(model, rng, max_new_tokens=20, temperature=1.0, seed=42)
    others = [make_request(model, rng, max_new_tokens=20, temperature=1.0) for _ in range(7)]
    async with started(continuous(model)) as engine:
        first = await collect(engine.submit(request))
        crowd = [asyncio.create_task(collect(engine.submit(other))) for other in others[:3]]
        second, third = await asyncio.gather(*(collect(engine.submit(request)) for _ in range(2)))
        crowd += [asyncio.create_task(collect(engine.submit(other))) for other in others[3:]]
        await asyncio.gather(*crowd)
    assert first == second == third


async def test_stop_strings_end_the_answer_before_them(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(4)
    request = make_request(model, rng, max_new_tokens=40)
    async with started(continuous(model)) as engine:
        _, whole, _ = await collect(engine.submit(request))
        stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
        stopped = GenerationRequest(request.input_ids, (), SamplingParams(40, stop=("no such", stop)))
        tokens, text, reason = await collect(engine.submit(stopped))
    assert text == whole[: whole.index(stop)]
    assert reason == "stop"
    assert len(tokens) < 40


async def test_cancelling_frees_the_slot_and_harms_nobody(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(6)
    staying = [make_request(model, rng, max_new_tokens=30) for _ in range(4)]
    leaving = [make_request(model, rng, max_new_tokens=400) for _ in range(4)]
    expected = [oracle(model, request) for request in staying]
    async with started(continuous(model, max_batch_size=3)) as engine:

        async def leave(request: GenerationRequest) -> None:
            async with engine.submit(request) as generation:
                async for _ in generation:
                    if generation.completion_tokens >= 3:
                        break

        async def stay(request: GenerationRequest) -> list[int]:
            return (await collect(engine.submit(request)))[0]

        tasks = [
            work(request)
            for pair in zip(leaving, staying, strict=True)
            for work, request in zip((leave, stay), pair, strict=True)
        ]
        results = await asyncio.gather(*tasks)
        assert results[1::2] == expected
        await settled(engine)


async def test_a_request_that_fails_does_not_harm_its_neighbours(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(8)
    good = [make_request(model, rng, images=index % 2, max_new_tokens=12) for index in range(6)]
    expected = [oracle(model, request) for request in good]
    bad_image = make_request(model, rng, images=1)
    bad_image = GenerationRequest(
        bad_image.input_ids, (ImageInput(b"bad", torch.zeros(1, 5, 7)),), bad_image.sampling
    )
    no_image = make_request(model, rng, images=1)
    no_image = GenerationRequest(no_image.input_ids, (), no_image.sampling)
    async with started(continuous(model)) as engine:
        tasks = [collect(engine.submit(request)) for request in [*good[:3], bad_image, no_image, *good[3:]]]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results[3:5]] == [EngineError, EngineError]
        assert [result[0] for result in results[:3] + results[5:]] == expected
        await settled(engine)


async def test_a_long_prompt_does_not_stall_running_answers(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(9)
    short = make_request(model, rng, words=3, max_new_tokens=60)
    long = make_request(model, rng, words=300, max_new_tokens=2)
    order: list[str] = []
    async with started(continuous(model, prefill_chunk_tokens=16)) as engine:

        async def record(name: str, generation: Generation) -> None:
            async for _ in generation:
                order.append(name)

        running = engine.submit(short)
        task = asyncio.create_task(record("short", running))
        while running.completion_tokens < 2:
            await asyncio.sleep(0)
        await asyncio.gather(task, record("long", engine.submit(long)))
    assert order.index("long") - 2 >= len(long.input_ids) // 16 - 2


async def test_what_cannot_fit_is_refused_with_counts(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(1)
    async with started(continuous(model, max_context_tokens=100)) as engine:
        request = make_request(model, rng, words=10, max_new_tokens=300)
        with pytest.raises(
            RequestTooLarge, match=f"{len(request.input_ids)} tokens .* 300, .* at most 100 fit"
        ):
            engine.submit(request)


async def test_the_cache_budget_holds(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(3)
    requests = [make_request(model, rng, max_new_tokens=60) for _ in range(8)]
    budget = 2 * max(request.total_tokens for request in requests) + 32
    together: list[int] = []
    engine = continuous(model, cache_tokens=budget, max_batch_size=8, on_step=together.append)
    async with started(engine):
        await asyncio.gather(*(collect(engine.submit(request)) for request in requests))
    assert max(together) >= 2
    assert max(together) * min(request.total_tokens for request in requests) <= budget


async def test_equal_images_are_encoded_once(make_model: Callable, continuous: Callable):
    model = make_model("llama")
    size = model.config.vision.image_size
    images = [
        ImageInput(bytes([index % 3]), torch.full((3, size, size), index % 3 / 3)) for index in range(6)
    ]
    passes: list[int] = []
    hook = model.vision.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    encoder = ImageEncoder(model, batch_size=2, cache_entries=2)
    with torch.inference_mode():
        found = encoder.encode(images)
        assert passes == [2, 1]
        again = encoder.encode(images[1:3])
        assert passes == [2, 1], "the two newest are remembered"
        encoder.encode(images[:1])
    hook.remove()
    assert passes == [2, 1, 1], "the oldest was forgotten"
    assert all(torch.equal(found[key], embeds) for key, embeds in again.items())


async def test_a_beginning_seen_before_is_not_computed_again(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(12)
    first = make_request(model, rng, images=1, words=20, max_new_tokens=20)
    answer = oracle(model, first)
    dialogue = GenerationRequest(
        [*first.input_ids, *answer, *make_request(model, rng, words=5).input_ids],
        first.images,
        first.sampling,
    )
    size = model.config.vision.image_size
    torch.manual_seed(1)
    other_image = (ImageInput(b"another", torch.randn(3, size, size)),)
    other = GenerationRequest(first.input_ids, other_image, first.sampling)
    async with started(continuous(model)) as engine:
        cached = []
        for request in (first, first, dialogue, other, dialogue):
            generation = engine.submit(request)
            tokens, *_ = await collect(generation)
            assert tokens == oracle(model, request)
            cached.append(generation.cached_tokens)
        assert engine.stats().prefix_tokens <= 640
    prompt = len(first.input_ids)
    assert cached[0] == cached[3] == 0
    assert cached[1] == (prompt - 1) // 16 * 16
    assert cached[2] >= (prompt + len(answer) - 1) // 16 * 16
    assert cached[4] > cached[2]


async def test_prefixes_kept_stay_within_their_budget(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(13)
    requests = [make_request(model, rng, words=40, max_new_tokens=4) for _ in range(12)]
    async with started(continuous(model, prefix_cache_tokens=200)) as engine:
        for request in requests + requests[-1:]:
            generation = engine.submit(request)
            assert (await collect(generation))[0] == oracle(model, request)
            assert engine.stats().prefix_tokens <= 200
    assert generation.cached_tokens > 0


async def test_no_memory_for_prefixes_harms_only_whom_it_must(make_model: Callable, continuous: Callable):
    model, rng = make_model("llama"), random.Random(14)
    requests = [make_request(model, rng, words=40, max_new_tokens=8) for _ in range(4)]
    expected = [oracle(model, request) for request in requests]

    def fail(*_: object) -> None:
        raise MemoryError

    engine = continuous(model)
    async with started(engine):
        assert (await collect(engine.submit(requests[0])))[0] == expected[0]
        engine._decoder.save = engine._decoder.load = fail
        tasks = [collect(engine.submit(request)) for request in (requests[1], requests[0], *requests[2:])]
        one, known, *others = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(known, EngineError), "what was kept for it could not be loaded"
        assert [tokens for tokens, *_ in (one, *others)] == expected[1:]
        await settled(engine)
