"""What every request must pass before it is read: who asks, from where, and how much.

A server on loopback is reachable by any web page that the user visits: through DNS rebinding (the page's own name made
to point at 127.0.0.1), so the Host header must be a name of this machine; and by cross-site requests, so the Origin
must be the server itself and a body must be JSON, which browsers never send across sites without asking first.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from lmcraft.serving.protocol import ApiError

MAX_BODY = 8 << 20
"""Bytes of a request body."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Protection:
    """ASGI middleware. `hosts`: names accepted in the Host header (None: any)."""

    def __init__(self, app: Any, hosts: frozenset[str] | None, api_key: str | None):
        self.app, self.hosts, self.api_key = app, hosts, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        left = MAX_BODY

        async def receive_within_limit() -> MutableMapping[str, Any]:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise _too_large()
            return message

        try:
            self._check(scope)
            await self.app(scope, receive_within_limit, send_with_headers)
        except ApiError as error:
            await _answer(error, send_with_headers)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.hosts is not None and _hostname(host) not in self.hosts:
            raise ApiError(
                403, f"Host {host!r} is not a name of this server; --allowed-host adds one", "host_not_allowed"
            )
        origin = headers.get("origin")
        cross = headers.get("sec-fetch-site") in ("cross-site", "same-site") and scope["method"] != "GET"
        if cross or (origin is not None and urlsplit(origin).netloc != host):
            raise ApiError(403, "requests from pages of other sites are not allowed", "cross_site")
        if self.api_key is not None and scope["path"].startswith("/v1"):
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode("latin-1"), self.api_key.encode()):
                raise ApiError(401, "the API key is missing or wrong (Authorization: Bearer KEY)", "invalid_api_key")
        if scope["method"] == "POST":
            if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
                raise ApiError(415, "send JSON with Content-Type: application/json", "unsupported_media_type")
            length = headers.get("content-length", "0")
            if length.isdigit() and int(length) > MAX_BODY:
                raise _too_large()


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _too_large() -> ApiError:
    return ApiError(413, f"the request body is larger than {MAX_BODY >> 20} MiB", "request_too_large")


async def _answer(error: ApiError, send: Send) -> None:
    body = json.dumps(error.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
