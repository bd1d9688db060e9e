"""Several sampled answers to each of a batch of prompts; each prompt is computed once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from shared.model import MultimodalModel

Prompt = tuple[list[int], Tensor]


@torch.no_grad()
def sample_answers(
    model: MultimodalModel,
    prompts: list[Prompt],
    count: int,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: list[int],
) -> list[list[list[int]]]:
    """Answers drawn from the model's distribution at a temperature, no token cut off.

    Args:
        prompts: (token ids with image slots, features `[images, patches, width]`) of each.
        count: answers to each.
        seed: of the draws; the same model, prompts and seed give the same answers.

    Returns:
        `[prompts][count]` lists of token ids; the last one ends the answer, unless `max_new_tokens` did.
    """
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    generator = torch.Generator(model.device).manual_seed(state)
    past_key_values = DynamicCache(config=model.causal_lm.config)
    embeds, mask = model.embed_prompts(prompts)
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = _logits(model, past_key_values, mask, position_ids, inputs_embeds=embeds)

    past_key_values.batch_repeat_interleave(count)
    logits, mask = logits.repeat_interleave(count, 0), mask.repeat_interleave(count, 0)
    position = position_ids[:, -1:].repeat_interleave(count, 0)
    ends = torch.tensor(model.eos_token_ids, device=model.device)
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    alive = list(range(len(logits)))  # the answer that each row of the batch continues
    for step in range(max_new_tokens):
        tokens = torch.multinomial((logits.float() / temperature).softmax(-1), 1, generator=generator)
        for answer, token in zip(alive, tokens[:, 0].tolist(), strict=True):
            answers[answer].append(token)
        going = (~torch.isin(tokens[:, 0], ends)).nonzero()[:, 0]
        if len(going) == 0 or step == max_new_tokens - 1:
            break
        if len(going) < len(alive):
            past_key_values.batch_select_indices(going)
            tokens, mask, position = tokens[going], mask[going], position[going]
            alive = [alive[row] for row in going.tolist()]
        mask = nn.functional.pad(mask, (0, 1), value=1)
        position = position + 1
        logits = _logits(model, past_key_values, mask, position, input_ids=tokens)
    return [answers[start : start + count] for start in range(0, len(answers), count)]


def _logits(
    model: MultimodalModel,
    past_key_values: DynamicCache,
    mask: Tensor,
    position_ids: Tensor,
    **inputs: Tensor,
) -> Tensor:
    """Logits `[batch, vocabulary]` behind the last token."""
    output = model.causal_lm.get_decoder()(
        **inputs,
        attention_mask=mask,
        position_ids=position_ids,
        cache=past_key_values,
        use_cache=True,
    )
    return model.logits(output.last_hidden_state[:, -1])
