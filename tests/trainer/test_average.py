"""The mean of checkpoints: tensor by tensor, loadable, and only of checkpoints that belong together."""

import pytest
import torch
from safetensors.torch import load_file

from shared.checkpoint import build_model, load_model, save_checkpoint
from shared.config import load_preset
from shared.lora import attach_lora
from trainer.cli import main


@pytest.fixture(scope="module")
def checkpoint(tiny_preset, tmp_path_factory):
    """`checkpoint(seed, kind, alpha)`: one whose trained weights are random."""
    root = tmp_path_factory.mktemp("average")

    def make(seed: int, kind: str = "llama", alpha: float = 8):
        folder = root / f"{kind}-{seed}-{alpha}"
        if not folder.exists():
            config = load_preset(str(tiny_preset(kind)))
            model = build_model(config, dtype="float32")
            model.language = attach_lora(
                model.language, config.language.lora_targets, rank=4, alpha=alpha, dropout=0.0
            )
            torch.manual_seed(seed)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    torch.nn.init.normal_(parameter, std=0.1)
            save_checkpoint(model, folder)
        return folder

    return make


@pytest.mark.parametrize(("weights", "shares"), [([], (0.5, 0.5)), (["3", "1"], (0.75, 0.25))])
def test_every_tensor_is_the_mean_and_the_result_loads(checkpoint, tmp_path, weights, shares):
    folders = [checkpoint(1), checkpoint(2)]
    arguments = ["average", "--checkpoints", *map(str, folders), "--out", str(tmp_path / "mean")]
    assert main(arguments + (["--weights", *weights] if weights else [])) == 0
    for name in ("projector.safetensors", "adapter/adapter_model.safetensors"):
        mean, *parts = (load_file(folder / name) for folder in (tmp_path / "mean", *folders))
        assert mean.keys() == parts[0].keys()
        for key, tensor in mean.items():
            expected = sum(share * part[key].double() for share, part in zip(shares, parts, strict=True))
            torch.testing.assert_close(tensor.double(), expected, rtol=2**-8, atol=0)
    load_model(tmp_path / "mean", dtype="float32")


def test_what_does_not_belong_together_is_refused(checkpoint, tmp_path, capsys):
    first = str(checkpoint(1))
    for other, message in (
        (str(checkpoint(1, "phi")), "not of one model"),
        (str(checkpoint(2, alpha=16)), "differ in lora_alpha"),
        (str(tmp_path / "gone"), "neither a directory"),
    ):
        assert main(["average", "--checkpoints", first, other, "--out", str(tmp_path / "mean")]) == 2
        assert message in capsys.readouterr().err
    assert main(["average", "--checkpoints", first, first, "--out", first]) == 2
    assert "already holds something" in capsys.readouterr().err
    assert main(["average", "--checkpoints", first, "--out", str(tmp_path / "mean")]) == 2
    flags = ["--weights", "1", "2", "3", "--out", str(tmp_path / "mean")]
    assert main(["average", "--checkpoints", first, first, *flags]) == 2
    assert "2 checkpoints and 3 weights" in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()
