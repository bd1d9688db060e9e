"""Who is let in: a bounded number of requests and of tokens, and nobody while the service cannot answer.

Everything past a limit is refused at once with 429 and `Retry-After`, so that a queue never grows longer
than the patience of those who wait in it.
"""

from types import TracebackType
from typing import Self

from service.errors import ApiError

RETRY_SECONDS = 2


class Ticket:
    """A request's place in the service; leaving the `with` gives it back."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._tokens = 0

    def reserve(self, tokens: int) -> None:
        """Claims room for the tokens of prompt and answer.

        Raises:
            ApiError: 429, the requests taken in claim too many already.
        """
        self._admission._reserve(tokens)
        self._tokens += tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admission._release(self._tokens)


class Admission:
    """Counts the requests that are taken in, on the event loop.

    Attributes:
        requests: taken in now.
        tokens: what they may need together.
    """

    def __init__(self, *, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self.requests = 0
        self.tokens = 0

    def enter(self) -> Ticket:
        """Takes a request in. Raises `ApiError` 429 when there are too many."""
        if self.requests >= self._max_requests:
            raise self._full(f"{self.requests} requests are in progress, which is the limit")
        self.requests += 1
        return Ticket(self)

    def _reserve(self, tokens: int) -> None:
        if self.tokens and self.tokens + tokens > self._max_tokens:
            raise self._full(
                f"the requests in progress need {self.tokens} tokens, this one {tokens}, "
                f"and the limit is {self._max_tokens}"
            )
        self.tokens += tokens

    def _release(self, tokens: int) -> None:
        self.requests -= 1
        self.tokens -= tokens

    @staticmethod
    def _full(why: str) -> ApiError:
        return ApiError(
            429,
            f"The service is busy: {why}. Try again in a moment.",
            code="queue_full",
            retry_after=RETRY_SECONDS,
        )
