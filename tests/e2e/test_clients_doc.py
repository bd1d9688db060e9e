"""docs/clients.md: every snippet runs as it stands and prints what its comment says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
SNIPPETS = re.findall(
    r"^<!-- expect: (.+?) -->\n```(\w+)\n(.+?)^```$",
    DOCUMENT.read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
COMMANDS = {
    "sh": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-c"],
    "js": ["node", "--input-type=module", "--eval"],
}


def test_every_snippet_says_what_it_prints():
    assert len(SNIPPETS) == DOCUMENT.read_text(encoding="utf-8").count("```") // 2


@pytest.mark.parametrize(("expected", "language", "code"), SNIPPETS)
def test_snippet(service, repository: Path, expected: str, language: str, code: str):
    command = COMMANDS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    code = code.replace("http://localhost:8000", service.url).replace("localhost:8000", service.url)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        [*command, code],
        cwd=repository,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert expected in ended.stdout, ended.stdout + ended.stderr
