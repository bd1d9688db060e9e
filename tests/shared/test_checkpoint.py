"""Checkpoints: whole or refused by name, no pickles, PEFT's own loading agrees, crashes leave the old one."""

import json

import pytest
import torch
from peft import PeftModel

from shared.checkpoint import CheckpointError, atomic_folder, build_model, load_model, save_checkpoint
from shared.config import load_preset
from shared.lora import attach_lora
from shared.prompt import Image, Message


@pytest.fixture
def trained(tiny_preset, tmp_path):
    """A model with a random adapter, and its checkpoint."""
    torch.manual_seed(0)
    model = build_model(load_preset(str(tiny_preset())), dtype="float32")
    targets = model.config.language.lora_targets
    model.language = attach_lora(model.language, targets, rank=4, alpha=8, dropout=0.0)
    for name, parameter in model.language.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    save_checkpoint(model.eval(), tmp_path / "ckpt")
    return model, tmp_path / "ckpt"


@pytest.mark.parametrize("merge", [True, False])
def test_saved_and_loaded_the_logits_are_the_same(trained, merge):
    model, folder = trained
    loaded = load_model(folder, dtype="float32", merge_adapter=merge)
    ids = torch.tensor([model.prompt.encode([Message("user", (Image(), "Is it red?"))]).input_ids])
    features = torch.randn(1, model.vision.num_patches, model.vision.width)
    torch.testing.assert_close(
        loaded(ids, features).logits, model(ids, features).logits, rtol=1e-4, atol=1e-4
    )


def test_plain_peft_loads_the_adapter(trained):
    model, folder = trained
    base = build_model(model.config, dtype="float32").language
    theirs = PeftModel.from_pretrained(base, folder / "adapter")
    ids = torch.randint(10, 200, (2, 9))
    torch.testing.assert_close(theirs(ids).logits, model.language(ids).logits)


def test_only_safetensors_and_json(trained):
    assert {path.suffix for path in trained[1].rglob("*") if path.is_file()} == {".safetensors", ".json"}


@pytest.mark.parametrize(
    "name", ["projector.safetensors", "config.json", "adapter/adapter_model.safetensors"]
)
def test_damage_is_refused_by_name(trained, name):
    _, folder = trained
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(CheckpointError, match=rf"{name}.*truncated"):
        load_model(folder)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=rf"{name}.*hash"):
        load_model(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load_model(folder)


def test_no_checkpoint_is_a_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="neither a directory nor one of the presets"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="ships no trained weights"):
        load_model("phi2")


def test_a_projector_of_another_size_is_refused(trained):
    _, folder = trained
    config = json.loads((folder / "config.json").read_text())
    config["projector"]["kind"] = "mlp2x_gelu"
    with atomic_folder(folder.with_name("other")) as scratch:
        for path in ("projector.safetensors",):
            (scratch / path).write_bytes((folder / path).read_bytes())
        (scratch / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(folder.with_name("other"))


def test_a_crash_while_saving_leaves_the_old_checkpoint(trained):
    _, folder = trained
    before = (folder / "manifest.json").read_text()

    def write_half() -> None:
        with atomic_folder(folder) as scratch:
            (scratch / "half").write_text("x")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk"):
        write_half()
    assert (folder / "manifest.json").read_text() == before
    assert [path.name for path in folder.parent.iterdir()] == ["ckpt"]


def test_a_file_that_the_manifest_does_not_list_is_refused_where_peft_would_read_it(trained):
    _, folder = trained
    (folder / "adapter" / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"adapter/adapter_model\.bin .*not in its manifest"):
        load_model(folder)


@pytest.mark.parametrize("files", [[], {"config.json": 7}, {"config.json": {"bytes": "many"}}, None])
def test_a_manifest_of_another_shape_is_refused(trained, files):
    _, folder = trained
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load_model(folder)


def test_a_crash_between_the_two_renames_is_mended_by_the_next_writer(trained):
    _, folder = trained
    before = (folder / "manifest.json").read_text()
    folder.rename(folder.with_name(".ckpt.old"))
    with pytest.raises(RuntimeError, match="disk"), atomic_folder(folder):
        raise RuntimeError("disk full")
    assert (folder / "manifest.json").read_text() == before
    assert [path.name for path in folder.parent.iterdir()] == ["ckpt"]


def test_the_adapter_names_its_base_as_the_config_does(trained):
    model, folder = trained
    model.language.peft_config["default"].base_model_name_or_path = "/somebody/.cache/dequantised"
    save_checkpoint(model, folder)
    stored = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == model.config.language.source
