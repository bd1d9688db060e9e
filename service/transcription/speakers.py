"""Puts the names of speakers to a transcript, from the turns that a diarisation model found."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from service.transcription.transcript import Segment, Word, space_between

Turns = Sequence[tuple[float, float, str]]
"""Start and end in seconds and the speaker of each turn, by start; turns may overlap."""


def with_speakers(segments: Sequence[Segment], turns: Turns, language: str) -> list[Segment]:
    """The segments cut where the speaker changes, with each word's speaker. Ids count anew from 0."""
    if not turns:
        return list(segments)
    cut = [part for segment in segments for part in _cut(segment, turns, space_between(language))]
    return [replace(segment, id=index) for index, segment in enumerate(cut)]


def _cut(segment: Segment, turns: Turns, space: str) -> Iterator[Segment]:
    if not segment.words:
        yield replace(segment, speaker=_speaker(segment.start, segment.end, turns))
        return
    named = [replace(word, speaker=_speaker(word.start, word.end, turns)) for word in segment.words]
    runs = [(speaker, list(words)) for speaker, words in groupby(named, key=lambda word: word.speaker)]
    if len(runs) == 1:
        yield replace(segment, words=named, speaker=runs[0][0])
        return
    for speaker, words in runs:
        yield _part(segment, speaker, words, space)


def _part(segment: Segment, speaker: str, words: list[Word], space: str) -> Segment:
    text = space.join(word.word for word in words)
    return replace(segment, start=words[0].start, end=words[-1].end, text=text, words=words, speaker=speaker)


def _speaker(start: float, end: float, turns: Turns) -> str:
    """Who speaks most of the time between; where nobody was found, who speaks nearest to it."""
    shares: dict[str, float] = {}
    for begin, stop, name in turns:
        shares[name] = shares.get(name, 0.0) + max(0.0, min(end, stop) - max(start, begin))
    name, share = max(shares.items(), key=lambda item: item[1])
    if share > 0:
        return name
    middle = (start + end) / 2
    return min(turns, key=lambda turn: max(turn[0] - middle, middle - turn[1]))[2]
