"""Chat completions through the real `openai` client over a real socket: what a program written for OpenAI relies on.

Nothing here is about this service alone: with OPENAI_BASE_URL (and OPENAI_API_KEY, OPENAI_MODEL) the same tests
run against any server that takes images and audio. Needs docs/examples, no more.
"""

import asyncio
import base64
from pathlib import Path

import openai
import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def photo_part() -> dict:
    data = base64.b64encode((EXAMPLES / "photographer.jpg").read_bytes()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


@pytest.fixture(scope="module")
def speech_part() -> dict:
    data = base64.b64encode((EXAMPLES / "question.wav").read_bytes()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


@pytest.fixture(scope="module")
def chat(openai_client, chat_model):
    """`chat(content or messages, **fields)`: greedy, short."""

    def create(content, **fields):
        messages = content
        if isinstance(content, str) or "type" in content[0]:
            messages = [{"role": "user", "content": content}]
        settings = {"temperature": 0, "max_completion_tokens": 16} | fields
        return openai_client.chat.completions.create(model=chat_model, messages=messages, **settings)

    return create


def text_part(text: str) -> dict:
    return {"type": "text", "text": text}


def test_models(openai_client, chat_model):
    assert chat_model in [model.id for model in openai_client.models.list()]
    model = openai_client.models.retrieve(chat_model)
    assert (model.id, model.object) == (chat_model, "model") and model.created > 0
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("no-such-model")


def test_plain(chat, chat_model):
    answer = chat("What is the capital of France?", max_completion_tokens=24)
    assert answer.object == "chat.completion" and answer.model == chat_model and answer.created > 0
    (choice,) = answer.choices
    assert choice.index == 0 and choice.finish_reason == "stop" and choice.message.role == "assistant"
    assert "Paris" in choice.message.content
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 24


def test_a_stream_is_the_same_answer_in_pieces(chat):
    whole = chat("What is the capital of France?")
    chunks = list(chat("What is the capital of France?", stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    *body, last = chunks
    assert body[0].choices[0].delta.role == "assistant"
    assert sum(bool(chunk.choices[0].delta.content) for chunk in body) > 2
    assert "".join(chunk.choices[0].delta.content or "" for chunk in body) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in body[-2:]] == [None, whole.choices[0].finish_reason]
    assert all(chunk.usage is None for chunk in body)
    assert last.choices == [] and last.usage.total_tokens == whole.usage.total_tokens


def test_load_generators_read_the_usage_from_each_chunk(chat):
    """guidellm's request: vLLM's `continuous_usage_stats` and `ignore_eos`."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(
        chat(
            "Hello!",
            stream=True,
            stream_options=options,
            max_completion_tokens=9,
            extra_body={"ignore_eos": True},
        )
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts) and counts[0] < counts[-1] == 9
    assert len({chunk.usage.prompt_tokens for chunk in chunks}) == 1


def test_a_stream_without_usage_has_none(chat):
    assert all(chunk.choices and chunk.usage is None for chunk in chat("Hello!", stream=True))


def test_the_clients_own_stream_helper(openai_client, chat_model):
    with openai_client.chat.completions.stream(
        model=chat_model,
        messages=[{"role": "user", "content": "Hello!"}],
        max_completion_tokens=8,
        temperature=0,
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content


async def test_the_async_client(openai_client, chat_model):
    async with openai.AsyncOpenAI(
        base_url=str(openai_client.base_url), api_key=openai_client.api_key, max_retries=0
    ) as client:
        ask = [
            client.chat.completions.create(
                model=chat_model,
                messages=[{"role": "user", "content": f"Say {n}."}],
                max_tokens=4,
                temperature=0,
            )
            for n in range(4)
        ]
        answers = await asyncio.gather(*ask)
    assert all(answer.choices[0].message.content for answer in answers)


def test_an_image(chat, photo_part):
    seen = chat([text_part("What is the man looking at?"), photo_part], max_completion_tokens=24)
    blind = chat([text_part("What is the man looking at?")], max_completion_tokens=24)
    assert "camera" in seen.choices[0].message.content.lower()
    assert seen.usage.prompt_tokens > blind.usage.prompt_tokens + 8


def test_audio(chat, speech_part, photo_part):
    answer = chat([photo_part, speech_part])
    typed = chat([photo_part, text_part("How many people are there?")])
    assert answer.choices[0].message.content == typed.choices[0].message.content


def test_several_turns_with_images_in_them(chat, photo_part):
    first = [text_part("What is in this picture?"), photo_part]
    answer = chat(first).choices[0].message
    dialogue = [
        {"role": "system", "content": "You answer briefly."},
        {"role": "user", "content": first},
        answer.model_dump(),  # a client sends an answer back as it came
        {"role": "user", "content": [text_part("And in this one?"), photo_part]},
    ]
    both = chat(dialogue)
    dialogue[3]["content"] = "And what else?"
    one = chat(dialogue)
    assert both.choices[0].message.content and one.choices[0].message.content
    assert both.usage.prompt_tokens > one.usage.prompt_tokens + 8


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(chat, stream: bool):
    whole = chat("What is the capital of France?").choices[0].message.content
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    for strings in (stop, [stop, "never said"], ["a1", "b2", "c3", stop]):
        answer = chat("What is the capital of France?", stop=strings, stream=stream)
        if stream:
            chunks = list(answer)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert (text, reason) == (whole[: whole.index(stop)], "stop")


def test_max_tokens_by_both_names(chat):
    for name in ("max_tokens", "max_completion_tokens"):
        fields = {"max_completion_tokens": openai.omit, name: 3}
        answer = chat("Tell me a long story.", **fields)
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 3)


def test_n_answers_differ_and_a_seed_repeats_them(chat):
    def four(seed: int) -> list[str]:
        answer = chat("Write a poem.", n=4, temperature=1.2, seed=seed, max_completion_tokens=10)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        assert answer.usage.completion_tokens <= 40
        return [choice.message.content for choice in answer.choices]

    texts = four(1)
    assert len(set(texts)) == 4
    assert four(1) == texts


def test_n_answers_in_one_stream(chat):
    fields = {"n": 3, "temperature": 1.2, "seed": 5, "max_completion_tokens": 8}
    texts, reasons = {}, {}
    for chunk in chat("Write a poem.", stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    whole = chat("Write a poem.", **fields)
    assert [texts[index] for index in range(3)] == [choice.message.content for choice in whole.choices]
    assert set(reasons) == {0, 1, 2}


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(chat, stream: bool):
    answer = chat("What is the capital of France?", logprobs=True, top_logprobs=3, stream=stream)
    if stream:
        chunks = [chunk.choices[0] for chunk in answer]
        tokens = [token for choice in chunks if choice.logprobs for token in choice.logprobs.content]
        text = "".join(choice.delta.content or "" for choice in chunks)
    else:
        tokens, text = answer.choices[0].logprobs.content, answer.choices[0].message.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == text
    for token in tokens:
        best = token.top_logprobs[0]
        assert len(token.top_logprobs) == 3
        assert (best.token, best.logprob) == (token.token, token.logprob), "greedy takes the likeliest"
        values = [top.logprob for top in token.top_logprobs]
        assert values == sorted(values, reverse=True) and values[0] <= 0


def test_no_logprobs_unless_asked_for(chat):
    assert chat("Hello!").choices[0].logprobs is None
    assert chat("Hello!", logprobs=True).choices[0].logprobs.content[0].top_logprobs == []


def test_penalties(chat):
    def distinct(penalty: float) -> float:
        fields = {"frequency_penalty": penalty, "presence_penalty": penalty, "logprobs": True}
        tokens = chat("Tell me a story.", max_completion_tokens=32, **fields).choices[0].logprobs.content
        return len({token.token for token in tokens}) / len(tokens)

    assert distinct(2) > distinct(-2)


def test_response_format_text(chat):
    assert chat("Hello!", response_format={"type": "text"}).choices[0].message.content


BAD_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,bm8gaW1hZ2U="}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
BAD = {
    "no messages": {"messages": []},
    "a role that is none": {"messages": [{"role": "king", "content": "x"}]},
    "no content": {"messages": [{"role": "user"}]},
    "nothing to answer": {"messages": [{"role": "assistant", "content": "x"}]},
    "too hot": {"temperature": 9},
    "top_p": {"top_p": 2},
    "too many answers": {"n": 100},
    "no answers": {"n": 0},
    "no tokens": {"max_completion_tokens": 0},
    "words for a number": {"max_completion_tokens": "many"},
    "presence_penalty": {"presence_penalty": 3},
    "too many stop strings": {"stop": ["a", "b", "c", "d", "e"]},
    "too many alternatives": {"logprobs": True, "top_logprobs": 99},
    "alternatives without logprobs": {"top_logprobs": 2},
    "options without a stream": {"stream_options": {"include_usage": True}},
    "not an image": {"messages": [{"role": "user", "content": [text_part("x"), BAD_IMAGE]}]},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_typed_exceptions(openai_client, chat_model, name: str):
    body = {"model": chat_model, "messages": [{"role": "user", "content": "x"}]} | BAD[name]
    with pytest.raises(openai.APIStatusError) as caught:
        openai_client.chat.completions.create(**body)
    error = caught.value
    # An image that is none may be told by 415, which the client has no class of its own for.
    assert isinstance(error, openai.BadRequestError) or (name == "not an image" and error.status_code == 415)
    assert error.body["message"] and error.type == "invalid_request_error"


def test_an_unknown_model(openai_client):
    with pytest.raises(openai.NotFoundError) as caught:
        openai_client.chat.completions.create(
            model="no-such-model", messages=[{"role": "user", "content": "x"}]
        )
    assert caught.value.code == "model_not_found"


def test_a_dialogue_that_is_too_long(chat):
    with pytest.raises(openai.BadRequestError) as caught:
        chat("All work and no play. " * 4000)
    assert caught.value.code == "context_length_exceeded"


def test_cancel_in_mid_stream(chat):
    stream = chat("Tell me a long story.", stream=True, max_completion_tokens=256)
    pieces = []
    for chunk in stream:
        pieces.append(chunk.choices[0].delta.content or "")
        if len(pieces) == 4:
            stream.close()
            break
    assert chat("What is the capital of France?").choices[0].message.content
