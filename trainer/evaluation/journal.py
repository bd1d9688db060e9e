"""Answers as they come, so that an evaluation that was stopped does not ask again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

Item = tuple[str, Path | None]  # a question, and its picture


class Journal:
    """A JSONL file: who answers, then an answer a line.

    Raises:
        ValueError: the file holds answers, and they are not to be taken up, or `answerer` is not who gave them.
    """

    def __init__(self, path: Path, answerer: str, *, resume: bool):
        self._path = path
        self._known: dict[Item, str] = {}
        if path.is_file() and path.stat().st_size:
            if not resume:
                raise ValueError(
                    f"{path} holds the answers of a stopped call: go on with --resume, or delete it"
                )
            self._read(answerer)
        else:
            self._write({"answerer": answerer})

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
        text = self._path.read_text("utf-8")
        if not text.endswith("\n"):  # cut by a crash
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.split("\n"):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row.get("answerer", answerer) != answerer:
                raise ValueError(
                    f"{self._path} holds answers of {row['answerer']}, not of {answerer}: delete it, or give another "
                    "--out"
                )
            if "reply" in row:
                self._known[row["question"], row["picture"] and Path(row["picture"])] = row["reply"]

    def _write(self, row: dict) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
