"""`python -m trainer export`: a checkpoint as directories that other programs load.

multimodal  the whole merged model, AutoModelForImageTextToText with the classes of shared/pretrained.py
llava       LlavaForConditionalGeneration of plain transformers (mlp2x_gelu and CLIP)
language    the merged language model and its tokenizer, AutoModelForCausalLM of plain transformers
adapter     LoRA for plain PEFT on the untouched base, and the projector beside it
"""

from __future__ import annotations

import shutil
from pathlib import Path

from shared.checkpoint import atomic_folder, checkpoint_folder, load_model, read_config, verify
from shared.config import ModelConfig
from shared.model import MultimodalModel
from shared.vision import ClipTower
from trainer.exporting.config import ExportConfig

_LOADING = {
    "multimodal": """from transformers import AutoModelForImageTextToText, AutoTokenizer
import shared.pretrained  # registers the classes; no trust_remote_code

model = AutoModelForImageTextToText.from_pretrained("{out}")
tokenizer = AutoTokenizer.from_pretrained("{out}")""",
    "llava": """from transformers import AutoProcessor, LlavaForConditionalGeneration

model = LlavaForConditionalGeneration.from_pretrained("{out}")
processor = AutoProcessor.from_pretrained("{out}")""",
    "language": """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{out}")
tokenizer = AutoTokenizer.from_pretrained("{out}")""",
    "adapter": """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "{out}")""",
}


def export(config: ExportConfig) -> str:
    """Write `config.out` and return the format written.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ValueError: it does not fit the format, or `config.out` already holds something.
    """
    folder = checkpoint_folder(config.checkpoint)
    verify(folder)
    parts = read_config(folder)
    kind = config.format
    if kind == "auto":
        fits = parts.projector.kind == "mlp2x_gelu" and parts.vision.tower == "clip"
        kind = "llava" if fits else "multimodal"
    with atomic_folder(config.out, new=True) as scratch:
        if kind == "adapter":
            _adapter(folder, scratch)
        else:
            model = load_model(folder, dtype=config.dtype, device="cpu")
            _WRITERS[kind](model, scratch)
        (scratch / "README.md").write_text(_card(parts, kind, config.out), "utf-8")
    return kind


def _multimodal(model: MultimodalModel, out: Path) -> None:
    from shared.pretrained import MultimodalConfig, MultimodalForConditionalGeneration

    language = model.causal_lm
    config = MultimodalConfig(
        text_config=language.config.to_dict(),
        clip_config=model.vision.model.config.to_dict() if isinstance(model.vision, ClipTower) else None,
        multimodal=model.config.model_dump(mode="json"),
        tie_word_embeddings=language.config.tie_word_embeddings,
        dtype=model.dtype,
    )
    whole = MultimodalForConditionalGeneration(config)
    whole.vision, whole.projector, whole.language = model.vision, model.projector, language
    whole.tie_weights()
    whole.generation_config = language.generation_config
    whole.generation_config.eos_token_id = list(model.eos_token_ids)
    whole.eval().save_pretrained(out)
    model.tokenizer.save_pretrained(out)


def _language(model: MultimodalModel, out: Path) -> None:
    model.causal_lm.generation_config.eos_token_id = list(model.eos_token_ids)
    model.causal_lm.save_pretrained(out)
    model.tokenizer.save_pretrained(out)


def _llava(model: MultimodalModel, out: Path) -> None:
    from trainer.exporting.llava import export_llava

    export_llava(model, out)


_WRITERS = {"multimodal": _multimodal, "language": _language, "llava": _llava}


def _adapter(folder: Path, out: Path) -> None:
    """The adapter's files as they are, and the projector, which PEFT passes over."""
    if not (folder / "adapter").is_dir():
        raise ValueError(f"{folder} has no adapter: it is a checkpoint of stage 1")
    for path in sorted((folder / "adapter").iterdir()):
        shutil.copyfile(path, out / path.name)
    shutil.copyfile(folder / "projector.safetensors", out / "projector.safetensors")


def _card(parts: ModelConfig, kind: str, out: Path) -> str:
    language = parts.language
    base = f'"{language.source}"'
    if language.source.startswith("package:"):
        base = f'FOLDER_OF_THE_PACKAGE, gguf_file="{language.gguf_file}"'
    code = _LOADING[kind].format(out=out.name, base=base)
    note = "\nThe projector is `projector.safetensors`; PEFT does not read it.\n" if kind == "adapter" else ""
    return (
        f"# {parts.name}\n\nVision tower `{parts.vision.source}`, projector `{parts.projector.kind}`, language model "
        f"`{language.source}`. Written by `trainer export --format {kind}`.\n\n```python\n{code}\n```\n{note}"
    )


def run(config: ExportConfig) -> int:
    """Exit code 0."""
    kind = export(config)
    size = sum(path.stat().st_size for path in config.out.rglob("*") if path.is_file())
    print(
        f"{config.checkpoint} -> {config.out} ({kind}, {size / 2**20:,.0f} MiB); README.md there says how to load it"
    )
    return 0
