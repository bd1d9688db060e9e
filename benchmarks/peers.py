"""What is measured side by side: how each server starts, and how a question is put to it."""

import argparse
import base64
import json
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.load import Call


@dataclass(frozen=True)
class Peer:
    """A server to measure.

    Attributes:
        command: from the program's arguments, with `{port}` in it.
        call: from an image file, a question and the number of tokens.
        ready: a path that answers 200 once it takes requests.
    """

    command: Callable[[argparse.Namespace], list[str]]
    call: Callable[[bytes, str, int], Call]
    ready: str


def form_call(image: bytes, question: str, tokens: int, ignore_eos: bool = True) -> Call:
    """POST /generate with a photograph, streamed, greedy."""
    fields = {"prompt": question, "max_new_tokens": tokens, "stream": "true", "temperature": 0}
    fields |= {"ignore_eos": "true"} if ignore_eos else {}
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="image.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = b"".join([*parts, head.encode(), image, f"\r\n--{boundary}--\r\n".encode()])
    return Call("/generate", f"multipart/form-data; boundary={boundary}", body, tokens)


def json_call(image: bytes, question: str, tokens: int) -> Call:
    """POST /predict of the plain servers in `plain_servers.py`, answered whole."""
    body = {"image": base64.b64encode(image).decode(), "prompt": question, "max_new_tokens": tokens}
    return Call("/predict", "application/json", json.dumps(body).encode(), tokens)


def text_call(image: bytes, question: str, tokens: int) -> Call:
    """POST /v1/completions, text alone: as many words more as an image has tokens."""
    prompt = "An image of sixteen words stands here in place of what the model would see . " + question
    body = {
        "prompt": prompt,
        "max_tokens": tokens,
        "n_predict": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Call("/v1/completions", "application/json", json.dumps(body).encode(), tokens)


def service(*options: str) -> Peer:
    def command(args: argparse.Namespace) -> list[str]:
        base = [sys.executable, "-m", "service", "--port", "{port}", "--checkpoint", args.checkpoint]
        return [*base, "--no-page", "--no-transcription.enabled", *options]

    return Peer(command, form_call, "/ready")


def plain(module: str, *options: str) -> Peer:
    """A server of this folder; LitServe's runs in the Python that has it."""

    def command(args: argparse.Namespace) -> list[str]:
        python = (args.litserve_python if "litserve" in module else None) or sys.executable
        return [
            python,
            "-m",
            f"benchmarks.{module}",
            *options,
            "--port",
            "{port}",
            "--checkpoint",
            args.checkpoint,
        ]

    return Peer(command, json_call, "/health")


def llama_cpp(args: argparse.Namespace) -> list[str]:
    options = ["--parallel", "16", "--ctx-size", "8192", "--threads", "2", "--no-webui"]
    return [args.llama_server, "--model", args.gguf, "--port", "{port}", *options]


def vllm_server(args: argparse.Namespace) -> list[str]:
    memory = ["env", "VLLM_CPU_KVCACHE_SPACE=2"]  # GiB; without, it takes most of the machine's
    program = [
        *memory,
        args.vllm_python,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        args.vllm_model,
    ]
    options = ["--enable-prompt-embeds", "--max-model-len", "2048", "--max-num-seqs", "32"]
    return [*program, *options, "--dtype", args.vllm_dtype, "--port", "{port}"]


PEERS = {
    "service": service(),
    "service-int8": service("--quantize", "int8"),
    "service-transformers": service("--decoder", "transformers"),
    "generate-one-by-one": service("--engine", "sequential"),
    "static-batch": plain("plain_servers", "static-batch"),
    "litserve": plain("litserve_server"),
    "continuous-batching": plain("plain_servers", "continuous-batching"),
    "llama.cpp": Peer(llama_cpp, text_call, "/health"),
    "vllm-cpu-text": Peer(vllm_server, text_call, "/health"),
}
