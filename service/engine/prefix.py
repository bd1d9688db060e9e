"""Keys and values of prompts already computed, for requests that begin alike: the same system prompt, the same
image, the dialogue so far.

Prompts are compared in blocks by a hash over everything before a block's end (vLLM's automatic prefix caching,
Kwon et al. 2023); an image counts by the hash of its content.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.engine.decoder import BLOCK
from service.engine.interface import GenerationRequest


def block_hashes(request: GenerationRequest, answer: Sequence[int] = ()) -> list[bytes]:
    """One hash for each full block of prompt and answer, of all tokens up to its end."""
    tokens = [token.to_bytes(8, "little", signed=True) for token in (*request.input_ids, *answer)]
    slots = [index for index, token in enumerate(request.input_ids) if token < 0]
    if request.images:
        patches = len(slots) // len(request.images)
        for count, index in enumerate(slots):
            image = request.images[min(count // max(patches, 1), len(request.images) - 1)]
            tokens[index] += image.key
    digest, hashes = b"", []
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        digest = hashlib.blake2b(digest + b"".join(tokens[start : start + BLOCK]), digest_size=16).digest()
        hashes.append(digest)
    return hashes


@dataclass(frozen=True, eq=False)
class _Entry:
    hashes: tuple[bytes, ...]
    saved: Any


class PrefixCache:
    """The least recently used prefixes go first.

    Args:
        max_tokens: tokens kept at most; 0 keeps nothing.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_blocks = max_tokens // BLOCK
        self._entries: OrderedDict[_Entry, None] = OrderedDict()
        self._by_hash: dict[bytes, _Entry] = {}
        self._blocks = 0

    @property
    def tokens(self) -> int:
        return self._blocks * BLOCK

    def find(self, hashes: Sequence[bytes]) -> tuple[int, Any]:
        """The longest known beginning: its tokens, maybe 0, and what `Decoder.save` gave for at least these."""
        for count in range(len(hashes), 0, -1):
            if (entry := self._by_hash.get(hashes[count - 1])) is not None:
                self._entries.move_to_end(entry)
                return count * BLOCK, entry.saved
        return 0, None

    def wants(self, hashes: Sequence[bytes]) -> bool:
        """Whether these blocks say more than what is kept, and fit."""
        return 0 < len(hashes) <= self._max_blocks and hashes[-1] not in self._by_hash

    def add(self, hashes: Sequence[bytes], saved: Any) -> None:
        """Keeps what was saved of the blocks of `hashes`; a kept beginning of it alone is dropped."""
        shorter = self._by_hash.get(hashes[0])
        if shorter is not None and shorter.hashes == tuple(hashes[: len(shorter.hashes)]):
            self._drop(shorter)
        while self._blocks + len(hashes) > self._max_blocks:
            self._drop(next(iter(self._entries)))
        entry = _Entry(tuple(hashes), saved)
        self._entries[entry] = None
        self._blocks += len(hashes)
        self._by_hash.update(dict.fromkeys(hashes, entry))

    def clear(self) -> None:
        self._entries.clear()
        self._by_hash.clear()
        self._blocks = 0

    def _drop(self, entry: _Entry) -> None:
        del self._entries[entry]
        self._blocks -= len(entry.hashes)
        for key in entry.hashes:
            if self._by_hash.get(key) is entry:
                del self._by_hash[key]
