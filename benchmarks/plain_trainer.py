"""Stages 1 and 2 as one would write them with Hugging Face's Trainer and PEFT: a peer for `benchmarks.train`.

Images are decoded and encoded in every step, every dialogue is a padded row, and the language model computes its
own loss.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from shared.media import decode_image
from shared.model import MultimodalModel
from shared.prompt import IGNORE_INDEX, IMAGE_TOKEN_ID
from trainer.config import TrainConfig
from trainer.schedule import learning_rate_factor


@dataclass
class Run:
    """What happened in each step: its loss, when it was logged (seconds), its tokens with padding."""

    losses: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def train(
    model: MultimodalModel, config: TrainConfig, dialogues, images, steps: Sequence[Sequence[int]]
) -> Run:
    """Train what of `model` requires gradients.

    Args:
        dialogues: `trainer.data.encoded.EncodedDialogues`.
        images: reads the dialogues' images by name.
        steps: the dialogues of each optimizer step.
    """
    run = Run()

    class Peer(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            data = Dialogues(model, dialogues, images)
            return DataLoader(data, batch_sampler=steps, collate_fn=data.collate)

        def compute_loss(self, model, inputs, **kwargs):
            run.tokens.append(inputs["input_ids"].numel())
            return super().compute_loss(model, inputs, **kwargs)

    class Record(TrainerCallback):
        def on_log(self, arguments, state, control, logs=None, **kwargs):
            if "loss" in logs:
                run.losses.append(logs["loss"])
                run.times.append(time.perf_counter())

    seeing = SeeingModel(model)
    optimizer = torch.optim.AdamW(
        [p for p in seeing.parameters() if p.requires_grad], lr=config.learning_rate, weight_decay=0.0
    )
    warmup = round(config.warmup_ratio * len(steps))
    schedule = LambdaLR(
        optimizer,
        lambda step: learning_rate_factor(step, len(steps), warmup=warmup, min_ratio=config.min_lr_ratio),
    )
    arguments = TrainingArguments(
        output_dir=str(config.out), max_steps=len(steps), per_device_train_batch_size=1, logging_steps=1,
        logging_first_step=True, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
        bf16=model.dtype == torch.bfloat16, max_grad_norm=config.max_grad_norm, logging_nan_inf_filter=False,
        remove_unused_columns=False, seed=config.seed,
    )  # fmt: skip
    Peer(
        seeing, arguments, train_dataset=Dialogues(model, dialogues, images),
        optimizers=(optimizer, schedule), callbacks=[Record()],
    ).train()  # fmt: skip
    return run


class Dialogues(Dataset):
    """input_ids, labels, and pixels where there is an image."""

    def __init__(self, model: MultimodalModel, dialogues, images):
        self.model, self.dialogues, self.images = model, dialogues, images

    def __len__(self) -> int:
        return len(self.dialogues)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        dialogue = self.dialogues[index]
        encoded = dialogue.encoded
        item = {"input_ids": torch.tensor(encoded.input_ids), "labels": torch.tensor(encoded.labels)}
        if dialogue.image:
            image = decode_image(self.images.read(dialogue.image))
            item["pixel_values"] = self.model.preprocess([image])[0]
        return item

    def collate(self, items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Rows padded on the right."""
        batch = {
            "input_ids": _padded([item["input_ids"] for item in items], self.model.tokenizer.pad_token_id),
            "labels": _padded([item["labels"] for item in items], IGNORE_INDEX),
            "attention_mask": _padded([torch.ones(len(item["input_ids"])) for item in items], 0),
        }
        pixels = [item["pixel_values"] for item in items if "pixel_values" in item]
        return batch | ({"pixel_values": torch.stack(pixels)} if pixels else {})


def _padded(rows: list[Tensor], value: float) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


class SeeingModel(nn.Module):
    """Tower, projector and language model behind one `forward`, as Trainer wants it."""

    def __init__(self, model: MultimodalModel):
        super().__init__()
        self.vision, self.projector, self.language = model.vision, model.projector, model.language
        self.pad_token_id = model.tokenizer.pad_token_id

    def forward(self, input_ids, attention_mask, labels, pixel_values=None, **kwargs):
        slots = input_ids == IMAGE_TOKEN_ID
        embeds = self.language.get_input_embeddings()(input_ids.masked_fill(slots, self.pad_token_id))
        if pixel_values is not None:
            image_embeds = self.projector(self.vision(pixel_values)).flatten(0, 1)
            embeds = embeds.masked_scatter(slots[..., None], image_embeds.to(embeds.dtype))
        return self.language(
            inputs_embeds=embeds, attention_mask=attention_mask.long(), labels=labels, **kwargs
        )
