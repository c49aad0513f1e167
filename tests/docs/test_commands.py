"""What README, CONTRIBUTING and docs tell the reader to type does what they say, in a checkout with small recipes.

Blocks of `sh`, `console` and `python` are executed in order, page by page, each page in a copy of a finished small run.
Every command must end with 0, or its block with the code of a `<!-- test: exit N -->` before it. The output shown in a
`console` block must be that of the command but for numbers, digests and times; a line `...` stands for any lines, and
what follows the last line shown is free. Blocks of `yaml` are steps that must fit into recipes/own-text.yaml.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml
from small_pipeline import ROOT, Said, SmallRun, environment, lmcraft

from lmcraft.recipe.schema import load_recipe
from lmcraft.stages import STAGES

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")),
]
PROGRAM = ".venv/bin/lmcraft"
SAID_TO_CHAT = "What is a river?\n/quit\n"


@dataclass
class Block:
    """A fenced block: its language, first line and lines, and the exit code that is announced for its last command."""

    language: str
    number: int
    lines: list[str] = field(default_factory=list)
    code: int = 0

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Commands, each with the output that is shown for it."""
        if self.language == "console":
            for line in self.lines:
                assert line.startswith("$ ") or line != self.lines[0], f"line {self.number}: output without a command"
            starts = [i for i, line in enumerate(self.lines) if line.startswith("$ ")]
            for start, end in zip(starts, [*starts[1:], len(self.lines)], strict=True):
                yield self.lines[start][2:], self.lines[start + 1 : end]
            return
        for line in "\n".join(self.lines).replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.strip(), []


def blocks(page: str) -> list[Block]:
    found: list[Block] = []
    inside: Block | None = None
    code = 0
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if inside is not None:
            if line == "```":
                found.append(inside)
                inside = None
            else:
                inside.lines.append(line)
        elif announced := re.fullmatch(r"<!-- test: exit (\d+) -->", line):
            code = int(announced[1])
        elif line.startswith("```"):
            inside = Block(line[3:], number, code=code)
            code = 0
    assert inside is None, f"{page}: the block of line {inside.number if inside else 0} has no end"
    return found


class Reader:
    """Types commands in a folder. A server that was started stays up for the commands after it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.server: subprocess.Popen[str] | None = None
        self.address = ""

    def types(self, command: str) -> Said:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            return made(words, self.folder)
        if words[:2] == [PROGRAM, "serve"]:
            return self.serves(words[1:])
        if words[0] == "curl":
            return self.asks(words)
        if words[1:3] == ["-m", "pytest"]:
            return self.shell(shlex.join([*words, "--collect-only"]), ROOT)
        if words[0] == PROGRAM and not needs_shell(command):
            return lmcraft(self.folder, words[1:], SAID_TO_CHAT)
        return self.shell(command, self.folder)

    def shell(self, command: str, folder: Path) -> Said:
        words = ["bash", "-euo", "pipefail", "-c", command]
        run = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
        return Said(run.returncode, run.stdout, run.stderr)

    def serves(self, arguments: list[str]) -> Said:
        self.closes()
        words = [sys.executable, "-m", "lmcraft", *arguments, "--port", "0"]
        self.server = subprocess.Popen(
            words, cwd=self.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.server.stdout is not None
        said = ""
        for line in self.server.stdout:
            said += line
            if found := re.search(r"chat page (http://\S+)/ ", line):
                self.address = found[1]
                break
        answer = httpx.get(self.address + "/", timeout=60)
        return Said(0 if answer.status_code == 200 and "<html" in answer.text else 1, said, "")

    def asks(self, words: list[str]) -> Said:
        """What curl would ask, of the server that was started."""
        url = next(word for word in words if word.startswith("http")).replace("http://127.0.0.1:8000", self.address)
        headers = dict(re.split(r":\s*", words[i + 1], maxsplit=1) for i, word in enumerate(words) if word == "-H")
        body = words[words.index("-d") + 1] if "-d" in words else None
        answer = httpx.request("POST" if body else "GET", url, headers=headers, content=body, timeout=60)
        return Said(0 if answer.status_code == 200 else 22, answer.text, "")

    def closes(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            _, errors = self.server.communicate(timeout=30)
            assert self.server.returncode == 0, errors
            assert "Traceback" not in errors
            self.server = None


def needs_shell(command: str) -> bool:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    return "$(" in command or any(set(word) <= set("|<>;&()") for word in lexer)


def made(words: list[str], folder: Path) -> Said:
    """What `make` would do in a fresh checkout; it is not done, as this test is part of it."""
    fresh = folder / "fresh"
    fresh.mkdir(exist_ok=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, fresh)
    run = subprocess.run([*words[:1], "-n", *words[1:]], cwd=fresh, capture_output=True, text=True)
    does = {
        "quickstart": [".venv/bin/lmcraft run recipes/quickstart.yaml"],
        "test": [".venv/bin/python -m pytest"],
        "check": [".venv/bin/ruff check .", ".venv/bin/mypy"],
    }
    for line in ["-m venv .venv", "-m pip install --quiet --constraint constraints.txt", *does[words[1]]]:
        assert line in run.stdout, run.stdout + run.stderr
    return Said(run.returncode, run.stdout, run.stderr)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works(page: str, small_run: SmallRun, tmp_path: Path) -> None:
    found = [block for block in blocks(page) if block.language in ("sh", "console", "python")]
    if not found:
        assert page == "docs/recipe-reference.md", "a page without a command"
        return
    reader = Reader(small_run.copy(tmp_path / "checkout"))
    try:
        for block in found:
            execute(reader, page, block)
        reader.closes()
    finally:
        if reader.server is not None:
            reader.server.kill()
            reader.server.wait()


def execute(reader: Reader, page: str, block: Block) -> None:
    where = f"{page}:{block.number}"
    if block.language == "python":
        code = ["-c", "\n".join(block.lines)]
        run = subprocess.run(
            [sys.executable, *code], cwd=reader.folder, env=environment(), capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, f"{where}: {run.stderr}"
        return
    commands = list(block.commands())
    for number, (command, shown) in enumerate(commands, 1):
        said = reader.types(command)
        wanted = block.code if number == len(commands) else 0
        assert said.code == wanted, f"{where}: {command} ended with {said.code}\n{said.out}{said.err}"
        assert "Traceback" not in said.err
        if shown:
            missing = first_missing(shown, (said.err + said.out).splitlines())
            assert missing is None, f"{where}: {command} does not print {missing!r} there:\n{said.err}{said.out}"


def first_missing(shown: list[str], printed: list[str]) -> str | None:
    """The first line shown that does not follow in what was printed; None when all do."""
    lines = [steady(line) for line in printed if line.strip()]
    at, gap = 0, False
    for line in shown:
        if line == "...":
            gap = True
            continue
        if not line.strip():
            continue
        wanted = steady(line)
        end = len(lines) if gap else at + 1
        place = next((i for i in range(at, min(end, len(lines))) if lines[i] == wanted), None)
        if place is None:
            return line
        at, gap = place + 1, False
    return None


def steady(line: str) -> str:
    """A line without what differs between machines and recipes: times, digests, sizes, numbers."""
    for pattern, stands in (
        (r"\d+ h \d+ min|\d+ min \d+ s|\d+(\.\d+)? s\b", "TIME"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d", "DATE"),
        (r"\b[0-9a-f]{12,64}\b", "DIGEST"),
        (r"\b\d+(\.\d+)?[kMG]?B\b", "SIZE"),
        (r"\b\d+(\.\d+)?[kMG]?\b", "N"),
    ):
        line = re.sub(pattern, stands, line)
    return " ".join(line.split())


@pytest.mark.parametrize("page", PAGES)
def test_recipe_fragments_fit(page: str, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language != "yaml":
            continue
        recipe = yaml.safe_load((ROOT / "recipes" / "own-text.yaml").read_text(encoding="utf-8"))
        recipe["steps"].update(yaml.safe_load("\n".join(block.lines)))
        file = tmp_path / "recipe.yaml"
        file.write_text(json.dumps(recipe), encoding="utf-8")
        load_recipe(file, STAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_the_readme_leads_to_every_page_and_soon_to_a_chat() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        folder = Path(page).parent
        if folder.parent == Path("docs"):  # the pages of a folder stand behind the page of its name
            behind = (ROOT / folder).with_suffix(".md").read_text(encoding="utf-8")
            assert f"]({folder.name}/{Path(page).name})" in behind, page
        else:
            assert f"]({page})" in text, page
    commands = [command for block in blocks("README.md") if block.language == "sh" for command, _ in block.commands()]
    assert commands[0] == "make quickstart"
    assert text.index(f"{PROGRAM} chat quickstart/export") < len(text) / 3


def test_every_recipe_is_valid_as_it_stands() -> None:
    for file in sorted((ROOT / "recipes").glob("*.yaml")):
        recipe = load_recipe(file, STAGES)
        assert recipe.name == file.stem
        assert os.linesep not in recipe.description
