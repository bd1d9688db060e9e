"""Every tensor of the model before and after each stage: what shall learn does, and nothing else moves."""

import pytest
import torch

from trainer import stages
from trainer.config import PrepareConfig, TrainConfig
from trainer.data.prepare import prepare
from trainer.loop import TrainingLoop


@pytest.fixture
def moved(monkeypatch):
    """Trains, and returns the names of the tensors that a whole run moved, and of all."""

    def run(stage: str, config: TrainConfig) -> tuple[set[str], set[str]]:
        seen = []

        class Observed(TrainingLoop):
            def run(self) -> bool:
                seen.append((self.model, {k: v.clone() for k, v in self.model.state_dict().items()}))
                return super().run()

        with monkeypatch.context() as patch:
            patch.setattr(stages, "TrainingLoop", Observed)
            assert getattr(stages, stage)(config)
        ((model, before),) = seen
        after = model.state_dict()
        assert after.keys() == before.keys()
        return {name for name in after if not torch.equal(after[name], before[name])}, set(after)

    return run


@pytest.mark.parametrize("kind", ["llama", "phi", "phi3"])
def test_what_learns_in_each_stage(kind, moved, tiny_preset, colour_records, tmp_path):
    """A decoder of each family behind CLIP: stage 1 moves the projector, stage 2 that and the adapters."""
    records, images = colour_records
    preset = str(tiny_preset(kind))
    data = tmp_path / "data"
    prepare(PrepareConfig(annotations=[records], images=[images], out=data, preset=preset, validation=0.2))
    settings = {
        "data": data, "preset": preset, "dtype": "float32", "device": "cpu", "batch_tokens": 200, "max_tokens": 128,
        "max_steps": 4, "validate_every": 2, "samples": 1, "lora_rank": 2,
    }  # fmt: skip

    learned, names = moved("pretrain", TrainConfig(**settings, out=tmp_path / "stage1"))
    projector = {name for name in names if name.startswith("projector.")}
    assert learned == projector

    init = tmp_path / "stage1" / "final"
    learned, names = moved("finetune", TrainConfig(**settings, out=tmp_path / "stage2", init=init))
    adapters = {name for name in names if ".lora_A." in name or ".lora_B." in name}
    assert projector and len(adapters) >= 2 * 2 * 4  # A and B, two layers, four linear maps or more
    assert learned == projector | adapters
