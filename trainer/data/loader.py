"""Batches of packs in an order that is a function of (seed, epoch): a position is all that resume needs."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shared.prompt import IGNORE_INDEX, EncodedPrompt, PromptBuilder, PromptTooLong, drop_oldest_turns
from trainer.data.encoded import EncodedDialogues
from trainer.data.packing import Pack, Rollout, pack_dialogues, padded_tokens, share_rows
from trainer.data.prepared import PreparedData, Split
from trainer.data.records import Record

log = logging.getLogger(__name__)

_SIDES = re.compile(r"\b(left|right|clockwise|text|sign|letters?|words?|reads?|says)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PlannedPack:
    """A pack of `tokens` tokens to be built of these dialogues, all about one image, or of one text."""

    dialogues: tuple[int, ...]
    tokens: int
    mirrorable: bool

    def __len__(self) -> int:
        return self.tokens


class Batches(Sequence[list[list[Pack]]]):
    """An epoch's batches in their order: rows of packs, built when asked for."""

    def __init__(self, plan: list[list[list[PlannedPack]]], build: Callable[[PlannedPack], Pack]):
        self._plan, self._build = plan, build

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int | slice):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return [[self._build(planned) for planned in row] for row in self._plan[index]]

    def dialogues(self, index: int) -> list[int]:
        """Indices of the dialogues that a batch holds."""
        return [dialogue for row in self._plan[index] for pack in row for dialogue in pack.dialogues]


class PackLoader:
    """Encodes the records of a split once and deals them out in batches of packs.

    Every epoch draws `shares` of each kind, packs the dialogues about one image together, and shuffles:
    each batch is a random mixture of all kinds, its packs side by side in rows, so that little is padding.
    `images_only` leaves out plain text, from which a projector learns nothing. Without `trees`, every
    dialogue is a pack of its own and each batch is one row. Questions of the kinds `self_critical` become
    rollouts, each of `samples` answers, in the place of the answers in the data.
    """

    def __init__(
        self,
        data: PreparedData,
        split: Split,
        prompt: PromptBuilder,
        *,
        batch_tokens: int,
        max_tokens: int,
        shares: dict[str, float],
        seed: int,
        images_only: bool = False,
        trees: bool = True,
        self_critical: Sequence[str] = (),
        samples: int = 0,
    ):
        self.batch_tokens, self.max_tokens, self.shares, self.seed = batch_tokens, max_tokens, shares, seed
        self.trees = trees
        self.self_critical, self._samples = frozenset(self_critical), samples
        self.dropped_turns = self.too_long = 0
        self._place = f"{data.folder}, {split}"
        self.kinds: set[str] = set()
        self.dialogues = EncodedDialogues(data.rows(split))
        for row, record in enumerate(data.records(split)):
            self.kinds.add(record.kind)
            if record.image or not images_only:
                self._append(row, record, prompt)
        if not self.dialogues:
            what = "record about an image" if images_only else "record"
            raise ValueError(f"{self._place}: no {what} that fits {max_tokens} tokens")
        if self.dropped_turns or self.too_long:
            log.warning(
                "%s: %d old turns cut, %d records too long for %d tokens left out",
                self._place, self.dropped_turns, self.too_long, max_tokens,
            )  # fmt: skip
        self._epoch: tuple[int, Batches] | None = None
        self._groups: list[list[int]] = [[] for _ in self.dialogues.images]
        self._texts: list[int] = []
        for index, image in enumerate(self.dialogues.image):
            (self._texts if image < 0 else self._groups[image]).append(index)

    def _append(self, row: int, record: Record, prompt: PromptBuilder) -> None:
        messages = list(record.messages)
        try:
            encoded = prompt.encode_dialogue(messages)
            if len(encoded) > self.max_tokens:
                messages, dropped = drop_oldest_turns(prompt, messages, self.max_tokens)
                encoded = prompt.encode_dialogue(messages)
                self.dropped_turns += dropped
        except PromptTooLong:
            self.too_long += 1
            return
        except ValueError as error:
            raise ValueError(f"{self._place}: record {record.id!r}: {error}") from error
        text = " ".join(part for message in messages for part in message.content if isinstance(part, str))
        self.dialogues.append(row, record, encoded, not _SIDES.search(text))

    @property
    def images(self) -> list[str]:
        """Names of all images, in file order."""
        return self.dialogues.images

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

    def references(self) -> Iterator[list[list[int]]]:
        """The answers to each question of the kinds `self_critical` about each image, as token ids.

        Raises:
            ValueError: there are none, or one of them is no single answer to a question about an image.
        """
        if unknown := sorted(self.self_critical - self.kinds):
            raise ValueError(f"self_critical: no record of {self._place} is of the kind {', '.join(unknown)}")
        kinds, codes = self.dialogues.kinds, self.dialogues.kind
        if any(kinds[codes[index]] in self.self_critical for index in self._texts):
            raise ValueError("self_critical: a kind of plain text has no people's answers to compare with")
        for group in self._groups:
            yield from self._answers(group).values()

    def _answers(self, group: Sequence[int]) -> dict[tuple[int, ...], list[list[int]]]:
        """Prompt -> answers, of those dialogues about an image that are of the kinds `self_critical`."""
        answers: dict[tuple[int, ...], list[list[int]]] = {}
        kinds, codes = self.dialogues.kinds, self.dialogues.kind
        for index in group:
            if kinds[codes[index]] in self.self_critical:
                prompt, answer = _split_answer(self.dialogues[index].encoded)
                answers.setdefault(tuple(prompt), []).append(answer)
        return answers

    def fingerprint(self) -> str:
        """A hash of the data and everything that decides its order; a resumed run must see the same."""
        order = [self.seed, self.batch_tokens, self.max_tokens, self.shares]
        digest = hashlib.sha256(json.dumps(order if self.trees else [*order, "chains"]).encode())
        digest.update(self.dialogues.ids.tobytes())
        digest.update(self.dialogues.ends.tobytes())
        return digest.hexdigest()[:16]

    def _plan(self, epoch: int) -> list[PlannedPack]:
        """All packs of an epoch, in random order."""
        rng = random.Random(f"{self.seed}-{epoch}")
        packs: list[PlannedPack] = []
        for dialogues in self._groups:
            packs += self._plan_group(self._draw(dialogues, rng))
        packs += (self._alone(text, False) for text in self._draw(self._texts, rng))
        rng.shuffle(packs)
        return packs

    def _plan_group(self, dialogues: list[int]) -> Iterator[PlannedPack]:
        mirrorable = all(self.dialogues.mirrorable[index] for index in dialogues)
        if not self.trees or len(dialogues) == 1:
            yield from (self._alone(index, mirrorable) for index in dialogues)
            return
        start = 0
        encoded = [self.dialogues[index].encoded for index in dialogues]
        for pack in pack_dialogues(None, encoded, self.max_tokens):
            yield PlannedPack(tuple(dialogues[start : start + pack.dialogues]), len(pack), mirrorable)
            start += pack.dialogues

    def _alone(self, dialogue: int, mirrorable: bool) -> PlannedPack:
        return PlannedPack((dialogue,), self.dialogues.tokens(dialogue), mirrorable)

    def _build(self, planned: PlannedPack) -> Pack:
        pack = Pack(mirrorable=planned.mirrorable)
        asked: dict[tuple[int, ...], None] = {}
        for index in planned.dialogues:
            dialogue = self.dialogues[index]
            if dialogue.kind in self.self_critical:
                asked[tuple(_split_answer(dialogue.encoded)[0])] = None
            else:
                pack.add(dialogue.encoded, dialogue.image)
        if asked:
            image = self.dialogues.image[planned.dialogues[0]]
            answers = self._answers(self._groups[image])
            pack.rollouts = [
                Rollout(list(prompt), self.dialogues.images[image], answers[prompt], self._samples)
                for prompt in asked
            ]
        return pack

    def _draw(self, dialogues: list[int], rng: random.Random) -> list[int]:
        kinds, codes = self.dialogues.kinds, self.dialogues.kind
        drawn = [d for d in dialogues if rng.random() < self.shares.get(kinds[codes[d]], 1.0)]
        rng.shuffle(drawn)
        return drawn

    def batches(self, epoch: int) -> Batches:
        """The epoch's batches in their order: rows of packs, at most `batch_tokens` with their padding.

        Raises:
            ValueError: the shares draw nothing.
        """
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, Batches(list(self._fill_batches(self._plan(epoch))), self._build)
        if not self._epoch[1]:
            raise ValueError(f"{self._place}: the shares draw no record in epoch {epoch}; raise them")
        return self._epoch[1]

    def _fill_batches(self, packs: list[PlannedPack]) -> Iterator[list[list[PlannedPack]]]:
        """As many packs as fit, in order: what their tokens alone allow, less while padding is in the way."""
        start = 0
        while start < len(packs):
            end, tokens = start + 1, len(packs[start])
            while end < len(packs) and tokens + len(packs[end]) <= self.batch_tokens:
                tokens += len(packs[end])
                end += 1
            rows = self._lay_out(packs[start:end])
            while end > start + 1 and padded_tokens(rows) > self.batch_tokens:
                end -= 1
                rows = self._lay_out(packs[start:end])
            yield rows
            start = end

    def _lay_out(self, packs: list[PlannedPack]) -> list[list[PlannedPack]]:
        return share_rows(packs) if self.trees else [packs]


def _split_answer(dialogue: EncodedPrompt) -> tuple[list[int], list[int]]:
    """(prompt, answer) of a dialogue with one answer, at its end."""
    start = next(i for i, label in enumerate(dialogue.labels) if label != IGNORE_INDEX)
    if IGNORE_INDEX in dialogue.labels[start:]:
        raise ValueError("self_critical: a dialogue of several answers cannot be sampled; leave out its kind")
    return dialogue.input_ids[:start], dialogue.input_ids[start:]
