import argparse
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmcraft.inference import ContextError, Engine, Sampling
from lmcraft.inference import chat as chat_module
from lmcraft.inference.chat import ChatOptions, Conversation, add_arguments, chat
from lmcraft.recipe.stage import UserError

GREEDY = Sampling(max_tokens=6, temperature=0, stop_tokens=())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _expected(engine: Engine, *messages: tuple[str, str]) -> str:
    prompt = engine.tokenizer.encode_prompt([{"role": role, "content": content} for role, content in messages])
    return engine.generate([prompt], GREEDY)[0].text


def _talk(engine: Engine, text: str, kind: Callable[[str], io.StringIO] = io.StringIO) -> tuple[str, str, int]:
    output, notices = io.StringIO(), io.StringIO()
    code = chat(engine, ChatOptions(GREEDY), kind(text), output, notices)
    return output.getvalue(), notices.getvalue(), code


def test_a_pipe_gives_the_answer_alone(engine: Engine) -> None:
    assert _talk(engine, "What is Paris?\n") == (_expected(engine, ("user", "What is Paris?")) + "\n", "", 0)
    assert _talk(engine, "") == ("", "", 0)


def test_a_second_message_sees_the_first_turn(engine: Engine) -> None:
    first = _expected(engine, ("user", "Paris"))
    second = _expected(engine, ("user", "Paris"), ("assistant", first), ("user", "Où"))
    assert _talk(engine, "Paris\n\nOù\n")[0] == f"{first}\n{second}\n"


def test_one_shot(engine: Engine) -> None:
    output = io.StringIO()
    assert chat(engine, ChatOptions(GREEDY, system="Be", prompt="Paris"), io.StringIO("unread"), output) == 0
    assert output.getvalue() == _expected(engine, ("system", "Be"), ("user", "Paris")) + "\n"


def test_a_terminal_has_prompts_and_commands(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    lines = [
        "/help",
        "/set temperature=0.5",
        "/set top_k=x",
        "/set",
        "/system Be brief.",
        "/set temperature=0",
        "Paris",
    ]
    lines += [f"/save {file}", "/reset", "/nothing", "/save", f"/save {tmp_path}", "/set colour=1", "/set seed=none"]
    output, notices, code = _talk(engine, "\n".join([*lines, "/quit", "unread"]), Terminal)
    answer = _expected(engine, ("system", "Be brief."), ("user", "Paris"))
    assert output == "> " * 7 + answer + "\n" + "> " * 8 and code == 0
    for said in (
        "it can be wrong",
        "/reset  ",
        "temperature=0.5",
        "top_k takes a number, not 'x'",
        "(forgotten)",
        "there is no command /nothing",
        "/save needs the name of a file",
        f"{tmp_path} cannot be written",
        "/set takes NAME=VALUE",
    ):
        assert said in notices
    roles = [("system", "Be brief."), ("user", "Paris"), ("assistant", answer)]
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "messages": [{"role": role, "content": content} for role, content in roles]
    }


def test_a_full_context_forgets_the_oldest_turns_and_says_so(engine: Engine) -> None:
    output, notices, _ = _talk(engine, "Paris is the capital\n" * 8)
    assert len(output.splitlines()) >= 8
    assert "oldest turn forgotten" in notices
    conversation = Conversation(engine, "Be brief.")
    for _ in range(8):
        stream = conversation.ask("Paris is the capital", GREEDY)
        conversation.answered("".join(stream))
    assert conversation.messages[0]["role"] == "system" and conversation.messages[1]["role"] == "user"


def test_a_message_longer_than_the_context_is_refused_and_the_conversation_goes_on(engine: Engine) -> None:
    conversation = Conversation(engine)
    conversation.answered("".join(conversation.ask("Paris", GREEDY)))
    before = list(conversation.turns)
    with pytest.raises(ContextError, match="context of the model is 96 tokens"):
        conversation.ask("Paris xyz " * 200, GREEDY)
    assert conversation.turns == before
    output, notices, code = _talk(engine, "Paris xyz " * 200 + "\nParis\n", Terminal)
    assert "it was not sent" in notices and _expected(engine, ("user", "Paris")) in output and code == 0
    with pytest.raises(UserError):
        _talk(engine, "Paris xyz " * 200)


def test_ctrl_c_stops_the_answer_and_not_the_program(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Conversation.ask

    def interrupted(self: Conversation, text: str, sampling: Sampling) -> Iterator[str]:
        stream = original(self, text, sampling)
        if text != "first":
            return stream

        def deltas() -> Iterator[str]:
            yield "partial"
            raise KeyboardInterrupt

        return deltas()

    monkeypatch.setattr(Conversation, "ask", interrupted)
    output, notices, code = _talk(engine, "first\nParis\n", Terminal)
    expected = _expected(engine, ("user", "first"), ("assistant", "partial"), ("user", "Paris"))
    assert output == f"> partial\n> {expected}\n> " and "(stopped)" in notices and code == 0
    assert _talk(engine, "first\nParis\n")[2] == 130


def test_a_terminal_does_not_obey_the_model(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conversation, "ask", lambda *arguments: iter(["a\x1b[2J\x9b", "\nb\tc"]))
    output = Terminal()
    chat(engine, ChatOptions(GREEDY, prompt="Paris"), io.StringIO(), output)
    assert output.getvalue() == "a\ufffd[2J\ufffd\nb\tc\n"


def test_the_command_in_a_real_pipe(model_directory: Path) -> None:
    program = (
        "import argparse, sys; from pathlib import Path; from lmcraft.inference.chat import add_arguments, main\n"
        "parser = argparse.ArgumentParser(); parser.add_argument('model', type=Path); add_arguments(parser)\n"
        "sys.exit(main(parser.parse_args()))"
    )
    command = [sys.executable, "-c", program, str(model_directory), "--temperature", "0", "--max-tokens", "5"]
    piped = subprocess.run(command, input="Où ? 🙂\n".encode(), capture_output=True, timeout=120, check=True)
    assert piped.stderr == b"" and piped.stdout.decode("utf-8").endswith("\n")
    once = subprocess.run(
        [*command, "--prompt", "-"], input="Où ? 🙂".encode(), capture_output=True, timeout=120, check=True
    )
    assert once.stdout == piped.stdout
    bad = subprocess.run(command, input=b"\xff\xfe \0\n", capture_output=True, timeout=120, check=True)
    assert bad.stdout and bad.stderr == b""


def test_the_help_has_examples() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert "echo" in parser.format_help() and chat_module.EXAMPLES in parser.format_help()
