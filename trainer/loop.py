"""The one training loop of both stages.

Batches of token trees go through the model; the loss is the cross-entropy over the answers' tokens,
averaged over all labels of an optimizer step; gradients are clipped; the rate follows the schedule.
Ctrl-C (or SIGTERM) finishes the step, writes a checkpoint and stops.
"""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import time
from collections.abc import Iterator

import torch
from peft.helpers import disable_input_dtype_casting
from torch import Tensor
from torch.nn.functional import cross_entropy

from shared.model import MultimodalModel
from trainer.config import TrainConfig
from trainer.data.features import FeatureCache
from trainer.data.loader import PackLoader
from trainer.data.packing import Pack, PackedBatch, collate
from trainer.schedule import learning_rate_factor
from trainer.state import Position, newest_state, prune, restore_state, save_state
from trainer.tracking import Tracker

log = logging.getLogger(__name__)


class TrainingLoop:
    """One run: model, data, optimizer and where it stands."""

    def __init__(
        self,
        model: MultimodalModel,
        config: TrainConfig,
        train: PackLoader,
        validation: PackLoader | None,
        features: FeatureCache | None,
        optimizer: torch.optim.Optimizer,
        stage: str,
    ):
        self.model, self.config, self.features, self.optimizer, self.stage = (
            model,
            config,
            features,
            optimizer,
            stage,
        )
        self.train_data, self.validation = train, validation
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        steps_per_epoch = -(-len(train.batches(0)) // config.accumulation)
        self.total_steps = config.max_steps or max(1, round(config.epochs * steps_per_epoch))
        self.position = Position()
        self.checkpoints = config.out / "checkpoints"
        self._interrupted = False

    def run(self) -> bool:
        """Train to the end.

        Returns:
            False when interrupted; the checkpoint to resume from is written.
        """
        fingerprint = self.train_data.fingerprint()
        if self.config.resume and (newest := newest_state(self.checkpoints)):
            self.position = restore_state(newest, self.model, self.optimizer, fingerprint)
            log.info("resuming from %s", newest.name)
        tracker = Tracker(self.config.out, self.total_steps, start=self.position.step, stage=self.stage)
        with self._signals():
            for group in self._steps():
                self._train_step(group, tracker)
                step, last = self.position.step, self.position.step == self.total_steps
                if step % self.config.validate_every == 0 or last:
                    self._validate(tracker)
                if step % self.config.checkpoint_every == 0 or last or self._interrupted:
                    save_state(self.checkpoints, self.model, self.optimizer, self.position, fingerprint)
                    prune(self.checkpoints, self.config.keep_checkpoints)
                if self._interrupted:
                    break
        tracker.close()
        return self.position.step == self.total_steps

    def loss(self, batch: PackedBatch, views: list[int] | None = None) -> Tensor:
        """Summed cross-entropy of a batch's labels, float32."""
        device = self.model.device
        with _autocast(self.model), disable_input_dtype_casting(self.model):
            image_embeds = None
            if batch.images:
                image_embeds = self.model.project(self.features.get(batch.images, views).to(device))
            hidden = self.model.hidden_states(
                self.model.embed(batch.input_ids.to(device), image_embeds),
                attention_mask=batch.attention_mask.to(device),
                position_ids=batch.position_ids.to(device),
            )
            logits = self.model.logits(hidden.flatten(0, 1)[batch.predictors.to(device)])
        return cross_entropy(logits.float(), batch.labels.to(device), reduction="sum")

    def _steps(self) -> Iterator[list[list[list[Pack]]]]:
        """Groups of `accumulation` batches from the current position to the end of the run."""
        while self.position.step < self.total_steps:
            batches = self.train_data.batches(self.position.epoch)
            while self.position.batch < len(batches) and self.position.step < self.total_steps:
                group = batches[self.position.batch : self.position.batch + self.config.accumulation]
                self.position.batch += len(group)
                yield group
            if self.position.batch >= len(batches):
                self.position.epoch += 1
                self.position.batch = 0

    def _train_step(self, group: list[list[list[Pack]]], tracker: Tracker) -> None:
        started = time.perf_counter()
        position, config = self.position, self.config
        rng = random.Random(f"{config.seed}-{position.step}-views")
        batches = [collate(rows, self.model.tokenizer.pad_token_id) for rows in group]
        data_seconds = time.perf_counter() - started
        count = sum(len(batch.labels) for batch in batches)
        factor = learning_rate_factor(
            position.step,
            self.total_steps,
            warmup=round(config.warmup_ratio * self.total_steps),
            min_ratio=config.min_lr_ratio,
        )
        for param_group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            param_group["lr"] = peak * factor
        self.model.train()
        total = 0.0
        for batch in batches:
            views = [int(config.mirror and ok and rng.random() < 0.5) for ok in batch.mirrorable]
            loss = self.loss(batch, views) / count
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            log.warning("step %d skipped: its gradient is not finite", position.step)
        self.optimizer.zero_grad(set_to_none=True)
        position.step += 1
        position.labels_seen += count
        tracker.advance(total)
        if position.step % config.log_every == 0 or position.step == 1:
            seconds = time.perf_counter() - started
            rates = {f"lr_{g['name']}": g["lr"] for g in self.optimizer.param_groups}
            tracker.log(
                position.step, epoch=position.epoch, loss=total, grad_norm=float(norm), **rates,
                labels_per_second=count / seconds, data_share=data_seconds / seconds,
            )  # fmt: skip

    @torch.no_grad()
    def _validate(self, tracker: Tracker) -> None:
        if self.validation is None:
            return
        self.model.eval()
        total = count = 0
        for rows in self.validation.batches(0)[: self.config.validation_batches]:
            batch = collate(rows, self.model.tokenizer.pad_token_id)
            total += float(self.loss(batch))
            count += len(batch.labels)
        tracker.log(self.position.step, val_loss=total / count)
        chosen = random.Random(self.config.seed).sample(
            self.validation.dialogues, min(self.config.samples, len(self.validation.dialogues))
        )
        rows = []
        for record in (dialogue.record for dialogue in chosen):
            question, reference = record.messages[:-1], record.messages[-1]
            features = self.features.get([record.image]) if record.image else None
            rows.append({
                "image": record.image or "(text)",
                "question": " ".join(part for part in question[-1].content if isinstance(part, str)),
                "answer": self.model.answer([(list(question), features)], max_new_tokens=48)[0],
                "reference": reference.content[0],
            })  # fmt: skip
        if rows:
            tracker.samples(self.position.step, rows)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """While training, the first Ctrl-C asks for a clean stop; a second one is an ordinary Ctrl-C."""

        def stop(number: int, frame: object) -> None:
            self._interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            log.warning("stopping after this step; a checkpoint is written")

        before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)


def _autocast(model: MultimodalModel) -> contextlib.AbstractContextManager:
    if model.dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, model.dtype)
