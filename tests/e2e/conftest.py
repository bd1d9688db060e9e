"""The real service: `python -m service` in a process of its own, spoken to over a real socket."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from shared.config import PRESETS, load_preset

START_SECONDS = 300


class Service:
    """A service process and a client for it.

    Attributes:
        url: where it listens.
        client: talks to it.
        process: the process.
    """

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process = process
        self._log = log
        self.url = self._wait(self._listening)
        self.client = httpx.Client(base_url=self.url, timeout=120)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_ready(self) -> None:
        self._wait(lambda: self.client.get("/ready").status_code == 200)

    def wait_page(self) -> None:
        self._wait(lambda: self.client.get("/").status_code == 200)

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for something that the service does by itself."""
        self._wait(condition)

    def metric(self, name: str) -> float:
        """The value of a metric, labels included in its name."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def _listening(self) -> str | None:
        found = re.search(r"Uvicorn running on (http://\S+)", self.log)
        return found and found[1]

    def _wait(self, condition: Callable):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                pytest.fail(f"the service ended with {self.process.returncode}:\n{self.log}")
            if result := condition():
                return result
            time.sleep(0.1)
        pytest.fail(f"the service did not start in {START_SECONDS} seconds:\n{self.log}")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`embedded` where its trained weights ship; else the same model with an untrained projector."""
    if (PRESETS / "embedded" / "manifest.json").is_file():
        return "embedded"
    import torch  # here, so that the usual run does without it

    from shared.checkpoint import build_model, save_checkpoint

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained") / "embedded"
    save_checkpoint(build_model(load_preset("embedded")), folder)
    return str(folder)


@pytest.fixture(scope="session")
def launch(repository: Path, tmp_path_factory: pytest.TempPathFactory):
    """`with launch(*flags, checkpoint=...) as service`: a process that listens, and loads its model."""

    @contextmanager
    def start(*flags: str, checkpoint: str) -> Iterator[Service]:
        log = tmp_path_factory.mktemp("service") / "log.txt"
        command = [sys.executable, "-m", "service", "--port", "0", "--dtype", "float32"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--checkpoint", checkpoint, *flags],
                cwd=repository,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        service = None
        try:
            service = Service(process, log)
            yield service
        finally:
            if service is not None:
                service.stop()
            elif process.poll() is None:
                process.kill()
                process.wait()

    return start


@pytest.fixture(scope="session")
def service(launch, checkpoint: str) -> Iterator[Service]:
    """The service as it is, ready, in float32 so that answers do not depend on the batch."""
    with launch(checkpoint=checkpoint) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="session")
def strict_service(launch, checkpoint: str) -> Iterator[Service]:
    """A ready service with an API key, tight limits and no speech."""
    flags = ["--api-key", "secret-1", "--max-upload-bytes", "200000", "--max-requests", "2"]
    flags += ["--max-queue-tokens", "2000", "--max-context-tokens", "2000", "--max-new-tokens", "1900"]
    flags += ["--request-timeout", "5", "--no-transcription.enabled", "--no-page"]
    with launch(*flags, checkpoint=checkpoint) as running:
        running.wait_ready()
        running.client.headers["Authorization"] = "Bearer secret-1"
        yield running


@pytest.fixture(scope="session")
def openai_client(request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    """The real client of OpenAI's API, talking to `service`, or to the server that $OPENAI_BASE_URL names (then
    also set OPENAI_API_KEY, and $OPENAI_MODEL if it has several models)."""
    url = os.environ.get("OPENAI_BASE_URL") or request.getfixturevalue("service").url + "/v1"
    key = os.environ.get("OPENAI_API_KEY") or "unused"
    with openai.OpenAI(base_url=url, api_key=key, timeout=120, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def chat_model(openai_client: openai.OpenAI) -> str:
    """The model to chat with: the first one that the server lists."""
    return os.environ.get("OPENAI_MODEL") or openai_client.models.list().data[0].id
