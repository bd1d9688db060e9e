"""The feature cache gives what the tower gives, continues where it stopped, and knows another tower."""

import json

import pytest
import torch
from PIL import Image, ImageOps

from shared.config import load_preset
from shared.vision import load_vision_tower
from trainer.data.features import build_features


@pytest.fixture
def pictures(tmp_path, photo):
    names = [f"{index}.jpg" for index in range(5)]
    for index, name in enumerate(names):
        photo.crop((index * 10, 0, 224 + index * 10, 224)).save(tmp_path / name, quality=95)
    return tmp_path, names


def test_the_cache_equals_the_tower_and_mirrors(pictures, tiny_preset):
    folder, names = pictures
    tower = load_vision_tower(load_preset(str(tiny_preset())).vision)
    cache = build_features(tower, names, folder, folder, mirror=True, batch_size=2)
    for view in (0, 1):
        images = [Image.open(folder / name).convert("RGB") for name in names]
        images = [ImageOps.mirror(image) for image in images] if view else images
        torch.testing.assert_close(
            cache.get(names, [view] * 5), tower(tower.preprocess(images)), rtol=2e-3, atol=2e-3
        )


def test_it_continues_where_it_stopped(pictures, tiny_preset):
    folder, names = pictures
    tower = load_vision_tower(load_preset(str(tiny_preset())).vision)
    whole = build_features(tower, names, folder, folder, batch_size=2).get(names)
    [index] = folder.glob("features-*.json")
    index.write_text(json.dumps({"done": 2}))
    torch.testing.assert_close(build_features(tower, names, folder, folder, batch_size=2).get(names), whole)
    assert json.loads(index.read_text())["done"] == 5


def test_another_set_of_images_is_another_cache(pictures, tiny_preset):
    folder, names = pictures
    tower = load_vision_tower(load_preset(str(tiny_preset())).vision)
    build_features(tower, names, folder, folder)
    build_features(tower, names[:3], folder, folder)
    assert len(list(folder.glob("features-*.f16"))) == 2
