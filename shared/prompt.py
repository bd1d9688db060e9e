"""THE prompt: a dialogue becomes token ids with image slots and, for training, labels.

Training and serving both call this module, so they cannot drift apart. Segments are tokenised one by
one and joined, so the ids before an answer never depend on the answer. What a user wrote is never
parsed for special tokens. Labels come from token spans: an answer and the token that ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shared.config import PromptConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE_TOKEN_ID = -200  # LLaVA's IMAGE_TOKEN_INDEX; here one per visual token
IGNORE_INDEX = -100


@dataclass(frozen=True)
class Image:
    """The place of one image in a message."""


@dataclass(frozen=True)
class Message:
    """One turn: text and image places in order."""

    role: Literal["system", "user", "assistant"]
    content: tuple[str | Image, ...]

    @property
    def num_images(self) -> int:
        return sum(isinstance(part, Image) for part in self.content)


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids of a dialogue.

    `input_ids` holds `IMAGE_TOKEN_ID` once per visual token; `labels`, of the same length, holds
    `IGNORE_INDEX` wherever nothing is learned, and is None for a prompt to generate from.
    """

    input_ids: list[int]
    labels: list[int] | None
    num_images: int

    def __len__(self) -> int:
        return len(self.input_ids)


class PromptTooLong(ValueError):
    """A dialogue does not fit even after its oldest turns were dropped."""


def question_content(question: str, transcript: str = "", images: int = 0) -> tuple[str | Image, ...]:
    """The order of a question's parts: images, the transcript of the audio, the question."""
    text = "\n".join(part for part in (transcript.strip(), question.strip()) if part)
    return (*(Image() for _ in range(images)), text)


class PromptBuilder:
    """Encodes dialogues for one tokenizer, prompt format and number of visual tokens per image."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig, image_tokens: int):
        self.config = config
        self.image_tokens = image_tokens
        self._tokenizer = tokenizer
        self._bos = self._template(config.bos)
        self._system = [self._template(text) for text in config.system]
        self._user = [self._template(text) for text in config.user]
        self._assistant = self._template(config.assistant)
        self._end = self._template(config.end)
        self._between = self._template(config.between)
        self._image = [IMAGE_TOKEN_ID] * image_tokens + [config.end_of_image]
        if not self._end:
            raise ValueError("prompt.end must be at least one token: it is what stops an answer")

    @property
    def end_token_id(self) -> int:
        """The token that ends an answer: learned in training, the stop in generation."""
        return self._end[0]

    def encode(self, messages: list[Message]) -> EncodedPrompt:
        """A prompt to generate from: the dialogue, then the header of the answer to come.

        Raises:
            ValueError: the dialogue is empty or does not end with the user's turn.
        """
        if not messages or messages[-1].role != "user":
            raise ValueError("a prompt must end with a user's turn")
        ids = [token for token, _ in self._tokens(messages)] + self._assistant
        return EncodedPrompt(ids, None, sum(message.num_images for message in messages))

    def encode_dialogue(self, messages: list[Message]) -> EncodedPrompt:
        """A dialogue to learn from: labels on every answer and the token that ends it.

        Raises:
            ValueError: the dialogue has no answer, so nothing would be learned.
        """
        tokens = self._tokens(messages)
        labels = [token if learned else IGNORE_INDEX for token, learned in tokens]
        if all(label == IGNORE_INDEX for label in labels):
            raise ValueError("a dialogue without an answer teaches nothing")
        return EncodedPrompt([token for token, _ in tokens], labels, sum(m.num_images for m in messages))

    def turn_length(self, message: Message, *, last: bool = False) -> int:
        """Tokens that a turn takes in its dialogue; `last`: nothing follows it."""
        return len(self._turn(message, last))

    def _tokens(self, messages: list[Message]) -> list[tuple[int, bool]]:
        """(id, learned) of every token."""
        tokens = [(token, False) for token in self._bos]
        for index, message in enumerate(messages):
            tokens += self._turn(message, last=index == len(messages) - 1)
        return tokens

    def _turn(self, message: Message, last: bool) -> list[tuple[int, bool]]:
        content = self._content(message)
        if message.role != "assistant":
            before, after = self._system if message.role == "system" else self._user
            return [(token, False) for token in before + content + after]
        between = [] if last else self._between
        return [
            *((token, False) for token in self._assistant),
            *((token, True) for token in content + self._end),
            *((token, False) for token in between),
        ]

    def _content(self, message: Message) -> list[int]:
        ids: list[int] = []
        for part in message.content:
            ids += self._image if isinstance(part, Image) else self._text(part)
        return ids

    def _text(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def _template(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False).input_ids if text else []


def drop_oldest_turns(
    builder: PromptBuilder, messages: list[Message], max_tokens: int
) -> tuple[list[Message], int]:
    """Shorten a dialogue to `max_tokens` by dropping its oldest questions, each with the answers to it.

    A system turn at the beginning stays, and images of dropped turns move to the oldest turn kept: a slot is
    never cut.

    Returns:
        The messages kept and how many turns were dropped.

    Raises:
        PromptTooLong: the last question alone is longer than `max_tokens`.
    """
    learning = messages[-1].role == "assistant"
    length = len(builder.encode_dialogue(messages) if learning else builder.encode(messages))
    system = [message for message in messages[:1] if message.role == "system"]
    turns = messages[len(system) :]
    total = len(turns)
    while length > max_tokens:
        cut = next((i for i, turn in enumerate(turns) if i and turn.role == "user"), None)
        if cut is None:
            raise PromptTooLong(f"{length} tokens in its last turn, {max_tokens} allowed")
        images = [part for turn in turns[:cut] for part in turn.content if isinstance(part, Image)]
        oldest = Message("user", (*images, *turns[cut].content))
        length += builder.turn_length(oldest) - builder.turn_length(turns[cut])
        length -= sum(builder.turn_length(turn) for turn in turns[:cut])
        turns = [oldest, *turns[cut + 1 :]]
    return [*system, *turns], total - len(turns)
