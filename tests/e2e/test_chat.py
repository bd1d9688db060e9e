"""/v1/chat/completions where it is this service's own: places named in errors, truncation, limits, one code path."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

PHOTO_URL = "data:image/jpeg;base64,"


def post(client: httpx.Client, content, **fields) -> httpx.Response:
    messages = (
        [{"role": "user", "content": content}] if not fields.get("messages") else fields.pop("messages")
    )
    return client.post("/v1/chat/completions", json={"model": "embedded", "messages": messages} | fields)


def image_part(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture(scope="module")
def photo_url(photo_jpeg: bytes) -> str:
    return PHOTO_URL + base64.b64encode(photo_jpeg).decode()


def test_chat_and_generate_are_one_path(service, photo_url, photo_jpeg):
    """The same question gives the same tokens, also when the client sends the image after the text."""
    content = [{"type": "text", "text": "What is this?"}, image_part(photo_url)]
    chat = post(service.client, content, max_tokens=12).json()
    parts = [("prompt", (None, "What is this?")), ("max_new_tokens", (None, "12")), ("image", photo_jpeg)]
    native = service.client.post("/generate", files=parts).json()
    assert chat["choices"][0]["message"]["content"] == native["text"]
    assert chat["usage"]["prompt_tokens"] == native["usage"]["prompt_tokens"]
    assert chat["usage"]["prompt_tokens_details"]["image_tokens"] == native["usage"]["image_tokens"] > 0


def test_what_was_heard_is_told(service, repository):
    data = base64.b64encode((repository / "docs" / "examples" / "question.wav").read_bytes()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    answer = post(service.client, [part], max_tokens=8).json()
    assert "how many people" in answer["transcript"].lower()


def test_generate_takes_the_same_controls(service):
    fields = {"prompt": "Say red red red.", "max_new_tokens": "8", "temperature": "1", "seed": "3"}
    fields |= {"top_k": "20", "top_p": "0.9", "repetition_penalty": "1.2", "presence_penalty": "0.5"}
    fields |= {"frequency_penalty": "0.5", "logprobs": "2"}
    native = service.client.post(
        "/generate", files={key: (None, text) for key, text in fields.items()}
    ).json()
    numbers = {key: json.loads(fields[key]) for key in list(fields)[2:-1]}
    chat = post(
        service.client, fields["prompt"], max_tokens=8, logprobs=True, top_logprobs=2, **numbers
    ).json()
    assert chat["choices"][0]["message"]["content"] == native["text"]
    assert chat["choices"][0]["logprobs"]["content"] == native["logprobs"]


LONG = "Tell me about the sea and the ships on it. " * 60


def dialogue(url: str) -> list[dict]:
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [image_part(url), {"type": "text", "text": LONG}]},
        {"role": "assistant", "content": LONG},
        {"role": "user", "content": LONG},
        {"role": "assistant", "content": LONG},
        {"role": "user", "content": "What is in the picture?"},
    ]


def test_a_dialogue_that_is_too_long_says_its_counts(service, photo_url):
    response = post(service.client, None, messages=dialogue(photo_url) * 2, max_tokens=8)
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert "at most 2048 fit" in error["message"]


def test_the_oldest_turns_are_lost_only_if_asked_for(service, photo_url):
    response = post(service.client, None, messages=dialogue(photo_url), max_tokens=8, truncation="auto", n=1)
    answer = response.json()
    assert response.status_code == 200, response.text
    assert answer["dropped_messages"] > 0
    assert answer["usage"]["prompt_tokens"] + 8 <= 2048
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] > 0, "the image stays"


PLACES = {
    "tools": ({"tools": [{"type": "function"}]}, "tools", "not supported"),
    "tool_choice": ({"tool_choice": "required"}, "tool_choice", "not supported"),
    "json_schema": ({"response_format": {"type": "json_schema"}}, "response_format", "Only"),
    "logit_bias": ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
    "spoken answers": ({"modalities": ["text", "audio"]}, "modalities", "only modality"),
    "two limits": ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "not both"),
    "too many tokens": ({"max_tokens": 100_000}, "max_tokens", "at most 512"),
    "unknown field": ({"colour": "red"}, "colour", "Unknown field"),
}


@pytest.mark.parametrize("name", PLACES)
def test_what_is_not_supported_is_named(service, name: str):
    fields, param, words = PLACES[name]
    response = post(service.client, "x", **fields)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == param
    assert words in error["message"]


TEXT = {"type": "text", "text": "x"}
URL = "messages[0].content[1].image_url.url"
CONTENTS = {
    "not base64": ([TEXT, image_part("data:image/png;base64,***")], 400, URL, "base64"),
    "not a data URL": ([TEXT, image_part("cat.jpg")], 400, URL, "data: URL"),
    "no base64 in it": ([TEXT, image_part("data:image/png,abc")], 400, URL, "data:image/jpeg;base64"),
    "fetching is off": ([TEXT, image_part("http://127.0.0.1/x.png")], 400, URL, "does not fetch"),
    "not an image": ([TEXT, image_part(PHOTO_URL + "aGVsbG8=")], 415, URL, "image"),
    "a number as URL": ([TEXT, image_part(3)], 400, URL, "valid string"),
    "unknown part": ([TEXT, {"type": "video_url"}], 400, "messages[0].content[1]", "image_url"),
    "no text": ([{"type": "text"}], 400, "messages[0].content[0].text", "required"),
    "nothing asked": ("  ", 400, "messages[0].content", "Nothing was asked"),
    "too many images": ([TEXT, *[image_part(PHOTO_URL)] * 9], 400, "messages", "at most 8"),
    "not audio": (
        [{"type": "input_audio", "input_audio": {"data": "aGVsbG8=", "format": "wav"}}],
        415,
        "messages[0].content[0].input_audio.data",
        "audio",
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_errors_name_the_place_in_the_messages(service, name: str):
    content, status, param, words = CONTENTS[name]
    response = post(service.client, content)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), response.text
    assert words in error["message"]


BODIES = {
    "not JSON": (b"{", "application/json", 400, "not JSON"),
    "a list": (b"[]", "application/json", 400, "JSON object"),
    "half a character": (b'{"model": "\\ud800"}', "application/json", 400, "not JSON"),
    "not a number": (b'{"temperature": NaN}', "application/json", 400, "not JSON"),
    "a form": (b"a=1", "application/x-www-form-urlencoded", 415, "application/json"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_none(service, name: str):
    content, kind, status, words = BODIES[name]
    response = service.client.post("/v1/chat/completions", content=content, headers={"content-type": kind})
    assert response.status_code == status, response.text
    assert words in response.json()["error"]["message"]


def test_an_error_in_mid_stream_has_openais_form(strict_service):
    """Past its deadline, a stream ends with an error's body and no `[DONE]`."""
    fields = {"max_tokens": 1900, "temperature": 5, "seed": 1, "stream": True}
    response = post(strict_service.client, "Write a very long story.", **fields)
    *events, last = [line for line in response.text.split("\n\n") if line]
    assert response.status_code == 200 and len(events) > 2
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "deadline_exceeded" and error["type"] == "server_error"
    assert "[DONE]" not in response.text


def test_the_key_is_asked_for(strict_service):
    for path in ("/v1/chat/completions", "/v1/models"):
        method = "GET" if path.endswith("models") else "POST"
        response = strict_service.client.request(method, path, headers={"Authorization": "Bearer no"})
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.fixture(scope="module")
def image_host(photo_jpeg: bytes):
    """A web server with an image, a redirect to a name that was not allowed, and a file without end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{self.server.server_port}/photo.jpg")
                self.end_headers()
                return
            self.send_response(200 if self.path != "/none" else 404)
            self.end_headers()
            if self.path == "/endless":
                for _ in range(1000):
                    self.wfile.write(b"x" * 100_000)
            elif self.path == "/photo.jpg":
                self.wfile.write(photo_jpeg)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def test_images_are_fetched_from_named_hosts_only(image_host: str, photo_jpeg: bytes):
    from service.fetch import FetchError, fetch

    async def get(path: str, hosts: str = "127.0.0.1") -> bytes:
        return await fetch(image_host + path, hosts=hosts, max_bytes=1_000_000, timeout=10)

    assert await get("/photo.jpg") == photo_jpeg
    for path, hosts, words in (
        ("/photo.jpg", "", "does not fetch images"),
        ("/photo.jpg", "images.example", "does not fetch images from '127.0.0.1'"),
        ("/photo.jpg", "*", "not a public one"),
        ("/away", "127.0.0.1", "does not fetch images from 'localhost'"),
        ("/away", "127.0.0.1,*", "not a public one"),
        ("/endless", "127.0.0.1", "too large"),
        ("/none", "127.0.0.1", "status 404"),
    ):
        with pytest.raises(FetchError, match=words):
            await get(path, hosts)


@pytest.mark.parametrize(
    "host",
    "10.0.0.1 169.254.169.254 [::1] [::ffff:127.0.0.1] [64:ff9b::7f00:1] [2002:7f00:1::] 0.0.0.0 192.168.1.1 "
    "[fe80::1] [fd00::1] 2130706433 0x7f.1 localhost 224.0.0.1".split(),
)
async def test_no_private_address_is_reached_by_any_spelling(host: str):
    from service.fetch import FetchError, fetch

    with pytest.raises(FetchError, match=r"not a public one|was not found"):
        await fetch(f"http://{host}/x.png", hosts="*", max_bytes=1000, timeout=5)
