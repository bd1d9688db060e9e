"""The C++ decoder against transformers: every architecture and format, in any cut of a prompt."""

import logging
import shutil

import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from service.engine.decoder import Span
from service.engine.load_decoder import DecoderUnavailable, load_decoder
from service.engine.native.decoder import NativeDecoder
from service.engine.native.weights import Format, Unsupported

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler is installed (g++)")

SIZES = {
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 1001,  # no multiple of a panel
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama, biases": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "llama, scaled positions": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0})
    ),
    "llama, twelve heads of 32 on two": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES | {"num_attention_heads": 12, "head_dim": 32, "tie_word_embeddings": True})
    ),
    "phi": lambda: PhiForCausalLM(PhiConfig(**SIZES | {"num_key_value_heads": 6})),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SIZES)),
    "phi3, window": lambda: Phi3ForCausalLM(Phi3Config(**SIZES, sliding_window=21)),
}


@pytest.fixture(params=MODELS)
def lm(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[request.param]().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def decoder(lm: PreTrainedModel, format: Format, threads: int = 2) -> NativeDecoder:
    return NativeDecoder(lm, format=format, max_rows=128, max_positions=200, threads=threads)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def decode(native: NativeDecoder, prompts: list[torch.Tensor], cuts: list[list[int]]) -> torch.Tensor:
    """Logits after each prompt, computed in passes: pass i takes prompt p up to `cuts[p][i]`."""
    memories = [native.allocate(len(prompt)) for prompt in prompts]
    logits: dict[int, torch.Tensor] = {}
    done = [0] * len(prompts)
    for step in range(max(map(len, cuts))):
        chunks, spans, ends = [], [], []
        for p, prompt in enumerate(prompts):
            if step < len(cuts[p]):
                stop = cuts[p][step]
                chunks.append(prompt[done[p] : stop])
                spans.append(Span(memories[p], done[p], stop - done[p], stop == len(prompt)))
                ends += [p] if stop == len(prompt) else []
                done[p] = stop
        logits.update(zip(ends, native.forward(torch.cat(chunks), spans), strict=True))
    return torch.stack([logits[p] for p in range(len(prompts))])


@torch.inference_mode()
@pytest.mark.parametrize(("format", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.03)])
def test_logits_are_those_of_transformers(lm: PreTrainedModel, format: Format, tolerance: float):
    prompts = [torch.randn(length, 192) for length in (70, 1, 33, 90)]
    expected = torch.stack([lm(inputs_embeds=prompt[None]).logits[0, -1] for prompt in prompts])
    native = decoder(lm, format)
    for cuts in ([[40, 70], [1], [7, 8, 9, 33], [17, 64, 89, 90]], [[69, 70], [1], [33], [16, 90]]):
        actual = decode(native, prompts, cuts)
        assert max(map(relative_error, actual, expected)) < tolerance
    native.close()
    single = decoder(lm, format, threads=1)
    assert torch.equal(decode(single, prompts, cuts), actual), "the threads change no number"
    for prompt, logits in zip(prompts, actual, strict=True):
        assert torch.equal(decode(single, [prompt], [[len(prompt)]])[0], logits), "nor does company"
    single.close()


@torch.inference_mode()
def test_int8_logits_are_those_of_rounded_weights_and_activations(lm: PreTrainedModel):
    # One layer, since a rounding that falls the other way spreads; single tokens, whose attention gives the value
    # back as it is kept: in bfloat16.
    lm.model.layers, lm.config.num_hidden_layers = lm.model.layers[:1], 1
    prompts = [torch.randn(1, 192) for _ in range(20)]
    plain = torch.stack([lm(inputs_embeds=prompt[None]).logits[0, -1] for prompt in prompts])
    native = decoder(lm, "int8")
    actual = decode(native, prompts, [[1]] * len(prompts))
    native.close()

    def round_activations(module: nn.Linear, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        groups = inputs[0].unflatten(-1, (-1, 64))
        scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-10) / 127
        return (((groups / scale).round() * scale).flatten(-2),)

    for name, module in lm.named_modules():
        if isinstance(module, nn.Linear):
            scale = module.weight.abs().amax(1, keepdim=True).clamp(min=1e-10) / 127
            module.weight = nn.Parameter((module.weight / scale).round() * scale, requires_grad=False)
            module.register_forward_pre_hook(round_activations)
        if name.endswith(("v_proj", "qkv_proj")):
            module.register_forward_hook(lambda module, inputs, output: output.bfloat16().float())
    rounded = torch.stack([lm(inputs_embeds=prompt[None]).logits[0, -1] for prompt in prompts])
    assert relative_error(actual, rounded) < 0.006
    assert 0.008 < relative_error(actual, plain) < 0.05


@torch.inference_mode()
def test_what_is_saved_is_what_was_computed():
    torch.manual_seed(0)
    native = decoder(MODELS["llama"]().eval(), "float32")
    prompt = torch.randn(60, 192)
    first, second = native.allocate(60), native.allocate(80)
    whole = native.forward(prompt, [Span(first, 0, 60, True)])
    saved = native.save(first, 48)
    native.free(first)
    native.load(second, saved, 32)
    assert torch.allclose(native.forward(prompt[32:], [Span(second, 32, 28, True)]), whole, atol=1e-5)
    with pytest.raises(ValueError, match="81 tokens do not fit into memory for 80"):
        native.forward(prompt[:1], [Span(second, 80, 1, True)])
    with pytest.raises(ValueError, match="201 tokens do not fit into memory for 200"):
        native.forward(prompt[:1], [Span(native.allocate(201), 200, 1, True)])
    native.close()


def test_models_that_it_does_not_compute_are_refused_by_name():
    sizes = SIZES | {"num_hidden_layers": 1}
    with pytest.raises(Unsupported, match="its architecture is mistral"):
        decoder(MistralForCausalLM(MistralConfig(**sizes)), "float32")
    with pytest.raises(Unsupported, match="its activation is gelu, not silu"):
        decoder(LlamaForCausalLM(LlamaConfig(**sizes, hidden_act="gelu")), "float32")
    with pytest.raises(Unsupported, match="normalises queries"):
        decoder(PhiForCausalLM(PhiConfig(**sizes, qk_layernorm=True)), "float32")


LIMITS = {"max_rows": 32, "max_positions": 64, "max_sequences": 2, "max_tokens": 128}


def test_without_a_compiler_transformers_computes(make_model, tmp_path, monkeypatch, caplog):
    model = make_model("llama")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MULTIMODAL_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.WARNING):
        load_decoder(model, **LIMITS).close()
    assert "install one (Debian, Ubuntu: g++)" in caplog.text
    with pytest.raises(DecoderUnavailable, match="no C\\+\\+ compiler"):
        load_decoder(model, kind="native", **LIMITS)
    with pytest.raises(DecoderUnavailable, match="no C\\+\\+ compiler"):
        load_decoder(model, quantize="int8", **LIMITS)


def test_a_compiler_that_fails_and_a_cache_that_cannot_be_written(make_model, tmp_path, monkeypatch, caplog):
    model = make_model("llama")
    broken = tmp_path / "c++"
    broken.write_text(
        "#!/bin/sh\necho 'In file included from x:' >&2; echo 'x:1: error: no such' >&2; exit 1\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("MULTIMODAL_CACHE", str(tmp_path / "cache"))
    load_decoder(model, **LIMITS).close()
    assert not list((tmp_path / "cache" / "native").iterdir()), "nothing half made is left"
    monkeypatch.setenv("MULTIMODAL_CACHE", str(broken))  # no folder can be made below a file
    load_decoder(model, **LIMITS).close()
    failed, unwritable = (
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    )
    assert failed == f"using transformers, which is slower on a CPU: {broken} failed: x:1: error: no such"
    assert "cannot be written" in unwritable and "\n" not in unwritable
