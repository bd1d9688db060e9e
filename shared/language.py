"""The causal language model: loading (bf16, NF4, GGUF), special tokens.

Any causal LM of transformers fits; it is kept whole, its `lm_head` with its bias. A GGUF file is
dequantised once into a cache directory, so the second start reads plain safetensors.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.activations import NewGELUActivation

from shared.config import LanguageConfig, resolve_source

log = logging.getLogger(__name__)

Quantization = Literal["none", "nf4"]


def cache_dir() -> Path:
    """Where derived files live: `$MULTIMODAL_CACHE`, else `multimodal-llm` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimodal-llm"
    return Path(os.environ.get("MULTIMODAL_CACHE") or default)


def default_dtype(device: str | torch.device = "cpu") -> torch.dtype:
    """bfloat16 where the hardware multiplies it, else float32. Never float16: Phi-2 overflows in it."""
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return (
        torch.bfloat16
        if torch.backends.cpu.get_cpu_capability() == "AVX512" and _has_bf16()
        else torch.float32
    )


def _has_bf16() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(probe())


def load_tokenizer(config: LanguageConfig) -> PreTrainedTokenizerBase:
    """The tokenizer, its pad token set to `config.pad_token` (added where the vocabulary lacks it)."""
    tokenizer = AutoTokenizer.from_pretrained(_plain_source(config), revision=config.revision)
    if config.pad_token not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"pad_token": config.pad_token})
    tokenizer.pad_token = config.pad_token
    return tokenizer


def load_language_model(
    config: LanguageConfig,
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    quantization: Quantization = "none",
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """The causal LM, in eval mode, with frozen weights.

    Args:
        quantization: `nf4` loads 4-bit weights with double quantisation and `dtype` compute
            (QLoRA, Dettmers et al. 2023).
    """
    options: dict = {"dtype": dtype, "revision": config.revision, "attn_implementation": attn_implementation}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(
        _plain_source(config),
        device_map={"": torch.device(device)},
        **{k: v for k, v in options.items() if v},
    )
    fuse_activations(model)
    return model.requires_grad_(False).eval()


def fuse_activations(model: nn.Module) -> None:
    """One kernel for `gelu_new` (Phi-2's), of which transformers computes every term by itself: the same function,
    but training keeps one tensor of the MLP's width for the backward pass instead of four."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def make_room_for_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Grow the embedding if the pad token lies beyond it, and tell the model its pad token."""
    if tokenizer.pad_token_id >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def _plain_source(config: LanguageConfig) -> str:
    """A source that transformers reads as it is: for a GGUF file, the folder of its dequantised copy."""
    source = resolve_source(config.source)
    return source if config.gguf_file is None else str(_dequantised(Path(source) / config.gguf_file))


def _dequantised(gguf: Path) -> Path:
    """The folder with `gguf`'s weights as bf16 safetensors and its tokenizer, made at the first call."""
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()[:16]
    folder = cache_dir() / f"{gguf.stem}-{digest}"
    if folder.is_dir():
        return folder
    log.info("dequantising %s into the cache, once (about half a minute)", gguf.name)
    from transformers import GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    packed = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    config = type(packed.config)(
        **{k: v for k, v in packed.config.to_dict().items() if k != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.bfloat16
    )  # a GGUF-loaded model refuses to save
    model.load_state_dict(packed.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():  # not merely lost the race to another process
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
