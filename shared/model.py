"""The multimodal model: vision tower + projector + language model, composed and nothing more.

An image's patch features are projected into the language model's embedding space and take the
places of the image slots in the prompt; from there on it is a plain causal language model fed with
`inputs_embeds`.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from shared.config import ModelConfig
from shared.prompt import IMAGE_TOKEN_ID, PromptBuilder
from shared.vision import VisionTower


class MultimodalModel(nn.Module):
    """A language model that sees.

    Attributes:
        language: the causal LM, or a PEFT model around it while adapters are trained.
        prompt: the one prompt builder of training and serving.
    """

    def __init__(
        self,
        config: ModelConfig,
        vision: VisionTower,
        projector: nn.Module,
        language: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ):
        super().__init__()
        self.config = config
        self.vision = vision
        self.projector = projector
        self.language = language
        self.tokenizer = tokenizer
        self.prompt = PromptBuilder(tokenizer, config.prompt, vision.num_patches)
        if tokenizer.pad_token_id == self.prompt.end_token_id:
            raise ValueError(
                f"{config.language.pad_token!r} both pads and ends answers: masked as padding, the end would never "
                "be learned. Choose another language.pad_token"
            )

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The causal LM without PEFT's wrapper (adapters stay inside its layers)."""
        return self.language.get_base_model() if hasattr(self.language, "peft_config") else self.language

    @property
    def device(self) -> torch.device:
        return self.causal_lm.device

    @property
    def dtype(self) -> torch.dtype:
        """The embeddings' dtype, in which the language model computes."""
        return self.causal_lm.get_input_embeddings().weight.dtype

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that stop generation: the learned end of an answer, then the model's own."""
        own = self.causal_lm.generation_config.eos_token_id
        own = own if isinstance(own, list) else [] if own is None else [own]
        return tuple(dict.fromkeys([self.prompt.end_token_id, *own]))

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together that the language model was made for."""
        return self.causal_lm.config.max_position_embeddings

    def preprocess(self, images: list[Image.Image]) -> Tensor:
        """RGB images to `pixel_values`, `[images, 3, size, size]`, float32."""
        return self.vision.preprocess(images)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """The frozen tower: `[images, 3, size, size]` to features `[images, patches, width]`."""
        return self.vision(pixel_values)

    def project(self, features: Tensor) -> Tensor:
        """Features `[images, patches, width]` to embeddings `[images, patches, hidden]`."""
        weight = next(self.projector.parameters())
        return self.projector(features.to(weight.device, weight.dtype))

    def embed(self, input_ids: Tensor, image_embeds: Tensor | None = None) -> Tensor:
        """Token embeddings with the image slots filled in order.

        Args:
            input_ids: `[batch, tokens]`, `IMAGE_TOKEN_ID` at every visual token.
            image_embeds: `[images, patches, hidden]`, in the order of the slots, row by row.

        Returns:
            `inputs_embeds`, `[batch, tokens, hidden]`.

        Raises:
            ValueError: the number of slots and of visual tokens differ.
        """
        slots = input_ids == IMAGE_TOKEN_ID
        embeds = self.causal_lm.get_input_embeddings()(
            input_ids.masked_fill(slots, self.tokenizer.pad_token_id)
        )
        given = 0 if image_embeds is None else image_embeds.shape[0] * image_embeds.shape[1]
        if (count := int(slots.sum())) != given:
            raise ValueError(f"the prompt has {count} image slots, the images fill {given}")
        if image_embeds is None:
            return embeds
        return embeds.masked_scatter(slots[..., None], image_embeds.flatten(0, 1).to(embeds.dtype))

    def hidden_states(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor
    ) -> Tensor:
        """The decoder without `lm_head`, for losses on few positions.

        Args:
            inputs_embeds: `[batch, tokens, hidden]`.
            attention_mask: `[batch, 1, tokens, tokens]`, True where a token (row) attends to another (column);
                None for one row of causal sequences, each beginning where `position_ids` begins again.
            position_ids: `[batch, tokens]`.

        Returns:
            Last hidden states `[batch, tokens, hidden]`.
        """
        blocked = None
        if attention_mask is not None:
            # additive, as eager attention needs it: it would add a boolean mask as 0 and 1
            blocked = torch.zeros_like(attention_mask, dtype=self.dtype)
            blocked.masked_fill_(~attention_mask, torch.finfo(self.dtype).min)
        return self.causal_lm.get_decoder()(
            inputs_embeds=inputs_embeds, attention_mask=blocked, position_ids=position_ids, use_cache=False
        ).last_hidden_state

    def logits(self, hidden_states: Tensor) -> Tensor:
        """`lm_head`, with its bias where it has one: `[..., hidden]` to `[..., vocabulary]`."""
        return self.causal_lm.get_output_embeddings()(hidden_states)

    def forward(
        self, input_ids: Tensor, features: Tensor | None = None, attention_mask: Tensor | None = None
    ):
        """Logits of a batch of prompts, as transformers gives them.

        Args:
            input_ids: `[batch, tokens]` with image slots.
            features: `[images, patches, width]` of the frozen tower, or None.
            attention_mask: `[batch, tokens]`, 0 at padding.
        """
        image_embeds = None if features is None else self.project(features)
        return self.language(inputs_embeds=self.embed(input_ids, image_embeds), attention_mask=attention_mask)

    def embed_prompts(self, prompts: list[tuple[list[int], Tensor | None]]) -> tuple[Tensor, Tensor]:
        """A batch to generate from, padded on the left.

        Args:
            prompts: (token ids with image slots, features `[images, patches, width]` or None) of each.

        Returns:
            `inputs_embeds` `[prompts, tokens, hidden]` and `attention_mask` `[prompts, tokens]`.
        """
        longest, pad = max(len(ids) for ids, _ in prompts), self.tokenizer.pad_token_id
        padded = [[pad] * (longest - len(ids)) + ids for ids, _ in prompts]
        shown = [features for _, features in prompts if features is not None]
        embeds = self.embed(
            torch.tensor(padded, device=self.device), self.project(torch.cat(shown)) if shown else None
        )
        lengths = torch.tensor([[len(ids)] for ids, _ in prompts], device=self.device)
        return embeds, (torch.arange(longest, device=self.device)[None] >= longest - lengths).long()

    @torch.inference_mode()
    def answer(self, prompts: list[tuple[list, Tensor | None]], max_new_tokens: int = 64) -> list[str]:
        """Greedy answers to a batch, for the trainer's samples and `evaluate`; the service has its engine.

        Args:
            prompts: (messages, features) of each; features `[images, patches, width]`, None without an image.
        """
        embeds, mask = self.embed_prompts(
            [(self.prompt.encode(messages).input_ids, features) for messages, features in prompts]
        )
        output = self.language.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(self.eos_token_ids),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return [text.strip() for text in self.tokenizer.batch_decode(output, skip_special_tokens=True)]
