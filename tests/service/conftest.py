"""Small random models with the real tokenizer and vision tower: fast, and of the structure of real ones."""

from collections.abc import Iterator

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
)

from shared.config import load_preset
from shared.language import load_tokenizer
from shared.model import MultimodalModel
from shared.projector import build_projector
from shared.vision import load_vision_tower

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,  # wide, so that logits differ and answers do not repeat one token
}


def random_language_model(kind: str, vocab_size: int, eos_token_id: int) -> PreTrainedModel:
    sizes = SIZES | {"vocab_size": vocab_size, "eos_token_id": eos_token_id, "pad_token_id": 0}
    torch.manual_seed(0)
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    elif kind == "phi":
        model = PhiForCausalLM(PhiConfig(**sizes))
        torch.nn.init.normal_(model.lm_head.bias)
    else:
        model = Phi3ForCausalLM(Phi3Config(**sizes, sliding_window=24))
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module", autouse=True)
def workers_without_coverage() -> Iterator[None]:
    """Speech workers that a test starts are killed at their end, and what coverage saw there would be lost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture(scope="session")
def make_model():
    """Builds a `MultimodalModel` around a random `llama`, `phi` or `phi3` (sliding window of 24 tokens)."""
    config = load_preset("embedded")
    tokenizer = load_tokenizer(config.language)
    vision = load_vision_tower(config.vision)
    torch.set_num_threads(1)

    def make(kind: str) -> MultimodalModel:
        language = random_language_model(kind, len(tokenizer), tokenizer.eos_token_id)
        torch.manual_seed(1)
        projector = build_projector(config.projector, vision.width, language.config.hidden_size)
        return MultimodalModel(config, vision, projector.requires_grad_(False), language, tokenizer).eval()

    return make
