"""Tokens to text while they come: whole characters only, and stop strings seen before they are sent.

A character may span tokens and a stop string may span characters, so text is held back while its end could
still change: an incomplete UTF-8 sequence, or the beginning of a stop string. The two-offset decoding is
text-generation-inference's and vLLM's; it keeps spaces right for tokenizers that strip a leading one.
"""

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
"""What a tokenizer makes of an incomplete UTF-8 sequence."""


class TextStream:
    """The text of one answer.

    Attributes:
        stopped: a stop string was met; nothing comes after it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...] = ()) -> None:
        self.stopped = False
        # What is below transformers' wrapper, which takes ten times as long for a few tokens.
        self._tokenizer = getattr(tokenizer, "backend_tokenizer", None)
        self._wrapper = tokenizer
        self._stop = stop
        self._ids: list[int] = []
        self._prefix = 0  # first token of the context that is decoded again with each new token
        self._read = 0  # tokens whose text is out
        self._held = ""

    def push(self, token_id: int) -> str:
        """The text that is final once `token_id` has come, maybe empty."""
        self._ids.append(token_id)
        before = self._decode(self._prefix, self._read)
        after = self._decode(self._prefix, len(self._ids))
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return self._release(after[len(before) :])

    def flush(self) -> str:
        """What was held back, at the end of the answer; an incomplete character is dropped."""
        before = self._decode(self._prefix, self._read)
        after = self._decode(self._prefix, len(self._ids)).rstrip(REPLACEMENT)
        rest = self._release(after[len(before) :]) + self._held
        self._held = ""
        return rest

    def _decode(self, start: int, end: int) -> str:
        ids = self._ids[start:end]
        if self._tokenizer is not None:
            return self._tokenizer.decode(ids, skip_special_tokens=True)
        return self._wrapper.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = max((self._overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
