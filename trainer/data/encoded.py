"""The encoded dialogues of a split in flat arrays: 600,000 are some 300 MB, as Python objects they were 5 GB."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from shared.prompt import IGNORE_INDEX, EncodedPrompt
from trainer.data.records import Record
from trainer.data.shards import Rows


class EncodedDialogues(Sequence["Dialogue"]):
    """Dialogues that were appended, in order; records stay in their shards.

    Attributes:
        images: names of all images, in the order of their first dialogues.
    """

    def __init__(self, rows: Rows):
        self.rows = rows
        self.images: list[str] = []
        self.kinds: list[str] = []
        self.ids, self.learned, self.ends = array("i"), bytearray(), array("q", [0])
        self.row, self.image, self.kind, self.mirrorable = array("i"), array("i"), array("i"), bytearray()
        self._image_codes: dict[str | None, int] = {None: -1}
        self._kind_codes: dict[str, int] = {}

    def append(self, row: int, record: Record, encoded: EncodedPrompt, mirrorable: bool) -> None:
        """Add the record in `row` of the split, as it was encoded."""
        self.ids.extend(encoded.input_ids)
        self.learned.extend(label != IGNORE_INDEX for label in encoded.labels)
        self.ends.append(len(self.ids))
        self.row.append(row)
        self.image.append(_code(record.image, self._image_codes, self.images))
        self.kind.append(_code(record.kind, self._kind_codes, self.kinds))
        self.mirrorable.append(mirrorable)

    def tokens(self, index: int) -> int:
        """Length of a dialogue."""
        return self.ends[index + 1] - self.ends[index]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: int) -> Dialogue:
        if not -len(self) <= index < len(self):
            raise IndexError(f"dialogue {index} of {len(self)}")
        return Dialogue(self, index % len(self))


class Dialogue:
    """One of them; what it consists of is made when asked for."""

    __slots__ = ("_all", "_index")

    def __init__(self, dialogues: EncodedDialogues, index: int):
        self._all, self._index = dialogues, index

    @property
    def encoded(self) -> EncodedPrompt:
        start, end = self._all.ends[self._index], self._all.ends[self._index + 1]
        ids = self._all.ids[start:end].tolist()
        learned = self._all.learned[start:end]
        labels = [token if learns else IGNORE_INDEX for token, learns in zip(ids, learned, strict=True)]
        return EncodedPrompt(ids, labels, int(self.image is not None))

    @property
    def record(self) -> Record:
        return Record.from_json(self._all.rows[self._all.row[self._index]])

    @property
    def image(self) -> str | None:
        code = self._all.image[self._index]
        return None if code < 0 else self._all.images[code]

    @property
    def kind(self) -> str:
        return self._all.kinds[self._all.kind[self._index]]

    @property
    def mirrorable(self) -> bool:
        return bool(self._all.mirrorable[self._index])


def _code(name: str | None, codes: dict, names: list[str]) -> int:
    code = codes.get(name)
    if code is None:
        code = codes[name] = len(names)
        names.append(name)
    return code
