"""`prepare` reads images out of folders, zip and tar, and captions in the formats of Flickr8k and COCO."""

import io
import json
import tarfile
import zipfile

import datasets
import pytest
from PIL import Image

from trainer.cli import main
from trainer.data.image_sources import ImageSources
from trainer.data.prepared import PreparedData
from trainer.data.records import RecordError


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "JPEG")
    return file.getvalue()


FILES = {"red.jpg": jpeg("red"), "sub/green.jpg": jpeg("green"), "blue.jpg": jpeg("blue")}


def pack(path, files):
    """`files` as the folder or archive `path`."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif ".tar" in path.name:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["folder", "photos.zip", "photos.tar"])
@pytest.mark.parametrize("root", ["", "train2017/"])
def test_files_come_out_by_name_with_and_without_the_archives_own_folder(tmp_path, kind, root):
    path = pack(tmp_path / kind, {root + name: data for name, data in FILES.items()})
    if kind == "folder":
        path /= root
    sources = ImageSources([path])
    for name, data in FILES.items():
        assert sources.read(name, 1_000_000) == data
    assert sources.read("red.jpg", 10) == FILES["red.jpg"][:10]
    for name, why in (
        ("nowhere.jpg", "not found"),
        ("sub", "not found"),
        ("../x.jpg", "leaves"),
        ("/x", "leaves"),
    ):
        with pytest.raises(RecordError, match=why):
            sources.read(name, 10)


def test_the_first_source_that_has_a_file_wins(tmp_path):
    one = pack(tmp_path / "one.zip", {"red.jpg": b"first"})
    two = pack(tmp_path / "two.tar", {"red.jpg": b"second", "blue.jpg": b"third"})
    sources = ImageSources([one, two])
    assert (sources.read("red.jpg", 99), sources.read("blue.jpg", 99)) == (b"first", b"third")


@pytest.mark.parametrize("name", ["photos.tar.gz", "cut.zip", "cut.tar", "text.zip", "nowhere.zip"])
def test_an_archive_that_cannot_be_read_is_named(tmp_path, name):
    path = tmp_path / name
    if name == "text.zip":
        path.write_text("no archive")
    elif name != "nowhere.zip":
        pack(path, FILES)
        if name.startswith("cut"):
            path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=name):
        ImageSources([path])


def test_damage_inside_a_zip_drops_that_image_only(tmp_path):
    path = pack(tmp_path / "photos.zip", FILES)
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(bytes(data))
    sources = ImageSources([path])
    with pytest.raises(RecordError, match="cannot be read"):
        sources.read("red.jpg", 1_000_000)
    assert sources.read("blue.jpg", 1_000_000) == FILES["blue.jpg"]


def prepare(tmp_path, annotations, *more):
    images = pack(tmp_path / "images.zip", FILES)
    args = [
        "prepare",
        "--annotations",
        annotations,
        "--images",
        images,
        "--out",
        tmp_path / "out",
        "--validation",
        0,
    ]
    assert main([str(arg) for arg in (*args, *more)]) == 0
    data = PreparedData(tmp_path / "out")
    found = {}
    for record in data.records("train"):
        assert record.kind == "caption" and record.messages[0].num_images == 1
        found.setdefault(record.image, []).append(record.messages[1].content[0])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    return found, {reason: entry["count"] for reason, entry in report["dropped_by_reason"].items()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "Flickr8k.token.txt",
            "red.jpg#0\tA red square .\nred.jpg#1\tIt is all red .\nblue.jpg#0\tA blue one .\n\nx",
        ),
        ("captions.tsv", "red.jpg\tA red square .\nred.jpg\tIt is all red .\nblue.jpg\tA blue one .\nx"),
        (
            "captions.txt",
            'image,caption\nred.jpg,"A red square ."\nred.jpg,It is all red .\nblue.jpg,A blue one .\nx\n',
        ),
    ],
)
def test_flickr8k_captions(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found, dropped = prepare(tmp_path, tmp_path / name)
    assert found == {"red.jpg": ["A red square.", "It is all red."], "blue.jpg": ["A blue one."]}
    assert dropped == {"not an image and its caption": 1}


@pytest.mark.parametrize("first", ["images", "annotations"])
def test_coco_captions(tmp_path, first):
    parts = {
        "images": [{"id": 1, "file_name": "red.jpg"}, {"id": 2, "file_name": "sub/green.jpg"}],
        "annotations": [
            {"id": 9, "image_id": 2, "caption": "Green all over\n"},
            {"id": 8, "image_id": 1, "caption": "A red thing."},
            {"id": 7, "image_id": 3, "caption": "A lost caption."},
            {"id": 6, "image_id": 1},
        ],
    }
    content = {"info": {"year": 2014, "list": [1, [2]]}, first: parts.pop(first), "licenses": [], **parts}
    path = tmp_path / "captions_train2014.json"
    path.write_text(json.dumps(content, indent=1))
    found, dropped = prepare(tmp_path, path)
    assert found == {"sub/green.jpg": ["Green all over."], "red.jpg": ["A red thing."]}
    assert dropped == {"a caption of an unknown image_id": 1, "an annotation without a caption": 1}


def test_datasets_opens_the_folder_by_its_card(tmp_path):
    (tmp_path / "captions.tsv").write_text(
        "red.jpg\tA red square .\nblue.jpg\tA blue square .\nno.jpg\tNo such one .\n"
    )
    prepare(tmp_path, tmp_path / "captions.tsv")
    cache = str(tmp_path / "cache")
    records = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=cache)
    assert [row["conversations"][1]["value"] for row in records] == ["A red square.", "A blue square."]
    images = datasets.load_dataset(str(tmp_path / "out"), "images", split="train", cache_dir=cache)
    assert images["name"][:] == ["red.jpg", "blue.jpg", "no.jpg"] and images["error"][2] == "image not found"
    assert Image.open(io.BytesIO(images[0]["jpeg"])).size == (224, 224)
