"""Puts the names of speakers to a transcript, from the turns that a diarisation model found."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, groupby

from service.transcription.transcript import Segment, Word, space_between

Turns = Sequence[tuple[float, float, str]]
"""Start and end in seconds and the speaker of each turn, by start; turns may overlap."""


def with_speakers(segments: Sequence[Segment], turns: Turns, language: str) -> list[Segment]:
    """The segments cut where the speaker changes, with each word's speaker. Ids count anew from 0."""
    if not turns:
        return list(segments)
    speakers = _Speakers(turns)
    cut = [part for segment in segments for part in _cut(segment, speakers, space_between(language))]
    return [replace(segment, id=index) for index, segment in enumerate(cut)]


def _cut(segment: Segment, speakers: "_Speakers", space: str) -> Iterator[Segment]:
    if not segment.words:
        yield replace(segment, speaker=speakers.between(segment.start, segment.end))
        return
    named = [replace(word, speaker=speakers.between(word.start, word.end)) for word in segment.words]
    runs = [(speaker, list(words)) for speaker, words in groupby(named, key=lambda word: word.speaker)]
    if len(runs) == 1:
        yield replace(segment, words=named, speaker=runs[0][0])
        return
    for speaker, words in runs:
        yield _part(segment, speaker, words, space)


def _part(segment: Segment, speaker: str, words: list[Word], space: str) -> Segment:
    text = space.join(word.word for word in words)
    return replace(segment, start=words[0].start, end=words[-1].end, text=text, words=words, speaker=speaker)


class _Speakers:
    """Looks up turns by time: hours of speech have tens of thousands of words and thousands of turns."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._starts = [start for start, _, _ in turns]
        self._ended = list(accumulate((end for _, end, _ in turns), max))  # the latest end so far

    def between(self, start: float, end: float) -> str:
        """Who speaks most of the time between; where nobody was found, who speaks nearest to it."""
        first, stop = bisect_right(self._ended, start), bisect_left(self._starts, end)
        shares: dict[str, float] = {}
        for begin, finish, name in self._turns[first:stop]:
            shares[name] = shares.get(name, 0.0) + max(0.0, min(end, finish) - max(start, begin))
        name, share = max(shares.items(), key=lambda item: item[1], default=("", 0.0))
        return name if share > 0 else self._nearest((start + end) / 2)

    def _nearest(self, middle: float) -> str:
        """The turn around `middle`, else the last that ended before it or the first that begins after it."""
        after = bisect_right(self._starts, middle)
        latest = self._ended[after - 1] if after else middle
        near = self._turns[bisect_left(self._ended, min(middle, latest)) : after + 1]
        return min(near, key=lambda turn: max(turn[0] - middle, middle - turn[1]))[2]
