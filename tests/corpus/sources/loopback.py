"""A web server on loopback that answers as the test says, and remembers who asked for what and when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
Page = str | bytes | Answer | Callable[["Handler"], Any]


@dataclass
class Asked:
    path: str
    at: float
    headers: dict[str, str]


@dataclass
class Site:
    """`pages`: path with query -> HTML, bytes, (status, headers, body), or a function that writes the answer."""

    url: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    fallback: Page | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def paths(self) -> list[str]:
        """What was asked for, without the files every crawler asks for."""
        return [each.path for each in self.asked if each.path not in ("/robots.txt", "/.well-known/tdmrep.json")]


class Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.site.asked.append(Asked(self.path, time.monotonic(), headers))
        page = self.site.pages.get(self.path, self.site.fallback)
        if page is None:
            page = (404, {}, b"not here")
        if callable(page):
            page(self)
            return
        if isinstance(page, str):
            page = (200, {"Content-Type": "text/html; charset=utf-8"}, page.encode())
        if isinstance(page, bytes):
            page = (200, {"Content-Type": "application/octet-stream"}, page)
        self.answer(*page)

    do_HEAD = do_GET

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def serving(pages: dict[str, Page] | None = None) -> Iterator[Site]:
    site = Site(pages=pages or {})
    handler = type("Handler", (Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # type: ignore[method-assign]
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.stop.set()
        server.shutdown()
        server.server_close()


def links(*targets: str, text: str = "Some words.", head: str = "") -> str:
    """A page of HTML with links."""
    anchors = "".join(f'<a href="{target}">{target}</a> ' for target in targets)
    return f"<!doctype html><html><head><title>A page</title>{head}</head><body><p>{text}</p>{anchors}</body></html>"


def hang(handler: Handler) -> None:
    """Never answers."""
    handler.site.stop.wait(30)


def drip(handler: Handler) -> None:
    """Sends a byte now and then, so that no single wait is long."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    while not handler.site.stop.wait(0.05):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def endless(handler: Handler) -> None:
    """Sends without end, as fast as it is read."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Connection", "close")
    handler.end_headers()
    while not handler.site.stop.is_set():
        handler.wfile.write(b"<p>more</p>" * 1000)


def broken_off(handler: Handler) -> None:
    """Announces more than it sends."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"<p>half")
    handler.wfile.flush()
    handler.close_connection = True
