"""Conversation with a model in the terminal, or in a pipe."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TextIO

from lmcraft.inference.devices import add_device_arguments, settle_threads
from lmcraft.inference.engine import ContextError, Engine, Stream
from lmcraft.inference.sampling import Sampling
from lmcraft.recipe.stage import UserError, count

DEFAULTS = Sampling(max_tokens=512, temperature=0.6, top_p=0.95)

HELP = """\
/help                  this list
/reset                 forget the conversation
/system TEXT           set the system message (without TEXT: take it out) and forget the conversation
/set temperature=0.5   set temperature, top_k, top_p, max_tokens, seed or stop (without argument: show them)
/save FILE             append the conversation to FILE, one JSON line with "messages"
/quit                  leave (also Ctrl-D); Ctrl-C stops an answer"""

EXAMPLES = """\
examples:
  lmcraft chat MODEL
  lmcraft chat MODEL --prompt "What is Paris?" --temperature 0
  echo "What is Paris?" | lmcraft chat MODEL
  lmcraft chat MODEL --prompt - < question.txt"""


@dataclass(frozen=True)
class ChatOptions:
    """`prompt`: answer this one message and end."""

    sampling: Sampling = DEFAULTS
    system: str | None = None
    prompt: str | None = None


@dataclass
class Conversation:
    """Messages that always leave room for an answer; `dropped` counts the turns taken out in the last `ask`."""

    engine: Engine
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)
    dropped: int = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        return ([{"role": "system", "content": self.system}] if self.system else []) + self.turns

    def ask(self, text: str, sampling: Sampling) -> Stream:
        """Add a user message and begin the answer. The oldest turns go when the context is full. Raises ContextError,
        and keeps the conversation as it was, when the message alone is too long."""
        before = self.turns
        self.turns = [*before, {"role": "user", "content": text}]
        self.dropped = 0
        reserve = min(sampling.max_tokens, self.engine.context // 4)
        try:
            prompt = self.engine.tokenizer.encode_prompt(self.messages)
            while len(prompt) + reserve > self.engine.context and len(self.turns) > 1:
                self.turns = self.turns[2:]
                self.dropped += 1
                prompt = self.engine.tokenizer.encode_prompt(self.messages)
            return self.engine.stream(prompt, sampling)
        except UserError:
            self.turns = before
            raise

    def answered(self, text: str) -> None:
        self.turns.append({"role": "assistant", "content": text})


def chat(engine: Engine, options: ChatOptions, input: TextIO, output: TextIO, notices: TextIO | None = None) -> int:
    """Talk until the input ends. On a terminal with prompts and hints; in a pipe each line is a message, `output` gets
    the answers alone and `notices` (default: standard error) what else there is to say. Returns the exit code."""
    return _Session(engine, options, input, output, notices).run()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("--prompt", metavar="TEXT", help="answer this one message and end; - reads it from the input")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--temperature", type=float, default=DEFAULTS.temperature, help="0 is greedy (%(default)s)")
    parser.add_argument("--top-k", type=int, default=DEFAULTS.top_k, help="most probable tokens kept, 0 for all (0)")
    parser.add_argument("--top-p", type=float, default=DEFAULTS.top_p, help="probability kept (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=DEFAULTS.max_tokens, help="of an answer (%(default)s)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end an answer here; repeatable")
    parser.add_argument("--seed", type=int, help="the same seed gives the same answers")
    add_device_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """`lmcraft chat`; `arguments.model` is the model's directory."""
    sampling = Sampling(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        stop=tuple(arguments.stop),
        seed=arguments.seed,
    )
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):  # never die of a byte or a console that is not Unicode
            stream.reconfigure(errors="replace")
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    engine = Engine.load(arguments.model, arguments.device, arguments.dtype)
    settle_threads(engine.device, engine.model.config.parameters())
    try:
        return chat(engine, ChatOptions(sampling, arguments.system, prompt), sys.stdin, sys.stdout)
    except BrokenPipeError:  # `lmcraft chat MODEL | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Session:
    def __init__(self, engine: Engine, options: ChatOptions, input: TextIO, output: TextIO, notices: TextIO | None):
        self.engine, self.options, self.input, self.output = engine, options, input, output
        self.sampling = options.sampling
        self.conversation = Conversation(engine, options.system)
        self.terminal = options.prompt is None and input.isatty()
        self.notices = notices or (output if self.terminal else sys.stderr)

    def run(self) -> int:
        if self.options.prompt is not None:
            return self.answer(self.options.prompt)
        if self.terminal:
            size = count(self.engine.model.config.parameters())
            self.notice(f"A model of {size} parameters: it can be wrong. /help for help.")
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - line editing for input()
        code = 0
        while True:
            try:
                line = self.read()
            except KeyboardInterrupt:
                if not self.terminal:
                    return 130
                self.notice("\n(/quit or Ctrl-D to leave)")
                continue
            if line is None:
                break
            line = line.strip()
            if line.startswith("/"):
                if line.split()[0] == "/quit":
                    break
                self.command(line)
            elif line:
                code = self.answer(line)
                if code == 130:
                    break
        return code

    def read(self) -> str | None:
        """The next line; None at the end of the input."""
        if self.terminal and self.input is sys.stdin:
            try:
                return input("> ")
            except EOFError:
                self.notice("")
                return None
        if self.terminal:
            self.output.write("> ")
            self.output.flush()
        return self.input.readline() or None

    def answer(self, text: str) -> int:
        try:
            stream = self.conversation.ask(text, self.sampling)
        except UserError as error:
            if not self.terminal:
                raise
            hint = "; it was not sent" if isinstance(error, ContextError) else ""
            self.notice(f"{error}{hint}")
            return 2
        if dropped := self.conversation.dropped:
            turns = "the oldest turn" if dropped == 1 else f"the {dropped} oldest turns"
            self.notice(f"(the context of {self.engine.context} tokens is full: {turns} forgotten)")
        said = ""
        try:
            for delta in stream:
                said += delta
                self.output.write(delta.translate(_CONTROLS) if self.output.isatty() else delta)
                self.output.flush()
        except KeyboardInterrupt:
            if not self.terminal:
                return 130
            self.notice(" (stopped)", end="")
        self.output.write("\n")
        self.output.flush()
        self.conversation.answered(said)
        return 0

    def command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        try:
            if name == "/help":
                self.notice(HELP)
            elif name == "/reset":
                self.conversation = Conversation(self.engine, self.conversation.system)
                self.notice("(forgotten)")
            elif name == "/system":
                self.conversation = Conversation(self.engine, argument or None)
                self.notice("(system message set)" if argument else "(no system message)")
            elif name == "/set":
                self.sampling = _changed(self.sampling, argument) if argument else self.sampling
                self.notice("(" + " ".join(f"{each}={getattr(self.sampling, each)}" for each in _SETTINGS) + ")")
            elif name == "/save":
                _save(Path(argument), self.conversation.messages, argument)
                self.notice(f"(saved to {argument})")
            else:
                raise UserError(f"there is no command {name}; /help lists them")
        except UserError as error:
            self.notice(str(error))

    def notice(self, text: str, end: str = "\n") -> None:
        self.notices.write(text + end)
        self.notices.flush()


# A model may write escape sequences, which a terminal would obey.
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}

_SETTINGS = [each.name for each in fields(Sampling) if each.name != "stop_tokens"]


def _changed(sampling: Sampling, argument: str) -> Sampling:
    name, equals, text = (part.strip() for part in argument.partition("="))
    if name not in _SETTINGS or not equals:
        raise UserError(f"/set takes NAME=VALUE with one of: {', '.join(_SETTINGS)}")
    value: Any
    try:
        if name == "stop":
            value = (text,) if text else ()
        elif name == "seed" and text.lower() in ("", "none"):
            value = None
        else:
            value = float(text) if name in ("temperature", "top_p") else int(text)
    except ValueError:
        raise UserError(f"{name} takes a number, not {text!r}") from None
    return replace(sampling, **{name: value})


def _save(path: Path, messages: list[dict[str, str]], argument: str) -> None:
    if not argument:
        raise UserError("/save needs the name of a file")
    line = json.dumps({"messages": messages}, ensure_ascii=False) + "\n"
    try:
        with path.expanduser().open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
