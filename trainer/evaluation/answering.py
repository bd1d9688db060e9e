"""Who answers an evaluation's questions: a model in this process, or a running service over HTTP.

Both take (question, picture or None) pairs and give texts, greedily; the model can also be made blind by
showing it the mean features of many photographs in place of each photograph's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from shared.model import MultimodalModel
from shared.prompt import Message, question_content
from shared.vision import VisionTower
from trainer.data.features import FeatureCache, ImageFolder, build_features
from trainer.evaluation.journal import Item, Journal

if TYPE_CHECKING:
    import httpx

Answerer = Callable[[Sequence[Item]], list[str]]

log = logging.getLogger(__name__)

REFUSED = (400, 413, 415, 422)  # this question, not the next one
BUSY_WAIT = 30.0  # seconds that a busy service is waited for at most, before it is asked again


class AnswerError(RuntimeError):
    """A service did not answer; the message says what it said."""


def features_of(
    tower: VisionTower, pictures: Sequence[Path], cache: Path
) -> tuple[FeatureCache, dict[Path, str]]:
    """The tower's features of pictures, kept in `cache`, and each picture's name in it."""
    cache.mkdir(parents=True, exist_ok=True)
    names = {picture: str(picture.resolve()) for picture in dict.fromkeys(pictures)}
    return build_features(tower, list(names.values()), ImageFolder(Path("/")), cache), names


@dataclass
class ModelAnswerer:
    """Answers with a model in this process, `batch_size` questions at a time.

    `blind` shows it mean features: what it can answer then, it has not from the photograph.
    """

    model: MultimodalModel
    cache: Path
    batch_size: int = 32
    max_new_tokens: int = 48
    blind: bool = False
    journal: Journal | None = None

    def __call__(self, items: Sequence[Item]) -> list[str]:
        pictures = [picture for _, picture in items if picture is not None]
        features, names = features_of(self.model.vision, pictures, self.cache) if pictures else (None, {})
        mean = features.mean()[None] if features and self.blind else None
        # Greedy answers to one prompt are one answer: the blind see the same features with every photograph
        mixed = Path("mean", hashlib.sha256("\n".join(map(str, pictures)).encode()).hexdigest())
        seen = [(text, picture if mean is None else picture and mixed) for text, picture in items]
        replies = self.journal.known(seen) if self.journal else {}
        asked = [item for item in dict.fromkeys(seen) if item not in replies]
        order = sorted(asked, key=lambda item: (not item[1], len(item[0])))
        for start in tqdm(range(0, len(order), self.batch_size), desc="answers", unit="batch"):
            batch, prompts = order[start : start + self.batch_size], []
            for question, picture in batch:
                shown = None
                if picture:
                    shown = features.get([names[picture]]) if mean is None else mean
                message = Message("user", question_content(question, images=int(shown is not None)))
                prompts.append(([message], shown))
            for item, reply in zip(batch, self.model.answer(prompts, self.max_new_tokens), strict=True):
                replies[item] = reply
                if self.journal:
                    self.journal.keep(item, reply)
        return [replies[item] for item in seen]


@dataclass
class ServiceAnswerer:
    """Answers of a running service, `concurrency` requests at once, through POST /generate.

    While the service says that it is busy (429 or 503), a request waits as long as it asks for and tries again. A
    question that it refuses has an empty answer, which is a wrong one, and is named in the log.

    Raises AnswerError when the service is not reached, fails, refuses everything, or is busy for longer than
    `timeout` seconds.
    """

    url: str
    concurrency: int = 16
    max_new_tokens: int = 48
    timeout: float = 600.0
    api_key: str | None = None
    journal: Journal | None = None

    def __call__(self, items: Sequence[Item]) -> list[str]:
        replies = self.journal.known(items) if self.journal else {}
        refused: list[str] = []
        asked = [item for item in dict.fromkeys(items) if item not in replies]
        asyncio.run(self._ask(asked, replies, refused))
        if refused and len(refused) == len(set(items)):
            raise AnswerError(refused[0])
        if refused:
            log.warning(
                "%d of %d questions were refused; the first: %s", len(refused), len(items), refused[0]
            )
        return [replies[item] for item in items]

    async def _ask(self, items: Sequence[Item], replies: dict[Item, str], refused: list[str]) -> None:
        import httpx

        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request otherwise
        limits = httpx.Limits(max_connections=self.concurrency)
        progress = tqdm(total=len(items), desc="answers", unit="request")

        async def ask(client: httpx.AsyncClient, item: Item) -> None:
            question, picture = item
            fields = {"prompt": question, "max_new_tokens": str(self.max_new_tokens), "temperature": "0"}
            parts: dict[str, tuple] = {name: (None, value) for name, value in fields.items()}
            if picture is not None:
                parts["image"] = (picture.name, picture.read_bytes())
            response = await self._post(client, parts)
            progress.update()
            replies[item] = ""
            if response.status_code == 200:
                replies[item] = response.json()["text"]
                if self.journal:
                    self.journal.keep(item, replies[item])
                return
            said = f"{self.url} answered {response.status_code} to {question!r}: {response.text[:300]}"
            if response.status_code not in REFUSED:
                raise AnswerError(said)
            refused.append(said)

        left = iter(items)

        async def work(client: httpx.AsyncClient) -> None:
            for item in left:
                await ask(client, item)

        with progress:
            headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
            async with httpx.AsyncClient(timeout=self.timeout, limits=limits, headers=headers) as client:
                await asyncio.gather(*(work(client) for _ in range(self.concurrency)))

    async def _post(self, client: httpx.AsyncClient, parts: dict[str, tuple]) -> httpx.Response:
        import httpx

        give_up = time.monotonic() + self.timeout
        while True:
            try:
                response = await client.post(f"{self.url.rstrip('/')}/generate", files=parts)
            except httpx.HTTPError as error:
                raise AnswerError(f"{self.url} was not reached: {error or type(error).__name__}") from error
            asked = response.headers.get("Retry-After", "")
            wait = min(float(asked), BUSY_WAIT) if asked.isdigit() else 1.0
            if response.status_code not in (429, 503) or time.monotonic() + wait > give_up:
                return response
            await asyncio.sleep(wait)


def pooled(tower: VisionTower, pictures: Sequence[Path], cache: Path) -> torch.Tensor:
    """Mean-pooled features [pictures, width] of pictures."""
    features, names = features_of(tower, pictures, cache)
    rows = [
        features.get([names[p] for p in pictures[i : i + 256]]).mean(dim=1)
        for i in range(0, len(pictures), 256)
    ]
    return torch.cat(rows)
