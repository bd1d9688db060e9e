"""Text while it comes: whole characters, right spaces, and stop strings however the tokens are cut."""

import pytest

from service.engine.text import TextStream
from shared.config import load_preset
from shared.language import load_tokenizer

TEXTS = [
    "A brown dog runs on the beach.",
    "  leading spaces,\n\nnew lines\tand tabs ",
    "Zürich, 水曜日, Ελλάδα — naïve 👩‍👩‍👧 family 🏔️",
    "",
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(load_preset("embedded").language)


def stream(tokenizer, text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    pieces = TextStream(tokenizer, stop)
    out = []
    for token in tokenizer(text, add_special_tokens=False).input_ids:
        out.append(pieces.push(token))
        if pieces.stopped:
            break
    out.append(pieces.flush())
    return out, pieces.stopped


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_make_up_the_text_and_are_whole_characters(tokenizer, text: str):
    pieces, stopped = stream(tokenizer, text)
    assert "".join(pieces) == text
    assert not stopped
    assert all("\ufffd" not in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS[:3])
def test_every_stop_string_is_found_wherever_it_lies(tokenizer, text: str):
    for start in range(len(text)):
        for length in (1, 2, 7):
            stop = text[start : start + length]
            pieces, stopped = stream(tokenizer, text, ("never there", stop))
            assert "".join(pieces) == text[: text.index(stop)], repr(stop)
            assert stopped


def test_a_near_miss_of_a_stop_string_is_not_lost(tokenizer):
    pieces, stopped = stream(tokenizer, "one two thre", ("two three",))
    assert "".join(pieces) == "one two thre"
    assert not stopped


def test_an_incomplete_character_at_the_end_is_dropped(tokenizer):
    tokens = tokenizer("ok 👩", add_special_tokens=False).input_ids
    pieces = TextStream(tokenizer)
    text = "".join(pieces.push(token) for token in tokens[:-1]) + pieces.flush()
    assert text == "ok "
