"""Compiles the C++ decoder for this machine's processor, once, into the user's cache folder."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from shared.language import cache_dir

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
FLAGS = ["-std=c++20", "-O3", "-march=native", "-ffast-math", "-fPIC", "-pthread"]
# -ffast-math is for the compiler alone: given to the linker, it would flush denormals in the whole process.
LINK_FLAGS = ["-shared", "-pthread"]


class BuildError(RuntimeError):
    """The decoder cannot be compiled here; the message says why and what to do."""


def load_library() -> ctypes.CDLL:
    """The compiled decoder. Raises `BuildError`."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    path = cache_dir() / "native" / f"decoder-{_fingerprint()}.so"
    if not path.exists():
        if compiler is None:
            raise BuildError("no C++ compiler was found; install one (Debian, Ubuntu: g++)")
        try:
            _compile(compiler, path)
        except OSError as error:
            raise BuildError(
                f"{path.parent} cannot be written ({error}); let MULTIMODAL_CACHE name a folder that can"
            ) from error
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} does not load ({error}); delete it to have it compiled anew") from error


def _fingerprint() -> str:
    """Changes with the sources and with the processor, since caches are shared and copied."""
    digest = hashlib.sha256(" ".join([*FLAGS, platform.machine()]).encode())
    for source in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        digest.update(source.read_bytes())
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        features = [
            line for line in cpuinfo.read_text().splitlines() if line.startswith(("flags", "Features"))
        ]
        digest.update(features[0].encode() if features else b"")
    return digest.hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    logger.info("compiling the decoder for this processor, once (some seconds)")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        compiled, linked = f"{scratch}/decoder.o", f"{scratch}/decoder.so"
        for command in (
            [compiler, *FLAGS, "-c", str(SOURCES / "decoder.cpp"), "-o", compiled],
            [compiler, *LINK_FLAGS, compiled, "-o", linked],
        ):
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
            except subprocess.CalledProcessError as error:
                raise BuildError(f"{compiler} failed: {_complaint(error.stderr)}") from error
            except (OSError, subprocess.TimeoutExpired) as error:
                raise BuildError(f"{compiler} failed: {error}") from error
        os.replace(linked, path)


def _complaint(stderr: str) -> str:
    """The line that says what is wrong: the log has room for one."""
    lines = stderr.strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if "error" in line), lines[-1]).strip()[:300]
