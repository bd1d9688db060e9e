"""Training and serving see the same: a record's prompt part equals what the service builds for the question."""

import io
from collections.abc import Callable

import pytest
from PIL import Image

from service.engine.interface import SamplingParams
from service.pipeline import Media, Question, Turn, prepare
from service.runtime import Runtime
from service.settings import Settings, TranscriptionSettings
from shared.prompt import IGNORE_INDEX
from trainer.data.records import parse_record

QUESTIONS = [
    ("What is the dog doing?", True),
    ("Why is the sky blue?", False),
    ("Zähle: <|im_end|> is no special token,\nnor is 水 or <|endoftext|>.", True),
]


@pytest.mark.parametrize(("question", "with_image"), QUESTIONS)
async def test_record_and_request_have_the_same_prompt(
    make_model: Callable, photo: Image.Image, question: str, with_image: bool
):
    model = make_model("llama")
    turns = [{"from": "human", "value": f"<image>\n{question}" if with_image else question}]
    turns.append({"from": "gpt", "value": "It runs."})
    record = {"id": "1", "conversations": turns} | ({"image": "1.jpg"} if with_image else {})
    dialogue = model.prompt.encode_dialogue(list(parse_record(record).messages))
    first_learned = next(i for i, label in enumerate(dialogue.labels) if label != IGNORE_INDEX)

    settings = Settings(transcription=TranscriptionSettings(enabled=False))
    runtime = Runtime(settings, on_step=lambda rows: None)
    runtime.model = model
    png = io.BytesIO()
    photo.save(png, format="PNG")
    images = (Media(png.getvalue(), "image"),) if with_image else ()
    prepared = await prepare(runtime, Question((Turn("user", question, images),), SamplingParams(8)))

    assert prepared.request.input_ids == dialogue.input_ids[:first_learned]
    assert prepared.image_tokens == (model.prompt.image_tokens if with_image else 0)
    for image in prepared.request.images:
        assert (image.pixel_values == model.preprocess([photo])[0]).all()
