"""The whole model as a transformers model: `AutoModelForImageTextToText` loads what `trainer export` wrote.

Importing this module registers the classes, so nothing runs code from a checkpoint (no `trust_remote_code`).
The merged weights of tower, projector and language model are one set of tensors; `config.json` holds the
language model's own configuration, the tower's where transformers has one, and this package's `ModelConfig`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.configuration_utils import SubConfigSpec

from shared.config import ModelConfig
from shared.projector import build_projector
from shared.prompt import IMAGE_TOKEN_ID
from shared.vision import ClipTower, VisionTower, load_vision_tower


class MultimodalConfig(PreTrainedConfig):
    """Configuration of `MultimodalForConditionalGeneration`.

    Attributes:
        text_config: the causal language model's.
        clip_config: the CLIP tower's sizes; None for a tower that is not transformers' own.
        multimodal: `ModelConfig` as plain values.
        image_token_id: the id of an image slot in `input_ids`.
    """

    model_type = "multimodal_llm"
    sub_configs_defaults: ClassVar = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")
    }

    text_config: PreTrainedConfig | dict | None = None
    clip_config: dict | None = None
    multimodal: dict | None = None
    image_token_id: int = IMAGE_TOKEN_ID
    tie_word_embeddings: bool = False

    @property
    def parts(self) -> ModelConfig:
        """This package's configuration."""
        return ModelConfig.model_validate(self.multimodal)


class MultimodalForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Vision tower, projector and causal language model, the same modules as `MultimodalModel`'s.

    `input_ids` come from `shared.prompt.PromptBuilder`, with a slot per visual token; `pixel_values` from the
    tower's `preprocess`.
    """

    config_class = MultimodalConfig
    base_model_prefix = ""
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ("vision",)  # as in training, where its features are computed in float32

    def __init__(self, config: MultimodalConfig):
        super().__init__(config)
        parts = config.parts
        self.vision = _tower(config)
        self.language = AutoModelForCausalLM.from_config(config.text_config)
        hidden = config.text_config.hidden_size
        self.projector = build_projector(parts.projector, self.vision.width, hidden)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VisionTower):  # buffers that are no weights, so no checkpoint has them
            for name in ("mean", "std"):
                values = torch.tensor(getattr(module.config, name)).view(3, 1, 1)
                init.copy_(getattr(module, name), values)

    def get_input_embeddings(self) -> nn.Module:
        return self.language.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language.get_output_embeddings()

    def get_decoder(self) -> nn.Module:
        return self.language.get_decoder()

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """`[images, 3, size, size]` to embeddings `[images, patches, hidden]`."""
        weight = next(self.projector.parameters())
        return self.projector(self.vision(pixel_values).to(weight.dtype))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ):
        """Logits as the language model gives them.

        Args:
            input_ids: `[batch, tokens]`, `config.image_token_id` at every visual token.
            pixel_values: `[images, 3, size, size]`, in the order of the slots; ignored where there is no slot,
                as in the steps of `generate` after the first.

        Raises:
            ValueError: the slots and the visual tokens differ in number.
        """
        if inputs_embeds is None:
            inputs_embeds = self._embed(input_ids, pixel_values)
        return self.language(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)

    def _embed(self, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
        slots = input_ids == self.config.image_token_id
        embeds = self.get_input_embeddings()(input_ids.masked_fill(slots, 0))
        if not slots.any():
            return embeds
        images = None if pixel_values is None else self.get_image_features(pixel_values).flatten(0, 1)
        if images is None or len(images) != int(slots.sum()):
            given = 0 if images is None else len(images)
            raise ValueError(f"the prompt has {int(slots.sum())} image slots, the images fill {given}")
        return embeds.masked_scatter(slots[..., None], images.to(embeds.dtype))

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict:
        """`pixel_values` travel along; `forward` uses them where there are slots."""
        pixel_values = kwargs.pop("pixel_values", None)
        return super().prepare_inputs_for_generation(input_ids, *args, **kwargs) | {
            "pixel_values": pixel_values
        }


def _tower(config: MultimodalConfig) -> VisionTower:
    vision = config.parts.vision
    if config.clip_config is None:
        return load_vision_tower(vision, pretrained=False)
    return ClipTower(vision, CLIPVisionModel(CLIPVisionConfig(**config.clip_config)))


AutoConfig.register(MultimodalConfig.model_type, MultimodalConfig, exist_ok=True)
AutoModelForImageTextToText.register(MultimodalConfig, MultimodalForConditionalGeneration, exist_ok=True)
