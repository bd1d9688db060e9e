"""Fetching an image that a client names by its URL, without lending the client the server's network.

Off unless the operator names hosts. Every connection, also of a redirect, goes to an address that was
checked a moment before (so that a name cannot be resolved again to something else, "DNS rebinding"): a public
one, unless the operator named that very host. No proxy, no cookies, bounded in size, time and redirects.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urljoin

import httpcore

MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)


class FetchError(Exception):
    """The URL was not fetched. `str(error)` is a message for the client."""


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the allowed hosts only, each by an address that has been checked."""

    def __init__(self, hosts: frozenset[str]) -> None:
        self._hosts = hosts
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        *others, last = await self._addresses(host, port)
        for address in others:
            with contextlib.suppress(httpcore.ConnectError):
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
        return await self._network.connect_tcp(last, port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *args: object, **kwargs: object) -> httpcore.AsyncNetworkStream:
        raise FetchError("The image's URL does not name a host.")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> list[str]:
        host = host.lower().rstrip(".")
        if host not in self._hosts and "*" not in self._hosts:
            raise FetchError(
                f"This service does not fetch images from {host[:80]!r}. Send it as a data: URL."
            )
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise FetchError(f"The host {host[:80]!r} of the image's URL was not found.") from None
        addresses = [entry[4][0] for entry in found]
        if host not in self._hosts and not all(map(_is_public, addresses)):
            raise FetchError(f"The host {host[:80]!r} of the image's URL is not a public one.")
        return list(dict.fromkeys(addresses))


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # Addresses that carry an IPv4 one inside: mapped, 6to4, Teredo, NAT64 (RFC 6052).
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return _is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def allowed_hosts(hosts: str) -> frozenset[str]:
    """The operator's comma-separated list as a set."""
    return frozenset(filter(None, (host.strip().lower() for host in hosts.split(","))))


async def fetch(url: str, *, hosts: str, max_bytes: int, timeout: float) -> bytes:
    """What is behind an http(s) URL.

    Args:
        hosts: comma-separated hosts to fetch from; `*` is any public one, and empty is none.
        max_bytes: most bytes of the body.
        timeout: seconds for all of it.

    Raises:
        FetchError: it is not allowed, or it did not work.
    """
    allowed = allowed_hosts(hosts)
    if not allowed:
        raise FetchError("This service does not fetch images: send the image as a data: URL.")
    try:
        async with (
            asyncio.timeout(timeout),
            httpcore.AsyncConnectionPool(network_backend=_CheckedNetwork(allowed)) as pool,
        ):
            for _ in range(MAX_REDIRECTS + 1):
                answer = await _get(pool, url, max_bytes)
                if isinstance(answer, bytes):
                    return answer
                url = answer
    except TimeoutError:
        raise FetchError(f"The image's URL did not answer within {timeout:g} seconds.") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError):
        raise FetchError("The image could not be fetched from its URL.") from None
    raise FetchError(f"The image's URL redirects more than {MAX_REDIRECTS} times.")


async def _get(pool: httpcore.AsyncConnectionPool, url: str, max_bytes: int) -> bytes | str:
    """The body, or the URL that the answer redirects to."""
    if not url.lower().startswith(("http://", "https://")):
        raise FetchError("The image's URL must begin with http:// or https://.")
    with contextlib.suppress(UnicodeEncodeError, ValueError, httpcore.UnsupportedProtocol):
        async with pool.stream(
            "GET", url, headers={"Accept": "image/*", "User-Agent": "multimodal-llm"}
        ) as response:
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return urljoin(url, headers[b"location"].decode("latin-1"))
            if response.status != 200:
                raise FetchError(f"The image's URL answered with status {response.status}.")
            body = bytearray()
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > max_bytes:
                    raise FetchError(
                        f"The image behind the URL is too large: at most {max_bytes} bytes are accepted."
                    )
            return bytes(body)
    raise FetchError("The image's URL is not a valid one.")
