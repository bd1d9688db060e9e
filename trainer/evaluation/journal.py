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
        began, self._known = _read(path) if path.is_file() else (None, {})
        if not self._known:
            path.write_text("", "utf-8")
            self._write({"answerer": answerer})
        elif not resume:
            raise ValueError(f"{path} holds the answers of a stopped call: go on with --resume, or delete it")
        elif began != answerer:
            raise ValueError(
                f"{path} holds answers of {began}, not of {answerer}: delete it, or give another --out"
            )
        else:
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")  # ends a line that a crash cut

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

    def _write(self, row: dict) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _read(path: Path) -> tuple[str | None, dict[Item, str]]:
    """Who answered, and the answers, but for a line that a crash cut."""
    answerer, answers = None, {}
    for line in path.read_text("utf-8").split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        answerer = row.get("answerer", answerer)
        if "reply" in row:
            answers[row["question"], row["picture"] and Path(row["picture"])] = row["reply"]
    return answerer, answers
