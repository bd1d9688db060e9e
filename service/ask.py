"""`python -m service ask`: one question about images or speech, answered on the terminal, without a server."""

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from service.settings import Settings, print_problems
from shared.runtime import tune_process

if TYPE_CHECKING:
    from service.runtime import Runtime

EPILOG = """\
The service's other settings (python -m service --help) count here as environment variables.

examples:
  python -m service ask --image photo.jpg "What is in this picture?"
  python -m service ask --image photo.jpg --audio question.wav
  python -m service ask --temperature 0.8 --seed 1 "Write a poem about the sea."

exit codes: 0 answered, 1 the model could not answer, 2 bad arguments or files, 130 interrupted
"""


_SETTINGS = ("checkpoint", "device", "dtype", "threads", "engine")
_PENALTIES = ("repetition", "presence", "frequency")


def main(argv: list[str]) -> int:
    """Answers one question on stdout. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    given = {name: value for name in _SETTINGS if (value := getattr(arguments, name)) is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        print_problems(error)
        return 2
    settings.transcription.enabled = bool(arguments.audio)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    tune_process(keep_freed_memory=False)
    try:
        return asyncio.run(_ask(arguments, settings))
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service ask",
        description="One question about images or speech, answered on the terminal, without a server.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "prompt", nargs="?", default="", help="the question; may be left out if there is audio"
    )
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="may be repeated")
    parser.add_argument("--audio", metavar="FILE", help="a spoken question, or speech to ask about")
    parser.add_argument("--system", metavar="TEXT", help="an instruction before the question")
    parser.add_argument("--answer-tokens", type=int, metavar="N", help="most tokens of the answer")
    parser.add_argument("--temperature", help="0 (default) is the likeliest answer; more is more varied")
    parser.add_argument("--top-p", help="sample from the likeliest tokens with this probability together")
    parser.add_argument("--top-k", help="sample from this many likeliest tokens")
    parser.add_argument("--seed", help="the same seed gives the same sampled answer")
    parser.add_argument("--repetition-penalty", help="more than 1 makes repeated tokens less likely")
    parser.add_argument("--presence-penalty", help="more than 0: the same, of the answer's own tokens")
    parser.add_argument("--frequency-penalty", help="the same, once for each time that the token is there")
    parser.add_argument("--stop", action="append", default=[], help="end before this text; may be repeated")
    for name in _SETTINGS:
        text = Settings.model_fields[name].description.replace("%", "%%")
        parser.add_argument(f"--{name}", metavar="VALUE", help=text)
    parser.add_argument("--json", action="store_true", help="print the whole answer as POST /generate does")
    return parser


async def _ask(arguments: argparse.Namespace, settings: Settings) -> int:
    from service.errors import ApiError
    from service.runtime import Runtime  # torch comes with it

    try:
        question = _question(arguments, settings)
    except ApiError as error:
        return _complain(error.message, 2)
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}", 2)
    runtime = Runtime(settings)
    runtime.start()
    try:
        await runtime.loaded()
        if runtime.failed:
            return 1  # the reason is in the log
        await _answer(runtime, question, as_json=arguments.json)
    except ApiError as error:
        return _complain(error.message, 2 if error.status < 500 else 1)
    finally:
        await runtime.stop()
    return 0


def _question(arguments: argparse.Namespace, settings: Settings):
    """The arguments as a `Question`. Raises `ApiError` for wrong ones, `OSError` for files."""
    from service.api.schemas import GenerateFields
    from service.errors import bad_request, from_validation
    from service.pipeline import Media, Question, Turn

    names = ("temperature", "top_p", "top_k", "seed", *(f"{kind}_penalty" for kind in _PENALTIES))
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    try:
        fields = GenerateFields(stop=arguments.stop, max_new_tokens=arguments.answer_tokens, **given)
    except ValidationError as error:
        raise from_validation(list(error.errors())) from None
    if not arguments.prompt.strip() and not arguments.audio:
        raise bad_request("Nothing was asked: give a question, or --audio with a spoken one.")
    sampling = fields.params(settings, ("--answer-tokens", fields.max_new_tokens), fields.stop, None)
    system = (Turn("system", arguments.system),) if arguments.system else ()
    images = tuple(Media(Path(path).read_bytes(), path) for path in arguments.image)
    audio = (Media(Path(arguments.audio).read_bytes(), arguments.audio),) if arguments.audio else ()
    return Question((*system, Turn("user", arguments.prompt, images, audio)), sampling)


async def _answer(runtime: "Runtime", question, *, as_json: bool) -> None:
    from service.answer import generating
    from service.api.schemas import GenerateAnswer
    from service.pipeline import prepare

    with runtime.admission.enter() as ticket:
        prepared = await prepare(runtime, question)
        async with generating(runtime, prepared, ticket) as (answer,):
            if as_json:
                await answer.finish()
                model = runtime.model
                whole = GenerateAnswer.of(answer, model.tokenizer, model.eos_token_ids)
                print(json.dumps(whole.model_dump(), ensure_ascii=False, indent=2))
                return
            if prepared.transcript:
                print(f"Heard: {prepared.transcript}", file=sys.stderr)
            async for event in answer:
                print(event.text, end="", flush=True)
            print()


def _complain(message: str, code: int) -> int:
    print(f"python -m service ask: {message}", file=sys.stderr)
    return code
