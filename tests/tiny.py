"""Fixtures: a tiny model on disk (random weights, a tokenizer of its own) and records to train it on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # wide, so that a frozen random model can still say different things
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "phi": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
}
COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (30, 40, 200), "white": (240, 240, 240)}


def _language_model(kind: str, vocabulary: int):
    sizes = SIZES | {"vocab_size": vocabulary}
    if kind == "phi":
        return PhiForCausalLM(PhiConfig(**sizes, partial_rotary_factor=0.5))
    if kind == "phi3":
        return Phi3ForCausalLM(Phi3Config(**sizes))
    return LlamaForCausalLM(LlamaConfig(**sizes))


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory):
    """`tiny_preset(kind)`: a preset file of a tiny `llama`, `phi` or `phi3` model that loads from disk."""
    root = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["What colour is it? It is red. Is there a dog in the photo? Yes. No. Describe this image."] * 4,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<pad>", "<s>", "<end>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", bos_token="<s>"
    )
    clip = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    CLIPVisionModel(clip).save_pretrained(root / "clip")

    def make(kind: str = "llama") -> Path:
        folder = root / kind
        preset = root / f"{kind}.toml"
        if not preset.exists():
            model = _language_model(kind, len(fast))
            if kind == "phi":
                torch.nn.init.normal_(model.lm_head.bias, std=0.1)
            model.save_pretrained(folder)
            fast.save_pretrained(folder)
            preset.write_text(
                f"""name = "tiny-{kind}"
[vision]
tower = "clip"
source = "{root / "clip"}"
image_size = 32
[language]
source = "{folder}"
pad_token = "<pad>"
lora_targets = {json.dumps(TARGETS[kind])}
[prompt]
user = ["", "\\n"]
end = "<end>"
between = "\\n"
end_of_image = 5
"""
            )
        return preset

    return make


@pytest.fixture(scope="session")
def colour_records(tmp_path_factory) -> tuple[Path, Path]:
    """LLaVA records about plain-coloured pictures, several dialogues a picture, and their image folder."""
    root = tmp_path_factory.mktemp("colours")
    images = root / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    records = []
    for index in range(24):
        colour = list(COLOURS)[index % 4]
        noise = rng.integers(-10, 10, (40, 48, 3))
        pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
        for number, (question, answer) in enumerate(
            [
                ("<image>\nWhat colour is it?", f"It is {colour}."),
                ("<image>\nWhat colour is it?", f"{colour}."),
                ("Is it red?\n<image>", "Yes." if colour == "red" else "No."),
            ]
        ):
            turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            records.append(
                {"id": f"{index}-{number}", "image": f"{index}.png", "kind": "colour", "conversations": turns}
            )
    for index in range(8):
        turns = [{"from": "human", "value": f"Say {index}."}, {"from": "gpt", "value": f"It is {index}."}]
        records.append({"id": f"text-{index}", "kind": "text", "conversations": turns})
    path = root / "records.json"
    path.write_text(json.dumps(records))
    return path, images
