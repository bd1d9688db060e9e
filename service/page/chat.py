"""What happens on the page when somebody asks: the question goes the routes' own way, the answer comes back as
updates of the page."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from service.answer import Answer, generating
from service.api.dependencies import deadline
from service.api.sampling import SamplingFields
from service.errors import ApiError, bad_request, from_validation
from service.pipeline import Media, Prepared, Question, Turn, prepare
from service.runtime import Runtime

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.08
"""Least time between two updates of an answer; each costs the browser a redraw of the conversation."""


@dataclass(frozen=True)
class PageTurn:
    """One turn of the dialogue so far; speech is already text. Images stay files, which Gradio deletes in time."""

    role: Literal["user", "assistant"]
    text: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """What the page shows.

    Attributes:
        messages: the conversation as Gradio's chatbot takes it.
        turns: the conversation as the model takes it.
        status: a line below it.
        asked: the question was taken in, so that its fields can be emptied.
    """

    messages: list[dict[str, Any]]
    turns: tuple[PageTurn, ...]
    status: str = ""
    asked: bool = False
    running: bool = field(default=True)


class Chat:
    """Asks the engine for the page: one question at a time for each session, an open page in a browser."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._asked: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}

    async def ask(
        self,
        session: str,
        text: str,
        image: str | None,
        audio: str | None,
        messages: list[dict[str, Any]],
        turns: tuple[PageTurn, ...],
        sampling: dict[str, Any],
    ) -> AsyncGenerator[View]:
        """A question and its answer, as it comes, to its end or until `stop`. An error becomes a message in the
        conversation."""
        text = (text or "").strip()
        shown = [*messages, *_question_messages(text, image, audio)]
        view = View(shown, turns, "Listening …" if audio else "Reading …")
        views: asyncio.Queue[View | None] = asyncio.Queue()

        async def answer() -> None:
            async for latest in self._answer(view, text, image, audio, sampling):
                views.put_nowait(latest)

        task, ended = asyncio.create_task(answer()), asyncio.Event()
        task.add_done_callback(lambda _: views.put_nowait(None))
        self._asked[session] = task, ended
        try:
            yield view
            latest = view
            while (following := await views.get()) is not None:
                latest = following
                yield latest
            if task.cancelled():
                yield _stopped(latest)
        finally:
            task.cancel()
            if self._asked[session][0] is task:
                del self._asked[session]
            ended.set()

    async def stop(self, session: str) -> None:
        """Stops the session's question. `ask` itself shows that, in its place behind what it showed before;
        this returns when that is done."""
        if asked := self._asked.get(session):
            task, ended = asked
            task.cancel()
            await ended.wait()

    async def _answer(
        self, view: View, text: str, image: str | None, audio: str | None, sampling: dict[str, Any]
    ) -> AsyncIterator[View]:
        try:
            async with AsyncExitStack() as stack:
                prepared, answer = await self._begin(stack, text, image, audio, view.turns, sampling)
                heard = "\n".join(filter(None, (prepared.transcript, text)))
                shown = view.messages
                if audio:
                    shown = [*shown, _message("user", f"*Heard:* {prepared.transcript or '(nobody speaks)'}")]
                asked = (*view.turns, PageTurn("user", heard, (image,) if image else ()))
                view = View(shown, asked, "Looking …" if image else "Reading …", asked=True)
                yield view
                async for latest in self._stream(answer, view):
                    view = latest
                    yield view
        except ApiError as error:
            yield self._failed(view, error)
        except Exception:
            logger.exception("a question on the page failed")
            yield self._failed(view, _bug())

    async def _begin(
        self,
        stack: AsyncExitStack,
        text: str,
        image: str | None,
        audio: str | None,
        turns: tuple[PageTurn, ...],
        sampling: dict[str, Any],
    ) -> tuple[Prepared, Answer]:
        runtime = self._runtime
        runtime.require_ready()
        if not text and not audio:
            raise bad_request("Nothing was asked: write a question, or say it.")
        begin = asyncio.get_running_loop().time()
        async with deadline(runtime.settings.request_timeout, since=begin):
            ticket = stack.enter_context(runtime.admission.enter())
            params = _sampling(sampling).params(
                runtime.settings, ("answer length", int(sampling["max_new_tokens"])), [], None
            )
            new = PageTurn("user", text, (image,) if image else ())
            dialogue = [await asyncio.to_thread(_read, turn) for turn in (*turns, new)]
            if audio:
                data = await asyncio.to_thread(_read_file, audio)
                dialogue[-1] = replace(dialogue[-1], audio=(Media(data, "audio"),))
            prepared = await prepare(runtime, Question(tuple(dialogue), params, drop_oldest=True))
            (answer,) = await stack.enter_async_context(generating(runtime, prepared, ticket))
        return prepared, answer

    async def _stream(self, answer: Answer, view: View) -> AsyncIterator[View]:
        begin = asyncio.get_running_loop().time()
        drawn = 0.0
        async with deadline(self._runtime.settings.request_timeout, since=begin):
            async for _ in answer:
                if answer.text and time.monotonic() - drawn > REFRESH_SECONDS:
                    drawn = time.monotonic()
                    yield _with_answer(view, answer.text, "Answering …")
        text = answer.text or "*(The model ended its answer without a word.)*"
        yield replace(_with_answer(view, text, _timings(answer)), running=False)

    @staticmethod
    def _failed(view: View, error: ApiError) -> View:
        message = _message("assistant", f"⚠️ **That did not work.** {error.message}")
        return View([*view.messages, message], _answered(view.turns), "", running=False)


def _stopped(view: View) -> View:
    """What there is of an answer once its user has stopped it."""
    return replace(view, turns=_answered(view.turns), status="Stopped.", running=False)


def _answered(turns: tuple[PageTurn, ...]) -> tuple[PageTurn, ...]:
    """Without a question that has no answer, which would confuse the next one."""
    while turns and turns[-1].role == "user":
        turns = turns[:-1]
    return turns


def _bug() -> ApiError:
    return ApiError(
        500, "The server failed at this question; the reason is in its log.", code="internal_error"
    )


def _message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _question_messages(text: str, image: str | None, audio: str | None) -> list[dict[str, Any]]:
    files = [_message("user", {"path": path}) for path in (image, audio) if path]
    return [*files, _message("user", text)] if text else files


def _with_answer(view: View, text: str, status: str) -> View:
    return View(
        [*view.messages, _message("assistant", text)],
        (*view.turns, PageTurn("assistant", text)),
        status,
        asked=True,
    )


def _sampling(values: dict[str, Any]) -> SamplingFields:
    given = {key: value for key, value in values.items() if key != "max_new_tokens" and value is not None}
    try:
        return SamplingFields.model_validate(given)
    except ValidationError as error:
        raise from_validation(list(error.errors())) from None


def _read(turn: PageTurn) -> Turn:
    return Turn(turn.role, turn.text, tuple(Media(_read_file(path), "image") for path in turn.images))


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        raise bad_request("A file of this conversation is no longer here. Start a new one.") from None


def _timings(answer: Answer) -> str:
    """Where the time went, on one line."""
    timings, heard = answer.generation.timings, answer.prepared.transcribe_seconds
    steps = [
        ("listening", heard),
        ("waiting", timings.queue),
        ("seeing", timings.vision),
        ("reading", timings.prefill),
    ]
    total = sum(seconds for _, seconds in steps) + timings.decode
    tokens = answer.generation.completion_tokens
    rate = f", {(tokens - 1) / timings.decode:.0f} tokens/s" if tokens > 1 and timings.decode else ""
    parts = [f"{name} {seconds:.2f} s" for name, seconds in steps if seconds >= 0.005]
    parts.append(f"answering {timings.decode:.2f} s ({tokens} tokens{rate})")
    if dropped := answer.prepared.dropped_turns:
        parts.append(f"{dropped} oldest turns dropped")
    return f"**{total:.2f} s** · " + " · ".join(parts)
