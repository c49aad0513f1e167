"""Protection, errors and clients that leave, with plain HTTP against a real server."""

import json
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from lmcraft.serving import protection
from lmcraft.serving.api import chat_page

BODY = {"model": "tiny", "prompt": "Paris", "max_tokens": 3}


def _post(served, **options) -> httpx.Response:
    options = {"json": BODY} | options
    return httpx.post(f"{served.url}/v1/completions", **options)


def _refused(response: httpx.Response, status: int, code: str | None) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == code and error["message"]


def test_health(served) -> None:
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok", "model": "tiny", "running": 0}


def test_bodies_that_cannot_be_read(served) -> None:
    as_json = {"Content-Type": "application/json"}
    for content in (b"{", b"", b"\xff\xfe", b"\0" * 100, b"[1]", b"null"):
        response = _post(served, json=None, content=content, headers=as_json)
        assert response.status_code == 400 and response.json()["error"]["message"]
    _refused(_post(served, json=None, content=b"{", headers=as_json), 400, "invalid_json")
    _refused(_post(served, json=None, content=json.dumps(BODY)), 415, "unsupported_media_type")
    _refused(
        _post(served, json=None, content=json.dumps(BODY), headers={"Content-Type": "text/plain"}),
        415,
        "unsupported_media_type",
    )
    for prompt in ([], "", None, 3, [[]], ["a", 1], [1.5], [True]):
        response = _post(served, json=BODY | {"prompt": prompt})
        assert response.status_code == (200 if prompt == "" else 400), prompt
    _refused(_post(served, json=BODY | {"prompt": [10**9]}), 400, "invalid_value")
    surrogate = json.dumps(BODY | {"prompt": "\ud800"}).encode()  # half a character, which JSON can write
    _refused(_post(served, json=None, content=surrogate, headers=as_json), 400, "invalid_value")
    _refused(_post(served, json=BODY | {"prompt": "x " * 500}), 400, "context_length_exceeded")
    _refused(_post(served, json=BODY | {"stop": [""]}), 400, "invalid_value")


def test_a_body_that_is_too_large(served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protection, "MAX_BODY", 1000)
    large = json.dumps(BODY | {"prompt": "x" * 2000}).encode()
    headers = {"Content-Type": "application/json"}
    _refused(_post(served, json=None, content=large, headers=headers), 413, "request_too_large")
    chunks = (large[i : i + 100] for i in range(0, len(large), 100))  # sent without a Content-Length
    _refused(_post(served, json=None, content=chunks, headers=headers), 413, "request_too_large")


def test_unknown_urls_and_methods(served) -> None:
    _refused(httpx.get(f"{served.url}/v1/nothing"), 404, "not_found")
    _refused(httpx.get(f"{served.url}/v1/completions"), 405, None)
    _refused(httpx.get(f"{served.url}/docs"), 404, "not_found")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "localhost@evil.example:1"]
)
def test_a_rebound_name_is_refused(served, host: str) -> None:
    for path in ("/", "/v1/models", "/health"):
        response = httpx.get(f"{served.url}{path}", headers={"Host": host})
        assert response.status_code == 403


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_names_of_loopback_are_accepted(served, name: str) -> None:
    port = urlsplit(served.url).port
    assert httpx.get(f"{served.url}/health", headers={"Host": f"{name}:{port}"}).status_code == 200


def test_pages_of_other_sites_are_refused(served) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"):
        _refused(_post(served, headers={"Origin": origin}), 403, "cross_site")
    _refused(_post(served, headers={"Sec-Fetch-Site": "cross-site"}), 403, "cross_site")
    preflight = httpx.options(f"{served.url}/v1/completions", headers={"Origin": "https://evil.example"})
    assert preflight.status_code == 403
    response = _post(served, headers={"Origin": served.url, "Sec-Fetch-Site": "same-origin"})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_api_key(engine, serve) -> None:
    with serve(engine, api_key="secret-é") as served:
        _refused(_post(served), 401, "invalid_api_key")
        _refused(_post(served, headers={"Authorization": "Bearer wrong"}), 401, "invalid_api_key")
        _refused(httpx.get(f"{served.url}/v1/models"), 401, "invalid_api_key")
        key = {"Authorization": "Bearer secret-é".encode()}
        assert _post(served, headers=key).status_code == 200
        assert httpx.get(f"{served.url}/").status_code == 200


def test_the_page_is_self_contained_under_a_strict_policy(served) -> None:
    response = httpx.get(served.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy and "*" not in policy
    html = response.text
    assert html == chat_page()[0]
    for outside in (
        "src=",
        "@import",
        "url(",
        "//cdn",
        "innerHTML",
        "insertAdjacentHTML",
        "document.write",
        "style=",
        "onclick=",
    ):
        assert outside not in html, outside
    assert len(html.splitlines()) < 400


@pytest.fixture
def endless(served, slow_steps, wait_until):
    """A request that ends only when the context is full, some seconds later."""
    wait_until(lambda: served.scheduler.running == 0)
    yield BODY | {"max_tokens": 90, "temperature": 0}
    wait_until(lambda: served.scheduler.running == 0)


def test_a_client_that_leaves_a_stream_stops_its_generation(served, endless, wait_until) -> None:
    with httpx.stream("POST", f"{served.url}/v1/completions", json=endless | {"stream": True}) as response:
        next(response.iter_lines())
        assert served.scheduler.running == 1
    started = time.monotonic()
    wait_until(lambda: served.scheduler.running == 0, 3)
    assert time.monotonic() - started < 2


def test_a_client_that_leaves_without_streaming_stops_its_generation(served, endless, wait_until) -> None:
    address = urlsplit(served.url)
    body = json.dumps(endless).encode()
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: served.scheduler.running == 1)
    wait_until(lambda: served.scheduler.running == 0, 2)


def test_a_short_request_is_answered_while_a_long_one_runs(served, endless) -> None:
    with httpx.stream("POST", f"{served.url}/v1/completions", json=endless | {"stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        assert _post(served).status_code == 200
        assert served.scheduler.running == 1
        next(line for line in lines if line)


def test_more_requests_than_the_queue_holds_are_told_so(served, endless, wait_until) -> None:
    queue = served.scheduler._inbox
    blockers = [
        threading.Thread(target=_post, args=(served,), kwargs={"json": endless | {"max_tokens": 30}, "timeout": 60})
        for _ in range(4)
    ]
    for blocker in blockers:
        blocker.start()
    wait_until(lambda: served.scheduler.running == 4)
    before, queue.maxsize = queue.maxsize, 1
    try:
        response = _post(served, json=BODY | {"prompt": ["a", "b", "c"]}, timeout=60)
    finally:
        queue.maxsize = before
    _refused(response, 429, "queue_full")
    for blocker in blockers:
        blocker.join(timeout=60)


def test_a_computation_that_breaks_is_reported_and_the_next_one_works(served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments, **settings):
        raise MemoryError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(type(served.engine.model), "hidden", broken)
        _refused(_post(served), 500, "internal_error")
        streamed = _post(served, json=BODY | {"stream": True})
        assert "no memory left" in streamed.text
    assert _post(served).status_code == 200
