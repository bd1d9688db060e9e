"""Batches of packs in an order that is a function of (seed, epoch): a position is all that resume needs."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections import defaultdict
from dataclasses import dataclass

from shared.model import MultimodalModel
from shared.prompt import EncodedPrompt, PromptTooLong, drop_oldest_turns
from trainer.data.packing import Pack, pack_dialogues, padded_tokens, share_rows
from trainer.data.prepared import PreparedData, Split
from trainer.data.records import Record

log = logging.getLogger(__name__)

_SIDES = re.compile(r"\b(left|right|clockwise|text|sign|letters?|words?|reads?|says)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Dialogue:
    """An encoded record."""

    record: Record
    encoded: EncodedPrompt
    mirrorable: bool


class PackLoader:
    """Encodes the records of a split once and deals them out in batches of packs.

    Every epoch draws `shares` of each kind, packs the dialogues about one image together, and shuffles:
    each batch is a random mixture of all kinds, its packs side by side in rows, so that little is padding.
    `images_only` leaves out plain text, from which a projector learns nothing. Without `trees`, every
    dialogue is a pack of its own and each batch is one row.
    """

    def __init__(
        self,
        data: PreparedData,
        split: Split,
        model: MultimodalModel,
        *,
        batch_tokens: int,
        max_tokens: int,
        shares: dict[str, float],
        seed: int,
        images_only: bool = False,
        trees: bool = True,
    ):
        self.batch_tokens, self.max_tokens, self.shares, self.seed = batch_tokens, max_tokens, shares, seed
        self.trees = trees
        self.dropped_turns = self.too_long = 0
        self._place = f"{data.folder}, {split}"
        self.kinds: set[str] = set()
        self.dialogues: list[Dialogue] = []
        for record in data.records(split):
            self.kinds.add(record.kind)
            if (record.image or not images_only) and (dialogue := self._encode(record, model)):
                self.dialogues.append(dialogue)
        if not self.dialogues:
            what = "record about an image" if images_only else "record"
            raise ValueError(f"{self._place}: no {what} that fits {max_tokens} tokens")
        if self.dropped_turns or self.too_long:
            log.warning(
                "%s: %d old turns cut, %d records too long for %d tokens left out",
                self._place, self.dropped_turns, self.too_long, max_tokens,
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
        except ValueError as error:
            raise ValueError(f"{self._place}: record {record.id!r}: {error}") from error
        self.dropped_turns += dropped
        text = " ".join(part for message in messages for part in message.content if isinstance(part, str))
        return Dialogue(record, model.prompt.encode_dialogue(messages), not _SIDES.search(text))

    @property
    def images(self) -> list[str]:
        """Names of all images, in file order."""
        return list(self._groups)

    def check_shares(self) -> None:
        """All shares must be of kinds that the data has.

        Raises:
            ValueError: one is not.
        """
        if unknown := sorted(self.shares.keys() - self.kinds):
            raise ValueError(
                f"shares: no record of {self._place} is of the kind {', '.join(unknown)}; it has "
                f"{', '.join(sorted(self.kinds))}"
            )

    def fingerprint(self) -> str:
        """A hash of the data and everything that decides its order; a resumed run must see the same."""
        order = [self.seed, self.batch_tokens, self.max_tokens, self.shares]
        digest = hashlib.sha256(json.dumps(order if self.trees else [*order, "chains"]).encode())
        for dialogue in self.dialogues:
            digest.update(str(dialogue.encoded.input_ids).encode())
        return digest.hexdigest()[:16]

    def packs(self, epoch: int) -> list[Pack]:
        """All packs of an epoch, in random order."""
        rng = random.Random(f"{self.seed}-{epoch}")
        packs: list[Pack] = []
        for image, dialogues in self._groups.items():
            drawn = self._draw(dialogues, rng)
            mirrorable = all(dialogue.mirrorable for dialogue in drawn)
            encoded = [dialogue.encoded for dialogue in drawn]
            for group in [encoded] if self.trees else [[one] for one in encoded]:
                packs += pack_dialogues(image, group, self.max_tokens, mirrorable=mirrorable)
        for text in self._draw(self._texts, rng):
            packs += pack_dialogues(None, [text.encoded], self.max_tokens)
        rng.shuffle(packs)
        return packs

    def _draw(self, dialogues: list[Dialogue], rng: random.Random) -> list[Dialogue]:
        drawn = [d for d in dialogues if rng.random() < self.shares.get(d.record.kind, 1.0)]
        rng.shuffle(drawn)
        return drawn

    def batches(self, epoch: int) -> list[list[list[Pack]]]:
        """The epoch's batches in their order: rows of packs, at most `batch_tokens` with their padding.

        Raises:
            ValueError: the shares draw nothing.
        """
        batches: list[list[list[Pack]]] = []
        batch: list[Pack] = []
        rows: list[list[Pack]] = []
        for pack in self.packs(epoch):
            wider = share_rows([*batch, pack]) if self.trees else [[*batch, pack]]
            if batch and padded_tokens(wider) > self.batch_tokens:
                batches.append(rows)
                batch, wider = [], [[pack]]
            batch.append(pack)
            rows = wider
        if batch:
            batches.append(rows)
        if not batches:
            raise ValueError(f"{self._place}: the shares draw no record in epoch {epoch}; raise them")
        return batches
