"""Learning from a reward: the score is CIDEr-D, the samples are the model's, good answers become likelier."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from shared.checkpoint import build_model
from shared.config import load_preset
from shared.prompt import Image, Message
from trainer.cider import Cider
from trainer.config import PrepareConfig, TrainConfig
from trainer.data.prepare import prepare
from trainer.sampling import sample_answers
from trainer.stages import finetune, pretrain

COMMON = {
    "dtype": "float32", "batch_tokens": 200, "max_tokens": 128, "device": "cpu", "log_every": 1, "samples": 0,
    "checkpoint_every": 1000, "validate_every": 1000, "lora_rank": 4, "mirror": True, "lora_dropout": 0.1,
}  # fmt: skip
CRITICAL = {
    "self_critical": ["colour"], "self_critical_samples": 4, "self_critical_tokens": 12,
    "self_critical_temperature": 1.2, "accumulation": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tiny_preset, colour_records, tmp_path_factory):
    records, images = colour_records
    out = tmp_path_factory.mktemp("prepared")
    prepare(PrepareConfig(annotations=[records], images=[images], out=out, preset=str(tiny_preset())))
    return out


@pytest.fixture(scope="module")
def learned(data, tiny_preset, tmp_path_factory):
    """A model that has learned its colours half."""
    root = tmp_path_factory.mktemp("runs")
    assert pretrain(TrainConfig(
        **COMMON, data=data, out=root / "first", preset=str(tiny_preset()), max_steps=10, learning_rate=3e-3
    ))  # fmt: skip
    assert finetune(TrainConfig(
        **COMMON, data=data, out=root / "second", init=root / "first/final", max_steps=60, learning_rate=3e-3
    ))  # fmt: skip
    return root / "second" / "final"


def rewards(out) -> list[float]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [row["reward"] for row in rows if "reward" in row]


def test_the_score_is_pycocoevalcap_s(flickr_photos):
    from pycocoevalcap.cider.cider import Cider as Reference

    split = {p.path.name: [tuple(c.lower().rstrip(" .").split()) for c in p.captions] for p in flickr_photos}
    names = list(split)
    said = {name: split[name][0] for name in names[::2]}
    said |= {name: split[other][0] for name, other in zip(names[1::2], names[::2], strict=False)}
    references = {name: split[name][1:] for name in said}
    _, expected = Reference().compute_score(
        {name: [" ".join(words) for words in texts] for name, texts in references.items()},
        {name: [" ".join(words)] for name, words in said.items()},
    )
    cider = Cider(references.values())
    ours = [cider.score(said[name], references[name]) for name in references]
    assert ours == pytest.approx(expected.tolist(), rel=1e-9)
    assert cider.score((), references[names[0]]) == 0


@pytest.mark.parametrize("kind", ["llama", "phi", "phi3"])
def test_samples_of_a_model_without_doubt_are_transformers_greedy_answers(tiny_preset, kind):
    torch.manual_seed(0)
    model = build_model(load_preset(str(tiny_preset(kind))), dtype="float32").eval()
    with torch.no_grad():
        model.causal_lm.get_output_embeddings().weight.mul_(1e4)
    questions = ["Is it red?", "What colour is it, and how do you know?"]
    features = torch.randn(2, 1, model.vision.num_patches, model.vision.width)
    messages = [[Message("user", (Image(), question))] for question in questions]
    prompts = [
        (model.prompt.encode(turns).input_ids, image) for turns, image in zip(messages, features, strict=True)
    ]
    sampled = sample_answers(model, prompts, 3, max_new_tokens=9, temperature=1.0, seed=[1])
    expected = model.answer(list(zip(messages, features, strict=True)), max_new_tokens=9)
    for answers, text in zip(sampled, expected, strict=True):
        assert len(answers) == 3 and answers[0] == answers[1] == answers[2]
        assert model.tokenizer.decode(answers[0], skip_special_tokens=True).strip() == text


def test_samples_follow_the_model_s_distribution_and_their_seed(tiny_preset):
    torch.manual_seed(0)
    model = build_model(load_preset(str(tiny_preset())), dtype="float32").eval()
    ids = model.prompt.encode([Message("user", (Image(), "Is it red?"))]).input_ids
    features = torch.randn(1, model.vision.num_patches, model.vision.width)
    with torch.no_grad():
        model.causal_lm.get_output_embeddings().weight.mul_(20)
        expected = model(torch.tensor([ids]), features).logits[0, -1].div(2.0).softmax(-1)
    [answers] = sample_answers(model, [(ids, features)], 4000, max_new_tokens=1, temperature=2.0, seed=[5])
    counts = torch.bincount(torch.tensor(answers)[:, 0], minlength=len(expected)) / 4000
    likely = expected > 0.01
    assert likely.any()
    error = 4 * (expected * (1 - expected) / 4000).sqrt()
    assert ((counts - expected).abs() < error)[likely].all()
    again = sample_answers(model, [(ids, features)], 4000, max_new_tokens=1, temperature=2.0, seed=[5])
    other = sample_answers(model, [(ids, features)], 4000, max_new_tokens=1, temperature=2.0, seed=[6])
    assert again == [answers] != other


def test_rewarded_answers_become_likelier_and_a_resumed_run_ends_in_the_same_bits(data, learned, tmp_path):
    settings = COMMON | CRITICAL | {"data": data, "init": learned, "max_steps": 30, "learning_rate": 1e-3}
    assert finetune(TrainConfig(**settings, out=tmp_path / "whole"))
    reward = rewards(tmp_path / "whole")
    assert len(reward) == 30
    assert sum(reward[-8:]) > 1.1 * sum(reward[:8])

    # The same, stopped by a checkpoint that a killed run would have left
    torch.manual_seed(99)
    stopped = settings | {"out": tmp_path / "stopped", "checkpoint_every": 13, "keep_checkpoints": 9}
    assert finetune(TrainConfig(**stopped))
    for late in ("step-000026", "step-000030"):
        shutil.rmtree(tmp_path / "stopped" / "checkpoints" / late)
    shutil.rmtree(tmp_path / "stopped" / "final")
    torch.manual_seed(98)
    assert finetune(TrainConfig(**stopped, resume=True))
    for name in ("projector.safetensors", "adapter/adapter_model.safetensors"):
        ours, theirs = (load_file(tmp_path / run / "final" / name) for run in ("whole", "stopped"))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"self_critical": ["songs"]}, "self_critical: no record of .* is of the kind songs"),
        ({"self_critical": ["text"]}, "a kind of plain text has no people's answers"),
        ({"self_critical": ["colour"], "teacher_forcing": "linear"}, "leave teacher_forcing off"),
        ({"self_critical": ["colour"], "self_critical_samples": 1}, "greater than or equal to 2"),
    ],
)
def test_what_cannot_be_rewarded_is_refused(data, learned, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        finetune(TrainConfig(**COMMON, **changes, data=data, out=tmp_path / "run", init=learned, max_steps=1))
