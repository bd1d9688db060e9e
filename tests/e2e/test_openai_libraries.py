"""Libraries over OpenAI's API, as programs: LangChain's ChatOpenAI and LiteLLM chat with an image.

They are not among our dependencies, since LiteLLM's do not agree with our pins. To run them, make an
environment with `pip install langchain-openai litellm` and name its Python in OPENAI_LIBRARIES_PYTHON.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = os.environ.get("OPENAI_LIBRARIES_PYTHON") or sys.executable
PROGRAMS = {"langchain_openai": "langchain_chat.py", "litellm": "litellm_chat.py"}


@pytest.mark.parametrize("library", PROGRAMS)
def test_a_library_chats_with_an_image(library: str, openai_client, chat_model, repository: Path):
    find = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library!r}) is None)"
    if subprocess.run([PYTHON, "-c", find], check=False).returncode:
        pytest.skip(f"{library} is not installed for {PYTHON}; see OPENAI_LIBRARIES_PYTHON in this file")
    program = Path(__file__).with_name("libraries") / PROGRAMS[library]
    photo = repository / "docs" / "examples" / "photographer.jpg"
    base_url = str(openai_client.base_url)
    ended = subprocess.run(
        [PYTHON, str(program), base_url, chat_model, str(photo)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "camera" in ended.stdout.lower()
