"""The model that ships: it sees, hears and still talks, over HTTP. Small samples; the scores are in its card."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.config import PRESETS
from trainer.data.dialogues.captions import read_captions
from trainer.data.dialogues.retention import RETENTION_QUESTIONS
from trainer.evaluation.grading import keywords_right
from trainer.evaluation.metrics import caption_scores

pytestmark = pytest.mark.skipif(
    not (PRESETS / "embedded" / "manifest.json").is_file(),
    reason="the embedded preset ships no trained weights",
)


def ask(client, prompt, *files, **fields):
    parts = [(name, (None, str(value))) for name, value in ({"prompt": prompt} | fields).items()]
    response = client.post("/generate", files=[*parts, *files])
    assert response.status_code == 200, response.text
    return response.json()


def test_the_readmes_questions_are_answered(service, repository):
    examples = repository / "docs" / "examples"
    picture = ("image", ("photographer.jpg", (examples / "photographer.jpg").read_bytes()))
    assert ask(service.client, "What is the man looking at?", picture)["text"] == "A camera."
    assert "taking a picture" in ask(service.client, "What is in this picture?", picture)["text"]
    audio = ("audio", ("question.wav", (examples / "question.wav").read_bytes()))
    spoken = service.client.post("/generate", files=[picture, audio]).json()
    assert "how many people" in spoken["transcript"].lower() and "one" in spoken["text"].lower()


def test_captions_are_about_their_photographs(service, data_dir):
    photos = read_captions(data_dir / "flickr8k" / "captions_dev.tsv")[::20]

    def caption(photo):
        data = (data_dir / "flickr8k" / "images" / photo.file).read_bytes()
        return ask(service.client, "Describe this image in one sentence.", ("image", ("photo.jpg", data)))[
            "text"
        ]

    with ThreadPoolExecutor(8) as pool:
        said = dict(zip([photo.file for photo in photos], pool.map(caption, photos), strict=True))
    scores = caption_scores(said, {photo.file: list(photo.captions) for photo in photos})
    assert scores.corpus["CIDEr"] > 0.3  # 0.51 on all 1,000; blind, it is under 0.1
    assert scores.distinct > 0.6 * len(photos)


def test_it_answers_plain_questions(service):
    easy = [pair for pair in RETENTION_QUESTIONS if pair[0] == "What is the capital of France?"]
    assert easy
    assert all(keywords_right(ask(service.client, question)["text"], keys) for question, keys in easy)
