"""What OpenAI's clients send and expect: requests, answers, errors.

A setting that this server does not have is refused by name, never ignored; settings that change nothing in the text
(`user`, `metadata` …) are accepted.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from starlette.exceptions import HTTPException

from lmcraft.inference import Sampling

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
}
"""Settings the server does not have, and the values of them (besides null) that ask for nothing."""


class ApiError(HTTPException):
    """An answer in OpenAI's error shape."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ):
        super().__init__(status, message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class StreamOptions(BaseModel):
    include_usage: bool = False


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    n: Any = None
    best_of: Any = None
    echo: Any = None
    suffix: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None

    @field_validator("stop")
    @classmethod
    def _stop(cls, value: str | list[str] | None) -> list[str] | None:
        stop = [value] if isinstance(value, str) else value
        if stop and (len(stop) > 16 or not all(stop)):
            raise ValueError("takes at most 16 strings, none of them empty")
        return stop

    @model_validator(mode="after")
    def _without_what_we_lack(self) -> _Request:
        for name, neutral in NEUTRAL.items():
            value = getattr(self, name)
            if value is not None and value not in neutral:
                text = f"{name} = {value!r:.60} is not supported by this server; leave it out"
                raise ApiError(400, text, "unsupported_value", name)
        return self

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, default_max_tokens: int) -> Sampling:
        return Sampling(
            max_tokens=self._max_tokens() or default_max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k or 0,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=tuple(self.stop or ()),
            seed=self.seed,
        )

    def _max_tokens(self) -> int | None:
        return self.max_tokens


class CompletionRequest(_Request):
    """`/v1/completions`: a text, some texts, the ids of one, or the ids of some."""

    prompt: Any

    @field_validator("prompt")
    @classmethod
    def _prompt(cls, value: Any) -> list[str] | list[list[int]]:
        prompts = [value] if isinstance(value, str) or _is_ids(value) else value
        if not isinstance(prompts, list) or not 1 <= len(prompts) <= 64:
            raise ValueError("must be a text, a list of token ids, or a list of 1 to 64 of either")
        if not (all(isinstance(each, str) for each in prompts) or all(_is_ids(each) for each in prompts)):
            raise ValueError("must be a text, a list of token ids, or a list of 1 to 64 of either")
        return prompts


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message; parts of text are joined, and what clients send back of an answer (`refusal: null` …) is let pass."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    @model_validator(mode="after")
    def _text_only(self) -> ChatMessage:
        for name, value in (self.model_extra or {}).items():
            if value and name != "name":
                raise ValueError(f"{name} is not supported by this server: messages are text")
        return self

    def plain(self) -> dict[str, str]:
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(_Request):
    """`/v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    parallel_tool_calls: Any = None

    def _max_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Shape:
    """The answers to one request: `completions` or `chat`."""

    def __init__(self, model: str, chat: bool):
        self.chat = chat
        self.head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, texts: list[str], finishes: list[str], usage: Usage) -> dict[str, Any]:
        choices = [
            {"index": index, **self._content(text), "logprobs": None, "finish_reason": finish}
            for index, (text, finish) in enumerate(zip(texts, finishes, strict=True))
        ]
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self.head, "object": kind, "choices": choices, "usage": usage.model_dump()}

    def first(self) -> dict[str, Any]:
        """The chunk that opens a streamed chat answer."""
        return self._chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])

    def delta(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        content: dict[str, Any] = {"delta": {"content": text} if text else {}} if self.chat else {"text": text}
        return self._chunk([{"index": index, **content, "logprobs": None, "finish_reason": finish}])

    def usage(self, usage: Usage) -> dict[str, Any]:
        return self._chunk([]) | {"usage": usage.model_dump()}

    def _content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self.head, "object": kind, "choices": choices}


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int for each in value)
