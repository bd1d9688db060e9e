"""Log-probabilities of an answer's tokens, in the form of OpenAI's chat completions."""

import re
from functools import cache

from pydantic import BaseModel, Field
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from service.engine.interface import TokenEvent


class TokenProbability(BaseModel):
    """A token and how likely the model found it, before temperature and penalties."""

    token: str = Field(description="Its text; a part of a character shows as U+FFFD.")
    logprob: float = Field(description="Natural logarithm of its probability.")
    bytes: list[int] = Field(description="Its text in UTF-8, exact also for a part of a character.")


class TokenLogprob(TokenProbability):
    """A token of the answer, and what else the model found likely in its place."""

    top_logprobs: list[TokenProbability]


_LOWEST = -9999.0  # what OpenAI reports for a token that cannot come; JSON has no -inf


def token_logprobs(
    tokenizer: PreTrainedTokenizerBase, events: list[TokenEvent], eos_token_ids: tuple[int, ...]
) -> list[TokenLogprob]:
    """The tokens of `events` but for the one that ends the answer, which is not part of its text."""
    return [
        TokenLogprob(
            **_probability(tokenizer, event.token_id, event.logprob),
            top_logprobs=[_probability(tokenizer, *top) for top in event.top_logprobs],
        )
        for event in events
        if event.token_id not in eos_token_ids
    ]


def _probability(tokenizer: PreTrainedTokenizerBase, token_id: int, logprob: float) -> dict:
    data = token_bytes(tokenizer, token_id)
    return {
        "token": data.decode("utf-8", errors="replace"),
        "logprob": max(logprob, _LOWEST),
        "bytes": list(data),
    }


def token_bytes(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bytes:
    """The UTF-8 bytes that a token stands for, of a byte-level or a SentencePiece vocabulary."""
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if piece is None or token_id in tokenizer.all_special_ids:
        return (piece or "").encode()
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
        return bytes.fromhex(byte[1])
    characters = _byte_of_character()
    if all(character in characters for character in piece):
        data = bytes(characters[character] for character in piece)
        # A vocabulary of plain text has such characters too, but they stand for themselves.
        if data.decode("utf-8", errors="replace") == tokenizer.decode([token_id]):
            return data
    return piece.replace("▁", " ").encode()  # SentencePiece's space


@cache
def _byte_of_character() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary (GPT-2's)."""
    return {character: byte for byte, character in bytes_to_unicode().items()}
