"""Loss and gradients of token trees against an independent float64 computation, for every architecture."""

import pytest
import torch
from torch.func import functional_call
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from shared.checkpoint import build_model
from shared.config import load_preset
from shared.lora import attach_lora
from shared.model import MultimodalModel
from shared.projector import build_projector
from shared.prompt import IMAGE_TOKEN_ID, Message, question_content
from shared.vision import ClipTower
from trainer.data.packing import collate, pack_dialogues
from trainer.data.steps import Batch
from trainer.objective import Objective

RANK, ALPHA = 4, 8
GROUPS = [
    [("What colour is it?", "It is red."), ("What colour is it?", "It is red and blue."), ("Is it red?", "Yes.")],
    [("What colour is it?", "No.")],
]  # fmt: skip


def adapted_model(preset, **options) -> MultimodalModel:
    torch.manual_seed(0)
    model = build_model(load_preset(str(preset)), **({"dtype": "float32"} | options))
    targets = model.config.language.lora_targets
    model.language = attach_lora(model.language, targets, rank=RANK, alpha=ALPHA, dropout=0.0)
    for name, parameter in model.language.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def encode(model):
    def one(question, answer):
        turns = [Message("user", question_content(question, images=1)), Message("assistant", (answer,))]
        return model.prompt.encode_dialogue(turns)

    return [[one(*pair) for pair in group] for group in GROUPS]


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = Objective(model)(batch)
    loss.backward()
    return loss.detach(), gradients(model)


def reference(model, encoded, features) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Each dialogue by itself in float64: transformers' own loss, LoRA as W + s B A, the projector by hand."""
    base = AutoModelForCausalLM.from_pretrained(model.config.language.source).double().eval()
    learned = {
        name: p.detach().cpu().double().requires_grad_()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    weights = dict(base.named_parameters())
    for name, a in learned.items():
        if "lora_A" in name:
            target = name.removeprefix("language.base_model.model.").replace(".lora_A.default", "")
            b = learned[name.replace("lora_A", "lora_B")]
            weights[target] = weights[target].detach() + ALPHA / RANK * b @ a
    p = {name.removeprefix("projector."): t for name, t in learned.items() if name.startswith("projector.")}
    total = torch.zeros((), dtype=torch.float64)
    for group, image in zip(encoded, features.double(), strict=True):
        x = image @ p["linear.weight"].T + p["linear.bias"]
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = x * p["block.norm.weight"] + p["block.norm.bias"]
        up = x @ p["block.up.weight"].T + p["block.up.bias"]
        x = x + 0.5 * up * (1 + torch.erf(up / 2**0.5)) @ p["block.down.weight"].T + p["block.down.bias"]
        for dialogue in group:
            ids = torch.tensor(dialogue.input_ids)
            slots = ids == IMAGE_TOKEN_ID
            embeds = base.get_input_embeddings()(ids.masked_fill(slots, 0))
            embeds = embeds.masked_scatter(slots[:, None], x)
            labels = torch.tensor(dialogue.labels)
            given = {"inputs_embeds": embeds[None], "labels": labels[None]}
            total = total + functional_call(base, weights, (), given).loss * (labels >= 0).sum()
    total.backward()
    return total.detach(), {name: tensor.grad for name, tensor in learned.items()}


@pytest.mark.parametrize("kind", ["llama", "phi", "phi3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_a_float64_reference(tiny_preset, kind, checkpointing):
    model = adapted_model(tiny_preset(kind), attn_implementation="eager")
    if checkpointing:
        model.causal_lm.activation_checkpointing_enable({"use_reentrant": False})
    encoded = encode(model)
    features = torch.randn(len(GROUPS), model.vision.num_patches, model.vision.width)
    packs = [pack for group in encoded for pack in pack_dialogues("image", group, 512)]
    loss, ours = step(model, Batch(collate([packs], model.tokenizer.pad_token_id), features))
    expected, theirs = reference(model, encoded, features)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    assert ours.keys() == theirs.keys() and any("lora_A" in name for name in ours)
    for name, gradient in ours.items():
        error = (gradient.double() - theirs[name]).norm() / theirs[name].norm()
        assert error < 1e-4, f"{name}: relative error {error:.1e}"


def test_chains_in_one_row_without_a_mask_are_the_same_dialogues(tiny_preset):
    model = adapted_model(tiny_preset("phi"), attn_implementation="sdpa")
    encoded = encode(model)
    features = torch.randn(len(GROUPS), model.vision.num_patches, model.vision.width)
    chains = [
        (i, pack)
        for i, group in enumerate(encoded)
        for one in group
        for pack in pack_dialogues("", [one], 512)
    ]
    packed = collate([[pack for _, pack in chains]], model.tokenizer.pad_token_id, with_mask=False)
    assert packed.attention_mask is None
    loss, ours = step(model, Batch(packed, features[[i for i, _ in chains]]))
    expected, theirs = reference(model, encoded, features)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for name, gradient in ours.items():
        assert (gradient.double() - theirs[name]).norm() < 1e-4 * theirs[name].norm(), name


def test_a_batch_of_text_alone_leaves_the_projector_a_zero_gradient(tiny_preset):
    model = adapted_model(tiny_preset())
    turns = [Message("user", ("Is it red?",)), Message("assistant", ("No.",))]
    packed = collate([pack_dialogues(None, [model.prompt.encode_dialogue(turns)], 512)], 0)
    _, found = step(model, Batch(packed, torch.empty(0, model.vision.num_patches, model.vision.width)))
    projector = [gradient for name, gradient in found.items() if name.startswith("projector.")]
    assert len(projector) == len(list(model.projector.parameters())) and not any(g.any() for g in projector)


@pytest.mark.parametrize(("kind", "checkpointing"), [("llama", False), ("phi", True), ("phi3", True)])
def test_a_validation_between_two_4_bit_steps_changes_no_gradient(tiny_preset, kind, checkpointing):
    from trainer.stages import keep_gradients_through_4bit

    model = adapted_model(tiny_preset(kind), dtype="bfloat16", quantization="nf4")
    keep_gradients_through_4bit(model.language)
    if checkpointing:
        model.causal_lm.activation_checkpointing_enable({"use_reentrant": False})
    features = torch.randn(len(GROUPS), model.vision.num_patches, model.vision.width)
    packs = [pack for group in encode(model) for pack in pack_dialogues("image", group, 512)]
    batch = Batch(collate([packs], model.tokenizer.pad_token_id), features)
    before = step(model, batch)
    model.eval()
    with torch.no_grad():
        Objective(model)(batch)
    model.answer([([Message("user", ("Is it red?",))], None)], max_new_tokens=2)
    after = step(model.train(), batch)
    assert torch.equal(before[0], after[0])
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    assert all(gradient.any() for name, gradient in before[1].items() if "lora" in name)


def test_a_4_bit_base_keeps_its_dtype_and_lora_is_float32(tiny_preset):
    model = adapted_model(tiny_preset(), dtype="bfloat16", quantization="nf4")
    assert model.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_gpu_computes_what_the_cpu_computes(tiny_preset, quantization):
    model = adapted_model(tiny_preset("phi"), device="cuda", dtype="bfloat16", quantization=quantization)
    encoded = encode(model)
    features = torch.randn(len(GROUPS), model.vision.num_patches, model.vision.width)
    packs = [pack for group in encoded for pack in pack_dialogues("image", group, 512)]
    batch = Batch(collate([packs], model.tokenizer.pad_token_id), features).to(model.device)
    loss, found = step(model, batch)
    expected, _ = reference(model, encoded, features)
    torch.testing.assert_close(
        loss.cpu().double(), expected, rtol=0.1 if quantization == "nf4" else 0.02, atol=0
    )
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


SIZES = {
    "phi2": (
        PhiForCausalLM,
        PhiConfig(vocab_size=51200, hidden_size=2560, intermediate_size=10240, num_hidden_layers=32,
                  num_attention_heads=32, partial_rotary_factor=0.4),
        # Linear(768, 2560), LayerNorm, two Linear(2560, 2560)
        768 * 2560 + 2560 + 2 * 2560 + 2 * (2560 * 2560 + 2560),
        # q, k, v, dense: 2560 -> 2560; fc1, fc2: 2560 <-> 10240
        32 * 16 * (4 * (2560 + 2560) + 2 * (2560 + 10240)),
    ),
    "phi3": (
        Phi3ForCausalLM,
        Phi3Config(vocab_size=32064, hidden_size=3072, intermediate_size=8192, num_hidden_layers=32,
                   num_attention_heads=32, num_key_value_heads=32, pad_token_id=32000),
        768 * 3072 + 3072 + 2 * 3072 + 2 * (3072 * 3072 + 3072),
        # qkv: 3072 -> 9216; o: 3072 -> 3072; gate_up: 3072 -> 16384; down: 8192 -> 3072
        32 * 16 * ((3072 + 9216) + (3072 + 3072) + (3072 + 16384) + (8192 + 3072)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["phi2", "phi3"])
def test_full_size_presets_train_exactly_the_sources_parameters(name, tiny_preset):
    config = load_preset(name)
    kind, language_config, projector_parameters, lora_parameters = SIZES[name]
    tokenizer = build_model(load_preset(str(tiny_preset("phi")))).tokenizer
    with torch.device("meta"):
        language = kind(language_config).requires_grad_(False)
        vision = ClipTower(config.vision, CLIPVisionModel(CLIPVisionConfig(patch_size=32)))
        projector = build_projector(config.projector, vision.width, language_config.hidden_size)
        model = MultimodalModel(config, vision, projector, language, tokenizer)
        assert (vision.num_patches, vision.width) == (49, 768)

        def learning():
            return sum(p.numel() for p in model.parameters() if p.requires_grad)

        assert learning() == projector_parameters
        assert name != "phi2" or projector_parameters == 15_086_080
        model.language = attach_lora(language, config.language.lora_targets, rank=16, alpha=32, dropout=0.05)
        assert learning() == projector_parameters + lora_parameters
    assert getattr(language.lm_head, "bias", None) is not None or name != "phi2"
