"""The trainer's evaluation through a running service gives the answers it gives in its own process."""

from shared.checkpoint import load_model
from trainer.evaluation.answering import ModelAnswerer, ServiceAnswerer


def test_a_service_answers_like_its_checkpoint(service, checkpoint, flickr_photos, tmp_path):
    items = [("Describe this image in one sentence.", photo.path) for photo in flickr_photos[:6]]
    items += [
        ("Is there a dog in the photo?", flickr_photos[0].path),
        ("What is the capital of France?", None),
    ]
    here = ModelAnswerer(load_model(checkpoint, dtype="float32"), tmp_path, max_new_tokens=12)(items)
    there = ServiceAnswerer(service.url, concurrency=4, max_new_tokens=12)(items)
    assert there == here
