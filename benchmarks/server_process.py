"""A server in a process of its own: started, waited for, its processor time and memory read from /proc."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerProcess:
    """A running server; use as a context manager.

    Args:
        command: with `{port}` where the port belongs.
        ready_path: answers 200 once the server takes requests.
    """

    def __init__(
        self, name: str, command: list[str], ready_path: str, log: Path, timeout: float = 600
    ) -> None:
        self.name = name
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [part.format(port=port) for part in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait(ready_path, log, timeout)

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def cpu_seconds(self) -> float:
        """Processor time of the whole process group so far."""
        return sum(sum(map(int, stat[11:13])) for stat in self._stats()) / TICKS

    def peak_mib(self) -> float:
        """Sum of the processes' largest resident sizes."""
        total = 0
        for pid, _ in self._members():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    total += int(line.split()[1])
        return round(total / 1024, 1)

    def memory_mib(self) -> float:
        """What the processes hold now, pages that they share counted once."""
        total = 0
        for pid, _ in self._members():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:  # it ended meanwhile
                continue
            total += int(re.search(r"^Pss: +(\d+)", text, re.MULTILINE)[1])
        return round(total / 1024, 1)

    def _stats(self) -> list[list[str]]:
        return [stat for _, stat in self._members()]

    def _members(self) -> list[tuple[str, list[str]]]:
        members = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[2]) == self._process.pid:
                    members.append((entry.name, fields))
        return members

    def _wait(self, path: str, log: Path, timeout: float) -> None:
        give_up = time.monotonic() + timeout
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at its start:\n{log.read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.5)
        self.__exit__()
        raise RuntimeError(f"{self.name} was not ready after {timeout:.0f} s:\n{log.read_text()[-2000:]}")


class Memory:
    """Samples the memory of a server inside `with`.

    Args:
        every: seconds between samples.

    Attributes:
        samples: (seconds since the start, MiB).
    """

    def __init__(self, server: ServerProcess, every: float) -> None:
        self._server, self._every = server, every
        self._over = threading.Event()
        self.samples: list[tuple[float, float]] = []

    @property
    def peak(self) -> float:
        return max((mib for _, mib in self.samples), default=0.0)

    def __enter__(self) -> "Memory":
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        begin = time.monotonic()
        while not self._over.wait(self._every):
            self.samples.append((time.monotonic() - begin, self._server.memory_mib()))
