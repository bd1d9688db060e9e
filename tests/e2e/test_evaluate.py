"""The trainer's evaluation through a running service gives the answers it gives in its own process."""

import pytest

from shared.checkpoint import load_model
from trainer.evaluation.answering import AnswerError, ModelAnswerer, ServiceAnswerer
from trainer.evaluation.journal import Journal


def test_a_service_answers_like_its_checkpoint(service, checkpoint, flickr_photos, tmp_path):
    items = [("Describe this image in one sentence.", photo.path) for photo in flickr_photos[:6]]
    items += [
        ("Is there a dog in the photo?", flickr_photos[0].path),
        ("What is the capital of France?", None),
    ]
    here = ModelAnswerer(load_model(checkpoint, dtype="float32"), tmp_path, max_new_tokens=12)(items)
    there = ServiceAnswerer(service.url, concurrency=4, max_new_tokens=12)(items)
    assert there == here


def test_a_refused_question_costs_the_others_nothing(service, flickr_photos, tmp_path, caplog):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(flickr_photos[0].path.read_bytes()[:500])
    question = "Describe this image in one sentence."
    answerer = ServiceAnswerer(service.url, max_new_tokens=8)
    replies = answerer([(question, broken), (question, flickr_photos[0].path)])
    assert replies[0] == "" and replies[1]
    assert "1 of 2 questions were refused; the first:" in caplog.text and "broken or truncated" in caplog.text
    with pytest.raises(AnswerError, match="broken or truncated"):
        answerer([(question, broken)])


def test_a_stopped_call_goes_on_past_what_was_refused(service, flickr_photos, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    items = [("What is it?", path) for path in (broken, flickr_photos[0].path)]

    def ask(resume: bool) -> list[str]:
        journal = Journal(tmp_path / "answers.jsonl", service.url, resume=resume)
        return ServiceAnswerer(service.url, max_new_tokens=8, journal=journal)(items)

    replies = ask(resume=False)
    with pytest.raises(ValueError, match="go on with --resume"):
        ask(resume=False)
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"question": "cut')
    assert ask(resume=True) == replies == ask(resume=True)
