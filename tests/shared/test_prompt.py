"""The prompt: order of the parts, labels from spans, no special tokens out of a user's text, truncation."""

import pytest

from shared.checkpoint import build_model
from shared.config import load_preset
from shared.prompt import (
    IGNORE_INDEX,
    IMAGE_TOKEN_ID,
    Image,
    Message,
    PromptBuilder,
    PromptTooLong,
    drop_oldest_turns,
    question_content,
)


@pytest.fixture(scope="module")
def model(tiny_preset):
    return build_model(load_preset(str(tiny_preset())), dtype="float32")


def user(*parts):
    return Message("user", parts)


def assistant(text):
    return Message("assistant", (text,))


def text_ids(model, text):
    return model.tokenizer(text, add_special_tokens=False).input_ids


def test_images_then_end_of_image_then_transcript_then_question(model):
    encoded = model.prompt.encode([Message("user", question_content("Why?", "Hello there.", images=2))])
    image = [IMAGE_TOKEN_ID] * model.vision.num_patches + [model.config.prompt.end_of_image]
    assert encoded.input_ids[: 2 * len(image)] == image * 2
    assert model.tokenizer.decode(encoded.input_ids[2 * len(image) :]) == "Hello there.\nWhy?\n"
    assert encoded.num_images == 2 and encoded.labels is None


def test_labels_are_the_answers_and_their_ends_and_nothing_else(model):
    messages = [user(Image(), "Is it red?"), assistant("Yes."), user("Yes."), assistant("No.")]
    encoded = model.prompt.encode_dialogue(messages)
    learned = [label for label in encoded.labels if label != IGNORE_INDEX]
    end = [model.prompt.end_token_id]
    assert learned == text_ids(model, "Yes.") + end + text_ids(model, "No.") + end
    assert all(
        label in (IGNORE_INDEX, token) for label, token in zip(encoded.labels, encoded.input_ids, strict=True)
    )


def test_the_prompt_of_training_is_the_prompt_of_serving(model):
    question = [user(Image(), "Is it red?")]
    prompt = model.prompt.encode(question).input_ids
    dialogue = model.prompt.encode_dialogue([*question, assistant("Yes.")])
    assert dialogue.input_ids[: len(prompt)] == prompt
    assert dialogue.labels[: len(prompt)] == [IGNORE_INDEX] * len(prompt)


def test_what_a_user_writes_never_becomes_a_special_token_or_an_image(model):
    encoded = model.prompt.encode([user("a <end> b <s> <pad> <image>")])
    special = set(model.tokenizer.all_special_ids) | {IMAGE_TOKEN_ID}
    assert not special & set(encoded.input_ids)
    assert "<end>" in model.tokenizer.decode(encoded.input_ids)


def test_a_dialogue_without_an_answer_is_an_error(model):
    with pytest.raises(ValueError, match="teaches nothing"):
        model.prompt.encode_dialogue([user("Is it red?")])
    with pytest.raises(ValueError, match="user's turn"):
        model.prompt.encode([user("a"), assistant("b")])


def test_truncation_drops_the_oldest_turns_and_never_an_image(model):
    turns = [user(Image(), "Is it red? " * 10), assistant("Yes."), user("Is it blue?")]
    kept, dropped = drop_oldest_turns(model.prompt, turns, 40)
    assert dropped == 2 and kept[0].num_images == 1 and kept[0].content[-1] == "Is it blue?"
    assert len(model.prompt.encode(kept)) <= 40
    assert drop_oldest_turns(model.prompt, turns, 500) == (turns, 0)
    with pytest.raises(PromptTooLong, match="40 allowed"):
        drop_oldest_turns(model.prompt, [user("Is it red? " * 30)], 40)


def test_truncation_counts_as_the_encoder_does_whatever_the_order_of_turns(model):
    system = Message("system", ("Be brief.",))
    turns = [assistant("Hello."), user(Image(), "One?"), user("Two?"), assistant("Yes."), user("Three?")]
    whole = len(model.prompt.encode([system, *turns]))
    lengths = set()
    for limit in range(20, whole + 1):
        try:
            kept, dropped = drop_oldest_turns(model.prompt, [system, *turns], limit)
        except PromptTooLong:
            continue
        lengths.add(len(model.prompt.encode(kept)))
        assert len(model.prompt.encode(kept)) <= limit
        assert kept[0] == system and kept[-1].content[-1] == "Three?"
        assert len(kept) + dropped == 6 and sum(message.num_images for message in kept) == 1
    assert len(lengths) == 4, "nothing, the greeting, then each question with its answers"


def test_an_empty_end_is_refused(model):
    config = model.config.prompt.model_copy(update={"end": ""})
    with pytest.raises(ValueError, match="stops an answer"):
        PromptBuilder(model.tokenizer, config, 4)
