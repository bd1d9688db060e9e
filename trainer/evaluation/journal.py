"""Answers as they come, so that an evaluation that was stopped does not ask again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

Item = tuple[str, Path | None]  # a question, and its picture


class Journal:
    """A JSONL file: who answers, then an answer a line.

    Raises:
        ValueError: it is to be resumed and holds the answers of another model.
    """

    def __init__(self, path: Path, answerer: str, *, resume: bool):
        self._path = path
        self._known: dict[Item, str] = {}
        if resume and path.is_file():
            self._read(answerer)
        path.write_text("", "utf-8")
        self._write({"answerer": answerer})
        for item, reply in self._known.items():
            self.keep(item, reply)

    def known(self, items: Iterable[Item]) -> dict[Item, str]:
        """The answers that are there."""
        return {item: self._known[item] for item in items if item in self._known}

    def keep(self, item: Item, reply: str) -> None:
        """One more answer."""
        question, picture = item
        self._write({"question": question, "picture": picture and str(picture), "reply": reply})

    def remove(self) -> None:
        """All was asked."""
        self._path.unlink(missing_ok=True)

    def _read(self, answerer: str) -> None:
        head, *lines = self._path.read_text("utf-8").splitlines() or [""]
        began = json.loads(head)["answerer"] if head else answerer
        if began != answerer:
            raise ValueError(
                f"{self._path} holds answers of {began}, not of {answerer}: leave out --resume, or give another --out"
            )
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut by a crash
            picture = row["picture"] and Path(row["picture"])
            self._known[row["question"], picture] = row["reply"]

    def _write(self, row: dict) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
