"""Every exported format gives the logits of our own model, loaded as its users would."""

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    LlavaForConditionalGeneration,
)

import shared.pretrained  # noqa: F401  registers the classes
from shared.checkpoint import build_model, load_model, save_checkpoint
from shared.config import ProjectorConfig, load_preset
from shared.lora import attach_lora
from shared.prompt import IMAGE_TOKEN_ID, Message, question_content
from trainer.cli import main
from trainer.exporting.llava import fold_bias


@pytest.fixture(scope="module")
def checkpoint(tiny_preset, tmp_path_factory):
    """`checkpoint(kind, projector)`: one with LoRA whose weights are not zero."""
    root = tmp_path_factory.mktemp("export")

    def make(kind: str, projector: str):
        folder = root / f"{kind}-{projector}"
        if not folder.exists():
            torch.manual_seed(1)
            config = load_preset(str(tiny_preset(kind)))
            config = config.model_copy(update={"projector": ProjectorConfig(kind=projector)})
            model = build_model(config, dtype="float32")
            model.language = attach_lora(
                model.language, config.language.lora_targets, rank=4, alpha=8, dropout=0.0
            )
            for name, parameter in model.language.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
            save_checkpoint(model, folder)
        return folder

    return make


def export(folder, out, *more: str) -> None:
    arguments = ["export", "--checkpoint", str(folder), "--out", str(out), "--dtype", "float32"]
    assert main([*arguments, *more]) == 0


def asked(model, photo, *, images: int = 1):
    """(input_ids, pixel_values, our logits) of a question about a photograph."""
    ids = model.prompt.encode(
        [Message("user", question_content("What colour is it?", images=images))]
    ).input_ids
    ids, pixels = torch.tensor([ids]), model.preprocess([photo])
    with torch.no_grad():
        logits = model(ids, model.encode_images(pixels) if images else None).logits
    return ids, pixels, logits


@pytest.mark.parametrize("kind", ["llama", "phi", "phi3"])
def test_the_whole_model_loads_through_auto_classes(kind, checkpoint, photo, tmp_path):
    folder = checkpoint(kind, "resblock")
    export(folder, tmp_path / "out")
    ours = load_model(folder, dtype="float32")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    ids, pixels, logits = asked(ours, photo)
    with torch.no_grad():
        assert torch.allclose(theirs(ids, pixel_values=pixels).logits, logits, atol=1e-5)
        ids, _, logits = asked(ours, photo, images=0)
        assert torch.allclose(theirs(ids).logits, logits, atol=1e-5)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(ours.tokenizer)


def test_the_whole_model_generates(checkpoint, photo, tmp_path):
    folder = checkpoint("llama", "resblock")
    export(folder, tmp_path / "out")
    ours = load_model(folder, dtype="float32")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    ids, pixels, _ = asked(ours, photo)
    said = theirs.generate(ids, pixel_values=pixels, do_sample=False, max_new_tokens=8)[0, ids.shape[1] :]
    question = [Message("user", question_content("What colour is it?", images=1))]
    answer = ours.answer([(question, ours.encode_images(pixels))], max_new_tokens=8)
    assert ours.tokenizer.decode(said, skip_special_tokens=True).strip() == answer[0]
    with pytest.raises(ValueError, match="image slots"):
        theirs(ids)


@pytest.mark.parametrize("kind", ["phi", "llama", "phi3"])
def test_llava_layout_loads_in_plain_transformers(kind, checkpoint, photo, tmp_path):
    folder = checkpoint(kind, "mlp2x_gelu")
    export(folder, tmp_path / "out")
    ours = load_model(folder, dtype="float32")
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    assert theirs.lm_head.bias is None
    ids, pixels, logits = asked(ours, photo)
    slots = ids == IMAGE_TOKEN_ID
    with torch.no_grad():
        got = theirs(ids.masked_fill(slots, theirs.config.image_token_id), pixel_values=pixels).logits
    assert torch.allclose(got[..., : logits.shape[-1]], logits, atol=1e-4)
    if kind == "phi":  # the bias is large enough that losing it would show
        assert ours.causal_lm.lm_head.bias.abs().mean() > 0.05


def test_llava_processor_fills_the_prompt(checkpoint, photo, tmp_path):
    folder = checkpoint("phi", "mlp2x_gelu")
    export(folder, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    theirs = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    content = [{"type": "text", "text": "What colour is it?"}, {"type": "image"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=photo, text=text, return_tensors="pt")
    ours = load_model(folder, dtype="float32")
    assert int((inputs.input_ids == theirs.config.image_token_id).sum()) == ours.vision.num_patches
    assert theirs.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] > inputs.input_ids.shape[1]


def test_a_bias_is_folded_exactly():
    torch.manual_seed(0)
    norm, head = torch.nn.LayerNorm(32).double(), torch.nn.Linear(32, 100).double()
    for tensor in (norm.weight, norm.bias, head.bias):
        torch.nn.init.normal_(tensor)
    x = torch.randn(7, 32, dtype=torch.float64)
    scale, shift, weight = fold_bias(norm.weight, norm.bias, head.weight, head.bias)
    folded = torch.nn.functional.layer_norm(x, (32,), scale, shift) @ weight.T
    assert torch.allclose(folded, head(norm(x)), atol=1e-12)


def test_adapter_loads_in_plain_peft_and_language_in_plain_transformers(checkpoint, photo, tmp_path):
    folder = checkpoint("phi", "resblock")
    ours = load_model(folder, dtype="float32")
    ids, _, logits = asked(ours, photo, images=0)
    export(folder, tmp_path / "adapter", "--format", "adapter")
    base = AutoModelForCausalLM.from_pretrained(ours.config.language.source, dtype=torch.float32)
    export(folder, tmp_path / "language", "--format", "language")
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        assert torch.allclose(adapted(ids).logits, logits, atol=1e-5)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "language").eval()
        assert torch.allclose(merged(ids).logits, logits, atol=1e-5)
    assert (tmp_path / "adapter" / "projector.safetensors").is_file()


def test_formats_that_do_not_fit_are_refused(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["export", "--checkpoint", str(checkpoint("llama", "resblock")), "--out", str(out)]
    assert main([*arguments, "--format", "llava"]) == 2
    assert "mlp2x_gelu" in capsys.readouterr().err
    assert not out.exists()
    assert main(["export", "--checkpoint", "phi2", "--out", str(out)]) == 2
    assert "no trained weights" in capsys.readouterr().err


def test_a_directory_that_holds_something_is_left_alone(checkpoint, tmp_path, capsys):
    folder = checkpoint("llama", "resblock")
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("weeks of work")
    before = sorted(folder.iterdir())
    for out in (run, folder, folder.parent):
        arguments = ["export", "--checkpoint", str(folder), "--out", str(out), "--format", "adapter"]
        assert main(arguments) == 2
        assert "already holds something: give a new directory" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_text() == "weeks of work"
    assert sorted(folder.iterdir()) == before
