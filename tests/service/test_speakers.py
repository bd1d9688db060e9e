"""Names of speakers put to a transcript, from the turns that a model found."""

from service.transcription import Segment, Transcript, Word
from service.transcription.formats import to_json, to_srt, to_verbose_json, to_vtt
from service.transcription.speakers import with_speakers


def segment(text: str, start: float = 0.0, words: bool = True) -> Segment:
    """A word in each half second."""
    parts = text.split()
    timed = [Word(word, start + n / 2, start + (n + 1) / 2, 0.9) for n, word in enumerate(parts)]
    return Segment(7, start, start + len(parts) / 2, text, timed if words else None)


def said(segments: list[Segment]) -> list[tuple[str | None, str]]:
    return [(segment.speaker, segment.text) for segment in segments]


def test_a_segment_is_cut_where_the_speaker_changes():
    cut = with_speakers([segment("How are you? Very well.")], [(0, 1.4, "A"), (1.4, 3, "B")], "en")
    assert said(cut) == [("A", "How are you?"), ("B", "Very well.")]
    assert [(part.id, part.start, part.end) for part in cut] == [(0, 0.0, 1.5), (1, 1.5, 2.5)]
    assert [word.speaker for part in cut for word in part.words] == ["A", "A", "A", "B", "B"]


def test_the_one_who_speaks_most_has_the_word():
    turns = [(0.0, 0.5, "A"), (0.1, 1.0, "B"), (0.9, 1.0, "A")]
    cut = with_speakers([segment("One two", words=False)], turns, "en")
    assert said(cut) == [("B", "One two")]


def test_a_word_between_turns_belongs_to_the_nearest():
    turns = [(0.0, 0.4, "A"), (3.0, 3.5, "B")]
    cut = with_speakers([segment("Hm", 1.0), segment("Oh", 2.3)], turns, "en")
    assert said(cut) == [("A", "Hm"), ("B", "Oh")]


def test_a_long_turn_around_short_ones():
    turns = [(0.0, 9.0, "A"), (1.0, 1.2, "B"), (2.0, 4.0, "C"), (20.0, 21.0, "B")]
    cut = with_speakers([segment("One", 1.1), segment("Two", 5.0), segment("Three", 12.0)], turns, "en")
    assert said(cut) == [("A", "One"), ("A", "Two"), ("A", "Three")]


def test_without_turns_nobody_is_named():
    segments = [segment("Hello there.")]
    assert with_speakers(segments, (), "en") == segments


def test_languages_without_spaces():
    words = [Word("今日", 0, 0.5, 0.9), Word("は", 0.5, 1, 0.9), Word("晴れ", 1, 1.5, 0.9)]
    whole = Segment(0, 0, 1.5, "今日は晴れ", words)
    cut = with_speakers([whole], [(0, 1, "A"), (1, 2, "B")], "ja")
    assert said(cut) == [("A", "今日は"), ("B", "晴れ")]


def test_speakers_in_every_format():
    segments = with_speakers([segment("Hello & welcome. Thanks.")], [(0, 1.5, "A"), (1.5, 9, "B")], "en")
    heard = Transcript("Hello & welcome. Thanks.", "en", 2.0, segments, "whisper")
    assert [entry["speaker"] for entry in to_json(heard, words=False)["segments"]] == ["A", "B"]
    assert [word["speaker"] for word in to_verbose_json(heard, words=True)["words"]] == ["A", "A", "A", "B"]
    assert "\nA: Hello & welcome.\n" in to_srt(heard)
    assert "\n<v A>Hello &amp; welcome.\n" in to_vtt(heard)
