"""Chat template -> pieces of text to encode: which are control tokens, which are text, which the assistant wrote.

A template sees the messages as plain strings, so a user who types `<|im_end|>` could end his own turn. Here every
special-token text inside a message is guarded before rendering and the guard is taken out afterwards: only what the
template itself writes becomes a control token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lmcraft.recipe.stage import UserError

Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant", "content": text}"""

# Three Unicode noncharacters, which never stand in interchanged text; where they do all the same, they are escaped.
_OPEN, _CLOSE, _GUARD = "\ufdd0", "\ufdd1", "\ufdd2"
_ESCAPES = {_OPEN: _GUARD + "0", _CLOSE: _GUARD + "1", _GUARD: _GUARD + "2"}
_UNESCAPES = {"0": _OPEN, "1": _CLOSE, "2": _GUARD, "3": ""}


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation. `control`: a special token; `generated`: the assistant writes it."""

    text: str
    control: bool
    generated: bool


class ChatTemplate:
    """A Jinja chat template whose `{% generation %}` blocks mark what the assistant writes."""

    def __init__(self, source: str, special_tokens: Sequence[str], bos_token: str) -> None:
        """Raises UserError when `source` is not a template."""
        self.source = source
        self._bos_token = bos_token
        specials = "|".join(re.escape(token) for token in sorted(special_tokens, key=len, reverse=True))
        self._special = re.compile(specials)
        self._split = re.compile(f"({specials}|{_OPEN}|{_CLOSE})")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation])
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"chat template, line {error.lineno}: {error.message}") from None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as one string, equal to what `transformers` renders from the same template."""
        return "".join(piece.text for piece in self.pieces(messages, add_generation_prompt))

    def pieces(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> Iterator[Piece]:
        """The rendered conversation in order, cut at control tokens and at the edges of what the assistant writes."""
        guarded = [self._guard(message, number) for number, message in enumerate(messages)]
        try:
            rendered = self._template.render(
                messages=guarded, bos_token=self._bos_token, add_generation_prompt=add_generation_prompt
            )
        except jinja2.TemplateError as error:
            raise UserError(f"chat template: {error.message}") from None
        generated = False
        for number, part in enumerate(self._split.split(rendered)):
            if part in (_OPEN, _CLOSE):
                generated = part == _OPEN
            elif part:
                control = number % 2 == 1
                yield Piece(part if control else _unescape(part), control, generated)

    def _guard(self, message: Message, number: int) -> dict[str, Any]:
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise UserError(f"message {number + 1} of the conversation needs a role and a content, both text")
        return {**message, "role": self._escape(role), "content": self._escape(content)}

    def _escape(self, text: str) -> str:
        text = re.sub(f"[{_OPEN}{_CLOSE}{_GUARD}]", lambda match: _ESCAPES[match[0]], text)
        return self._special.sub(lambda match: f"{match[0][0]}{_GUARD}3{match[0][1:]}", text)


def marks_answers(source: str) -> bool:
    """Whether a template has `{% generation %}` blocks."""
    return "generation" in re.findall(r"{%-?\s*(\w+)", source)


def _unescape(text: str) -> str:
    return re.sub(f"{_GUARD}(.)", lambda match: _UNESCAPES[match[1]], text)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: the tag of `transformers` for what the assistant writes."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}"
