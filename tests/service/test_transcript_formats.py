"""Transcripts as json, text and subtitles."""

import re
from itertools import pairwise

import pytest

from service.transcription import Segment, Transcript, Word
from service.transcription.formats import to_json, to_srt, to_text, to_verbose_json, to_vtt

EMPTY = Transcript("", "en", 3.0)


def spoken(text: str, start: float = 0.0, seconds_per_word: float = 0.4) -> Segment:
    words = [
        Word(word, start + index * seconds_per_word, start + (index + 1) * seconds_per_word, 0.9)
        for index, word in enumerate(text.split())
    ]
    return Segment(0, words[0].start, words[-1].end, text, words)


def transcript(*segments: Segment) -> Transcript:
    return Transcript(" ".join(segment.text for segment in segments), "en", segments[-1].end, list(segments))


def cues(vtt: str) -> list[tuple[float, float, str]]:
    """Start and end in seconds and text of each cue, read by WebVTT's grammar."""
    header, *blocks = vtt.strip().split("\n\n")
    assert header == "WEBVTT"
    clock = r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})"
    found = []
    for block in blocks:
        times, *lines = block.split("\n")
        parts = re.fullmatch(f"{clock} --> {clock}", times).groups()
        start, end = (
            int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000 for h, m, s, ms in (parts[:4], parts[4:])
        )
        found.append((start, end, "\n".join(lines)))
    return found


def test_json():
    heard = transcript(spoken("Hello there."))
    assert to_json(heard, words=False) == {
        "text": "Hello there.",
        "language": "en",
        "duration": 0.8,
        "alignment": None,
        "segments": [{"id": 0, "start": 0.0, "end": 0.8, "text": "Hello there."}],
    }
    [segment] = to_json(heard, words=True)["segments"]
    assert segment["words"][1] == {"word": "there.", "start": 0.4, "end": 0.8, "probability": 0.9}


def test_verbose_json_has_one_list_of_words():
    heard = to_verbose_json(transcript(spoken("Hello there."), spoken("Bye.", 2)), words=True)
    assert heard["task"] == "transcribe"
    assert [word["word"] for word in heard["words"]] == ["Hello", "there.", "Bye."]
    assert "words" not in to_verbose_json(EMPTY, words=False)


def test_text():
    assert to_text(transcript(spoken("Hello there."))) == "Hello there.\n"


def test_silence_in_every_format():
    silence = {"text": "", "language": "en", "duration": 3.0, "alignment": None, "segments": []}
    assert to_json(EMPTY, words=True) == silence
    assert to_srt(EMPTY) == ""
    assert to_vtt(EMPTY) == "WEBVTT\n"
    assert to_text(EMPTY) == "\n"


def test_srt():
    heard = transcript(Segment(0, 3.0609, 3661.0, "One"), Segment(1, 360_000.0, 360_001.5, "Two --> three"))
    assert to_srt(heard) == (
        "1\n00:00:03,061 --> 01:01:01,000\nOne\n\n2\n100:00:00,000 --> 100:00:01,500\nTwo -> three\n"
    )


@pytest.mark.parametrize("seconds", [59.9996, 3599.9999])
def test_rounding_carries_into_minutes_and_hours(seconds):
    heard = transcript(Segment(0, seconds, seconds + 1, "Now"))
    [(start, end, _)] = cues(to_vtt(heard))
    assert start == pytest.approx(seconds, abs=0.001)
    assert end > start


def test_vtt_escapes_markup_and_arrows():
    [(_, _, text)] = cues(to_vtt(transcript(Segment(0, 0, 1, "a < b & c --> <i>d</i>"))))
    assert text == "a &lt; b &amp; c --&gt; &lt;i&gt;d&lt;/i&gt;"


def test_cues_never_overlap_or_run_backwards():
    jumbled = transcript(
        Segment(0, 1.0, 3.0, "one"), Segment(1, 2.5, 2.7, "two"), Segment(2, 2.9, 2.9, "three"),
        Segment(3, 5.0, 6.0, "four"),
    )  # fmt: skip
    found = cues(to_vtt(jumbled))
    assert [text for *_, text in found] == ["one", "two", "three", "four"]
    for (_, end, _), (start, _, _) in pairwise(found):
        assert start >= end
    assert all(end > start for start, end, _ in found)


def test_long_speech_is_cut_into_readable_cues():
    text = " ".join(f"Sentence number {n} is said here without a great hurry." for n in range(12))
    found = cues(to_vtt(transcript(spoken(text))))
    assert " ".join(text.replace("\n", " ") for *_, text in found) == text
    for start, end, lines in found:
        assert end - start <= 7.001
        assert len(lines.split("\n")) <= 3
        assert all(len(line) <= 42 for line in lines.split("\n"))


def test_a_pause_and_the_end_of_a_sentence_end_a_cue():
    first = spoken("This is a sentence of some length. And this")
    pause = spoken("is the rest.", start=first.end + 2)
    heard = transcript(Segment(0, 0, pause.end, f"{first.text} {pause.text}", first.words + pause.words))
    assert [text for *_, text in cues(to_vtt(heard))] == [
        "This is a sentence of some length.",
        "And this",
        "is the rest.",
    ]


def test_writing_without_spaces_gets_none():
    words = [Word("今日", 0, 0.5, 0.9), Word("は", 0.5, 0.7, 0.9), Word("晴れ。", 0.7, 1.2, 0.9)]
    heard = Transcript("今日は晴れ。", "ja", 1.2, [Segment(0, 0, 1.2, "今日は晴れ。", words)])
    assert [text for *_, text in cues(to_vtt(heard))] == ["今日は晴れ。"]
