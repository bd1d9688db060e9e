"""Transcription: eight recordings at once against plain WhisperX one after another, and a recording of hours.

    python -m benchmarks.transcribe concurrent --out RESULTS [--threads 2] [--rounds 5]
    python -m benchmarks.transcribe long --out RESULTS [--hours 2]

Needs Debian's pocketsphinx-testdata (five human readings from LibriVox) and ffmpeg. `concurrent` loads plain
WhisperX and this service's worker with the same model, compute type and threads, and measures them in turns, so
that a slow minute of the machine hits both. `long` starts the whole service, posts the clips joined to one MP3,
and samples the memory of its processes. Results are JSON lines in RESULTS/transcribe.jsonl.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import jiwer
import numpy as np

from benchmarks.serve import commit
from benchmarks.server_process import Memory, ServerProcess
from service.settings import TranscriptionSettings
from service.transcription import Transcriber
from shared.media import SAMPLE_RATE, decode_audio

LIBRIVOX = Path("/usr/share/pocketsphinx/test/data/librivox")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    concurrent = kinds.add_parser("concurrent")
    concurrent.add_argument("--recordings", type=int, default=8)
    concurrent.add_argument("--rounds", type=int, default=5)
    long = kinds.add_parser("long")
    long.add_argument("--hours", type=float, default=2.0)
    for kind in (concurrent, long):
        kind.add_argument("--out", type=Path, required=True)
        kind.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    record = measure_concurrent(args) if args.kind == "concurrent" else measure_long(args)
    record = {"kind": args.kind, "threads": args.threads, "commit": commit()} | record
    with (args.out / "transcribe.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record, indent=1))


def readings() -> list[tuple[np.ndarray, str]]:
    """`[samples]` and what is said, of each clip."""
    if not LIBRIVOX.is_dir():
        sys.exit("no human speech here: install Debian's pocketsphinx-testdata")
    lines = (LIBRIVOX / "transcription").read_text(encoding="utf-8")
    found = re.findall(r"^<s> (.+?) </s> \((\S+)\)$", lines, flags=re.MULTILINE)
    return [(decode_audio((LIBRIVOX / f"{name}.wav").read_bytes()), text) for text, name in found]


def word_error_rate(references: list[str], texts: list[str]) -> float:
    plain = [re.sub(r"[^a-z' ]", "", text.lower().replace("-", " ")) for text in texts]
    return round(jiwer.wer(references, [re.sub(r"\bmr\b", "mister", text) for text in plain]), 4)


# ------------------------------------------------------------------------------------ eight at once


def measure_concurrent(args: argparse.Namespace) -> dict:
    clips = list(itertools.islice(itertools.cycle(readings()), args.recordings))
    return asyncio.run(in_turns(clips, args))


async def in_turns(clips: list[tuple[np.ndarray, str]], args: argparse.Namespace) -> dict:
    plain = PlainWhisperX(args.threads)
    settings = TranscriptionSettings(threads=args.threads)
    transcriber = Transcriber(settings)
    await transcriber.start()
    audios, references = [audio for audio, _ in clips], [text for _, text in clips]
    seconds: dict[str, list[float]] = {"plain_whisperx": [], "service": [], "service_one_by_one": []}
    texts: dict[str, list[str]] = {}
    for round_number in range(args.rounds + 1):  # the first warms up
        for name in seconds:
            begin = time.perf_counter()
            if name == "plain_whisperx":
                texts[name] = [plain.transcribe(audio) for audio in audios]
            elif name == "service":
                heard = await asyncio.gather(*(transcriber.transcribe(audio) for audio in audios))
                texts[name] = [transcript.text for transcript in heard]
            else:
                texts[name] = [(await transcriber.transcribe(audio)).text for audio in audios]
            if round_number:
                seconds[name].append(round(time.perf_counter() - begin, 3))
    stats = transcriber.stats()
    await transcriber.stop()
    pairs = zip(seconds["plain_whisperx"], seconds["service"], strict=True)
    return {
        "recordings": len(clips),
        "audio_seconds": round(sum(map(len, audios)) / SAMPLE_RATE, 1),
        "seconds": seconds,
        "factor": round(statistics.median(before / now for before, now in pairs), 3),
        "word_error_rate": {name: word_error_rate(references, heard) for name, heard in texts.items()},
        "pieces_per_batch": round(stats.batched_pieces / stats.batches, 2),
    }


class PlainWhisperX:
    """WhisperX as its README has it, with the model and the compute type of the service."""

    def __init__(self, threads: int) -> None:
        import torch
        import whisperx

        from service.transcription.whisper import model_location

        torch.set_num_threads(threads)
        self._pipeline = whisperx.load_model(
            model_location("embedded"), "cpu", compute_type="int8", language="en", threads=threads
        )

    def transcribe(self, audio: np.ndarray) -> str:
        result = self._pipeline.transcribe(audio, batch_size=8, language="en")
        return "".join(segment["text"] for segment in result["segments"]).strip()


# ---------------------------------------------------------------------------------------- for hours


def measure_long(args: argparse.Namespace) -> dict:
    file, reference = joined(args.out, args.hours * 3600)
    command = [sys.executable, "-m", "service", "--port", "{port}", "--no-page", "--max-upload-bytes"]
    command += ["1000000000", "--request-timeout", "7200", "--transcription.threads", str(args.threads)]
    with ServerProcess("service", command, "/ready", args.out / "service.log") as server:
        hear(server.url, file.with_suffix(".short.mp3"))  # what is allocated once is no part of the growth
        memory = Memory(server, every=0.25)
        idle = server.memory_mib()
        begin = time.perf_counter()
        with memory:
            first, answer = hear(server.url, file)
        seconds = time.perf_counter() - begin
        time.sleep(5)
        after = server.memory_mib()
    return {
        "audio_seconds": answer["duration"],
        "seconds": round(seconds, 1),
        "real_time_factor": round(seconds / answer["duration"], 4),
        "first_text_after_seconds": round(first, 1),
        "segments": len(answer["segments"]),
        "word_error_rate": word_error_rate([reference], [answer["text"]]),
        "idle_mib": idle,
        "peak_mib": memory.peak,
        "peak_above_idle_mib": round(memory.peak - idle, 1),
        "after_mib": after,
    }


def joined(folder: Path, seconds: float) -> tuple[Path, str]:
    """The clips with pauses of a second, again and again, as an MP3, and what is said in it."""
    clips = readings()
    pause = np.zeros(SAMPLE_RATE, np.float32)
    turn = np.concatenate([part for audio, _ in clips for part in (audio, pause)])
    said = " ".join(text for _, text in clips)
    turns = round(seconds * SAMPLE_RATE / len(turn))
    file = folder / f"{seconds:.0f}s.mp3"
    for path, times in ((file, turns), (file.with_suffix(".short.mp3"), 2)):
        if not path.exists():
            partial = path.with_name(f"partial-{path.name}")  # an interrupted run leaves no short file behind
            command = ["ffmpeg", "-loglevel", "error", "-y", "-f", "f32le", "-ar", str(SAMPLE_RATE)]
            encode = subprocess.Popen(
                [*command, "-ac", "1", "-i", "-", "-b:a", "64k", str(partial)], stdin=subprocess.PIPE
            )
            for _ in range(times):
                encode.stdin.write(turn.tobytes())
            encode.stdin.close()
            if encode.wait():
                sys.exit(f"ffmpeg could not write {partial}")
            partial.rename(path)
    return file, " ".join([said] * turns)


def hear(url: str, file: Path) -> tuple[float, dict]:
    """Seconds to the first segment, and the answer, of a streamed POST /transcribe."""
    begin, first = time.perf_counter(), 0.0
    form = {"data": {"stream": "true"}, "files": {"audio": (file.name, file.read_bytes())}}
    with httpx.stream("POST", f"{url}/transcribe", timeout=3600, **form) as response:
        response.raise_for_status()
        event = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
                first = first or (time.perf_counter() - begin if event == "segment" else 0.0)
            elif line.startswith("data: ") and event in ("done", "error"):
                answer = json.loads(line.removeprefix("data: "))
                if event == "error":
                    sys.exit(f"the service failed: {answer}")
                return first, answer
    sys.exit("the stream ended early")


if __name__ == "__main__":
    main()
