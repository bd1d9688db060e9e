"""The held-out split during a run: its loss, and answers to a few of its questions."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from shared.media import decode_image
from shared.model import MultimodalModel
from trainer.config import TrainConfig
from trainer.data.encoded import Dialogue
from trainer.data.features import FeatureCache
from trainer.data.loader import PackLoader
from trainer.data.steps import BatchMaker
from trainer.tracking import Tracker


class Validation:
    """The same batches and the same questions every time.

    Args:
        read_image: an image file's bytes by the image's name.
    """

    def __init__(
        self,
        loader: PackLoader,
        maker: BatchMaker,
        features: FeatureCache | None,
        config: TrainConfig,
        read_image: Callable[[str], bytes],
    ):
        self._batches = loader.batches(0)[: config.validation_batches]
        self._maker, self._features, self._read_image = maker, features, read_image
        dialogues = loader.dialogues
        self._asked = random.Random(config.seed).sample(dialogues, min(config.samples, len(dialogues)))

    @torch.no_grad()
    def run(
        self,
        accelerator: Accelerator,
        objective: nn.Module,
        model: MultimodalModel,
        tracker: Tracker,
        step: int,
    ) -> None:
        """Log the loss per label and the sample answers."""
        objective.eval()
        tracker.log(step, val_loss=self._loss(accelerator, objective))
        # A sharded model generates only where all its shards are at hand
        if (
            self._asked
            and accelerator.distributed_type in ("NO", "MULTI_GPU", "MULTI_CPU")
            and tracker.active
        ):
            rows, images = zip(*(self._answer(model, dialogue) for dialogue in self._asked), strict=True)
            tracker.samples(step, list(rows), list(images))
        accelerator.wait_for_everyone()

    def _loss(self, accelerator: Accelerator, objective: nn.Module) -> float:
        """Mean loss per label; each process computes its share of the batches, all the same number."""
        sums = torch.zeros(2, device=accelerator.device)
        first, processes = accelerator.process_index, accelerator.num_processes
        for index in range(first, processes * -(-len(self._batches) // processes), processes):
            real = index < len(self._batches)
            batch = self._maker.make(self._batches[index if real else 0]).to(accelerator.device)
            loss = objective(batch)
            if real:
                sums += torch.stack([loss, torch.tensor(float(len(batch.packed.labels)), device=loss.device)])
        total, labels = accelerator.reduce(sums, "sum").tolist()
        return total / labels

    def _answer(self, model: MultimodalModel, dialogue: Dialogue) -> tuple[dict, Image.Image | None]:
        record = dialogue.record
        question, reference = record.messages[:-1], record.messages[-1]
        features = self._features.get([record.image]) if record.image else None
        row = {
            "image": record.image or "(text)",
            "question": " ".join(part for part in question[-1].content if isinstance(part, str)),
            "answer": model.answer([(list(question), features)], max_new_tokens=48)[0],
            "reference": reference.content[0],
        }
        return row, decode_image(self._read_image(record.image)) if record.image else None
