"""New views of real photographs: square crops and mirrored crops of boxed ones, mosaics of two captioned ones.

A crop carries its boxes along. A mosaic puts the middles of two photographs side by side, so what only one
of them shows has a side, and there are thousands of such pairs where boxes are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from .boxes import Box, BoxedPhoto, side_fact
from .captions import Photo
from .facts import Fact, seeded
from .lexicon import YESNO_NOUNS, Noun
from .yesno import yesno_fact

SIZE = 256  # pixels, height and width of a view
_KEPT = 0.7  # share of a box that must lie within a crop for its object to count as shown
_LOST = 0.1  # share below which it counts as absent
_SCENES = frozenset(
    {"snow", "water", "grass", "sand", "beach", "forest", "mountain", "food", "crowd of people"}
)


def crop_boxes(
    boxes: Sequence[Box], left: float, top: float, right: float, bottom: float
) -> tuple[tuple[Box, ...], frozenset[str]]:
    """The boxes within a crop, in the crop's fractions, and the categories that it cuts through.

    The crop is given in fractions of the picture.
    """
    kept, cut = [], set()
    for box in boxes:
        x0, x1 = max(box.x - box.width / 2, left), min(box.x + box.width / 2, right)
        y0, y1 = max(box.y - box.height / 2, top), min(box.y + box.height / 2, bottom)
        inside = max(0.0, x1 - x0) * max(0.0, y1 - y0) / max(box.area, 1e-9)
        if inside >= _KEPT:
            w, h = right - left, bottom - top
            kept.append(
                Box(
                    box.name,
                    ((x0 + x1) / 2 - left) / w,
                    ((y0 + y1) / 2 - top) / h,
                    (x1 - x0) / w,
                    (y1 - y0) / h,
                )
            )
        elif inside > _LOST:
            cut.add(box.name)
    return tuple(kept), frozenset(cut)


def mirror_boxes(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """The boxes of the picture mirrored left to right."""
    return tuple(Box(b.name, 1 - b.x, b.y, b.width, b.height) for b in boxes)


def square_views(photo: BoxedPhoto, images: Path, out: Path, seed: int, *, count: int) -> list[BoxedPhoto]:
    """`count` random square crops of a photograph, each also mirrored, written to `out` as JPEG.

    A crop's side is 0.75 to 1 of the photograph's shorter side.
    """
    rng = seeded(seed, "crop", photo.file)
    views = []
    with Image.open(images / photo.file) as opened:
        picture = opened.convert("RGB")
    width, height = picture.size
    for number in range(count):
        side = min(width, height) * rng.uniform(0.75, 1.0)
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        area = (x, y, x + side, y + side)
        boxes, cut = crop_boxes(photo.boxes, x / width, y / height, (x + side) / width, (y + side) / height)
        view = picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=area)
        stem = f"crop-{Path(photo.file).stem}-{number}"
        for name, image, carried in (
            (f"{stem}.jpg", view, boxes),
            (f"{stem}-mirrored.jpg", ImageOps.mirror(view), mirror_boxes(boxes)),
        ):
            image.save(out / name, quality=92)
            views.append(BoxedPhoto(name, carried, cut))
    return views


@dataclass(frozen=True)
class Mosaic:
    file: str
    left: Photo
    right: Photo


def _middle(path: Path) -> Image.Image:
    """The middle 62 % of a photograph's width, narrowed to half a view."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    width, height = picture.size
    return picture.resize(
        (SIZE // 2, SIZE), Image.Resampling.BICUBIC, box=(width * 0.19, 0, width * 0.81, height)
    )


def plan_mosaics(photos: Sequence[Photo], seed: int, *, count: int, name: str = "mosaic") -> list[Mosaic]:
    """Pairs of photographs; the nouns take turns, each pair showing its noun on one side only.

    The same pair never occurs with its sides swapped; sides are drawn by seed.
    """
    rng = seeded(seed, "mosaics")
    shows = {n.name: [p for p in photos if p.mentions(n.words) >= 2] for n in YESNO_NOUNS}
    lacks = {n.name: [p for p in photos if not p.mentions(n.words | n.doubt)] for n in YESNO_NOUNS}
    nouns = [
        n
        for n in YESNO_NOUNS
        if len(shows[n.name]) >= 5 and len(lacks[n.name]) >= 5 and n.name not in _SCENES
    ]
    mosaics: list[Mosaic] = []
    while nouns and len(mosaics) < count:
        noun = nouns[len(mosaics) % len(nouns)]
        one, other = rng.choice(shows[noun.name]), rng.choice(lacks[noun.name])
        left, right = (one, other) if rng.random() < 0.5 else (other, one)
        mosaics.append(Mosaic(f"{name}-{len(mosaics):04d}.jpg", left, right))
    return mosaics


def write_mosaic(mosaic: Mosaic, images: Path, out: Path) -> None:
    """Write a mosaic as JPEG of 256 x 256 pixels."""
    picture = Image.new("RGB", (SIZE, SIZE))
    picture.paste(_middle(images / mosaic.left.file), (0, 0))
    picture.paste(_middle(images / mosaic.right.file), (SIZE // 2, 0))
    picture.save(out / mosaic.file, quality=92)


def _side(mosaic: Mosaic, noun: Noun) -> str | None:
    """ "left" or "right" where one half surely shows the noun and the other surely does not, else None."""
    for side, here, there in (("left", mosaic.left, mosaic.right), ("right", mosaic.right, mosaic.left)):
        if here.mentions(noun.words) >= 2 and not there.mentions(noun.words | noun.doubt):
            return side
    return None


def mosaic_facts(
    mosaics: Sequence[Mosaic], seed: int, *, per_answer: int = 40
) -> tuple[list[Fact], list[Fact]]:
    """(sides, yes/no) of the nouns; yes and no are equally many for each noun, sides are not yet balanced."""
    sides, yesno = [], []
    for noun in YESNO_NOUNS:
        shown = [(m, _side(m, noun)) for m in mosaics]
        if noun.name not in _SCENES:
            sides += [side_fact(m.file, noun.name, side) for m, side in shown if side]
        yes = [m for m, side in shown if side]
        no = [m for m in mosaics if not any(p.mentions(noun.words | noun.doubt) for p in (m.left, m.right))]
        rng = seeded(seed, "mosaic yesno", noun.name)
        size = min(per_answer, len(yes), len(no))
        yesno += [yesno_fact(m.file, noun, True) for m in rng.sample(yes, size)]
        yesno += [yesno_fact(m.file, noun, False) for m in rng.sample(no, size)]
    return sides, yesno
