"""The servers that one would write first, to compare with: transformers' `generate` over batches of requests.

`static-batch` collects requests for a moment and answers them together; `litserve` leaves that to LitServe. Both
run the model that the service runs, each answer to its full length.
"""

import argparse
import asyncio
import base64

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from shared.checkpoint import load_model
from shared.media import ImageLimits, decode_image
from shared.model import MultimodalModel
from shared.prompt import Message, question_content

LIMITS = ImageLimits(max_bytes=20 * 2**20, max_pixels=50_000_000)


class Question(BaseModel):
    image: str
    prompt: str
    max_new_tokens: int


def decode(model: MultimodalModel, question: Question) -> tuple[list[int], torch.Tensor]:
    image = decode_image(base64.b64decode(question.image), limits=LIMITS)
    message = Message("user", question_content(question.prompt, images=1))
    return model.prompt.encode([message]).input_ids, model.preprocess([image])[0]


@torch.inference_mode()
def answer(model: MultimodalModel, questions: list[Question]) -> list[dict]:
    """Left-padded prompts through one `generate`."""
    prompts, pixels = zip(*(decode(model, question) for question in questions), strict=True)
    image_embeds = model.project(model.encode_images(torch.stack(pixels)))
    rows = [
        model.embed(torch.tensor([ids]), embeds[None])[0]
        for ids, embeds in zip(prompts, image_embeds, strict=True)
    ]
    longest = max(len(row) for row in rows)
    embeds = torch.stack([torch.nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    lengths = torch.tensor([[len(row)] for row in rows])
    tokens = max(question.max_new_tokens for question in questions)
    output = model.causal_lm.generate(
        inputs_embeds=embeds,
        attention_mask=(torch.arange(longest)[None] >= longest - lengths).long(),
        do_sample=False,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        eos_token_id=list(model.eos_token_ids),
        pad_token_id=model.tokenizer.pad_token_id,
    )
    texts = model.tokenizer.batch_decode(output, skip_special_tokens=True)
    return [{"text": text, "usage": {"completion_tokens": tokens}} for text in texts]


def static_batch(model: MultimodalModel, port: int, batch_size: int, wait: float) -> None:
    app, queue = FastAPI(), asyncio.Queue()

    async def work() -> None:
        while True:
            batch = [await queue.get()]
            give_up = asyncio.get_running_loop().time() + wait
            while len(batch) < batch_size and (left := give_up - asyncio.get_running_loop().time()) > 0:
                try:
                    batch.append(await asyncio.wait_for(queue.get(), left))
                except TimeoutError:
                    break
            answers = await asyncio.to_thread(answer, model, [question for question, _ in batch])
            for (_, future), value in zip(batch, answers, strict=True):
                future.set_result(value)

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/predict")
    async def predict(question: Question) -> dict:
        if not hasattr(app.state, "worker"):
            app.state.worker = asyncio.create_task(work())
        future = asyncio.get_running_loop().create_future()
        await queue.put((question, future))
        return await future

    uvicorn.run(app, port=port, log_level="warning")


def litserve(checkpoint: str, port: int, batch_size: int, wait: float) -> None:
    import litserve

    class Api(litserve.LitAPI):
        def setup(self, device: str) -> None:
            self.model = load_model(checkpoint, device="cpu")

        def decode_request(self, request: dict) -> Question:
            return Question(**request)

        def predict(self, batch: list[Question]) -> list[dict]:
            return answer(self.model, batch)

        def batch(self, inputs: list[Question]) -> list[Question]:
            return inputs

        def unbatch(self, output: list[dict]) -> list[dict]:
            return output

        def encode_response(self, output: dict) -> dict:
            return output

    api = Api(max_batch_size=batch_size, batch_timeout=wait)
    litserve.LitServer(api, accelerator="cpu", timeout=600).run(port=port, generate_client_file=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["static-batch", "litserve"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--wait", type=float, default=0.05, help="seconds that a batch waits for company")
    args = parser.parse_args()
    if args.kind == "litserve":
        litserve(args.checkpoint, args.port, args.batch_size, args.wait)
    else:
        static_batch(load_model(args.checkpoint, device="cpu"), args.port, args.batch_size, args.wait)


if __name__ == "__main__":
    main()
