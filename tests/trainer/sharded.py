"""What one of several processes does in test_sharding.py: FSDP2 over gloo, three steps from a checkpoint or anew.

A fork server imports this module once for all of them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule, fully_shard

from shared.checkpoint import build_model
from shared.config import load_preset
from shared.lora import attach_lora
from shared.prompt import Message, question_content
from trainer.config import TrainConfig
from trainer.data.packing import collate, pack_dialogues
from trainer.data.steps import Batch
from trainer.objective import Objective
from trainer.state import Position, newest_state, restore_state, save_state


def objective_of(preset: str) -> Objective:
    """A tiny model with adapters, the same in every process."""
    torch.manual_seed(0)
    model = build_model(load_preset(preset), dtype="float32", attn_implementation="eager")
    model.language = attach_lora(
        model.language, model.config.language.lora_targets, rank=4, alpha=8, dropout=0.0
    )
    return Objective(model).train()


def batch_of(objective: Objective, step: int) -> Batch:
    """One picture's two dialogues."""
    model = objective.model
    dialogues = [
        model.prompt.encode_dialogue(
            [Message("user", question_content(f"Is it {step}?", images=1)), Message("assistant", (answer,))]
        )
        for answer in ("Yes.", "No, it is red.")
    ]
    features = torch.randn(
        1, model.vision.num_patches, model.vision.width, generator=torch.Generator().manual_seed(step)
    )
    return Batch(collate([pack_dialogues("", dialogues, 512)], model.tokenizer.pad_token_id), features)


def train(objective: Objective, folder: Path, steps: int, *, writes: bool = True) -> None:
    """Go on from the newest checkpoint in `folder`, `steps` steps, and write another."""
    config = TrainConfig(data=folder, out=folder)
    learning = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"name": "all", "params": learning, "lr": 1e-2}], weight_decay=0.01)
    position = Position()
    if newest := newest_state(folder):
        position = restore_state(newest, objective.model, optimizer, "data", config)
    for step in range(position.step, position.step + steps):
        batch = batch_of(objective, step)
        (objective(batch) / len(batch.packed.labels)).backward()
        optimizer.step()
        optimizer.zero_grad()
        position = Position(step=step + 1, batch=step + 1)
    save_state(folder, objective.model, optimizer, position, "data", config, writes=writes)


def work(rank: int, processes: int, store: Path, preset: str, folder: Path, steps: int) -> None:
    """One of the `processes` that meet at the file `store`."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    objective = objective_of(preset)
    for layer in objective.model.causal_lm.get_decoder().layers:
        fully_shard(layer)
    fully_shard(objective)
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo sums where it is asked for a mean
    train(objective, folder, steps, writes=rank == 0)
    distributed.barrier()
    distributed.destroy_process_group()
