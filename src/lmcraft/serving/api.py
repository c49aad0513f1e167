"""The HTTP application: OpenAI-compatible endpoints over a scheduler, and the chat page."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from lmcraft.inference import ContextError, Engine, Sampling
from lmcraft.recipe.stage import UserError
from lmcraft.serving.protection import Protection
from lmcraft.serving.protocol import ApiError, ChatRequest, CompletionRequest, Shape, Usage
from lmcraft.serving.scheduler import Event, Full, Scheduler, Ticket

WATCH_S = 0.25
"""How often to look whether the client is still there."""


def create_app(
    engine: Engine, name: str, slots: int = 8, hosts: frozenset[str] | None = None, api_key: str | None = None
) -> FastAPI:
    """The application that serves `engine` as the model `name`; its scheduler is `app.state.scheduler`."""
    scheduler = Scheduler(engine, slots)
    started = int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        scheduler.close()

    app = FastAPI(title="lmcraft", docs_url=None, redoc_url=None, lifespan=lifespan)  # those pages load from elsewhere
    app.state.scheduler = scheduler
    app.add_middleware(Protection, hosts=hosts, api_key=api_key)
    _add_error_handlers(app)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        html, policy = chat_page()
        return HTMLResponse(html, headers={"content-security-policy": policy, "x-frame-options": "DENY"})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "running": scheduler.running}

    def card() -> dict[str, Any]:
        parameters = engine.model.config.parameters()
        extra = {"context": engine.context, "parameters": parameters}
        return {"id": name, "object": "model", "created": started, "owned_by": "lmcraft", **extra}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card()]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        check_model(model)
        return card()

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        check_model(body.model)
        bos = [engine.tokenizer.bos_id]
        prompts = [bos + engine.tokenizer.encode(each) if isinstance(each, str) else each for each in body.prompt]
        return await answer(request, prompts, body.sampling(16), Shape(name, chat=False), body)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        check_model(body.model)
        prompt = engine.tokenizer.encode_prompt([message.plain() for message in body.messages])
        return await answer(request, [prompt], body.sampling(engine.context), Shape(name, chat=True), body)

    def check_model(asked: str) -> None:
        if asked != name:
            text = f"the model {asked!r} does not exist; this server has {name!r}"
            raise ApiError(404, text, "model_not_found", "model")

    async def answer(
        request: Request,
        prompts: list[list[int]],
        sampling: Sampling,
        shape: Shape,
        body: CompletionRequest | ChatRequest,
    ) -> Response:
        work = _Work(scheduler, prompts, sampling)
        if body.stream:
            chunks = _stream(work, request, shape, body.include_usage)
            return StreamingResponse(chunks, media_type="text/event-stream")
        texts = [""] * len(prompts)
        finishes = ["stop"] * len(prompts)
        async for index, event in work.events(request):
            texts[index] += event.text
            if event.row is not None:
                finishes[index] = event.row.finish or "stop"
        return JSONResponse(shape.whole(texts, finishes, work.usage()))

    return app


@cache
def chat_page() -> tuple[str, str]:
    """The page and the Content-Security-Policy that allows its own style and script, and requests to this server."""
    html = (resources.files("lmcraft.serving") / "page.html").read_text(encoding="utf-8")
    hashes = {tag: _hash(re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[0]) for tag in ("style", "script")}
    return html, (
        f"default-src 'none'; style-src '{hashes['style']}'; script-src '{hashes['script']}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class _Work:
    """The generations of one request, from the scheduler's thread into this event loop."""

    def __init__(self, scheduler: Scheduler, prompts: list[list[int]], sampling: Sampling):
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        try:
            for index, prompt in enumerate(prompts):
                self._tickets.append(scheduler.submit(prompt, sampling, self._deliverer(index)))
        except Full:
            self.cancel()
            text = "too many requests wait; try again later"
            raise ApiError(429, text, "queue_full", kind="rate_limit_error") from None
        except UserError:
            self.cancel()
            raise

    def _deliverer(self, index: int) -> Any:
        return lambda event: self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    async def events(self, request: Request) -> AsyncIterator[tuple[int, Event]]:
        """Events until every generation has ended. The generations stop when the client is gone or nobody reads."""
        running = len(self._tickets)
        looked = time.monotonic()
        try:
            while running:
                try:
                    index, event = await asyncio.wait_for(self._events.get(), WATCH_S)
                except TimeoutError:
                    event = None
                if time.monotonic() - looked >= WATCH_S:
                    looked = time.monotonic()
                    if await request.is_disconnected():
                        raise ApiError(499, "the client has gone", "client_closed_request")
                if event is None:
                    continue
                if event.error is not None:
                    raise ApiError(500, f"the generation failed: {event.error}", "internal_error", kind="server_error")
                running -= event.last
                yield index, event
        finally:
            self.cancel()

    def cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    def usage(self) -> Usage:
        prompt = sum(len(ticket.row.prompt) for ticket in self._tickets)
        completion = sum(len(ticket.row.tokens) for ticket in self._tickets)
        return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


async def _stream(work: _Work, request: Request, shape: Shape, include_usage: bool) -> AsyncIterator[str]:
    usage: dict[str, Any] = {"usage": None} if include_usage else {}
    try:
        if shape.chat:
            yield _sse(shape.first() | usage)
        async for index, event in work.events(request):
            if event.text:
                yield _sse(shape.delta(index, event.text, None) | usage)
            if event.row is not None:
                yield _sse(shape.delta(index, "", event.row.finish) | usage)
        if include_usage:
            yield _sse(shape.usage(work.usage()))
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield _sse(error.body)
    finally:
        work.cancel()


def _sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _add_error_handlers(app: FastAPI) -> None:
    def respond(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, status_code=error.status)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return respond(error)

    @app.exception_handler(ContextError)
    async def context_error(request: Request, error: ContextError) -> JSONResponse:
        param = "messages" if request.url.path.endswith("chat/completions") else "prompt"
        return respond(ApiError(400, str(error), "context_length_exceeded", param))

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> JSONResponse:
        return respond(ApiError(400, str(error), "invalid_value"))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        if first["type"] == "json_invalid":
            return respond(ApiError(400, f"the body is not valid JSON: {first['ctx']['error']}", "invalid_json"))
        if first["type"] == "extra_forbidden":
            return respond(ApiError(400, f"unknown setting {where!r}", "unknown_parameter", where))
        message = first["msg"].removeprefix("Value error, ")
        return respond(ApiError(400, f"{where or 'the body'}: {message}", "invalid_value", where or None))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        text = f"{request.method} {request.url.path}: {error.detail}"
        return respond(ApiError(error.status_code, text, "not_found" if error.status_code == 404 else None))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return respond(ApiError(500, "internal error", "internal_error", kind="server_error"))
