"""LangChain's ChatOpenAI about an image: python langchain_chat.py BASE_URL MODEL IMAGE. Prints what it heard."""

import base64
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

base_url, model, path = sys.argv[1:]
chat = ChatOpenAI(
    base_url=base_url, api_key="unused", model=model, temperature=0, max_tokens=24, max_retries=0
)
image = base64.b64encode(Path(path).read_bytes()).decode()
question = HumanMessage(
    [
        {"type": "text", "text": "What is the man looking at?"},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}},
    ]
)
answer = chat.invoke([question])
print("invoke:", answer.content)
assert answer.usage_metadata["output_tokens"] > 0, answer
streamed = "".join(chunk.content for chunk in chat.stream([question]))
print("stream:", streamed)
assert streamed == answer.content
again = chat.invoke([SystemMessage("Be brief."), question, answer, HumanMessage("And what else?")])
print("follow-up:", again.content)
assert again.content
