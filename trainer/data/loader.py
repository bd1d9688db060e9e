"""Batches of packs in an order that is a function of (seed, epoch): a position is all that resume needs."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from shared.model import MultimodalModel
from shared.prompt import EncodedPrompt, PromptTooLong, drop_oldest_turns
from trainer.data.packing import Pack, pack_dialogues
from trainer.data.records import Record, parse_record, read_annotations

log = logging.getLogger(__name__)

TEXT_DIALOGUES_PER_ROW = 4
WINDOW = 256  # rows among which those of like length are put together
_SIDES = re.compile(r"\b(left|right|clockwise|text|sign|letters?|words?|reads?|says)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Dialogue:
    """An encoded record."""

    record: Record
    encoded: EncodedPrompt
    mirrorable: bool


class PackLoader:
    """Encodes the records of a split once and deals them out in batches of packs.

    Every epoch draws `shares` of each kind, packs the dialogues about one image together, and shuffles;
    rows of like length go together, so that little is padding. `images_only` leaves out plain text, from
    which a projector learns nothing.
    """

    def __init__(
        self,
        path: Path,
        model: MultimodalModel,
        *,
        batch_tokens: int,
        max_tokens: int,
        shares: dict[str, float],
        seed: int,
        images_only: bool = False,
    ):
        self.batch_tokens, self.max_tokens, self.shares, self.seed = batch_tokens, max_tokens, shares, seed
        self.dropped_turns = self.too_long = 0
        records = [parse_record(raw) for raw in read_annotations(path)]
        used = [record for record in records if record.image is not None or not images_only]
        self.dialogues = [dialogue for record in used if (dialogue := self._encode(record, model))]
        if not self.dialogues:
            what = "record about an image" if images_only else "record"
            raise ValueError(f"{path} has no {what} that fits {max_tokens} tokens")
        if self.dropped_turns or self.too_long:
            log.warning(
                "%s: %d old turns cut, %d records too long for %d tokens left out",
                path.name, self.dropped_turns, self.too_long, max_tokens,
            )  # fmt: skip
        self._groups: dict[str, list[Dialogue]] = defaultdict(list)
        self._texts = [d for d in self.dialogues if d.record.image is None]
        for dialogue in self.dialogues:
            if dialogue.record.image is not None:
                self._groups[dialogue.record.image].append(dialogue)

    def _encode(self, record: Record, model: MultimodalModel) -> Dialogue | None:
        try:
            messages, dropped = drop_oldest_turns(model.prompt, list(record.messages), self.max_tokens)
        except PromptTooLong:
            self.too_long += 1
            return None
        self.dropped_turns += dropped
        text = " ".join(part for message in messages for part in message.content if isinstance(part, str))
        return Dialogue(record, model.prompt.encode_dialogue(messages), not _SIDES.search(text))

    @property
    def images(self) -> list[str]:
        """Names of all images, in file order."""
        return list(self._groups)

    def fingerprint(self) -> str:
        """A hash of the data and everything that decides its order; a resumed run must see the same."""
        digest = hashlib.sha256(
            json.dumps([self.seed, self.batch_tokens, self.max_tokens, self.shares]).encode()
        )
        for dialogue in self.dialogues:
            digest.update(str(dialogue.encoded.input_ids).encode())
        return digest.hexdigest()[:16]

    def packs(self, epoch: int) -> list[Pack]:
        """All rows of an epoch, in random order."""
        rng = random.Random(f"{self.seed}-{epoch}")
        packs: list[Pack] = []
        for image, group in self._groups.items():
            packs += self._pack(image, self._draw(group, rng))
        texts = self._draw(self._texts, rng)
        for start in range(0, len(texts), TEXT_DIALOGUES_PER_ROW):
            packs += self._pack(None, texts[start : start + TEXT_DIALOGUES_PER_ROW])
        rng.shuffle(packs)
        return packs

    def _draw(self, dialogues: list[Dialogue], rng: random.Random) -> list[Dialogue]:
        drawn = [d for d in dialogues if rng.random() < self.shares.get(d.record.kind, 1.0)]
        rng.shuffle(drawn)
        return drawn

    def _pack(self, image: str | None, dialogues: list[Dialogue]) -> list[Pack]:
        packs = pack_dialogues(image, [d.encoded for d in dialogues], self.max_tokens)
        for pack in packs:
            pack.mirrorable = image is not None and all(d.mirrorable for d in dialogues)
        return packs

    def batches(self, epoch: int) -> list[list[Pack]]:
        """The epoch's batches in their order, each of at most `batch_tokens` tokens with its padding."""
        packs = self.packs(epoch)
        batches: list[list[Pack]] = []
        for start in range(0, len(packs), WINDOW):
            rows: list[Pack] = []
            for pack in sorted(packs[start : start + WINDOW], key=len):
                if rows and (len(rows) + 1) * len(pack) > self.batch_tokens:
                    batches.append(rows)
                    rows = []
                rows.append(pack)
            batches.append(rows)
        random.Random(f"{self.seed}-{epoch}-batches").shuffle(batches)
        return batches
