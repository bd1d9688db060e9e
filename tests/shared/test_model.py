"""Presets, projector sizes, pad tokens, LoRA targets, embedding of images, batched answers."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PhiConfig

from shared.checkpoint import build_model
from shared.config import ModelConfig, load_preset, preset_names
from shared.lora import attach_lora, merged_adapters
from shared.projector import build_projector
from shared.prompt import Image, Message


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_presets_load_and_unknown_names_list_them():
    assert {"embedded", "phi2", "phi3"} <= set(preset_names())
    for name in preset_names():
        assert load_preset(name).name == name
    with pytest.raises(ValueError, match="embedded, phi2, phi3"):
        load_preset("phi9")


def test_an_unknown_key_in_a_preset_is_an_error():
    raw = load_preset("phi2").model_dump() | {"visoin": {}}
    with pytest.raises(ValueError, match="visoin"):
        ModelConfig.model_validate(raw)


def test_phi2_is_the_sources_model():
    config = load_preset("phi2")
    assert (config.language.source, config.vision.source) == (
        "microsoft/phi-2",
        "openai/clip-vit-base-patch32",
    )
    assert config.prompt.end_of_image == 23893
    assert parameters(build_projector(config.projector, 768, 2560)) == 15_086_080


def test_full_size_phi2_has_the_expected_lora_and_its_head_bias():
    sizes = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            PhiConfig(vocab_size=51200, partial_rotary_factor=0.4, **sizes)
        )
        adapted = attach_lora(
            model,
            load_preset("phi2").language.lora_targets,
            rank=16,
            alpha=32,
            dropout=0.0,
        )
    assert model.lm_head.bias is not None
    attention, mlp = 4 * 16 * (2560 + 2560), 2 * 16 * (2560 + 10240)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 32 * (attention + mlp)


@pytest.mark.parametrize("kind", ["llama", "phi", "phi3"])
def test_lora_targets_are_checked(tiny_preset, kind):
    model = build_model(load_preset(str(tiny_preset(kind))), dtype="float32")
    with pytest.raises(ValueError, match="no Linear is called nothing_proj"):
        attach_lora(model.language, ("nothing_proj",), rank=2, alpha=4, dropout=0.0)
    adapted = attach_lora(model.language, model.config.language.lora_targets, rank=2, alpha=4, dropout=0.0)
    assert all("lora_" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_a_pad_token_that_ends_answers_is_refused(tiny_preset, tmp_path):
    text = tiny_preset().read_text().replace('pad_token = "<pad>"', 'pad_token = "<end>"')
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match="pads and ends"):
        build_model(load_preset(str(tmp_path / "bad.toml")), dtype="float32")


def test_a_pad_token_the_vocabulary_lacks_is_added_with_an_embedding(tiny_preset, tmp_path):
    text = tiny_preset("phi").read_text().replace('pad_token = "<pad>"', 'pad_token = "<|fill|>"')
    (tmp_path / "pad.toml").write_text(text)
    model = build_model(load_preset(str(tmp_path / "pad.toml")), dtype="float32")
    source = AutoConfig.from_pretrained(model.config.language.source)
    assert model.tokenizer.pad_token_id >= source.vocab_size
    assert model.causal_lm.get_input_embeddings().num_embeddings > model.tokenizer.pad_token_id
    assert model.answer([([Message("user", ("Is it red?",))], None)], max_new_tokens=2)


def test_images_fill_their_slots_in_order(tiny_preset):
    model = build_model(load_preset(str(tiny_preset())), dtype="float32")
    ids = torch.tensor([model.prompt.encode([Message("user", (Image(), Image(), "Is it red?"))]).input_ids])
    images = model.project(torch.randn(2, model.vision.num_patches, model.vision.width))
    embeds = model.embed(ids, images)
    patches = model.vision.num_patches
    assert torch.equal(embeds[0, :patches], images[0])
    assert torch.equal(embeds[0, patches + 1 : 2 * patches + 1], images[1])
    with pytest.raises(ValueError, match="image slots"):
        model.embed(ids, images[:1])


@pytest.mark.parametrize("kind", ["llama", "phi", "phi3"])
def test_batched_answers_equal_single_ones(tiny_preset, kind):
    torch.manual_seed(3)
    model = build_model(load_preset(str(tiny_preset(kind))), dtype="float32")
    prompts = [
        ([Message("user", ("Is it red?",))], None),
        ([Message("user", (Image(), "What colour is it? " * 3))], torch.randn(1, 4, model.vision.width)),
        ([Message("user", (Image(), "No."))], torch.randn(1, 4, model.vision.width)),
    ]
    assert model.answer(prompts, 12) == [model.answer([prompt], 12)[0] for prompt in prompts]


def test_the_embedded_tower_gives_what_timm_computes_layer_by_layer(photo):
    """The package's weights under timm's names: logits of its classifier say what is in a photograph."""
    from shared.vision import load_vision_tower

    tower = load_vision_tower(load_preset("embedded").vision)
    features = tower(tower.preprocess([photo]))
    assert features.shape == (1, tower.num_patches, tower.width) and torch.isfinite(features).all()
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    tower.train()
    assert not tower.model.training


@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_adapters_merged_for_a_while_give_the_same_and_leave_every_bit(tiny_preset, kind):
    model = build_model(load_preset(str(tiny_preset(kind))), dtype="float32")
    model.language = attach_lora(
        model.language, model.config.language.lora_targets, rank=4, alpha=8, dropout=0.1
    )
    for name, parameter in model.language.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = torch.randint(0, 100, (2, 9))
    apart = model(tokens).logits
    with merged_adapters(model.language):
        torch.testing.assert_close(model(tokens).logits, apart, rtol=1e-4, atol=1e-4)
        assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(tokens).logits, apart)


def test_adapters_of_a_bf16_model_learn_in_float32_and_compute_in_bf16(tiny_preset):
    model = build_model(load_preset(str(tiny_preset("phi"))), dtype="bfloat16")
    model.language = attach_lora(
        model.language, model.config.language.lora_targets, rank=4, alpha=8, dropout=0.1
    )
    seen = set()
    for name, module in model.language.named_modules():
        if name.endswith(("lora_A.default", "lora_B.default")):
            module.register_forward_hook(
                lambda _, inputs, output: seen.update((inputs[0].dtype, output.dtype))
            )
    model.train()(torch.randint(0, 100, (2, 9))).logits.float().square().mean().backward()
    assert seen == {torch.bfloat16}
    learning = [parameter for parameter in model.language.parameters() if parameter.requires_grad]
    assert {p.dtype for p in learning} == {p.grad.dtype for p in learning} == {torch.float32}


def test_phi_with_its_activation_in_one_kernel_is_transformers_phi(tiny_preset):
    config = load_preset(str(tiny_preset("phi")))
    model = build_model(config, dtype="float32")
    theirs = AutoModelForCausalLM.from_pretrained(config.language.source, dtype=torch.float32).eval()
    assert "NewGELUActivation" in str(theirs) and "NewGELUActivation" not in str(model.language)
    tokens = torch.randint(0, 100, (2, 9))
    torch.testing.assert_close(model(tokens).logits, theirs(tokens).logits, rtol=1e-5, atol=1e-5)
