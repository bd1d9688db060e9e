"""The feature cache gives what the tower gives, continues where it stopped, and knows another tower or image."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image, ImageOps

from shared.config import load_preset
from shared.media import decode_image
from shared.vision import load_vision_tower
from trainer.data.features import ImageFolder, build_features


@pytest.fixture
def pictures(tmp_path, photo):
    names = [f"{index}.jpg" for index in range(5)]
    for index, name in enumerate(names):
        photo.crop((index * 10, 0, 224 + index * 10, 224)).save(tmp_path / name, quality=95)
    return tmp_path, names


def test_the_cache_equals_the_tower_and_mirrors(pictures, tiny_preset):
    folder, names = pictures
    tower = load_vision_tower(load_preset(str(tiny_preset())).vision)
    cache = build_features(tower, names, ImageFolder(folder), folder, mirror=True, batch_size=2)
    for view in (0, 1):
        images = [decode_image((folder / name).read_bytes(), target_size=32) for name in names]
        images = [ImageOps.mirror(image) for image in images] if view else images
        torch.testing.assert_close(
            cache.get(names, [view] * 5), tower(tower.preprocess(images)), rtol=2e-3, atol=2e-3
        )


def test_it_continues_where_it_stopped(pictures, tiny_preset):
    folder, names = pictures
    tower = load_vision_tower(load_preset(str(tiny_preset())).vision)
    whole = build_features(tower, names, ImageFolder(folder), folder, batch_size=2).get(names)
    [index] = folder.glob("features-*.json")
    index.write_text(json.dumps({"done": 2}))
    torch.testing.assert_close(
        build_features(tower, names, ImageFolder(folder), folder, batch_size=2).get(names), whole
    )
    assert json.loads(index.read_text())["done"] == 5


def test_another_set_of_images_is_another_cache(pictures, tiny_preset):
    folder, names = pictures
    tower = load_vision_tower(load_preset(str(tiny_preset())).vision)
    build_features(tower, names, ImageFolder(folder), folder)
    build_features(tower, names[:3], ImageFolder(folder), folder)
    assert len(list(folder.glob("features-*.f16"))) == 2


def test_a_changed_image_is_another_cache(pictures, tiny_preset):
    folder, names = pictures
    tower = load_vision_tower(load_preset(str(tiny_preset())).vision)
    before = build_features(tower, names, ImageFolder(folder), folder).get(names)
    Image.new("RGB", (40, 40), "red").save(folder / names[0])
    after = build_features(tower, names, ImageFolder(folder), folder).get(names)
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])


def test_images_are_upright_and_transparency_is_white(tmp_path, photo, tiny_preset):
    tower = load_vision_tower(load_preset(str(tiny_preset())).vision)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    photo.save(tmp_path / "upright.png")
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (50, 50), "white").save(tmp_path / "white.png")
    names = ["turned.png", "upright.png", "clear.png", "white.png"]
    features = build_features(tower, names, ImageFolder(tmp_path), tmp_path).get(names)
    assert torch.equal(features[0], features[1]) and torch.equal(features[2], features[3])


def test_features_beyond_float16_are_refused_by_name(pictures, tiny_preset):
    folder, names = pictures
    tower = load_vision_tower(load_preset(str(tiny_preset())).vision)
    tower.model.apply(lambda m: m.weight.data.mul_(1e6) if isinstance(m, torch.nn.LayerNorm) else None)
    with pytest.raises(ValueError, match=r"0\.jpg: its features are not finite in float16"):
        build_features(tower, names, ImageFolder(folder), folder)


def test_two_runs_on_the_same_data_compute_them_once(pictures, tiny_preset):
    folder, names = pictures
    read = []

    class Slow(ImageFolder):
        def read(self, name: str) -> bytes:
            read.append(name)
            time.sleep(0.02)
            return super().read(name)

    def build() -> torch.Tensor:
        tower = load_vision_tower(load_preset(str(tiny_preset())).vision)
        return build_features(tower, names, Slow(folder), folder, batch_size=1).get(names)

    with ThreadPoolExecutor(3) as pool:
        first, *others = [pool.submit(build) for _ in range(3)]
        assert all(torch.equal(first.result(), other.result()) for other in others)
    assert sorted(read) == names
