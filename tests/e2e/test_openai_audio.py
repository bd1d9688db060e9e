"""Speech through the real `openai` client over a real socket: what a program written for OpenAI relies on.

As in test_openai_chat.py, nothing here is about this service alone: with OPENAI_BASE_URL the same tests run
against any server whose `whisper-1` hears English.
"""

import asyncio
import re
import subprocess
from pathlib import Path

import jiwer
import openai
import pysubs2
import pytest
import webvtt
from openai.types.audio import (
    Transcription,
    TranscriptionSegment,
    TranscriptionStreamEvent,
    TranscriptionVerbose,
    TranscriptionWord,
)
from pydantic import TypeAdapter

MODEL = "whisper-1"


@pytest.fixture(scope="module")
def transcribe(openai_client):
    def create(file, **fields):
        return openai_client.audio.transcriptions.create(file=file, **({"model": MODEL} | fields))

    return create


@pytest.fixture(scope="module")
def reading(librivox_clips) -> tuple[Path, str]:
    """Six seconds of a human voice, and what is said."""
    return librivox_clips[3].path, librivox_clips[3].text


def normalised(text: str) -> str:
    return re.sub(r"\bmr\b", "mister", re.sub(r"[^a-z' ]", "", text.lower().replace("-", " ")))


def word_error_rate(reference: str | list[str], text: str | list[str]) -> float:
    heard = normalised(text) if isinstance(text, str) else [normalised(each) for each in text]
    return jiwer.wer(reference, heard)


def test_json(transcribe, reading):
    path, text = reading
    answer = transcribe(path)
    assert type(answer) is Transcription
    Transcription.model_validate(answer.to_dict())
    assert word_error_rate(text, answer.text) <= 0.06
    assert (answer.usage.type, round(answer.usage.seconds)) == ("duration", 6)


def test_verbose_json_has_every_field_of_the_clients_types(transcribe, reading):
    path, text = reading
    answer = transcribe(path, response_format="verbose_json")
    TranscriptionVerbose.model_validate(answer.to_dict())  # the client itself takes anything
    assert answer.language == "english" and answer.duration == pytest.approx(6.05, abs=0.1)
    assert word_error_rate(text, answer.text) <= 0.06
    assert answer.words is None
    required = {name for name, field in TranscriptionSegment.model_fields.items() if field.is_required()}
    for segment in answer.segments:
        assert required <= set(segment.to_dict())
        TranscriptionSegment.model_validate(segment.to_dict())
        assert 0 <= segment.start < segment.end <= answer.duration
        assert -1 < segment.avg_logprob < 0 < segment.compression_ratio < 2.4
        assert 0 <= segment.no_speech_prob <= 1 and segment.temperature == 0 and segment.tokens
    assert answer.usage.seconds == pytest.approx(answer.duration)


@pytest.mark.parametrize("granularities", [["word"], ["segment"], ["word", "segment"]])
def test_timestamp_granularities(transcribe, reading, granularities: list[str]):
    answer = transcribe(reading[0], response_format="verbose_json", timestamp_granularities=granularities)
    assert bool(answer.segments) == ("segment" in granularities)
    assert bool(answer.words) == ("word" in granularities)
    if answer.words:
        assert " ".join(word.word for word in answer.words) == answer.text
        for word in answer.words:
            TranscriptionWord.model_validate(word.to_dict())
            assert 0 <= word.start <= word.end <= answer.duration
        starts = [word.start for word in answer.words]
        assert starts == sorted(starts)


def test_text(transcribe, reading):
    assert transcribe(reading[0], response_format="text") == transcribe(reading[0]).text + "\n"


def check_cues(cues: list[tuple[float, float, str]], text: str, duration: float) -> None:
    """They say the text, in order, without overlap, within the recording, in lines that can be read."""
    assert " ".join(" ".join(said for *_, said in cues).split()) == text
    times = [time for start, end, _ in cues for time in (start, end)]
    assert times == sorted(times) and times[-1] <= duration
    assert all(start < end <= start + 8 for start, end, _ in cues)
    assert all(len(line) <= 42 for *_, said in cues for line in said.split("\n"))


def test_subtitles_pass_a_validator(transcribe, reading):
    path, _ = reading
    text = transcribe(path).text
    srt = transcribe(path, response_format="srt")
    events = pysubs2.SSAFile.from_string(srt, format_="srt")
    assert events and not events.get_text_events()[0].is_comment
    cues = [(event.start / 1000, event.end / 1000, event.plaintext) for event in events]
    check_cues(cues, text, 6.1)
    assert events.to_string("srt").strip() == srt.strip()

    vtt = transcribe(path, response_format="vtt")
    captions = webvtt.from_string(vtt, strict=True)
    check_cues([(each.start_in_seconds, each.end_in_seconds, each.text) for each in captions], text, 6.1)
    assert [event.text for event in pysubs2.SSAFile.from_string(vtt, format_="vtt")] == [
        event.text for event in events
    ]


CONTAINERS = {
    "wav": ["clip.wav"],
    "mp3": ["clip.mp3"],
    "flac": ["clip.flac"],
    "Ogg Vorbis": ["-c:a", "libvorbis", "clip.ogg"],
    "Ogg Opus": ["-c:a", "libopus", "clip.opus"],
    "m4a": ["-c:a", "aac", "clip.m4a"],
    "AAC": ["-c:a", "aac", "-f", "adts", "clip.aac"],
    "WebM": ["-c:a", "libopus", "clip.webm"],
    "the sound of an MP4": ["-c:a", "aac", "-c:v", "mpeg4", "-shortest", "clip.mp4"],
    "the sound of a WebM video": ["-c:a", "libopus", "-c:v", "libvpx", "-shortest", "video.webm"],
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container(transcribe, reading, tmp_path, kind: str):
    path, text = reading
    *codecs, name = CONTAINERS[kind]
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=5"] if "-c:v" in codecs else []
    command = ["ffmpeg", "-loglevel", "error", "-i", str(path), *picture, *codecs, str(tmp_path / name)]
    subprocess.run(command, check=True, timeout=120)
    assert word_error_rate(text, transcribe(tmp_path / name).text) <= 0.06


def test_a_stream(transcribe, reading):
    whole = transcribe(reading[0]).text
    events = list(transcribe(reading[0], stream=True))
    for event in events:
        TypeAdapter(TranscriptionStreamEvent).validate_python(event.to_dict())
    *deltas, done = events
    assert deltas and {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text == whole


def test_prompt_temperature_and_language(transcribe, reading):
    path, text = reading
    answer = transcribe(path, prompt="Jane Austen, Sense and Sensibility.", language="en", temperature=0)
    assert word_error_rate(text, answer.text) <= 0.25
    sampled = transcribe(path, temperature=0.3, response_format="verbose_json")
    assert {segment.temperature for segment in sampled.segments} == {0.3}


def test_silence(transcribe, tmp_path):
    path = tmp_path / "silence.wav"
    source = ["-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-t", "2", str(path)]
    subprocess.run(["ffmpeg", "-loglevel", "error", *source], check=True, timeout=60)
    assert transcribe(path).text == ""
    assert transcribe(path, response_format="verbose_json").segments == []
    events = list(transcribe(path, stream=True))
    assert [event.type for event in events] == ["transcript.text.done"]


WRONG = {
    "a language it does not know": ({"language": "fr"}, 400, "language"),
    "no language at all": ({"language": "English please"}, 400, "language"),
    "an unknown model": ({"model": "whisper-99"}, 404, "model"),
    "an unknown format": ({"response_format": "docx"}, 400, "response_format"),
    "too hot": ({"temperature": 3}, 400, "temperature"),
    "words without verbose_json": (
        {"timestamp_granularities": ["word"]},
        400,
        "timestamp_granularities[]",
    ),
    "an unknown granularity": (
        {"response_format": "verbose_json", "timestamp_granularities": ["letter"]},
        400,
        "timestamp_granularities[]",
    ),
    "subtitles as a stream": ({"stream": True, "response_format": "srt"}, 400, "response_format"),
    "speakers without a model": ({"response_format": "diarized_json"}, 400, "response_format"),
    "logprobs": ({"include": ["logprobs"]}, 400, "include[]"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", WRONG)
def test_typed_errors(transcribe, reading, case: str, stream: bool):
    fields, status, param = WRONG[case]
    expected = {400: openai.BadRequestError, 404: openai.NotFoundError}[status]
    with pytest.raises(expected) as caught:
        transcribe(reading[0], **({"stream": stream} | fields))
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error" and caught.value.code and caught.value.body["message"]


def test_files_that_are_no_sound(transcribe):
    with pytest.raises(openai.APIStatusError) as caught:
        transcribe(("notes.wav", b"These are notes and no sound.\n" * 50))
    assert (caught.value.status_code, caught.value.param) == (415, "file")
    with pytest.raises(openai.BadRequestError) as caught:
        transcribe(("empty.wav", b""))
    assert caught.value.param == "file"


def test_a_translation_by_an_english_model_is_refused_with_the_reason(openai_client, reading):
    with pytest.raises(openai.BadRequestError, match="only English") as caught:
        openai_client.audio.translations.create(file=reading[0], model=MODEL)
    assert (caught.value.param, caught.value.code) == ("model", "unsupported_option")


async def test_many_at_once_and_one_that_hangs_up(openai_client, librivox_clips):
    async with openai.AsyncOpenAI(
        base_url=str(openai_client.base_url), api_key="unused", max_retries=0, timeout=120
    ) as client:

        async def hear(clip) -> str:
            return (await client.audio.transcriptions.create(file=clip.path, model=MODEL)).text

        gone = asyncio.create_task(hear(librivox_clips[0]))
        others = [asyncio.create_task(hear(clip)) for clip in librivox_clips]
        await asyncio.sleep(0.2)
        gone.cancel()
        texts = await asyncio.gather(*others)
        assert word_error_rate([clip.text for clip in librivox_clips], texts) <= 0.06
        assert gone.cancelled()
