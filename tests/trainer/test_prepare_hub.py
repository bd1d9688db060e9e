"""`prepare --dataset` against a small server that speaks the hub's protocol, and then without it."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from trainer.data.hub import KNOWN

OLD, NEW = "1" * 40, "2" * 40


def archive(padding=0):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as images:
        images.writestr("images/padding.bin", bytes(padding))
        for name in ("00/red.png", "00/blue.png"):
            picture = io.BytesIO()
            Image.effect_noise((600, 600), 90).save(picture, "PNG")
            images.writestr(f"images/{name}", picture.getvalue())
    return file.getvalue()


def annotations(answer):
    records = [
        {"id": name, "image": f"00/{name}.png", "conversations": [{"from": "human", "value": "<image>\nColour?"},
         {"from": "gpt", "value": f"{answer} {name}."}]} for name in ("red", "blue")
    ]  # fmt: skip
    return json.dumps(records).encode()


class Hub:
    """Serves every known dataset at two commits; `main` is the old one until it is moved."""

    def __init__(self):
        self.main, self.cut, self.requests, self.images = OLD, False, [], archive()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.requests.append((self.command, self.path, self.headers.get("Range")))
                asked_for = re.fullmatch(r"/datasets/(\w+/[\w-]+)/resolve/(\w+)/(.+)", self.path)
                if not asked_for or asked_for[3] not in KNOWN.get(asked_for[1], []):
                    self.send_error(404)
                    return
                _, revision, file = asked_for.groups()
                commit = hub.main if revision == "main" else revision
                data = hub.images if file.endswith(".zip") else annotations("Old" if commit == OLD else "New")
                asked = self.headers.get("Range")
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
                self.send_response(206 if start else 200)
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
                self.send_header("Content-Length", str(len(data) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                if self.command == "GET" and hub.cut and not start and file.endswith(".zip"):
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                elif self.command == "GET":
                    self.wfile.write(data[start:])

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.stop()


@pytest.fixture
def prepare(hub, tmp_path):
    def run(dataset, out, *more, expect=0, offline=False):
        env = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.endpoint}
        env |= {"HF_HUB_OFFLINE": "1" if offline else "0", "HF_HUB_DISABLE_XET": "1"}
        args = ["prepare", "--dataset", dataset, "--out", tmp_path / out, *more]
        command = [sys.executable, "-m", "trainer", *map(str, args)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == expect, done.stderr[-2000:]
        if expect:
            return done.stderr
        return json.loads((tmp_path / out / "index.json").read_text())

    return run


@pytest.fixture
def photos(tmp_path):
    """Instruct-150K has no photographs of its own."""
    path = tmp_path / "train2017.zip"
    path.write_bytes(archive())
    return path


@pytest.mark.parametrize(
    ("dataset", "how"), list(zip(KNOWN, ("--offline", "HF_HUB_OFFLINE", "--offline"), strict=True))
)
def test_a_dataset_is_downloaded_once_and_then_works_without_the_hub(dataset, how, hub, prepare, photos):
    more = ["--images", photos] if dataset.endswith("Instruct-150K") else []
    index = prepare(dataset, "online", *more)
    assert index["settings"]["dataset"]["commit"] == OLD
    assert sum(shard["rows"] for shard in index["shards"]["train"]) == 2
    assert index["shards"]["images"][0]["rows"] == 2
    hub.stop()
    if how == "--offline":
        assert prepare(dataset, "offline", *more, "--offline") == index
    else:
        assert prepare(dataset, "offline", *more, offline=True) == index


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, prepare):
    hub.cut, hub.images = True, archive(padding=30_000_000)  # the client keeps what it has in blocks of 10 MB
    prepare("liuhaotian/LLaVA-Pretrain", "out")
    ranges = [
        asked for method, path, asked in hub.requests if method == "GET" and path.endswith("images.zip")
    ]
    assert ranges[0] is None and len(ranges) == 2
    assert int(ranges[1].removeprefix("bytes=").removesuffix("-")) > 0


def test_the_commit_is_pinned_while_main_moves_on(hub, prepare, tmp_path):
    before = prepare("liuhaotian/LLaVA-Pretrain", "out")
    hub.main = NEW
    assert prepare("liuhaotian/LLaVA-Pretrain", "out") == before
    assert prepare("liuhaotian/LLaVA-Pretrain", "named", "--revision", OLD)["shards"] == before["shards"]
    after = prepare("liuhaotian/LLaVA-Pretrain", "new")
    assert (
        after["settings"]["dataset"]["commit"] == NEW
        and after["shards"]["train"] != before["shards"]["train"]
    )
    assert "commit `" + OLD in (tmp_path / "out" / "README.md").read_text()


def test_what_cannot_be_had_is_said(hub, prepare):
    said = prepare("liuhaotian/LLaVA-Pretrain", "out", "--dataset-files", "nothing.json", expect=2)
    assert "nothing.json of liuhaotian/LLaVA-Pretrain" in said
    assert "--dataset-files" in prepare("someone/something", "out", expect=2)
    assert "not in the cache" in prepare("liuhaotian/LLaVA-Pretrain", "out", "--offline", expect=2)
    hub.stop()
    assert "cannot be reached" in prepare("liuhaotian/LLaVA-Pretrain", "out", expect=2)
