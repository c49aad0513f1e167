"""HTTP as a guest: bounded in bytes and time, no redirect followed unseen, no address of the own network reached.

httpcore is used below httpx's interface because only there can the addresses that a name resolves to be looked at
before a connection is made to one of *them*; a second look-up could give another answer.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import ipaddress
import socket
import ssl
import urllib.request
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import httpcore

T = TypeVar("T")


class WebFault(Exception):
    """An exchange that gave nothing: the reason in few words, details, and whether another try may help.

    `value` and `threshold` are numbers that belong to the reason: a status, a length and the limit it passed.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        value: float | None = None,
        threshold: float | None = None,
        again: bool = False,
    ) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.value, self.threshold, self.again = reason, detail, value, threshold, again

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True)
class Response:
    """An answer with its whole body, content encoding undone. Header names are in lower case."""

    url: str
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    address: str | None

    def header(self, name: str) -> str | None:
        """The values of a header, joined by commas; None when it was not sent."""
        return joined(self.headers, name)


def joined(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    values = [value for key, value in headers if key == name]
    return ", ".join(values) if values else None


class Web:
    """A client; use as `async with Web(...) as web`. `private` says of which hosts addresses that are not public
    may be reached (loopback, the local network, cloud metadata)."""

    def __init__(self, user_agent: str, private: Callable[[str], bool] = lambda host: False, connections: int = 16):
        self.user_agent, self.private = user_agent, private
        self.connections = connections
        self._exit = AsyncExitStack()
        self._pools: dict[str | None, Any] = {}

    async def __aenter__(self) -> Web:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._exit.aclose()

    async def get(
        self,
        url: str,
        *,
        timeout_s: float,
        max_bytes: int,
        headers: Iterable[tuple[str, str]] = (),
        truncate: bool = False,
    ) -> Response:
        """One exchange, redirects not followed; of a longer body, with `truncate`, the first `max_bytes`.

        Raises WebFault: also after `timeout_s` in all, however it is spent.
        """
        try:
            async with asyncio.timeout(timeout_s):
                async with self.open(url, timeout_s=timeout_s, headers=(("accept-encoding", "gzip"), *headers)) as got:
                    status, reason, received, chunks, address = got
                    body = await _whole(received, chunks, max_bytes, truncate)
        except TimeoutError:
            raise WebFault(
                "timed out", f"no whole answer within {timeout_s:g} s", None, timeout_s, again=True
            ) from None
        return Response(url, status, reason, received, body, address)

    @asynccontextmanager
    async def open(
        self, url: str, *, timeout_s: float, headers: Iterable[tuple[str, str]] = ()
    ) -> AsyncIterator[tuple[int, str, tuple[tuple[str, str], ...], AsyncIterator[bytes], str | None]]:
        """Status, reason, headers, pieces of the body as sent, address of the server. `timeout_s` limits each wait.

        Raises WebFault, also while the pieces are read.
        """
        sent = {"user-agent": self.user_agent, "accept": "*/*"} | dict(headers)
        waits = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
        try:
            pool = await self._pool(url)
            async with pool.stream("GET", url, headers=list(sent.items()), extensions={"timeout": waits}) as response:
                received = tuple((key.decode("latin-1").lower(), _text(value)) for key, value in response.headers)
                stream = response.extensions.get("network_stream")
                peer = stream.get_extra_info("server_addr") if stream is not None else None
                reason = response.extensions.get("reason_phrase", b"").decode("latin-1")
                yield response.status, reason, received, response.aiter_stream(), peer[0] if peer else None
        except httpcore.TimeoutException as error:
            detail = f"{type(error).__name__} after {timeout_s:g} s"
            raise WebFault("timed out", detail, None, timeout_s, again=True) from None
        except httpcore.ConnectError as error:
            raise WebFault("not reachable", _first_line(error), again=True) from None
        except (httpcore.NetworkError, httpcore.RemoteProtocolError, httpcore.ProxyError) as error:
            raise WebFault("connection broken", _first_line(error), again=True) from None
        except (httpcore.UnsupportedProtocol, httpcore.LocalProtocolError, UnicodeError) as error:
            raise WebFault("not a valid address", _first_line(error)) from None

    async def _pool(self, url: str) -> Any:
        parts = urlsplit(url)
        host = parts.hostname or ""
        proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(parts.scheme)
        if proxy is not None and not self.private(host) and _is_private_literal(host):
            raise WebFault("private address", host)
        if proxy not in self._pools:
            settings: dict[str, Any] = {
                "ssl_context": _ssl_context(),
                "max_connections": self.connections,
                "keepalive_expiry": 30.0,
            }
            pool: Any
            if proxy is None:
                pool = httpcore.AsyncConnectionPool(network_backend=_Guarded(self.private), **settings)
            else:
                pool = _through(proxy, settings)
            self._pools[proxy] = await self._exit.enter_async_context(pool)
        return self._pools[proxy]


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in a thread of its own, so that it also works where an event loop runs (a notebook)."""
    started: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = concurrent.futures.Future()

    async def main() -> T:
        task = asyncio.ensure_future(work)
        started.set_result((asyncio.get_running_loop(), task))
        return await task

    with concurrent.futures.ThreadPoolExecutor(1, "lmcraft-web") as thread:
        result = thread.submit(asyncio.run, main())
        try:
            return result.result()
        except BaseException:
            if not result.done():  # the user interrupts: end the exchanges, do not wait for them
                loop, task = started.result(5)
                loop.call_soon_threadsafe(task.cancel)
            raise


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, also when it is written inside an IPv6 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects only to public addresses: all that a name resolves to must be."""

    def __init__(self, private: Callable[[str], bool]) -> None:
        self.private = private
        self.inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._addresses(host, port, timeout)
        if not self.private(host) and (inside := [address for address in addresses if not is_public(address)]):
            raise WebFault("private address", f"{host} is {inside[0]}")
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self.inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = failure or error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Any = None
    ) -> httpcore.AsyncNetworkStream:
        raise WebFault("private address", path)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int, timeout: float | None) -> list[str]:
        try:
            async with asyncio.timeout(timeout):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"no address of {host} in time") from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} has no address: {error}") from None
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _through(proxy: str, settings: dict[str, Any]) -> httpcore.AsyncHTTPProxy:
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return httpcore.AsyncHTTPProxy(f"{parts.scheme}://{parts.hostname}:{port}", proxy_auth=auth, **settings)


def _is_private_literal(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))


async def _whole(
    headers: tuple[tuple[str, str], ...], chunks: AsyncIterator[bytes], max_bytes: int, truncate: bool
) -> bytes:
    declared = joined(headers, "content-length") or ""
    if declared.isdigit() and int(declared) > max_bytes and not truncate:
        raise WebFault("too large", f"{declared} bytes announced", float(declared), float(max_bytes))
    encoding = (joined(headers, "content-encoding") or "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise WebFault("unknown content encoding", encoding)
    unpack = zlib.decompressobj(47) if encoding in ("gzip", "x-gzip", "deflate") else None
    body = bytearray()
    try:
        async for chunk in chunks:
            # One byte more than allowed is enough to know; a bomb is never unpacked further.
            body += chunk if unpack is None else unpack.decompress(chunk, max_bytes + 1 - len(body))
            if len(body) > max_bytes:
                if truncate:
                    return bytes(body[:max_bytes])
                raise WebFault("too large", f"more than {max_bytes} bytes", None, float(max_bytes))
    except zlib.error as error:
        raise WebFault("damaged compression", str(error), again=True) from None
    if unpack is not None and body and not unpack.eof:
        raise WebFault("damaged compression", "the answer ends before its compressed stream does", again=True)
    return bytes(body)


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
