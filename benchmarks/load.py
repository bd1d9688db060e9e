"""Load over real sockets: requests written once, sent by clients that wait for each other or come at random.

The client is plain asyncio streams, since it shares the processors with the server that it measures. A server
that streams is timed by its events; one that does not, by its whole answer.
"""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Call:
    """One HTTP request, and how to count what comes back.

    Attributes:
        body: with its headers' content type.
        tokens: of the answer, where the server does not say.
    """

    path: str
    content_type: str
    body: bytes
    tokens: int


@dataclass
class Outcome:
    """Times in seconds since the load began; `text` where the server ends its stream with the whole answer."""

    due: float
    first: float = 0.0
    end: float = 0.0
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    text: str = ""
    error: str = ""

    @property
    def latency(self) -> float:
        return self.end - self.due

    @property
    def to_first(self) -> float:
        return self.first - self.due


async def send(url: str, call: Call, begin: float, due: float) -> Outcome:
    """Sends one call and reads its answer to the end."""
    outcome = Outcome(due)
    address = urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = (
            f"POST {call.path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
            f"Content-Type: {call.content_type}\r\nContent-Length: {len(call.body)}\r\n\r\n"
        )
        writer.write(head.encode() + call.body)
        await writer.drain()
        await _read(reader, outcome, begin, call)
        writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.end = time.perf_counter() - begin
    outcome.first = outcome.first or outcome.end
    return outcome


async def _read(reader: asyncio.StreamReader, outcome: Outcome, begin: float, call: Call) -> None:
    status = await reader.readline()
    if b" 200 " not in status:
        outcome.error = (status + await reader.read(500)).decode(errors="replace")
        return
    last, usage = 0.0, {}
    while line := await reader.readline():
        if line.startswith(b"data:") and b"[DONE]" not in line:
            now = time.perf_counter() - begin
            data = json.loads(line[5:])
            usage = data.get("usage") or usage
            if (
                "usage" in data and "finish_reason" in data
            ):  # the whole answer at the end of /generate's stream
                outcome.text = data["text"]
                continue
            if last:
                outcome.gaps.append(now - last)
            else:
                outcome.first = now
            last = now
        elif line.startswith(b"{"):
            usage = json.loads(line).get("usage") or {}
    outcome.tokens = usage.get("completion_tokens") or call.tokens


async def closed_loop(url: str, calls: list[Call], clients: int, seconds: float) -> list[Outcome]:
    """Each of `clients` sends its next call when its last is answered; calls begun in time are finished."""
    begin, turn = time.perf_counter(), iter(range(10**9))

    async def client() -> list[Outcome]:
        done = []
        while (now := time.perf_counter() - begin) < seconds:
            done.append(await send(url, calls[next(turn) % len(calls)], begin, now))
        return done

    answers = await asyncio.gather(*(client() for _ in range(clients)))
    return [outcome for client_answers in answers for outcome in client_answers]


async def open_loop(url: str, calls: list[Call], rate: float, seconds: float, seed: int) -> list[Outcome]:
    """Calls arrive at random (Poisson), `rate` a second on average, whether or not others are answered.

    The outcomes come in the order of the calls.
    """
    rng, due, begin = random.Random(seed), 0.0, time.perf_counter()
    tasks = []
    while (due := due + rng.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        call = calls[len(tasks) % len(calls)]
        tasks.append(asyncio.create_task(send(url, call, begin, due)))
    return list(await asyncio.gather(*tasks))


def summary(outcomes: list[Outcome], objective: float) -> dict:
    """Percentiles in milliseconds, rates a second.

    Args:
        objective: seconds within which an answer counts for goodput.
    """
    good = [outcome for outcome in outcomes if not outcome.error]
    span = max((outcome.end for outcome in outcomes), default=0.0) or 1.0
    tokens = sum(outcome.tokens for outcome in good)
    return {
        "requests": len(outcomes),
        "errors": len(outcomes) - len(good),
        "first_error": next((outcome.error for outcome in outcomes if outcome.error), None),
        "seconds": round(span, 2),
        "tokens_per_second": round(tokens / span, 1),
        "requests_per_second": round(len(good) / span, 3),
        "goodput_per_second": round(sum(outcome.latency <= objective for outcome in good) / span, 3),
        "tokens": tokens,
        "first_token_ms": percentiles([outcome.to_first for outcome in good]),
        "between_tokens_ms": percentiles([gap for outcome in good for gap in outcome.gaps]),
        "latency_ms": percentiles([outcome.latency for outcome in good]),
    }


def percentiles(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    at = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
    return {name: round(1000 * ordered[round(q * (len(ordered) - 1))], 1) for name, q in at.items()}
