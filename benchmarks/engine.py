"""The engine alone, without HTTP: what `serve.py`'s throughput can be compared with.

    python -m benchmarks.engine --images PHOTOGRAPHS [service settings, such as --quantize int8]

Also says how long the event loop was blocked at most while the engine ran beside it.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

from pydantic_settings import CliApp

from benchmarks.load import percentiles
from benchmarks.serve import QUESTIONS
from service.engine.interface import Engine, GenerationRequest, ImageInput, SamplingParams
from service.engine.make import make_engine
from service.settings import Settings
from shared.checkpoint import load_model
from shared.media import ImageLimits, decode_image
from shared.model import MultimodalModel
from shared.prompt import Message, question_content

LIMITS = ImageLimits(max_bytes=20 * 2**20, max_pixels=50_000_000)


def make_requests(model: MultimodalModel, folder: Path, count: int, tokens: int) -> list[GenerationRequest]:
    """Questions about `count` photographs, each answered with `tokens` tokens."""
    requests = []
    for index, path in enumerate(sorted(folder.glob("*.jpg"))[:count]):
        content = question_content(QUESTIONS[index % len(QUESTIONS)], images=1)
        prompt = model.prompt.encode([Message("user", content)])
        size = model.config.vision.image_size
        pixels = model.preprocess([decode_image(path.read_bytes(), limits=LIMITS, target_size=size)])[0]
        image = ImageInput(path.name.encode(), pixels)
        requests.append(
            GenerationRequest(prompt.input_ids, (image,), SamplingParams(tokens, ignore_eos=True))
        )
    return requests


async def load(engine: Engine, requests: list[GenerationRequest], clients: int, seconds: float) -> dict:
    """Closed loop: each client asks again as soon as its last token has come."""
    begin, turn = time.perf_counter(), iter(range(10**9))
    tokens, firsts, gaps, blocked = 0, [], [], [0.0]

    async def client() -> None:
        nonlocal tokens
        while time.perf_counter() - begin < seconds:
            last, times = time.perf_counter(), firsts
            async for _ in engine.submit(requests[next(turn) % len(requests)]):
                now = time.perf_counter()
                times.append(now - last)
                last = now
                tokens += 1
                times = gaps

    async def heartbeat() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            blocked.append(time.perf_counter() - start - 0.001)

    beat = asyncio.create_task(heartbeat())
    await asyncio.gather(*(client() for _ in range(clients)))
    beat.cancel()
    span = time.perf_counter() - begin
    return {
        "clients": clients,
        "tokens_per_second": round(tokens / span, 1),
        "first_token_ms": percentiles(firsts),
        "between_tokens_ms": percentiles(gaps),
        "loop_blocked_ms": percentiles(blocked) | {"max": round(1000 * max(blocked), 1)},
    }


async def run(settings: Settings, args: argparse.Namespace) -> None:
    model = load_model(settings.checkpoint, dtype=settings.dtype, device=settings.device)
    requests = make_requests(model, args.images, args.num_images, args.tokens)
    engine = make_engine(model, settings)
    engine.start(asyncio.get_running_loop())
    await load(engine, requests, 2, 3)
    for clients in args.clients:
        print(json.dumps(await load(engine, requests, clients, args.seconds)), flush=True)
    await asyncio.to_thread(engine.stop)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs (.jpg)")
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument(
        "--clients", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 16, 32]
    )
    args, rest = parser.parse_known_args()
    asyncio.run(run(CliApp.run(Settings, cli_args=rest), args))


if __name__ == "__main__":
    main()
