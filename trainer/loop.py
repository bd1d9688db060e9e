"""The one training loop of both stages.

Batches of token trees go through the model; the loss is the cross-entropy over the answers' tokens,
averaged over all labels of an optimizer step; gradients are clipped; the rate follows the schedule.
Ctrl-C (or SIGTERM) finishes the step, writes a checkpoint and stops. On several processes each computes
its part of every step (trainer/data/steps.py), and Accelerate joins the gradients.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor

from shared.checkpoint import CheckpointError
from shared.model import MultimodalModel
from trainer.config import TrainConfig
from trainer.data.loader import PackLoader
from trainer.data.steps import BatchMaker, Step, deal_steps
from trainer.objective import Objective
from trainer.schedule import learning_rate_factor
from trainer.self_critical import SelfCritic
from trainer.state import Position, newest_state, prune, restore_state, save_state
from trainer.throughput import Meter
from trainer.tracking import Tracker
from trainer.validation import Validation

log = logging.getLogger(__name__)


class TrainingLoop:
    """One run: model, data, optimizer and where it stands."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: MultimodalModel,
        config: TrainConfig,
        train: PackLoader,
        maker: BatchMaker,
        optimizer: torch.optim.Optimizer,
        *,
        stage: str,
        validation: Validation | None = None,
        critic: SelfCritic | None = None,
    ):
        self.accelerator, self.model, self.config, self.stage = accelerator, model, config, stage
        self.train_data, self.maker, self.validation = train, maker, validation
        self.critic = critic
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.objective, self.optimizer = accelerator.prepare(Objective(model), optimizer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        steps_per_epoch = -(-len(train.batches(0)) // config.accumulation)
        self.total_steps = config.max_steps or max(1, round(config.epochs * steps_per_epoch))
        self.checkpoints = config.out / "checkpoints"
        self._engine = self.objective if accelerator.distributed_type == "DEEPSPEED" else None
        self._interrupted = False

    def run(self) -> bool:
        """Train to the end.

        Returns:
            False when interrupted; the checkpoint to resume from is written.

        Raises:
            CheckpointError: the checkpoint to resume from does not fit this run.
        """
        config, processes = self.config, self.accelerator.num_processes
        fingerprint = self.train_data.fingerprint()
        position = self._resume(fingerprint)
        if self.accelerator.is_main_process:
            config.out.mkdir(parents=True, exist_ok=True)
            (config.out / "config.json").write_text(config.model_dump_json(indent=2) + "\n", "utf-8")
        tracker = Tracker(
            config.out, self.total_steps, start=position.step, stage=self.stage, wandb=config.wandb,
            project=config.wandb_project, settings=config.model_dump(mode="json"),
            active=self.accelerator.is_main_process,
        )  # fmt: skip
        meter = Meter(self.model, processes)
        steps = deal_steps(
            self.train_data, self.maker, config, position, self.total_steps,
            process=self.accelerator.process_index, processes=processes,
        )  # fmt: skip
        stopped = False
        with tracker, self._signals():
            for step in meter.waits(steps):
                loss, norm = self._train(step)
                position = step.position
                meter.count(step.labels, step.tokens)
                tracker.advance()
                last, stopped = position.step == self.total_steps, self._must_stop()
                if position.step % config.log_every == 0 or position.step == 1:
                    tracker.log(position.step, **self._numbers(step, loss, norm), **meter.read())
                if self.validation and (position.step % config.validate_every == 0 or last):
                    self.validation.run(self.accelerator, self.objective, self.model, tracker, position.step)
                    meter.restart()
                if position.step % config.checkpoint_every == 0 or last or stopped:
                    self._save(position, fingerprint)
                    meter.restart()
                if stopped:
                    break
        return not stopped or position.step == self.total_steps

    def _train(self, step: Step) -> tuple[Tensor, Tensor]:
        """One optimizer step: this process's loss as its share of the mean over all labels, and the gradient's norm."""
        self._set_learning_rate(step.position.step - 1)
        batches = self.critic.batches(step.batches) if self.critic else step.batches
        self.objective.train()
        total = torch.zeros((), device=self.accelerator.device)
        # Accelerate takes means over processes and batches; the loss is a mean over labels
        scale = self.accelerator.num_processes * self.accelerator.gradient_accumulation_steps / step.labels
        for batch in batches:
            with self.accelerator.accumulate(self.objective):
                loss = self.objective(batch.to(self.accelerator.device)) * batch.weight
                self.accelerator.backward(loss * scale)
                total += loss.detach() / step.labels
        norm = torch.as_tensor(
            self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm), dtype=torch.float32
        )
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            log.warning("step %d skipped: its gradient is not finite", step.position.step)
        self.optimizer.zero_grad()
        return total, norm

    def _set_learning_rate(self, step: int) -> None:
        factor = learning_rate_factor(
            step,
            self.total_steps,
            warmup=round(self.config.warmup_ratio * self.total_steps),
            min_ratio=self.config.min_lr_ratio,
        )
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor

    def _numbers(self, step: Step, loss: Tensor, norm: Tensor) -> dict[str, float]:
        rates = {f"lr_{group['name']}": group["lr"] for group in self.optimizer.param_groups}
        ratio = {} if self.config.teacher_forcing == "off" else {"teacher_forcing_ratio": step.ratio}
        loss = self.accelerator.reduce(loss, "sum")
        reward = {}
        if self.critic:
            mean = torch.tensor(self.critic.reward, device=self.accelerator.device)
            reward = {"reward": float(self.accelerator.reduce(mean, "mean"))}
        return {
            "epoch": step.epoch,
            "loss": float(loss),
            "grad_norm": float(norm),
            **rates,
            **ratio,
            **reward,
        }

    def _resume(self, fingerprint: str) -> Position:
        newest = newest_state(self.checkpoints) if self.config.resume else None
        if newest is None:
            return Position()
        log.info("resuming from %s", newest.name)
        position = restore_state(
            newest, self.model, self.optimizer, fingerprint, self.config, engine=self._engine
        )
        if position.step > self.total_steps:
            raise CheckpointError(
                f"{newest} is beyond the end of this run, step {self.total_steps}: give more --max-steps or --epochs"
            )
        return position

    def _save(self, position: Position, fingerprint: str) -> None:
        main = self.accelerator.is_main_process
        save_state(
            self.checkpoints, self.model, self.optimizer, position, fingerprint, self.config, writes=main,
            engine=self._engine,
        )  # fmt: skip
        if main:
            prune(self.checkpoints, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _must_stop(self) -> bool:
        """Whether any process was interrupted: all stop after the same step."""
        if self.accelerator.num_processes == 1:
            return self._interrupted
        flag = torch.tensor(float(self._interrupted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

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
