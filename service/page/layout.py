"""What the page consists of, for a desk and for a phone. Importing this imports Gradio."""

import hmac
from abc import ABCMeta
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from service.page.chat import Chat, View
from service.runtime import Runtime
from service.settings import Settings

EXAMPLES = Path(__file__).with_name("examples")
CSS = Path(__file__).with_name("page.css")
TITLE = "Ask about a photograph"
# Fonts of the reader's own machine: nothing is fetched.
_THEME = gr.themes.Soft(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
_SAMPLING = (
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


def _as_sent(self: gr.Image, payload: gr.components.image.ImageData | None) -> str | None:
    """The uploaded file's path: the service's own reader has its limits, and says what is wrong with a file."""
    return payload.path if payload else None


# A class, since Gradio makes components anew for each session; made past Gradio's metaclass, which would
# write a stub beside this file; and of the same name, by which the browser finds its part.
Photograph = ABCMeta.__new__(type(gr.Image), "Image", (gr.Image,), {"preprocess": _as_sent})


def mount(host: FastAPI, runtime: Runtime) -> None:
    """Mounts the page on an application of its own; its lifespan must be run."""
    settings = runtime.settings
    blocks = _page(runtime)
    # The number of running questions is bounded by admission, as for every route.
    blocks.queue(default_concurrency_limit=None, api_open=False)
    gr.mount_gradio_app(
        host,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        auth=_key_check(settings),
        auth_message="Any user name; the password is the service's API key." if settings.api_key else None,
        show_error=False,
        max_file_size=settings.max_upload_bytes,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=_THEME,
        css_paths=[CSS],
    )


def _key_check(settings: Settings):
    if settings.api_key is None:
        return None
    key = settings.api_key.get_secret_value().encode()
    return lambda user, password: hmac.compare_digest(password.encode(), key)


def _page(runtime: Runtime) -> gr.Blocks:
    chat = Chat(runtime)
    speech = runtime.transcriber is not None
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.Markdown(
            f"# {TITLE}\nThe model `{runtime.model.config.name}` answers on this machine. It can be wrong.",
            elem_id="head",
        )
        turns = gr.State(())
        with gr.Row(elem_id="main"):
            with gr.Column(scale=2, min_width=240, elem_id="inputs"):
                image = Photograph(
                    label="Photograph",
                    sources=["upload", "clipboard", "webcam"],
                    type="filepath",
                    image_mode=None,
                    height=240,
                    buttons=[],
                    placeholder="Drop a photograph here, or click to choose one",
                    elem_id="image",
                )
                audio = gr.Audio(
                    label="Spoken question",
                    sources=["microphone", "upload"],
                    type="filepath",
                    buttons=[],
                    editable=False,
                    visible=speech,
                    elem_id="audio",
                )
                sampling = _sampling_controls(runtime.settings)
            with gr.Column(scale=3, min_width=240, elem_id="talk"):
                chatbot = gr.Chatbot(
                    label="Conversation",
                    show_label=False,
                    height=None,
                    layout="bubble",
                    buttons=["copy"],
                    latex_delimiters=[],
                    allow_tags=False,
                    feedback_options=None,
                    group_consecutive_messages=True,
                    placeholder="Add a photograph, then ask about it in writing or aloud.",
                    elem_id="chat",
                )
                with gr.Row(elem_id="ask-row"):
                    text = gr.Textbox(
                        label="Question",
                        show_label=False,
                        container=False,
                        placeholder="What is in this picture?",
                        lines=1,
                        max_lines=5,
                        scale=5,
                        min_width=160,
                        elem_id="question",
                    )
                    ask = gr.Button("Ask", variant="primary", scale=1, min_width=72, elem_id="ask")
                    stop = gr.Button("Stop", interactive=False, scale=1, min_width=72, elem_id="stop")
                    new = gr.Button("New", scale=1, min_width=72, elem_id="new")
                status = gr.Markdown(elem_id="status")
                gr.Examples(
                    [fields for _, fields in _examples(speech)],
                    inputs=[image, audio, text] if speech else [image, text],
                    example_labels=[label for label, _ in _examples(speech)],
                    label="Examples",
                    cache_examples=False,
                    api_visibility="private",
                )

        outputs = [chatbot, turns, status, text, image, audio, ask, stop]

        async def on_ask(
            request: gr.Request,
            text: str,
            image: str | None,
            audio: str | None,
            messages: list,
            turns: tuple,
            *values: Any,
        ) -> AsyncIterator[list[Any]]:
            given = dict(zip(_SAMPLING, values, strict=True))
            emptied = False
            views = chat.ask(request.session_hash, text, image, audio, messages, turns, given)
            async with aclosing(views):
                async for view in views:
                    yield _updates(view, clear=view.asked and not emptied)
                    emptied = emptied or view.asked

        async def on_stop(request: gr.Request) -> None:
            await chat.stop(request.session_hash)

        gr.on(
            [ask.click, text.submit],
            on_ask,
            [text, image, audio, chatbot, turns, *sampling],
            outputs,
            show_progress="hidden",
            trigger_mode="once",
            concurrency_limit=None,
            api_visibility="private",
        )
        # Not by Gradio's `cancels`: what an answer has on its way to the browser would come after the stop.
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        stop.click(on_stop, None, None, **quiet)
        gr.on([new.click, chatbot.clear], on_stop, None, None, **quiet).then(
            lambda: _updates(View([], (), running=False), clear=True), None, outputs, **quiet
        )
    return blocks


def _updates(view: View, *, clear: bool = False) -> list[Any]:
    """The new values of chatbot, turns, status, text, image, audio, ask and stop."""
    field = gr.update(value=None) if clear else gr.update()
    return [
        view.messages,
        view.turns,
        view.status,
        gr.update(value="") if clear else gr.update(),
        field,
        field,
        gr.update(interactive=not view.running),
        gr.update(interactive=view.running),
    ]


def _sampling_controls(settings: Settings) -> list[gr.components.Component]:
    """One for each name of `_SAMPLING`, in its order."""
    with gr.Accordion("Sampling", open=False, elem_id="sampling"):
        default = min(settings.default_new_tokens, settings.max_new_tokens)
        return [
            gr.Slider(1, settings.max_new_tokens, default, step=1, label="Longest answer, in tokens"),
            gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0: always the likeliest token"),
            gr.Slider(0.05, 1, 1, step=0.05, label="Top p"),
            gr.Slider(0, 100, 0, step=1, label="Top k", info="0: all tokens"),
            gr.Slider(1, 2, 1, step=0.05, label="Repetition penalty"),
            gr.Slider(-2, 2, 0, step=0.1, label="Presence penalty"),
            gr.Slider(-2, 2, 0, step=0.1, label="Frequency penalty"),
            gr.Number(None, label="Seed", precision=0, info="Empty: another answer each time"),
        ]


def _examples(speech: bool) -> list[tuple[str, list[Any]]]:
    """The name of each example, and its photograph, its recording where speech is on, and its text."""
    photo, spoken = str(EXAMPLES / "photographer.jpg"), str(EXAMPLES / "question.wav")
    examples = [
        ("A photograph: what is in it?", [photo, None, "What is in this picture?"]),
        ("The same, asked aloud", [photo, spoken, ""]),
        ("No photograph", [None, None, "What is the capital of France?"]),
    ]
    if speech:
        return examples
    return [(label, [image, text]) for label, (image, audio, text) in examples if audio is None]
