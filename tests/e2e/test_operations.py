"""What an operator relies on: probes, metrics, keys, limits, vanished clients, and a graceful end."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from trainer.evaluation.answering import AnswerError, ServiceAnswerer

# So hot that the end of the answer is hardly ever drawn.
ENDLESS = {
    "prompt": (None, "Write a very long story."),
    "max_new_tokens": (None, "1900"),
    "temperature": (None, "5"),
    "seed": (None, "1"),
}


class StalledUpload:
    """A request to /generate whose body never ends."""

    def __init__(self, url: str) -> None:
        self._socket = socket.create_connection((httpx.URL(url).host, httpx.URL(url).port), timeout=60)
        head = (
            b"POST /generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret-1\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\n"
        )
        self._socket.sendall(head)

    def answer(self) -> bytes:
        return self._socket.recv(65536)

    def close(self) -> None:
        self._socket.close()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def post_in_background(client: httpx.Client, results: list, **fields) -> threading.Thread:
    def post() -> None:
        results.append(client.post("/generate", files={key: (None, value) for key, value in fields.items()}))

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def test_probes_and_request_ids(service):
    client = service.client
    assert client.get("/live").json() == {"status": "live"}
    assert client.get("/ready").json() == {"status": "ready"}
    health = client.get("/health").json()
    assert health["status"] == "ready"
    assert health["speech"] == "ready"
    assert client.get("/live", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = client.get("/live", headers={"x-request-id": "no good at all"}).headers["x-request-id"]
    assert len(made) == 32


def test_page_and_description(service):
    service.wait_page()
    page = service.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "Ask about a photograph" in page.text
    assert service.client.get("/docs").status_code == 200
    paths = service.client.get("/openapi.json").json()["paths"]
    assert {
        "/generate",
        "/transcribe",
        "/v1/chat/completions",
        "/v1/models",
        "/live",
        "/ready",
        "/health",
        "/metrics",
    } <= set(paths)
    body = paths["/generate"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert all("description" in field for field in body["properties"].values())
    assert {"400", "401", "413", "415", "429", "500", "503", "504"} <= set(
        paths["/generate"]["post"]["responses"]
    )


def test_metrics_count(service):
    names = [
        'service_requests_total{route="/generate",status="200"}',
        'service_tokens_total{kind="completion"}',
    ]
    names += ["service_time_to_first_token_seconds_count", 'service_request_seconds_count{route="/generate"}']
    before = [service.metric(name) for name in names]
    fields = {"prompt": (None, "Tell me a story."), "max_new_tokens": (None, "3")}
    assert service.client.post("/generate", files=fields).status_code == 200
    assert [service.metric(name) - old for name, old in zip(names, before, strict=True)] == [1, 3, 1, 1]


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_leaves_frees_its_slot(service, stream: str):
    fields = ENDLESS | {"stream": (None, stream), "max_new_tokens": (None, "500")}
    running: list[float] = []
    with (
        suppress(httpx.ReadTimeout),
        service.client.stream("POST", "/generate", files=fields, timeout=5) as response,
    ):
        next(response.iter_text())  # never comes where the answer is no stream
        running.append(service.metric("service_running"))
    assert running == ([1.0] if stream == "true" else [])
    until(lambda: service.metric("service_running") == 0, seconds=10)
    until(lambda: service.metric("service_requests_in_progress") == 0, seconds=10)
    assert service.metric("service_cache_capacity_tokens") == 0


def test_a_key_is_asked_for(strict_service):
    for header, words in (({"Authorization": ""}, "is needed"), ({"Authorization": "Bearer x"}, "is wrong")):
        for route in ("/generate", "/transcribe"):
            response = strict_service.client.post(route, files={"prompt": (None, "x")}, headers=header)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            error = response.json()["error"]
            assert error["type"] == "authentication_error"
            assert words in error["message"]
        assert strict_service.client.get("/ready", headers=header).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit(strict_service, chunked: bool):
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    pieces = [head] + [b"x" * 50_000] * 6 + [b"\r\n--b--\r\n"]
    content = iter(pieces) if chunked else b"".join(pieces)
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = strict_service.client.post("/generate", content=content, headers=headers)
    assert response.status_code == 413
    assert "at most 200000 bytes" in response.json()["error"]["message"]


def test_audio_where_speech_is_off_and_no_page(strict_service):
    response = strict_service.client.post("/generate", files={"audio": ("a.wav", b"RIFF")})
    assert response.status_code == 400
    assert "speech is turned off" in response.json()["error"]["message"]
    assert strict_service.client.get("/").status_code == 404


def test_the_limit_of_requests(strict_service):
    """Two clients that send their bodies slowly hold the two places that there are."""
    stalled = [StalledUpload(strict_service.url), StalledUpload(strict_service.url)]
    try:
        until(lambda: strict_service.metric("service_requests_in_progress") == 2)
        response = strict_service.client.post("/generate", files=ENDLESS)
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) > 0
        error = response.json()["error"]
        assert error["type"] == "rate_limit_error"
        assert "2 requests are in progress" in error["message"]
    finally:
        for upload in stalled:
            upload.close()
    until(lambda: strict_service.metric("service_requests_in_progress") == 0)


def test_the_limit_of_tokens(strict_service):
    with strict_service.client.stream("POST", "/generate", files=ENDLESS | {"stream": (None, "true")}):
        until(lambda: strict_service.metric("service_running") == 1)
        response = strict_service.client.post("/generate", files=ENDLESS)
        assert response.status_code == 429
        assert "the limit is 2000" in response.json()["error"]["message"]
    until(lambda: strict_service.metric("service_requests_in_progress") == 0)


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_request_past_its_deadline(strict_service, stream: str):
    response = strict_service.client.post("/generate", files=ENDLESS | {"stream": (None, stream)})
    assert "within 5 seconds" in response.text
    if stream == "true":
        assert "event: token" in response.text
        assert response.text.index("event: error") > response.text.rindex("event: token")
        assert "event: done" not in response.text
    else:
        assert response.status_code == 504
    until(lambda: strict_service.metric("service_running") == 0)


def test_an_upload_past_its_deadline(strict_service):
    upload = StalledUpload(strict_service.url)
    assert b" 504 " in upload.answer().split(b"\r\n")[0]
    upload.close()


def test_sigterm_lets_answers_finish(launch, checkpoint: str):
    with launch("--no-transcription.enabled", checkpoint=checkpoint) as service:
        live, ready = service.client.get("/live"), service.client.get("/ready")
        assert live.status_code == 200
        if ready.status_code == 503:  # still loading
            assert int(ready.headers["retry-after"]) > 0
            assert "is being" in ready.json()["error"]["message"]
        service.wait_ready()
        results: list[httpx.Response] = []
        thread = post_in_background(
            service.client, results, prompt="Write a long story.", max_new_tokens="48"
        )
        until(lambda: service.metric("service_running") == 1)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: service.client.get("/ready").status_code == 503, seconds=5)
        refused = service.client.post("/generate", files={"prompt": (None, "Hello")})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "shutting down" in refused.json()["error"]["message"]
        thread.join()
        assert results[0].status_code == 200
        assert results[0].json()["usage"]["completion_tokens"] > 1
        assert service.process.wait(30) == 0


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--checkpoint", "no-such-place"], 1, "no-such-place"),
        (["--max-batch-size", "0"], 2, "max_batch_size"),
        (["--no-such-flag"], 2, "--no-such-flag"),
    ],
)
def test_what_cannot_start_says_why(repository: Path, flags: list[str], code: int, words: str):
    command = [sys.executable, "-m", "service", "--port", "0", "--no-transcription.enabled", *flags]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == code
    assert words in ended.stderr


def test_help_names_every_setting(repository: Path):
    command = [sys.executable, "-m", "service", "--help"]
    text = subprocess.run(
        command, cwd=repository, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    from service.settings import Settings

    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert name == "transcription" or field.description


def test_the_trainers_evaluation_shows_its_key_and_waits_for_a_busy_service(strict_service):
    items = [("What is the capital of France?", None)] * 8
    url = strict_service.url
    answers = ServiceAnswerer(url, concurrency=8, max_new_tokens=8, api_key="secret-1")(items)
    assert len(set(answers)) == 1 and answers[0]
    assert "POST /generate 429" in strict_service.log  # two requests at once are its limit
    with pytest.raises(AnswerError, match="answered 401"):
        ServiceAnswerer(url)(items[:1])
