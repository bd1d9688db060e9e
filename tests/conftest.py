"""What every test may lean on: real photographs, real speech, one synthetic photograph, and quiet threads.

Photographs come from the data folder beside the repository, speech from Debian's pocketsphinx-testdata.
Neither belongs to the product, so a test that asks for one is skipped, with the reason, where it is absent.
"""

import io
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

# Before torch is imported, here and in every process a test starts: spinning threads on a small machine
# cost more than they give, and nothing in a test may reach a hub.
os.environ.update(
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    TORCHINDUCTOR_COMPILE_THREADS="1",
    WANDB_MODE="offline",
)

import pytest
from PIL import Image, ImageDraw

pytest_plugins = ["tests.tiny", "tests.whisper_models"]

REPOSITORY = Path(__file__).resolve().parents[1]
END_TO_END = REPOSITORY / "tests" / "e2e"
DATA = REPOSITORY.parent / "shared" / "data"
LIBRIVOX = Path("/usr/share/pocketsphinx/test/data/librivox")


class CaptionedPhoto(NamedTuple):
    path: Path
    captions: list[str]


class BoxedPhoto(NamedTuple):
    path: Path
    objects: list[dict[str, Any]]
    """`name` and `box_cxcywh` (fractions of width and height) of each object."""


class SpeechClip(NamedTuple):
    path: Path
    text: str
    """Reference transcript: lower case, no punctuation."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no process is left alone with it at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (END_TO_END not in item.path.parents, item.path not in slow))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`: those that talk to a service stay together, for they share it."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "e2e" if END_TO_END in (config.rootpath / file).parents else file

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    if not DATA.is_dir():
        pytest.skip("the photographs for tests are not here: no folder ../shared/data beside the repository")
    return DATA


@pytest.fixture(scope="session")
def flickr_photos(data_dir: Path) -> list[CaptionedPhoto]:
    """The 1,000 Flickr8k dev photographs, each with its five captions, in the order of the file."""
    captions: dict[str, list[str]] = {}
    for line in (data_dir / "flickr8k" / "captions_dev.tsv").read_text(encoding="utf-8").splitlines():
        file, caption = line.split("\t", 1)
        captions.setdefault(file, []).append(caption)
    images = data_dir / "flickr8k" / "images"
    return [CaptionedPhoto(images / file, texts) for file, texts in captions.items()]


@pytest.fixture(scope="session")
def coco_photos(data_dir: Path) -> list[BoxedPhoto]:
    """The 128 COCO photographs with all their object boxes."""
    folder = data_dir / "coco128"
    records = map(json.loads, (folder / "objects.jsonl").read_text(encoding="utf-8").splitlines())
    return [BoxedPhoto(folder / "images" / record["image"], record["objects"]) for record in records]


@pytest.fixture(scope="session")
def librivox_clips() -> list[SpeechClip]:
    """Five human readings from LibriVox, 16 kHz mono WAV, about 25 seconds in all."""
    if not LIBRIVOX.is_dir():
        pytest.skip("no human speech here: install Debian's pocketsphinx-testdata")
    lines = (LIBRIVOX / "transcription").read_text(encoding="utf-8")
    found = re.findall(r"^<s> (.+?) </s> \((\S+)\)$", lines, flags=re.MULTILINE)
    return [SpeechClip(LIBRIVOX / f"{name}.wav", text) for text, name in found]


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A 320x240 RGB scene, the same in every run: sky, sun, grass, and a red house."""
    scene = Image.linear_gradient("L").resize((320, 240))
    scene = Image.merge("RGB", (scene, scene.point(lambda v: 120 + v // 3), Image.new("L", scene.size, 230)))
    draw = ImageDraw.Draw(scene)
    draw.ellipse((240, 20, 290, 70), fill=(250, 220, 60))
    draw.rectangle((0, 170, 320, 240), fill=(60, 140, 50))
    draw.rectangle((70, 110, 170, 200), fill=(190, 40, 35))
    draw.polygon([(60, 110), (180, 110), (120, 60)], fill=(90, 50, 40))
    return scene


@pytest.fixture(scope="session")
def photo_jpeg(photo: Image.Image) -> bytes:
    """The scene of `photo` as a JPEG file's bytes."""
    buffer = io.BytesIO()
    photo.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
