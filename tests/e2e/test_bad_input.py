"""Whatever a client sends: a 4xx in the one error contract that names the trouble, and the service goes on."""

import io
import re
import struct
import zlib

import httpx
import pytest

ERROR_KEYS = {"message", "type", "param", "code"}


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def silent_video() -> bytes:
    """A short MP4 without a sound track."""
    import av
    import numpy as np

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def check_error(response: httpx.Response, status: int, param: str | None, words: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == ERROR_KEYS
    assert words in error["message"]
    assert error["param"] == param
    assert response.headers["x-request-id"]
    assert not re.search(r"/(home|root|usr|tmp|work|opt|var)/|site-packages|\.py\b", response.text), (
        "of the server's inside"
    )
    assert "Traceback" not in response.text


def text(**fields) -> list[tuple]:
    return [(name, (None, value)) for name, value in fields.items()]


def file(name: str, data: bytes) -> list[tuple]:
    return [(name, ("upload.bin", data))]


TEXT_FILE = b"This is just a text file, neither picture nor sound.\n" * 20

GENERATE = {
    "nothing asked": (text(max_new_tokens="4"), 400, "prompt", "Nothing was asked"),
    "blank prompt": (text(prompt=" \n "), 400, "prompt", "Nothing was asked"),
    "only an image": (file("image", TEXT_FILE), 400, "prompt", "Nothing was asked"),
    "no new tokens": (
        text(prompt="x", max_new_tokens="0"),
        400,
        "max_new_tokens",
        "greater than or equal to 1",
    ),
    "too many new tokens": (text(prompt="x", max_new_tokens="100000"), 400, "max_new_tokens", "at most 512"),
    "words for a number": (text(prompt="x", max_new_tokens="many"), 400, "max_new_tokens", "valid integer"),
    "cold": (text(prompt="x", temperature="-1"), 400, "temperature", "greater than or equal to 0"),
    "not a number": (text(prompt="x", temperature="nan"), 400, "temperature", "finite number"),
    "top_p": (text(prompt="x", top_p="1.5"), 400, "top_p", "less than or equal to 1"),
    "negative seed": (text(prompt="x", seed="-1"), 400, "seed", "greater than or equal to 0"),
    "empty stop": (text(prompt="x", stop=""), 400, "stop", "at least 1 character"),
    "bad switch": (text(prompt="x", stream="perhaps"), 400, "stream", "valid boolean"),
    "unknown field": (text(prompt="x", colour="red"), 400, "colour", "Unknown field 'colour'"),
    "unknown file": (text(prompt="x") + file("picture", b"x"), 400, "picture", "Unknown field 'picture'"),
    "prompt twice": (text(prompt="x") + text(prompt="y"), 400, "prompt", "only once"),
    "file as prompt": (file("prompt", b"x"), 400, "prompt", "takes text"),
    "text as image": (text(prompt="x", image="cat.jpg"), 400, "image", "takes a file"),
    "two recordings": (file("audio", b"x") + file("audio", b"x"), 400, "audio", "once"),
    "too many images": (text(prompt="x") + file("image", b"x") * 9, 400, "image", "8 times at most"),
    "text file as image": (
        text(prompt="x") + file("image", TEXT_FILE),
        415,
        "image",
        "not a JPEG, PNG or WebP",
    ),
    "empty image": (text(prompt="x") + file("image", b""), 400, "image", "empty"),
    "huge PNG": (text(prompt="x") + file("image", png_header(50_000, 50_000)), 413, "image", "50000 x 50000"),
    "hollow PNG": (text(prompt="x") + file("image", png_header(50, 50)), 400, "image", "broken or truncated"),
    "empty audio": (file("audio", b""), 400, "audio", "empty"),
    "text file as audio": (file("audio", TEXT_FILE), 415, "audio", "not in a known format"),
    "long prompt": (text(prompt="word " * 5000), 400, None, "at most 2048 fit"),
    "huge text field": (text(prompt="x" * 300_000), 400, None, "exceeded maximum size"),
}

TRANSCRIBE = {
    "no recording": (text(language="en"), 400, "audio", "no recording"),
    "empty audio": (file("audio", b""), 400, "audio", "empty"),
    "text file as audio": (file("audio", TEXT_FILE), 415, "audio", "not in a known format"),
    "unknown field": (file("audio", b"x") + text(colour="red"), 400, "colour", "Unknown field 'colour'"),
    "unknown form": (file("audio", b"x") + text(response_format="mp3"), 400, "response_format", "'json'"),
    "text as audio": (text(audio="hello"), 400, "audio", "takes a file"),
}


@pytest.mark.parametrize("case", GENERATE)
def test_generate(service, case: str):
    parts, status, param, words = GENERATE[case]
    check_error(service.client.post("/generate", files=parts), status, param, words)


@pytest.mark.parametrize("case", TRANSCRIBE)
def test_transcribe(service, case: str):
    parts, status, param, words = TRANSCRIBE[case]
    check_error(service.client.post("/transcribe", files=parts), status, param, words)


@pytest.mark.parametrize("route", ["/generate", "/transcribe"])
def test_a_video_without_sound(service, route: str):
    response = service.client.post(route, files=file("audio", silent_video()))
    check_error(response, 400, "audio", "no sound track")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_photograph(service, photo_jpeg: bytes, share: float):
    parts = text(prompt="x") + file("image", photo_jpeg[: int(len(photo_jpeg) * share)])
    check_error(service.client.post("/generate", files=parts), 400, "image", "broken or truncated")


@pytest.mark.parametrize("route", ["/generate", "/transcribe"])
def test_other_kinds_of_body(service, route: str):
    client = service.client
    check_error(client.post(route, json={"prompt": "x"}), 415, None, "multipart/form-data")
    check_error(client.post(route, data={"prompt": "x"}), 415, None, "multipart/form-data")
    check_error(client.post(route), 415, None, "multipart/form-data")
    torn = {"content-type": "multipart/form-data; boundary=b"}
    check_error(client.post(route, content=b"garbage", headers=torn), 400, None, "form cannot be read")


@pytest.mark.parametrize("route", ["/generate", "/transcribe", "/ready", "/metrics", "/nowhere"])
def test_wrong_method_or_path(service, route: str):
    status = 404 if route == "/nowhere" else 405
    check_error(service.client.delete(route), status, None, "described at /docs")


def test_the_service_goes_on(service):
    assert service.client.get("/ready").status_code == 200
    response = service.client.post("/generate", files=text(prompt="Hello!", max_new_tokens="2"))
    assert response.status_code == 200
    assert service.metric("service_requests_in_progress") == 0
    assert "Traceback" not in service.log
