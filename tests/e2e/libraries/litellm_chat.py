"""LiteLLM about an image: python litellm_chat.py BASE_URL MODEL IMAGE. Prints what it heard."""

import base64
import os
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a price list when it is imported

import litellm

base_url, model, path = sys.argv[1:]
image = base64.b64encode(Path(path).read_bytes()).decode()
request = {
    "model": f"openai/{model}",
    "api_base": base_url,
    "api_key": "unused",
    "temperature": 0,
    "max_tokens": 24,
    "num_retries": 0,
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is the man looking at?"},
                {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}},
            ],
        }
    ],
}
answer = litellm.completion(**request)
print("completion:", answer.choices[0].message.content)
assert answer.usage.completion_tokens > 0, answer
streamed = "".join(
    chunk.choices[0].delta.content or "" for chunk in litellm.completion(stream=True, **request)
)
print("stream:", streamed)
assert streamed == answer.choices[0].message.content
try:
    litellm.completion(**{**request, "messages": []})
except litellm.BadRequestError as error:
    print("bad request:", type(error).__name__)
else:
    raise AssertionError("an empty dialogue was answered")
