"""JSON and JSONL of any size, one value after the other: memory holds a block of text and one value.

`json`'s own C scanner on a sliding block: no slower than ijson with its C backend (benchmarks/prepare.py), and it
says where a file is broken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

BLOCK = 1 << 20  # characters read at a time
MAX_VALUE = 1 << 26  # characters of one element; more is a broken file, or none of ours

_decode = json.JSONDecoder().raw_decode
_SPACE = " \t\r\n"


def open_text(path: Path) -> TextIO:
    """UTF-8 with or without its mark; bytes that are none become U+FFFD."""
    return path.open(encoding="utf-8-sig", errors="replace")


def json_lines(file: TextIO) -> Iterator[tuple[int, object]]:
    """(line number, value) of each line that is not blank; the value is a ValueError where it is not JSON."""
    number = 0
    while line := file.readline(MAX_VALUE):
        number += 1
        if len(line) == MAX_VALUE and not line.endswith("\n"):
            while (rest := file.readline(MAX_VALUE)) and not rest.endswith("\n"):
                pass
            yield number, ValueError(f"not JSON: a line over {MAX_VALUE} characters")
        elif line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, ValueError(f"not JSON: {error}")


def json_elements(file: TextIO) -> Iterator[tuple[str | None, object]]:
    """Elements of the array that the file is, each as (None, element); of a file that is an object, for each
    of its arrays (key, element).

    Raises:
        ValueError: the text is not JSON, with the character where that shows.
    """
    text = _Text(file)
    opening = text.next()
    if opening == "[":
        yield from ((None, element) for element in text.elements())
        return
    if opening != "{":
        raise text.broken("expected a JSON array or object")
    text.at += 1
    while text.next(skip=",") != "}":
        key = text.value()
        if text.next() != ":":
            raise text.broken("expected ':'")
        text.at += 1
        if text.next() == "[":
            yield from ((key, element) for element in text.elements())
        else:
            text.value()


class _Text:
    """The block of text at hand, and a position in it."""

    def __init__(self, file: TextIO):
        self._file, self._before = file, 0
        self.text, self.at = "", 0
        self._more()

    def _more(self) -> bool:
        rest = self.text[self.at :]
        block = self._file.read(max(BLOCK, len(rest)))
        self._before += self.at
        self.text, self.at = rest + block, 0
        return bool(block)

    def next(self, skip: str = "") -> str:
        """The next character that is neither space nor in `skip`; '' at the end."""
        while True:
            while self.at < len(self.text):
                if (character := self.text[self.at]) not in _SPACE and character not in skip:
                    return character
                self.at += 1
            if not self._more():
                return ""

    def value(self) -> object:
        while True:
            try:
                value, end = _decode(self.text, self.at)
            except RecursionError:
                raise self.broken("nested too deeply") from None
            except ValueError as error:
                if len(self.text) - self.at > MAX_VALUE or not self._more():
                    raise self.broken(str(error)) from None
                continue
            if end == len(self.text) and self._more():  # a number may go on in the next block
                continue
            self.at = end
            return value

    def elements(self) -> Iterator[object]:
        """Of the array that begins here; afterwards the position is behind it."""
        self.at += 1
        while (character := self.next(skip=",")) != "]":
            if not character:
                raise self.broken("the array has no end: the file is cut off")
            yield self.value()
        self.at += 1

    def broken(self, why: str) -> ValueError:
        return ValueError(f"not JSON near character {self._before + self.at}: {why}")
