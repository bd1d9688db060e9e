"""Prefix-tree packing: the same loss and gradients as the dialogues one by one."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from shared.checkpoint import build_model
from shared.config import load_preset
from shared.prompt import IGNORE_INDEX, Message, question_content
from trainer.data.packing import collate, pack_dialogues


def dialogue(model, question, answer, images=1):
    turns = [Message("user", question_content(question, images=images)), Message("assistant", (answer,))]
    return model.prompt.encode_dialogue(turns)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "phi", "phi3"])
@pytest.mark.parametrize("side_by_side", [False, True])
def test_loss_and_gradients_equal_the_separate_dialogues(tiny_preset, kind, attention, side_by_side):
    torch.manual_seed(0)
    model = build_model(load_preset(str(tiny_preset(kind))), dtype="float32", attn_implementation=attention)
    groups = [
        [
            ("What colour is it?", "It is red."),
            ("What colour is it?", "It is red and blue."),
            ("Is it red?", "Yes."),
        ],
        [("What colour is it?", "No.")],
    ]
    features = torch.randn(len(groups), model.vision.num_patches, model.vision.width)
    encoded = [[dialogue(model, *pair) for pair in group] for group in groups]
    packs = [pack for group in encoded for pack in pack_dialogues("image", group, 512)]
    rows = [packs] if side_by_side else [[pack] for pack in packs]
    batch = collate(rows, model.tokenizer.pad_token_id)
    hidden = model.hidden_states(
        model.embed(batch.input_ids, model.project(features)),
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
    )
    logits = model.logits(hidden.flatten(0, 1)[batch.predictors])
    packed = cross_entropy(logits, batch.labels, reduction="sum")
    gradients = torch.autograd.grad(packed, list(model.projector.parameters()))

    single = torch.zeros(())
    for index, group in enumerate(encoded):
        for one in group:
            output = model(torch.tensor([one.input_ids]), features[index : index + 1])
            labels = torch.tensor(one.labels)
            assert int((labels != IGNORE_INDEX).sum()) > 1
            single = single + cross_entropy(
                output.logits[0, :-1], labels[1:], reduction="sum", ignore_index=IGNORE_INDEX
            )
    reference = torch.autograd.grad(single, list(model.projector.parameters()))
    assert sum(len(pack) for pack in packs) < sum(len(one) for group in encoded for one in group)
    torch.testing.assert_close(packed, single, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(gradients, reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_shared_prefix_is_stored_once_and_every_answer_keeps_its_labels(tiny_preset):
    model = build_model(load_preset(str(tiny_preset())), dtype="float32")
    first, second = (
        dialogue(model, "What colour is it?", "It is red."),
        dialogue(model, "What colour is it?", "No."),
    )
    [pack] = pack_dialogues("a", [first, second], 512)
    prompt = len(first) - sum(label != IGNORE_INDEX for label in first.labels)
    assert len(pack) == len(first) + len(second) - prompt
    assert pack.labels == [label for one in (first, second) for label in one.labels if label != IGNORE_INDEX]


def test_packs_keep_to_the_token_limit_and_lose_nothing(tiny_preset):
    model = build_model(load_preset(str(tiny_preset())), dtype="float32")
    many = [dialogue(model, f"Is it {number}?", f"It is {number}.") for number in range(30)]
    packs = pack_dialogues("a", many, 64)
    assert all(len(pack) <= 64 for pack in packs) and len(packs) > 1
    assert sum(len(pack.labels) for pack in packs) == sum(
        label != IGNORE_INDEX for one in many for label in one.labels
    )
