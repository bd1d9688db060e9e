"""`prepare`: planted faults are found and named, counts add up, photographs stay on one side of the split."""

import io
import json
import subprocess
import sys

import pytest
from PIL import Image

from trainer.cli import main
from trainer.data.prepared import PreparedData
from trainer.data.records import RecordError, clean_text, parse_record


def record(identifier, image="a.jpg", question="<image>\nWhat is it?", answer="A dog.", **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": identifier, **({"image": image} if image else {}), "conversations": turns} | more


def jsonl(path, records):
    lines = (raw if isinstance(raw, str) else json.dumps(raw) for raw in records)
    path.write_text("\n".join(lines) + "\n")
    return path


def prepare(source, out, *more, annotations="all.jsonl", images="images", expect=0):
    args = [
        "prepare",
        "--annotations",
        source / annotations,
        "--images",
        source / images,
        "--out",
        out,
        *more,
    ]
    assert main([str(arg) for arg in args]) == expect
    return PreparedData(out) if expect == 0 else None


def report_of(data):
    return json.loads((data.folder / "report.json").read_text())


# Each fault once, by the reason that the report gives
RECORD_FAULTS = {
    "not JSON": '{"id": "unended',
    "not an object": '"text"',
    "no conversations": {"id": "fault", "image": "a.jpg"},
    "a turn without a text value": record("fault") | {"conversations": [{"from": "human"}]},
    "a turn from an unknown speaker": record("fault") | {"conversations": [{"from": "robot", "value": "hi"}]},
    "turns do not alternate, question first": record("fault")
    | {"conversations": [{"from": "gpt", "value": "hi"}]},
    "no answer": record("fault") | {"conversations": [{"from": "human", "value": "hi"}]},
    "empty answer": record("fault", answer=" \u200b "),
    "empty question": record("fault", image=None, question=" "),
    "<image> without an image": record("fault", image=None),
    "more than one <image> for one image": record("fault", question="<image><image> What?"),
    "<image> in an answer": record("fault", answer="A &lt;image&gt;."),
    "image is not a file name": record("fault") | {"image": 3},
    "an answer over 4000 characters": record("fault", answer="dog " * 2000),
    "duplicate": record("fault"),
}
IMAGE_FAULTS = {
    "image not found": "nowhere.jpg",
    "the image's path leaves its folder": "../secret.jpg",
    "The image file is empty": "empty.jpg",
    "The image file is broken or truncated and cannot be read": "cut.jpg",
    "The image is not a JPEG, PNG or WebP file": "text.jpg",
    "The image is too large": "huge.png",
    "The image is too narrow": "narrow.png",
    "The image file is too large": "heavy.jpg",
}


@pytest.fixture
def source(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index in range(20):
        Image.new("RGB", (60 + index, 40), (index * 10, 90, 30)).save(images / f"{index}.png")
    Image.new("RGB", (64, 64), "red").save(images / "a.jpg")
    whole = (images / "a.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "text.jpg").write_text("no picture at all")
    (images / "empty.jpg").touch()
    Image.new("1", (9000, 9000)).save(images / "huge.png")
    Image.new("RGB", (2, 400)).save(images / "narrow.png")
    (images / "heavy.jpg").write_bytes(whole + bytes(20 * 1024 * 1024))
    return tmp_path


def test_every_kind_of_fault_is_found_and_named_and_the_counts_add_up(source, capsys):
    good = [record("first")] + [record(f"g{index}", image=f"{index}.png") for index in range(20)]
    good += [record("text", image=None, question="Hello?", answer="Hi.")]
    broken = [record(f"image-fault-{name}", image=name) for name in IMAGE_FAULTS.values()]
    jsonl(source / "all.jsonl", [*good, *RECORD_FAULTS.values(), *broken])
    data = prepare(source, source / "out", "--validation", "0.2")

    faults = len(RECORD_FAULTS) + len(IMAGE_FAULTS)
    assert faults >= 20
    report = report_of(data)
    assert report["read"] == len(good) + faults == report["kept"] + report["dropped"]
    assert (
        report["kept"] == len(good) == report["train"] + report["val"] == sum(report["kept_by_kind"].values())
    )
    reasons = report["dropped_by_reason"]
    assert {reason: entry["count"] for reason, entry in reasons.items()} == dict.fromkeys(
        [*RECORD_FAULTS, *IMAGE_FAULTS], 1
    )
    for line, (reason, raw) in enumerate(RECORD_FAULTS.items(), len(good) + 1):
        [example] = reasons[reason]["first"]
        assert f"all.jsonl, line {line}" in example
        assert "id fault" in example or not isinstance(raw, dict)
    for reason, name in IMAGE_FAULTS.items():
        assert f"{name} (id image-fault-{name})" in reasons[reason]["first"][0]
    printed = capsys.readouterr().out
    assert all(reason in printed for reason in reasons)
    assert all(reason in (data.folder / "README.md").read_text().replace("&lt;", "<") for reason in reasons)


def test_images_are_stored_at_the_presets_size_and_split_by_photograph(source):
    records = [record(f"{n}-{i}", image=f"{i}.png", answer=f"A {n}.") for n in range(3) for i in range(20)]
    jsonl(source / "all.jsonl", records)
    data = prepare(source, source / "out", "--validation", "0.2")
    images = {split: {found.image for found in data.records(split)} for split in ("train", "val")}
    assert (len(images["train"]), len(images["val"])) == (16, 4) and not images["train"] & images["val"]
    for name in images["train"] | images["val"]:
        with Image.open(io.BytesIO(data.images.read(name))) as stored:
            assert stored.size == (224, 224) and stored.format == "JPEG"
            whole = stored.convert("RGB").resize((1, 1)).getpixel((0, 0))
        assert abs(whole[0] - int(name.removesuffix(".png")) * 10) <= 2


def test_what_is_fitting_already_is_not_compressed_again(source, photo):
    photo.resize((224, 224)).save(source / "images" / "fits.jpg", quality=80)
    photo.resize((224, 224)).save(source / "images" / "grey.jpg")
    Image.open(source / "images" / "grey.jpg").convert("L").save(source / "images" / "grey.jpg")
    jsonl(source / "all.jsonl", [record("f", image="fits.jpg"), record("g", image="grey.jpg")])
    images = prepare(source, source / "out").images
    assert images.read("fits.jpg") == (source / "images" / "fits.jpg").read_bytes()
    assert Image.open(io.BytesIO(images.read("grey.jpg"))).mode == "RGB"


def test_the_split_is_a_function_of_the_seed(source):
    jsonl(source / "all.jsonl", [record(f"g{i}", image=f"{i}.png") for i in range(20)])
    splits = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        data = prepare(source, source / name, "--seed", seed, "--validation", "0.3")
        splits.append([found.id for found in data.records("val")])
    assert splits[0] == splits[1] != splits[2]


def test_nothing_usable_exits_2_and_says_why(source, capsys):
    jsonl(source / "all.jsonl", [record("x", image="nowhere.jpg")])
    prepare(source, source / "out", expect=2)
    assert "image not found" in capsys.readouterr().err


@pytest.mark.parametrize("fault", [record("bad", answer=""), record("bad", image="text.jpg")])
def test_strict_makes_a_drop_an_error_and_goes_on_once_it_is_repaired(source, capsys, fault):
    jsonl(source / "all.jsonl", [record("first"), fault])
    out = source / "out"
    prepare(source, out, "--strict", expect=2)
    said = capsys.readouterr().err
    assert "--strict" in said and "id bad" in said and not (out / "index.json").exists()
    if fault["image"] == "text.jpg":
        Image.new("RGB", (50, 50)).save(source / "images" / "text.jpg", "JPEG")
        assert report_of(prepare(source, out, "--strict"))["kept"] == 2
    else:
        assert report_of(prepare(source, out))["kept"] == 1


def test_an_out_of_other_settings_or_other_records_is_refused(source, capsys):
    jsonl(source / "all.jsonl", [record("first")])
    out = source / "out"
    before = prepare(source, out).index
    for more in (["--preset", "phi2"], ["--validation", "0.5"]):
        prepare(source, out, *more, expect=2)
        assert "other settings" in (said := capsys.readouterr().err) and str(out) in said
    jsonl(source / "all.jsonl", [record("second")])
    prepare(source, out, expect=2)
    assert "annotations" in capsys.readouterr().err
    jsonl(source / "all.jsonl", [record("first")])
    assert prepare(source, out, "--workers", 1).index == before
    (source / "mine").mkdir()
    (source / "mine" / "thesis.txt").touch()
    prepare(source, source / "mine", expect=2)
    assert "not empty" in capsys.readouterr().err


def test_a_json_array_that_is_broken_or_cut_off_is_an_error_with_its_place(source, capsys):
    whole = json.dumps([record(str(index), answer=f"A {index}.") for index in range(50)])
    for text, place in (
        (whole[:3000], "near character 2"),
        (whole[:-1], "cut off"),
        (whole.replace('"id": "30"', '"id" "30"'), "':' delimiter"),
    ):
        (source / "all.json").write_text(text)
        prepare(source, source / "out", annotations="all.json", expect=2)
        said = capsys.readouterr().err
        assert "all.json" in said and place in said


def test_json_array_and_jsonl_give_the_same_records(source):
    records = [record(str(index), answer=f"Ünïcode {index} \\ \" '") for index in range(3000)]
    jsonl(source / "all.jsonl", records)
    (source / "all.json").write_text("\ufeff" + json.dumps(records, ensure_ascii=False, indent=1))
    one, two = (prepare(source, source / name, annotations=f"all.{name}") for name in ("json", "jsonl"))
    for split in ("train", "val"):
        assert list(one.records(split)) == list(two.records(split))
    assert one.count("train") == len(records)


def test_memory_does_not_grow_with_the_records(source):
    """Two sizes of one file, in processes of their own: 72 MB more of records cost less than a third of that."""
    script = (
        "import re, sys; from trainer.cli import main; code = main(sys.argv[1:]); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); sys.exit(code)"
    )
    peaks = []
    for count in (8000, 32_000):
        path = source / f"{count}.json"
        path.write_text(
            json.dumps([record(f"{i}", None, "Why?", f"{i} " + "dog " * 750) for i in range(count)])
        )
        args = ["prepare", "--annotations", path, "--out", source / f"out-{count}"]
        done = subprocess.run([sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)  # MiB
    assert peaks[1] - peaks[0] < 24, peaks


def test_the_image_goes_first_wherever_its_mark_stands_and_is_added_where_missing():
    for question in (
        "<image>\nWhat?",
        "What?\n<image>",
        "What?",
        "&lt;image&gt; What?",
        "<im\u200bage>What?",
    ):
        message = parse_record(record("x", question=question)).messages[0]
        assert message.num_images == 1 and message.content[1:] == ("What?",)


def test_what_is_stored_is_read_back_as_it_is():
    for question in ("<image>", "<image>\nA &amp;lt;image&amp;gt; tag?", "Line\n<image>\nline"):
        parsed = parse_record(record("x", question=question, answer="&amp;amp; <b>\n\nyes"))
        assert type(parsed).from_json(json.loads(json.dumps(parsed.to_json()))) == parsed
    assert parsed.messages[1].content == ("&amp; <b>\n\nyes",)
    with pytest.raises(RecordError, match="empty question"):
        parse_record(record("x", None, question=""))


def test_multi_turn_dialogues_stay_whole_and_a_last_question_without_answer_goes():
    raw = record("x")
    raw["conversations"] += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "B."}]
    raw["conversations"] += [{"from": "human", "value": "Then?"}]
    assert [message.role for message in parse_record(raw).messages] == ["user", "assistant"] * 2


def test_text_is_cleaned():
    assert clean_text("  a \u0000 caf\u0065\u0301 \ud83d \r\n\r\n\r\n\r\n x\ty ") == "a café\n\nx y"
    assert parse_record(record("x", answer="a&amp;b &eacute;")).messages[1].content == ("a&b é",)
    with pytest.raises(RecordError, match="no conversations"):
        parse_record({"conversations": []})
