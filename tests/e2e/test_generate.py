"""POST /generate over a real socket: text, images, speech, streams, and many at once."""

import io
import json
import wave
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
from PIL import Image

from shared.checkpoint import load_model
from shared.media import decode_image
from shared.model import MultimodalModel
from shared.prompt import Message, question_content

FIELDS = {"id", "model", "text", "transcript", "finish_reason", "logprobs", "usage", "timings"}


def ask(client: httpx.Client, prompt: str | None = None, files=(), **fields) -> dict:
    data = {"prompt": prompt} if prompt is not None else {}
    # A list keeps the request multipart when there is no file.
    parts = [(name, (None, str(value))) for name, value in (data | fields).items()]
    response = client.post("/generate", files=[*parts, *files])
    assert response.status_code == 200, response.text
    return response.json()


def events(client: httpx.Client, prompt: str, files=(), **fields) -> list[tuple[str, dict]]:
    parts = [
        (name, (None, str(value))) for name, value in ({"prompt": prompt, "stream": "true"} | fields).items()
    ]
    with client.stream("POST", "/generate", files=[*parts, *files]) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(response.iter_text()).split("\n\n")
    pairs = [block.split("\n") for block in blocks if block]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


@pytest.fixture(scope="module")
def photos(photo: Image.Image) -> list[bytes]:
    """Four different photographs as JPEG, PNG and WebP."""
    made = []
    for index, kind in enumerate(["JPEG", "PNG", "WEBP", "JPEG"]):
        buffer = io.BytesIO()
        photo.rotate(90 * index, expand=True).save(buffer, format=kind)
        made.append(buffer.getvalue())
    return made


def image(data: bytes) -> tuple:
    return ("image", ("photo", data))


def silence(seconds: float = 2.0) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\0\0" * int(16_000 * seconds))
    return buffer.getvalue()


def test_a_text_question(service):
    answer = ask(service.client, "What is the capital of France?", max_new_tokens=24)
    assert set(answer) == FIELDS
    assert "Paris" in answer["text"]
    assert answer["finish_reason"] == "stop"
    assert answer["transcript"] is None
    assert answer["usage"]["image_tokens"] == 0
    assert answer["timings"]["decode_ms"] > 0


def test_images_take_their_tokens_in_the_prompt(service, photos):
    usage = [
        ask(service.client, "What is this?", [image(data) for data in photos[:n]], max_new_tokens=1)["usage"]
        for n in range(4)
    ]
    per_image = usage[1]["image_tokens"]
    assert [use["image_tokens"] for use in usage] == [0, per_image, 2 * per_image, 3 * per_image]
    added = usage[1]["prompt_tokens"] - usage[0]["prompt_tokens"]
    assert added == per_image + 1, "an image is its tokens and the end-of-image token"
    assert usage[3]["prompt_tokens"] == usage[0]["prompt_tokens"] + 3 * added


def test_the_length_limit_is_a_finish_reason(service):
    answer = ask(service.client, "Tell me a long story.", max_new_tokens=5)
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


def test_a_stream_is_the_same_answer_in_pieces(service, photos):
    whole = ask(service.client, "Describe this.", [image(photos[0])], max_new_tokens=20)
    *tokens, (last, done) = events(service.client, "Describe this.", [image(photos[0])], max_new_tokens=20)
    assert {name for name, _ in tokens} == {"token"}
    assert len(tokens) > 3
    assert "".join(data["text"] for _, data in tokens) == whole["text"] == done["text"]
    assert last == "done"
    assert set(done) == FIELDS
    assert done["usage"] == whole["usage"]


def test_stop_strings_cut_answer_and_stream(service):
    prompt = "Count from one to nine in words."
    whole = ask(service.client, prompt, max_new_tokens=32)["text"]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    answer = ask(service.client, prompt, max_new_tokens=32, stop=stop)
    assert answer["text"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"
    streamed = events(service.client, prompt, max_new_tokens=32, stop=stop)
    assert "".join(data["text"] for name, data in streamed if name == "token") == answer["text"]


def test_seeds_repeat_and_differ(service):
    def sample(seed: int) -> str:
        return ask(service.client, "Write a poem.", max_new_tokens=16, temperature=1.2, seed=seed)["text"]

    texts = [sample(seed) for seed in (1, 2, 3)]
    assert sample(1) == texts[0]
    assert len(set(texts)) > 1


def test_speech_alone_is_the_question(service, librivox_clips):
    clip = librivox_clips[0]
    spoken = ask(service.client, files=[("audio", ("clip.wav", clip.path.read_bytes()))], max_new_tokens=12)
    words = set(clip.text.split())
    heard = set(spoken["transcript"].lower().replace(",", "").replace(".", "").split())
    assert len(words & heard) > 0.7 * len(words)
    assert spoken["timings"]["transcribe_ms"] > 0
    typed = ask(service.client, spoken["transcript"], max_new_tokens=12)
    assert (typed["text"], typed["usage"]) == (spoken["text"], spoken["usage"])


def test_speech_joins_prompt_and_image(service, librivox_clips, photos):
    audio = ("audio", ("clip.wav", librivox_clips[0].path.read_bytes()))
    answer = ask(service.client, "Who is named?", [image(photos[0]), audio], max_new_tokens=4)
    silent = ask(service.client, "Who is named?", [image(photos[0])], max_new_tokens=4)
    assert answer["transcript"]
    assert answer["usage"]["image_tokens"] == silent["usage"]["image_tokens"]
    assert answer["usage"]["prompt_tokens"] > silent["usage"]["prompt_tokens"] + 5


def test_silence_is_an_empty_transcript_beside_a_prompt_and_an_error_alone(service):
    audio = ("audio", ("silence.wav", silence()))
    answer = ask(service.client, "Is anybody there?", [audio], max_new_tokens=2)
    assert answer["transcript"] == ""
    response = service.client.post("/generate", files=[audio])
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "no_speech"
    assert "No speech was heard" in error["message"]
    assert "no text was given" in error["message"]


def test_sixteen_at_once_answer_as_alone(service, photos):
    questions = [
        ("What is the capital of Italy?", 0),
        ("Describe this image.", 1),
        ("Name three animals, please, and say in one sentence each where they live.", 0),
        ("What colour is the house?", 2),
        ("Hi", 0),
        ("Is there a dog? Is there a boat? " * 10, 1),
        ("Write one sentence about the sea.", 0),
        ("How do these differ?", 3),
    ]

    def one(index: int) -> tuple[str, int]:
        prompt, count = questions[index % 8]
        files = [image(data) for data in photos[:count]]
        answer = ask(service.client, prompt, files, max_new_tokens=8 + index % 8)
        return answer["text"], answer["usage"]["completion_tokens"]

    alone = [one(index) for index in range(16)]
    before = {size: service.metric(f'service_batch_size_bucket{{le="{size}.0"}}') for size in (4, 64)}
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(one, range(16)))
    assert together == alone
    shared = [
        service.metric(f'service_batch_size_bucket{{le="{size}.0"}}') - before[size] for size in (4, 64)
    ]
    assert shared[1] > shared[0], "no decode step was shared by more than four requests"


def oracle(model: MultimodalModel, prompt: str, images: list[bytes], max_new_tokens: int) -> str:
    """The answer of transformers' own `generate(inputs_embeds=...)`, greedy, alone."""
    content = question_content(prompt, images=len(images))
    input_ids = torch.tensor([model.prompt.encode([Message("user", content)]).input_ids])
    with torch.inference_mode():
        embeds = None
        if images:
            pixel_values = model.preprocess(
                [decode_image(data, target_size=model.config.vision.image_size) for data in images]
            )
            embeds = model.project(model.encode_images(pixel_values))
        output = model.causal_lm.generate(
            inputs_embeds=model.embed(input_ids, embeds),
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(model.eos_token_ids),
            pad_token_id=model.tokenizer.pad_token_id,
        )
    return model.tokenizer.decode(output[0], skip_special_tokens=True)


def test_answers_of_a_batch_equal_transformers_generate(service, checkpoint: str, photos):
    questions = [
        ("Describe this image in one sentence.", photos[:1], 14),
        ("What is the capital of Spain?", [], 10),
        ("What do these two have in common?", photos[1:3], 12),
        ("Repeat after me: the quick brown fox jumps over the lazy dog. " * 6, [], 16),
        ("Is there a house?", photos[3:], 8),
        ("Hi", [], 12),
    ]

    def one(question: tuple[str, list[bytes], int]) -> str:
        prompt, images, limit = question
        return ask(service.client, prompt, [image(data) for data in images], max_new_tokens=limit)["text"]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(one, questions))
    model = load_model(checkpoint, dtype="float32", device="cpu")
    assert answers == [oracle(model, *question) for question in questions]
