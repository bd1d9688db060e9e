"""`prepare` as a real process, stopped in the middle: what was finished stays, and the end is the same."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from shared.config import PRESETS
from trainer.data.image_shards import SHARD
from trainer.data.prepared import PreparedData

COUNT = 3 * SHARD


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three shards' worth of small images in a zip, and a record for each."""
    root = tmp_path_factory.mktemp("source")
    pictures = []
    for colour in ("red", "green", "blue"):
        file = io.BytesIO()
        Image.new("RGB", (70, 70), colour).save(file, "PNG")
        pictures.append(file.getvalue())
    with zipfile.ZipFile(root / "images.zip", "w") as archive, (root / "records.jsonl").open("w") as records:
        for index in range(COUNT):
            archive.writestr(f"{index}.png", pictures[index % 3])
            turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": f"Picture {index}."}]
            records.write(json.dumps({"id": index, "image": f"{index}.png", "conversations": turns}) + "\n")
    preset = (PRESETS / "phi2.toml").read_text().replace("image_size = 224", "image_size = 32")
    (root / "small.toml").write_text(preset)
    return root


def command(source, out):
    args = ["--annotations", source / "records.jsonl", "--images", source / "images.zip", "--out", out]
    return [
        sys.executable,
        "-m",
        "trainer",
        "prepare",
        *map(str, args),
        "--preset",
        str(source / "small.toml"),
    ]


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    subprocess.run(command(source, out), check=True, capture_output=True)
    return json.loads((out / "index.json").read_text())


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_and_ends_in_the_same_bytes(source, whole, tmp_path, stop):
    out = tmp_path / "out"
    listen = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # also where the tests run in the background
    process = subprocess.Popen(command(source, out), stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    first = out / "images-00000.arrow"
    while not first.exists():
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.005)
    process.send_signal(stop)
    said = process.communicate()[1]
    assert process.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    assert stop == signal.SIGKILL or "interrupted" in said
    assert not (out / "index.json").exists()

    written = first.stat().st_mtime_ns
    subprocess.run(command(source, out), check=True, capture_output=True)
    assert first.stat().st_mtime_ns == written
    assert json.loads((out / "index.json").read_text()) == whole
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["README.md", "index.json", "report.json"]
        + [shard["file"] for shards in whole["shards"].values() for shard in shards]
    )


def test_an_unfinished_out_is_no_training_data_and_belongs_to_its_settings(source, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(source, out), stderr=subprocess.DEVNULL)
    while not (out / "images-00000.arrow").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    done = subprocess.run([*command(source, out), "--seed", "3"], capture_output=True, text=True)
    assert done.returncode == 2 and "other settings" in done.stderr
    with pytest.raises(ValueError, match="continues where it was stopped"):
        PreparedData(out)


def children(pid: int) -> list[int]:
    """Of all its threads."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in lists for child in path.read_text().split()]


def test_a_worker_that_is_killed_is_named_and_the_run_goes_on(source, whole, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen([*command(source, out), "--workers", "2"], stderr=subprocess.PIPE, text=True)
    while not list(out.glob("images-00000.arrow")):
        assert process.poll() is None
        time.sleep(0.01)
    [server] = [
        pid for pid in children(process.pid) if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(children(server)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2 and "a process that resizes images was killed" in said
    subprocess.run(command(source, out), check=True, capture_output=True)
    assert json.loads((out / "index.json").read_text()) == whole
