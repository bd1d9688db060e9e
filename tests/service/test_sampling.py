"""Sampling: every feature against transformers' own logits processors, on logits that are given."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from service.engine.interface import SamplingParams
from service.engine.sampling import Sampler

VOCABULARY = 600
DRAWS = 4000


def spread_logits(seed: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0},
        {"temperature": 0.4},
        {"temperature": 1.7, "top_k": 12},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 2.5, "top_p": 0.99},
        {"temperature": 0.8, "top_p": 0.001},
        {"temperature": 1.3, "top_k": 40, "top_p": 0.8},
        {"temperature": 1.0, "top_k": 10_000},
        {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.4},
    ],
    ids=str,
)
def test_draws_follow_the_distribution_of_transformers(params: dict):
    logits = spread_logits(1)
    prompt = [3, 5, 5, -200, int(logits.argmax())]
    processors = LogitsProcessorList()
    if "repetition_penalty" in params:
        processors.append(RepetitionPenaltyLogitsProcessor(params["repetition_penalty"]))
    processors.append(TemperatureLogitsWarper(params["temperature"]))
    if "top_k" in params:
        processors.append(TopKLogitsWarper(params["top_k"]))
    if "top_p" in params:
        processors.append(TopPLogitsWarper(params["top_p"]))
    text = torch.tensor([[token for token in prompt if token >= 0]])
    expected = processors(text, logits[None].clone())[0].softmax(0)

    draws = [
        Sampler(SamplingParams(1, **params), seed, prompt).choose(logits).token_id for seed in range(DRAWS)
    ]
    counts = torch.bincount(torch.tensor(draws), minlength=VOCABULARY)
    assert counts[expected == 0].sum() == 0
    # Standard deviations of each count; the chance of one above 5.5 is below 1 in 10,000.
    deviation = (counts - DRAWS * expected).abs() / (DRAWS * expected * (1 - expected)).clamp(min=1).sqrt()
    assert deviation.max() < 5.5
    assert 0.5 * (counts / DRAWS - expected).abs().sum() < 1.6 * (expected > 0).sum().sqrt() / DRAWS**0.5


def test_repetition_penalty_is_that_of_transformers_over_prompt_and_answer():
    sampler = Sampler(SamplingParams(20, repetition_penalty=1.8), 0, [7, 9, -200])
    ids = [7, 9]
    for step in range(20):
        logits = spread_logits(step // 4)
        expected = RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([ids]), logits[None].clone())
        token = sampler.choose(logits).token_id
        assert token == int(expected.argmax())
        ids.append(token)


def test_presence_and_frequency_penalties_count_the_answer_alone():
    params = SamplingParams(30, presence_penalty=0.7, frequency_penalty=0.9)
    logits = spread_logits(3)
    prompt = [int(logits.argmax())]
    sampler, answer = Sampler(params, 0, prompt), []
    for _ in range(30):
        counts = torch.bincount(torch.tensor(answer, dtype=torch.long), minlength=VOCABULARY)
        expected = logits - 0.7 * (counts > 0) - 0.9 * counts
        answer.append(sampler.choose(logits).token_id)
        assert answer[-1] == int(expected.argmax())
    assert answer[0] == prompt[0]
    assert len(set(answer)) > 5


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_those_of_the_model_before_penalties_and_temperature(temperature: float):
    params = SamplingParams(1, temperature=temperature, logprobs=4, presence_penalty=2.0, top_k=3)
    logits = spread_logits(4)
    choice = Sampler(params, 1).choose(logits)
    expected = logits.log_softmax(0)
    assert choice.logprob == pytest.approx(float(expected[choice.token_id]))
    assert [token for token, _ in choice.top_logprobs] == expected.topk(4).indices.tolist()
    assert [value for _, value in choice.top_logprobs] == pytest.approx(expected.topk(4).values.tolist())
    alone = Sampler(SamplingParams(1, logprobs=0), 1).choose(logits)
    assert alone.logprob is not None
    assert alone.top_logprobs == ()


def test_a_seed_repeats_its_choices_and_another_does_not():
    params = SamplingParams(50, temperature=1.5)

    def choices(seed: int) -> list[int]:
        sampler = Sampler(params, seed)
        return [sampler.choose(spread_logits(step)).token_id for step in range(50)]

    assert choices(1) == choices(1) != choices(2)
