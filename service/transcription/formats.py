"""A transcript as json, verbose_json, text, SubRip (srt) or WebVTT (vtt).

Subtitles are cut into cues a person can read: up to two lines of 42 letters and seven seconds, broken at the
ends of sentences and at pauses. That needs word times; without them a cue is a whole segment. Times never run
backwards and cues never overlap.
"""

import html
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.transcription.transcript import Segment, Transcript, Word

ResponseFormat = Literal["json", "verbose_json", "text", "srt", "vtt"]

_LINE = 42
_CUE_LETTERS = 2 * _LINE
_CUE_SECONDS = 7.0
_PAUSE_SECONDS = 1.0


def wants_words(response_format: ResponseFormat) -> bool:
    """Whether the format is better for word times, even where the client did not ask for them."""
    return response_format in ("srt", "vtt")


def to_json(transcript: Transcript, *, words: bool) -> dict[str, Any]:
    """`text, language, duration, segments [{id, start, end, text, words?}]`, times in seconds."""
    segments = []
    for segment in transcript.segments:
        entry = asdict(segment)
        if not words or segment.words is None:
            del entry["words"]
        segments.append(entry)
    return {
        "text": transcript.text,
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "segments": segments,
    }


def to_verbose_json(transcript: Transcript, *, words: bool) -> dict[str, Any]:
    """OpenAI's verbose form: `task`, then what `json` has, and one flat list of `words` if asked for."""
    answer = {"task": "transcribe"} | to_json(transcript, words=False)
    if words:
        answer["words"] = [asdict(word) for segment in transcript.segments for word in segment.words or ()]
    return answer


def to_text(transcript: Transcript) -> str:
    return transcript.text + "\n"


def to_srt(transcript: Transcript) -> str:
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{cue.text.replace('-->', '->')}\n"
        for number, cue in enumerate(_cues(transcript), 1)
    )


def to_vtt(transcript: Transcript) -> str:
    cues = (
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{html.escape(cue.text, quote=False)}\n"
        for cue in _cues(transcript)
    )
    return "\n".join(("WEBVTT\n", *cues))


@dataclass(frozen=True)
class _Cue:
    start: int
    end: int
    """Milliseconds."""
    text: str
    """One line or more."""


def _cues(transcript: Transcript) -> Iterator[_Cue]:
    previous_end = 0
    for segment in transcript.segments:
        for start, end, text in _pieces(segment):
            start_ms = max(round(start * 1000), previous_end)
            previous_end = max(round(end * 1000), start_ms + 1)
            yield _Cue(start_ms, previous_end, textwrap.fill(text, _LINE, break_long_words=False))


def _pieces(segment: Segment) -> Iterator[tuple[float, float, str]]:
    if not segment.words:
        yield segment.start, segment.end, segment.text
        return
    space = " " if " " in segment.text else ""  # Chinese and Japanese words stand without
    cue: list[Word] = []
    letters = 0
    for word in segment.words:
        if cue and (
            letters + len(space) + len(word.word) > _CUE_LETTERS
            or word.end - cue[0].start > _CUE_SECONDS
            or word.start - cue[-1].end > _PAUSE_SECONDS
            or (cue[-1].word.endswith((".", "?", "!", "。", "？", "！")) and letters > _LINE // 2)
        ):
            yield cue[0].start, cue[-1].end, space.join(part.word for part in cue)
            cue, letters = [], 0
        letters += len(word.word) + (len(space) if cue else 0)
        cue.append(word)
    yield cue[0].start, cue[-1].end, space.join(part.word for part in cue)


def _clock(milliseconds: int, point: str) -> str:
    """`01:02:03.456`; hours are always there, and may pass 99."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{rest:03}"
