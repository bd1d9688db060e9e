"""Every setting of the service, in one place.

A setting is a flag (`--max-batch-size 8`), an environment variable (`SERVICE_MAX_BATCH_SIZE=8`) or its
default here, in this order. Nested ones are `--transcription.model small` and
`SERVICE_TRANSCRIPTION__MODEL=small`. Nothing else in the service reads the environment or keeps a default of
its own.
"""

import sys
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024


class TranscriptionSettings(BaseModel):
    """Speech to text (WhisperX in a worker process of its own)."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = Field(
        True, description="Start the speech worker. When false, audio is refused with a clear message."
    )
    model: str = Field(
        "embedded",
        description="`embedded` (the packaged Whisper tiny.en), a size such as `small`, or a directory.",
    )
    device: str = Field("cpu", description="Device of the speech model: `cpu`, `cuda`, `cuda:1`.")
    compute_type: str = Field(
        "auto", description="CTranslate2 compute type; `auto` is int8 on CPU, float16 on a GPU."
    )
    batch_size: PositiveInt = Field(
        8, description="Pieces of speech, of one recording or several, that share one pass of the model."
    )
    threads: PositiveInt = Field(1, description="CPU threads of each stage of the speech worker.")
    language: str | None = Field(None, description="Language spoken, such as `en`; unset means: detect it.")
    align_model: str | None = Field(
        None,
        description="wav2vec2 model that times words: `auto` for WhisperX's choice for each language, or a "
        "directory, hub or torchaudio name for `language`; unset, or where it does not load: Whisper's own "
        "attention.",
    )
    diarisation_model: str | None = Field(
        None,
        description="pyannote speaker-diarisation pipeline (directory or hub name) that tells speakers apart; "
        "unset: asking for speakers is refused.",
    )
    max_seconds: PositiveFloat = Field(4 * 3600.0, description="Longest audio that is accepted, in seconds.")
    start_timeout: PositiveFloat = Field(
        300.0, description="Seconds that the worker may take to load its model."
    )
    timeout: PositiveFloat = Field(
        1800.0, description="Seconds that a transcription may go without progress; then it is given up."
    )
    max_running: PositiveInt = Field(
        8, description="Recordings that the worker has at a time; their speech shares batches."
    )
    max_waiting: PositiveInt = Field(
        32, description="Recordings that wait for the worker; one more is answered 429."
    )
    max_waiting_seconds: PositiveFloat = Field(
        8 * 3600.0,
        description="Length of all recordings that wait, which bounds their memory (64 kB a second); one past "
        "it is answered 429.",
    )
    restart_after: int = Field(
        0,
        ge=0,
        description="Replace the worker after this many transcriptions, which bounds its memory; 0: never. "
        "None is lost by it.",
    )
    unload_after: float = Field(
        0.0,
        ge=0,
        description="Unload the model after this many seconds without work, and load it again for the next "
        "recording; 0: keep it.",
    )


class Settings(BaseSettings):
    """Serve a multimodal checkpoint over HTTP: its own routes, OpenAI's under /v1, described at /docs, and a page
    at /. `python -m service ask --help`: one question without a server."""

    model_config = SettingsConfigDict(
        env_prefix="SERVICE_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        use_attribute_docstrings=True,
    )

    # Where and what to serve
    host: str = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0 opens the service to the network."
    )
    port: int = Field(
        8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it."
    )
    checkpoint: str = Field(
        "embedded",
        description="`embedded` (the model that ships with this package) or a directory made by the trainer.",
    )
    device: str = Field(
        "auto", description="Device of the model: `auto` (a GPU if there is one), `cpu`, `cuda`."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision of the weights; float32 gives answers that do not depend on the batch."
    )
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0 leaves the choice to PyTorch.")
    api_key: SecretStr | None = Field(
        None,
        min_length=1,
        description="If set, the model routes want `Authorization: Bearer <this key>`; the probes stay open.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level to log."
    )

    # Engine
    engine: Literal["continuous", "sequential", "vllm"] = Field(
        "continuous",
        description="`continuous` batches concurrent requests; `sequential` runs one at a time (reference); "
        "`vllm` sends prompt embeddings to a vLLM server.",
    )
    vllm_url: str = Field(
        "http://127.0.0.1:8001", description="The vLLM server of `--engine vllm`, without `/v1`."
    )
    vllm_api_key: SecretStr | None = Field(None, min_length=1, description="Its API key, if it wants one.")
    decoder: Literal["auto", "native", "transformers"] = Field(
        "auto",
        description="What computes the language model: `native` (C++, compiled at the first start; CPUs; Llama, "
        "Phi, Phi-3) or `transformers`; `auto` takes `native` wherever it works.",
    )
    quantize: Literal["none", "int8"] = Field(
        "none",
        description="`int8` halves the weights' memory and is faster on CPUs, for a little quality; needs the "
        "native decoder.",
    )
    max_batch_size: PositiveInt = Field(16, description="Requests that share one decode step.")
    max_context_tokens: PositiveInt = Field(
        2048,
        description="Longest prompt plus answer of one request, in tokens; the model's own limit also holds.",
    )
    cache_tokens: PositiveInt = Field(
        16384,
        description="Budget of the key/value cache: prompt and answer tokens of all running requests together "
        "(with the transformers decoder: their number times the longest).",
    )
    prefix_cache_tokens: int = Field(
        4096,
        ge=0,
        description="Tokens of past requests kept for those that begin alike (same images, dialogue so far).",
    )
    prefill_chunk_tokens: PositiveInt = Field(
        128, description="Prompt tokens computed between two decode steps; fewer let answers flow steadier."
    )
    vision_batch_size: PositiveInt = Field(8, description="Images that share one pass of the vision tower.")
    image_cache_entries: int = Field(
        256, ge=0, description="Images whose features are kept, so that asking again skips the vision tower."
    )

    # Limits
    max_new_tokens: PositiveInt = Field(512, description="Most tokens that a request may ask for.")
    default_new_tokens: PositiveInt = Field(128, description="Tokens at most, where a request does not say.")
    max_images: PositiveInt = Field(8, description="Images in one request.")
    max_recordings: PositiveInt = Field(8, description="Recordings in one dialogue.")
    image_hosts: str = Field(
        "",
        description="Hosts from which an `image_url` is fetched, comma-separated; `*`: any public address; "
        "empty: none, images come as data: URLs.",
    )
    image_fetch_timeout: PositiveFloat = Field(10.0, description="Seconds that fetching an image may take.")
    max_image_bytes: PositiveInt = Field(20 * MIB, description="Largest image file, in bytes.")
    max_image_pixels: PositiveInt = Field(
        50_000_000, description="Largest image, in pixels, checked before decoding."
    )
    max_upload_bytes: PositiveInt = Field(256 * MIB, description="Largest request body, in bytes.")
    max_text_bytes: PositiveInt = Field(256 * 1024, description="Largest text field of a form, in bytes.")
    max_requests: PositiveInt = Field(
        128, description="Requests taken in at once, waiting or running; one more is answered 429."
    )
    max_queue_tokens: PositiveInt = Field(
        131_072, description="Prompt and answer tokens of all requests taken in; one past it is answered 429."
    )
    request_timeout: PositiveFloat = Field(300.0, description="Seconds until a request is given up with 504.")
    drain_timeout: PositiveFloat = Field(
        60.0, description="Seconds that running requests get to finish after SIGTERM before they are cut off."
    )

    # Parts
    page: bool = Field(
        True,
        description="Serve the page at `/`; with an api_key, it asks for it.",
    )
    transcription: TranscriptionSettings = TranscriptionSettings()


def print_problems(error: ValidationError) -> None:
    """Says on stderr which settings are wrong, a line each."""
    for problem in error.errors():
        name = ".".join(map(str, problem["loc"]))
        print(f"python -m service: setting {name}: {problem['msg']}", file=sys.stderr)
