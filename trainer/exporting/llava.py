"""LLaVA's layout: `LlavaForConditionalGeneration` of transformers, with nothing of this package in it.

Its `lm_head` has no bias, Phi's has one. The bias is kept exactly, inside the stock class: what a LayerNorm
normalises has mean zero, so one of its channels is minus the sum of the others and can be computed from them.
That channel's part in `lm_head` moves to the other columns, and the channel, now free, is made constant 1 (its
scale 0, its shift 1) and carries the bias in its column of `lm_head`. The same logits come out, up to rounding.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from shared.model import MultimodalModel
from shared.projector import MlpProjector
from shared.vision import ClipTower

IMAGE_TOKEN = "<image>"


def export_llava(model: MultimodalModel, out: Path) -> None:
    """Write `model`, its adapters merged, as a LLaVA model.

    Raises:
        ValueError: its projector, tower or last norm has no place in that layout.
    """
    if not isinstance(model.projector, MlpProjector) or not isinstance(model.vision, ClipTower):
        raise ValueError(
            "the LLaVA layout takes the projector mlp2x_gelu and a CLIP tower: use --format multimodal"
        )
    language, tokenizer = model.causal_lm, model.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if image_token_id >= language.get_input_embeddings().num_embeddings:
        _grow(language, len(tokenizer), tokenizer.pad_token_id)
    config = LlavaConfig(
        vision_config=model.vision.model.config.to_dict(),
        text_config=language.config.to_dict(),
        image_token_index=image_token_id,
        image_seq_length=model.vision.num_patches,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,  # the last layer, before CLIP's closing norm, without the class token
        vision_feature_select_strategy="default",
        tie_word_embeddings=language.config.tie_word_embeddings,
    )
    llava = LlavaForConditionalGeneration(config).to(model.dtype).eval()
    llava.model.vision_tower.load_state_dict(model.vision.model.state_dict())
    for theirs, ours in zip(("linear_1", "linear_2"), (model.projector[0], model.projector[2]), strict=True):
        getattr(llava.model.multi_modal_projector, theirs).load_state_dict(ours.state_dict())
    llava.model.language_model.load_state_dict(language.get_decoder().state_dict())
    head = language.get_output_embeddings()
    llava.lm_head.weight.data = head.weight.detach().to(model.dtype).clone()
    if head.bias is not None:
        _keep_bias(llava, head.bias.detach())
    llava.generation_config = language.generation_config
    llava.generation_config.eos_token_id = list(model.eos_token_ids)
    llava.save_pretrained(out)
    _processor(model, tokenizer).save_pretrained(out)


@torch.no_grad()
def _keep_bias(llava: LlavaForConditionalGeneration, bias: Tensor) -> None:
    norm = _last_norm(llava.model.language_model)
    weight, shift, head = fold_bias(norm.weight, norm.bias, llava.lm_head.weight, bias)
    norm.weight.copy_(weight)
    norm.bias.copy_(shift)
    llava.lm_head.weight.copy_(head)


def _last_norm(decoder: nn.Module) -> nn.LayerNorm:
    for name in ("final_layernorm", "norm"):
        norm = getattr(decoder, name, None)
        if isinstance(norm, nn.LayerNorm) and norm.bias is not None:
            return norm
    raise ValueError(
        "lm_head has a bias, which the LLaVA layout keeps only behind a LayerNorm: use --format multimodal"
    )


def fold_bias(scale: Tensor, shift: Tensor, head: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A last LayerNorm and `lm_head` without bias that give the logits of those with it.

    Args:
        scale, shift: of the LayerNorm, `[hidden]`.
        head: `[vocabulary, hidden]`.
        bias: `[vocabulary]`.

    Returns:
        Scale, shift and head, in float64.
    """
    scale, shift, head, bias = (tensor.double() for tensor in (scale, shift, head, bias))
    columns = head * scale  # of the normalised values, whose sum is 0
    free = int(columns.norm(dim=0).argmin())  # the channel that matters least moves with the least rounding
    folded = columns - columns[:, free : free + 1]
    folded[:, free] = bias + head @ shift
    constant = torch.zeros_like(scale)
    constant[free] = 1.0
    return 1.0 - constant, constant, folded


@torch.no_grad()
def _grow(language: nn.Module, tokens: int, pad: int) -> None:
    """Room for the image token; new rows are the pad token's, which no answer contains."""
    before = language.get_input_embeddings().num_embeddings
    language.resize_token_embeddings(tokens, pad_to_multiple_of=64, mean_resizing=False)
    head = language.get_output_embeddings()
    for rows in (language.get_input_embeddings().weight, head.weight, head.bias):
        if rows is not None:
            rows[before:] = rows[pad]


def _processor(model: MultimodalModel, tokenizer: PreTrainedTokenizerBase) -> LlavaProcessor:
    vision, prompt = model.config.vision, model.config.prompt
    size = vision.image_size
    squash = vision.fit == "squash"
    images = CLIPImageProcessor(
        size={"height": size, "width": size} if squash else {"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_center_crop=not squash,
        image_mean=list(vision.mean),
        image_std=list(vision.std),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=model.vision.model.config.patch_size,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,  # the class token
        chat_template=chat_template(prompt, tokenizer.decode([prompt.end_of_image])),
    )


def chat_template(prompt, end_of_image: str) -> str:
    """`shared/prompt.py`'s format as a Jinja template.

    Its text is tokenised in one piece, so that tokens may differ where segments meet; exact ids are
    `PromptBuilder`'s.
    """

    def quoted(text: str) -> str:
        return "{{ " + repr(text) + " }}"

    image = quoted(IMAGE_TOKEN + end_of_image)
    content = (
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% endif %}{% endfor %}"
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endif %}"
    )
    sides = {
        "system": prompt.system,
        "user": prompt.user,
        "assistant": (prompt.assistant, prompt.end),
    }
    turns = ""
    for index, (role, (before, after)) in enumerate(sides.items()):
        turns += "{% " + ("if" if index == 0 else "elif") + f" message['role'] == '{role}' %}}"
        turns += quoted(before) + content + quoted(after)
        if role == "assistant":
            turns += "{% if not loop.last %}" + quoted(prompt.between) + "{% endif %}"
    return (
        quoted(prompt.bos) + "{% for message in messages %}" + turns + "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}" + quoted(prompt.assistant) + "{% endif %}"
    )
