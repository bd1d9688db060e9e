"""Scheduled sampling: the ratio's cycles, which tokens are replaced, and by what, also in a token tree."""

import itertools
import math

import pytest
import torch

from shared.checkpoint import build_model
from shared.config import load_preset
from shared.prompt import IGNORE_INDEX, Message, question_content
from trainer.data.packing import collate, pack_dialogues
from trainer.data.steps import Batch
from trainer.objective import Objective
from trainer.teacher_forcing import draw_replaced, teacher_forcing_ratio


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_ratio_falls_from_one_in_every_cycle(shape):
    ratios = [teacher_forcing_ratio(step, 100, shape=shape, cycles=4, low=0.4) for step in range(100)]
    assert ratios[0] == ratios[25] == ratios[50] == 1
    assert all(later <= earlier for earlier, later in itertools.pairwise(ratios[:25]))
    assert min(ratios) == pytest.approx(0.4, abs=0.03) and min(ratios) >= 0.4
    middle = {"linear": 1 - 0.6 * 12 / 25, "cosine": 1 - 0.6 * 0.5 * (1 - math.cos(math.pi * 12 / 25))}
    assert ratios[12] == pytest.approx(middle[shape])


def test_the_draw_spares_ends_and_treats_a_shared_token_alike():
    targets = torch.tensor([4, 5, 6, 4, 5, 7])
    labels = torch.tensor([10, 11, 2, 10, 11, 12])
    drawn = [draw_replaced(targets, labels, 0.5, end_token_id=2, seed=[0, s]).tolist() for s in range(200)]
    assert all(2 not in one for one in drawn)
    assert all((0 in one) == (3 in one) and (1 in one) == (4 in one) for one in drawn)
    assert 0.4 < sum(5 in one for one in drawn) / 200 < 0.6
    assert draw_replaced(targets, labels, 1.0, end_token_id=2, seed=[0]).tolist() == []
    assert draw_replaced(targets, labels, 0.0, end_token_id=2, seed=[0]).tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("kind", ["llama", "phi"])
def test_a_tree_learns_from_the_models_own_tokens_as_its_dialogues_would_one_by_one(tiny_preset, kind):
    torch.manual_seed(0)
    model = build_model(load_preset(str(tiny_preset(kind))), dtype="float32", attn_implementation="eager")
    pairs = [
        ("What colour is it?", "It is red."),
        ("What colour is it?", "It is blue."),
        ("Is it red?", "No."),
    ]
    dialogues = [
        model.prompt.encode_dialogue(
            [Message("user", question_content(question, images=1)), Message("assistant", (answer,))]
        )
        for question, answer in pairs
    ]
    features = torch.randn(1, model.vision.num_patches, model.vision.width)
    [pack] = pack_dialogues("image", dialogues, 512)
    packed = collate([[pack]], model.tokenizer.pad_token_id)
    everything = draw_replaced(
        packed.targets, packed.labels, 0.0, end_token_id=model.prompt.end_token_id, seed=[0]
    )
    ours = Objective(model)(Batch(packed, features, replaced=everything))

    expected = torch.zeros(())
    for dialogue in dialogues:
        ids = torch.tensor([dialogue.input_ids])
        predicted = model(ids, features).logits[0].argmax(-1)
        for place, label in enumerate(dialogue.labels):
            if label not in (IGNORE_INDEX, model.prompt.end_token_id):
                ids[0, place] = predicted[place - 1]
        logits = model(ids, features).logits[0, :-1]
        labels = torch.tensor(dialogue.labels[1:])
        expected = expected + torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORE_INDEX, reduction="sum"
        )
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    gold = Objective(model)(Batch(packed, features))
    assert not torch.isclose(ours, gold)
