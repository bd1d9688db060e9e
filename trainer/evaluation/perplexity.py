"""Perplexity of given answers: exp of the mean negative log-likelihood per token, end of answer included.

No generation and no matching of words: a sharp instrument for small differences between checkpoints of one
tokenizer, and useless between models with different ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, pad
from tqdm import tqdm

from shared.model import MultimodalModel
from shared.prompt import IGNORE_INDEX, EncodedPrompt
from trainer.data.records import Record, RecordError, parse_record
from trainer.evaluation.answering import Answerer, ModelAnswerer, features_of
from trainer.evaluation.config import EvaluateConfig
from trainer.evaluation.files import evenly, find_picture, read_records


class PerplexityTask:
    """The answers of LLaVA records, scored by the model and, on demand, by the blind model."""

    name = "perplexity"

    def __init__(self, config: EvaluateConfig):
        found = [record for path in config.perplexity for record in _parsed(path)]
        self.records = evenly(found, config.limit)
        if not self.records:
            raise ValueError(f"no records in {', '.join(map(str, config.perplexity))}")
        self.pictures = [find_picture(r.image, config.images) if r.image else None for r in self.records]
        self.losses: dict[str, list[tuple[float, int]]] = {}

    def ask(self, answerers: dict[str, Answerer]) -> list[dict]:
        """Each record's summed loss in nats and its number of tokens."""
        for name, answerer in answerers.items():
            if not isinstance(answerer, ModelAnswerer):
                raise ValueError("perplexity needs the model in this process: use --checkpoint")
            self.losses[name] = self._losses(answerer)
        return [
            {"id": record.id, "image": record.image}
            | {n: {"nats": some[i][0], "tokens": some[i][1]} for n, some in self.losses.items()}
            for i, record in enumerate(self.records)
        ]

    def score(self) -> dict:
        """name -> perplexity, nats per token and tokens."""
        result: dict = {"records": len(self.records)}
        for name, losses in self.losses.items():
            nats, tokens = sum(loss for loss, _ in losses), sum(count for _, count in losses)
            result[name] = {
                "perplexity": math.exp(nats / tokens),
                "nats_per_token": nats / tokens,
                "tokens": tokens,
            }
        return result

    def _losses(self, answerer: ModelAnswerer) -> list[tuple[float, int]]:
        model = answerer.model
        shown = [picture for picture in self.pictures if picture]
        features, names = features_of(model.vision, shown, answerer.cache) if shown else (None, {})
        mean = features.mean()[None] if features and answerer.blind else None
        encoded = [model.prompt.encode_dialogue(list(record.messages)) for record in self.records]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        losses: list[tuple[float, int]] = [(0.0, 0)] * len(encoded)
        for start in tqdm(range(0, len(order), answerer.batch_size), desc="perplexity", unit="batch"):
            batch = order[start : start + answerer.batch_size]
            pictures = [self.pictures[i] for i in batch if self.pictures[i]]
            given = None
            if pictures:
                given = (
                    features.get([names[p] for p in pictures])
                    if mean is None
                    else mean.expand(len(pictures), -1, -1)
                )
            for i, loss in zip(batch, answer_losses(model, [encoded[i] for i in batch], given), strict=True):
                losses[i] = loss
        return losses


def _parsed(path: Path) -> Iterator[Record]:
    for number, raw in enumerate(read_records(path), 1):
        try:
            yield parse_record(raw)
        except RecordError as error:
            raise ValueError(f"{path}, record {number}: {error}") from error


@torch.inference_mode()
def answer_losses(
    model: MultimodalModel, dialogues: Sequence[EncodedPrompt], features: torch.Tensor | None
) -> list[tuple[float, int]]:
    """(summed negative log-likelihood in nats, tokens) of each dialogue's answers.

    `features` `[images, patches, width]` fill the image slots in order.
    """
    longest = max(map(len, dialogues))

    def rows(values: list[list[int]], filler: int) -> torch.Tensor:
        return torch.stack([pad(torch.tensor(v), (0, longest - len(v)), value=filler) for v in values]).to(
            model.device
        )

    input_ids = rows([d.input_ids for d in dialogues], model.tokenizer.pad_token_id)
    labels = rows([d.labels for d in dialogues], IGNORE_INDEX)
    mask = rows([[1] * len(d) for d in dialogues], 0)
    embeds = model.embed(input_ids, None if features is None else model.project(features))
    decoder = model.causal_lm.get_decoder()
    hidden = decoder(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != IGNORE_INDEX
    logits = model.logits(hidden[:, :-1][wanted]).float()
    nats = cross_entropy(logits, labels[:, 1:][wanted], reduction="none").double()
    row = torch.arange(len(dialogues), device=nats.device)[:, None].expand_as(wanted)[wanted]
    sums = torch.zeros(len(dialogues), dtype=torch.float64, device=nats.device).index_add_(0, row, nats)
    return list(zip(sums.tolist(), wanted.sum(dim=1).tolist(), strict=True))
