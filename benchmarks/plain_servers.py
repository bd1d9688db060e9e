"""The servers that one would write first, to compare with, over the model that the service runs.

`static-batch` collects requests for a moment and answers them together with transformers' `generate`;
`continuous-batching` hands each request to transformers' continuous batching. Every answer has its full length.
LitServe has a module of its own.
"""

import argparse
import asyncio
import base64
import uuid
from collections.abc import Awaitable, Callable

import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from transformers import GenerationConfig

from shared.checkpoint import load_model
from shared.media import ImageLimits, decode_image
from shared.model import MultimodalModel
from shared.prompt import IMAGE_TOKEN_ID, Message, question_content

LIMITS = ImageLimits(max_bytes=20 * 2**20, max_pixels=50_000_000)


class Question(BaseModel):
    image: str
    prompt: str
    max_new_tokens: int


def decode(model: MultimodalModel, question: Question) -> tuple[list[int], torch.Tensor]:
    size = model.config.vision.image_size
    image = decode_image(base64.b64decode(question.image), limits=LIMITS, target_size=size)
    message = Message("user", question_content(question.prompt, images=1))
    return model.prompt.encode([message]).input_ids, model.preprocess([image])[0]


@torch.inference_mode()
def answer(model: MultimodalModel, questions: list[Question]) -> list[dict]:
    """Left-padded prompts through one `generate`."""
    decoded = [decode(model, question) for question in questions]
    features = model.encode_images(torch.stack([pixels for _, pixels in decoded]))
    embeds, mask = model.embed_prompts(
        [(ids, image[None]) for (ids, _), image in zip(decoded, features, strict=True)]
    )
    tokens = max(question.max_new_tokens for question in questions)
    output = model.causal_lm.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        do_sample=False,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        eos_token_id=list(model.eos_token_ids),
        pad_token_id=model.tokenizer.pad_token_id,
    )
    texts = model.tokenizer.batch_decode(output, skip_special_tokens=True)
    return [{"text": text, "usage": {"completion_tokens": tokens}} for text in texts]


def static_batch(model: MultimodalModel, port: int, batch_size: int, wait: float) -> None:
    queue, workers = asyncio.Queue(), []

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

    async def predict(question: Question) -> dict:
        if not workers:
            workers.append(asyncio.create_task(work()))
        future = asyncio.get_running_loop().create_future()
        await queue.put((question, future))
        return await future

    serve(predict, port)


class ImageTokens(torch.nn.Module):
    """Token embeddings that also know ids behind the vocabulary: what images show, the latest `capacity` rows.

    transformers' continuous batching takes token ids alone, and finds common prefixes by them, so every image
    gets ids that no other had.
    """

    def __init__(self, embed_tokens: torch.nn.Embedding, capacity: int) -> None:
        super().__init__()
        self.embed_tokens, self.given = embed_tokens, embed_tokens.num_embeddings
        self.rows = torch.zeros(capacity, embed_tokens.embedding_dim, dtype=embed_tokens.weight.dtype)

    @property
    def weight(self) -> torch.Tensor:
        return self.embed_tokens.weight

    def add(self, embeds: torch.Tensor) -> list[int]:
        """Ids for an image's embeddings `[tokens, hidden]`."""
        ids = torch.arange(self.given, self.given + len(embeds))
        self.given += len(embeds)
        self.rows[ids % len(self.rows)] = embeds
        return ids.tolist()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        vocabulary = self.embed_tokens.num_embeddings
        known = self.embed_tokens(input_ids.clamp(max=vocabulary - 1))
        return torch.where((input_ids >= vocabulary)[..., None], self.rows[input_ids % len(self.rows)], known)


def continuous_batching(model: MultimodalModel, port: int) -> None:
    causal_lm = model.causal_lm
    table = ImageTokens(causal_lm.get_input_embeddings(), capacity=8192)
    causal_lm.set_input_embeddings(table)
    settings = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=model.tokenizer.pad_token_id)
    manager = causal_lm.init_continuous_batching(generation_config=settings)
    manager.start()

    def show(question: Question) -> list[int]:
        ids, pixels = decode(model, question)
        with torch.inference_mode():
            shown = iter(table.add(model.project(model.encode_images(pixels[None]))[0]))
        return [next(shown) if token == IMAGE_TOKEN_ID else token for token in ids]

    async def predict(question: Question) -> dict:
        ids, done = await asyncio.to_thread(show, question), asyncio.get_running_loop().create_future()
        name = uuid.uuid4().hex
        manager.register_result_handler(name, done.set_result)
        manager.add_request(ids, request_id=name, max_new_tokens=question.max_new_tokens)
        output = await done
        if output.error:
            raise HTTPException(500, output.error)
        text = model.tokenizer.decode(output.generated_tokens, skip_special_tokens=True)
        return {"text": text, "usage": {"completion_tokens": len(output.generated_tokens)}}

    serve(predict, port)


def serve(predict: Callable[[Question], Awaitable[dict]], port: int) -> None:
    app = FastAPI()
    app.post("/predict")(predict)
    app.get("/health")(lambda: "ok")
    uvicorn.run(app, port=port, log_level="warning")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["static-batch", "continuous-batching"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--wait", type=float, default=0.05, help="seconds that a batch waits for company")
    args = parser.parse_args()
    model = load_model(args.checkpoint, device="cpu")
    if args.kind == "continuous-batching":
        continuous_batching(model, args.port)
    else:
        static_batch(model, args.port, args.batch_size, args.wait)


if __name__ == "__main__":
    main()
