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

from service.transcription.transcript import Segment, Transcript, Word, space_between

ResponseFormat = Literal["json", "verbose_json", "text", "srt", "vtt"]

_LINE = 42
_CUE_LETTERS = 2 * _LINE
_CUE_SECONDS = 7.0
_PAUSE_SECONDS = 1.0


def wants_words(response_format: ResponseFormat) -> bool:
    """Whether the format is better for word times, even where the client did not ask for them."""
    return response_format in ("srt", "vtt")


def to_json(transcript: Transcript, *, words: bool) -> dict[str, Any]:
    """`text, language, duration, alignment, segments [{id, start, end, text, words?, speaker?}]`, in seconds."""
    return {
        "text": transcript.text,
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "alignment": transcript.alignment if words else None,
        "segments": [segment_json(segment, words=words) for segment in transcript.segments],
    }


def segment_json(segment: Segment, *, words: bool) -> dict[str, Any]:
    """`id, start, end, text`, and `words` and `speaker` where they are known and wanted."""
    entry: dict[str, Any] = {name: getattr(segment, name) for name in ("id", "start", "end", "text")}
    if words and segment.words is not None:
        entry["words"] = [_word(word) for word in segment.words]
    if segment.speaker is not None:
        entry["speaker"] = segment.speaker
    return entry


def to_verbose_json(transcript: Transcript, *, words: bool, segments: bool = True) -> dict[str, Any]:
    """OpenAI's verbose form: `task`, segments with Whisper's own figures, one flat list of `words`."""
    answer = {
        "task": transcript.task,
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "alignment": transcript.alignment if words else None,
    }
    if segments:
        answer["segments"] = [_verbose_segment(segment) for segment in transcript.segments]
    if words:
        answer["words"] = [_word(word) for segment in transcript.segments for word in segment.words or ()]
    return answer


def _verbose_segment(segment: Segment) -> dict[str, Any]:
    return segment_json(segment, words=False) | {
        "seek": round(segment.start * 100),  # frames of 10 ms, as Whisper counts them
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": round(segment.avg_logprob, 4),
        "compression_ratio": round(segment.compression_ratio, 4),
        "no_speech_prob": round(segment.no_speech_prob, 6),
    }


def _word(word: Word) -> dict[str, Any]:
    entry = asdict(word)
    if word.speaker is None:
        del entry["speaker"]
    return entry


def to_text(transcript: Transcript) -> str:
    return transcript.text + "\n"


def to_srt(transcript: Transcript) -> str:
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_named(cue).replace('-->', '->')}\n"
        for number, cue in enumerate(_cues(transcript), 1)
    )


def to_vtt(transcript: Transcript) -> str:
    cues = (
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_voiced(cue)}\n" for cue in _cues(transcript)
    )
    return "\n".join(("WEBVTT\n", *cues))


@dataclass(frozen=True)
class _Cue:
    start: int
    end: int
    """Milliseconds."""
    text: str
    """One line or more."""
    speaker: str | None


def _named(cue: _Cue) -> str:
    return cue.text if cue.speaker is None else f"{cue.speaker}: {cue.text}"


def _voiced(cue: _Cue) -> str:
    text = html.escape(cue.text, quote=False)
    return text if cue.speaker is None else f"<v {html.escape(cue.speaker)}>{text}"


def _cues(transcript: Transcript) -> Iterator[_Cue]:
    previous_end = 0
    space = space_between(transcript.language, transcript.task)
    for segment in transcript.segments:
        for start, end, text in _pieces(segment, space):
            start_ms = max(round(start * 1000), previous_end)
            previous_end = max(round(end * 1000), start_ms + 1)
            lines = textwrap.fill(text, _LINE, break_long_words=False)
            yield _Cue(start_ms, previous_end, lines, segment.speaker)


def _pieces(segment: Segment, space: str) -> Iterator[tuple[float, float, str]]:
    if not segment.words:
        yield segment.start, segment.end, segment.text
        return
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
