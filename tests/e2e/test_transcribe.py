"""POST /transcribe over a real socket: human readings in, text and subtitles out."""

import json
import re
import subprocess

import jiwer
import openai
import pytest
from openai.types.audio import TranslationVerbose


def transcribe(service, audio: bytes, **fields: str):
    response = service.client.post("/transcribe", files={"audio": ("clip", audio)}, data=fields)
    assert response.status_code == 200, response.text
    return response


def normalised(text: str) -> str:
    words = re.sub(r"[^a-z' ]", "", text.lower().replace("-", " "))
    return re.sub(r"\bmr\b", "mister", words)


def test_human_readings(service, librivox_clips):
    answers = [transcribe(service, clip.path.read_bytes()).json() for clip in librivox_clips]
    heard = [normalised(answer["text"]) for answer in answers]
    assert jiwer.wer([clip.text for clip in librivox_clips], heard) <= 0.06
    for answer in answers:
        assert set(answer) == {"text", "language", "duration", "alignment", "segments"}
        assert answer["alignment"] is None
        assert answer["language"] == "en"
        assert set(answer["segments"][0]) == {"id", "start", "end", "text"}


def test_every_form_of_answer(service, librivox_clips):
    clip = librivox_clips[-1].path.read_bytes()
    plain = transcribe(service, clip).json()
    text = transcribe(service, clip, response_format="text")
    assert (text.headers["content-type"], text.text) == ("text/plain; charset=utf-8", plain["text"] + "\n")

    timed = transcribe(service, clip, word_timestamps="true").json()
    words = timed["segments"][0]["words"]
    assert " ".join(word["word"] for word in words) == timed["text"] == plain["text"]
    verbose = transcribe(service, clip, word_timestamps="true", response_format="verbose_json").json()
    assert (verbose["task"], verbose["words"]) == ("transcribe", words)

    srt = transcribe(service, clip, response_format="srt")
    assert srt.headers["content-type"] == "application/x-subrip; charset=utf-8"
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\n\w", srt.text)
    vtt = transcribe(service, clip, response_format="vtt")
    assert vtt.headers["content-type"] == "text/vtt; charset=utf-8"
    assert re.match(r"WEBVTT\n\n00:00:00\.\d{3} --> 00:00:0\d\.\d{3}\n\w", vtt.text)
    for subtitles in (srt.text, vtt.text):
        lines = [line for line in subtitles.split("\n") if re.match(r"[A-Za-z]", line) and line != "WEBVTT"]
        assert " ".join(lines) == plain["text"]


@pytest.mark.parametrize("suffix", ["mp3", "m4a", "ogg", "webm"])
def test_compressed_recordings(service, librivox_clips, tmp_path, suffix):
    clip = librivox_clips[-1]
    file = tmp_path / f"clip.{suffix}"
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", str(clip.path), str(file)], check=True, timeout=60)
    answer = transcribe(service, file.read_bytes()).json()
    assert jiwer.wer(clip.text, normalised(answer["text"])) <= 0.15


def test_silence_is_no_error(service, tmp_path):
    file = tmp_path / "silence.wav"
    source = ["-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-t", "2"]
    subprocess.run(["ffmpeg", "-loglevel", "error", *source, str(file)], check=True, timeout=60)
    answer = transcribe(service, file.read_bytes()).json()
    assert answer == {"text": "", "language": "en", "duration": 2.0, "alignment": None, "segments": []}
    assert transcribe(service, file.read_bytes(), response_format="vtt").text == "WEBVTT\n"


def test_a_language_the_model_does_not_know(service, librivox_clips):
    clip = librivox_clips[-1].path.read_bytes()
    response = service.client.post("/transcribe", files={"audio": clip}, data={"language": "fr"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("language", "unsupported_language")
    assert transcribe(service, clip, language="EN").json()["text"]


def test_a_stream_tells_text_and_progress(service, librivox_clips):
    clip = librivox_clips[0].path.read_bytes()
    plain = transcribe(service, clip, word_timestamps="true").json()
    stream = transcribe(service, clip, word_timestamps="true", stream="true")
    assert stream.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in stream.text.strip().split("\n\n")]
    events = [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks
    ]
    assert events[-1] == ("done", plain)
    assert [data for name, data in events if name == "segment"] == plain["segments"]
    progress = [data for name, data in events if name == "progress"]
    assert [each["seconds"] for each in progress] == sorted(each["seconds"] for each in progress)
    assert progress[-1] == {"seconds": plain["duration"], "duration": plain["duration"]}


def test_what_the_models_cannot_do(service, librivox_clips):
    clip = librivox_clips[-1].path.read_bytes()
    for fields, param, words in (
        ({"task": "translate"}, "task", "only English"),
        ({"speakers": "true"}, "speakers", "diarisation model"),
        ({"stream": "true", "response_format": "srt"}, "response_format", "stream"),
    ):
        response = service.client.post("/transcribe", files={"audio": clip}, data=fields)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == param
        assert words in error["message"]


def test_translations_by_a_multilingual_whisper(launch, checkpoint, multilingual_whisper, librivox_clips):
    flags = [
        "--transcription.model",
        str(multilingual_whisper),
        "--transcription.language",
        "en",
        "--no-page",
    ]
    clip = librivox_clips[-1].path
    with launch(*flags, checkpoint=checkpoint) as service:
        service.wait_ready()
        with openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
            plain = client.audio.translations.create(file=clip, model="whisper-1")
            assert set(plain.to_dict()) == {"text"}
            verbose = client.audio.translations.create(
                file=clip, model="whisper-1", response_format="verbose_json"
            )
            TranslationVerbose.model_validate(verbose.to_dict())
            assert verbose.language == "english"
            assert verbose.text == plain.text
            srt = client.audio.translations.create(file=clip, model="whisper-1", response_format="srt")
            assert "-->" in str(srt) or not plain.text
            heard = client.audio.transcriptions.create(file=clip, model="whisper-1", language="en")
            assert jiwer.wer(librivox_clips[-1].text, normalised(heard.text)) <= 0.15
