"""Compilation is an offer, never a need."""

from __future__ import annotations

import pytest
import torch

from lmcraft.recipe.stage import Progress, Runtime, UserError
from lmcraft.training import hardware
from lmcraft.training.hardware import resolve_precision, wants_compile

CPU = torch.device("cpu")


class Notes(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_without_a_compiler_training_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    notes = Notes()
    assert wants_compile(Runtime(progress=notes), CPU, 1e14) is False
    assert "no C++ compiler" in notes.lines[0]
    with pytest.raises(UserError, match=r"compile is on, but there is no C\+\+ compiler"):
        wants_compile(Runtime(compile="on"), CPU, 1e14)


def test_a_broken_tool_chain_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object) -> object:
        raise RuntimeError("Python.h: No such file\nand more")

    monkeypatch.setattr(hardware.shutil, "which", lambda name: "/usr/bin/g++")
    monkeypatch.setattr(torch, "compile", broken)
    notes = Notes()
    assert wants_compile(Runtime(progress=notes), CPU, 1e14) is False
    assert "Python.h: No such file" in notes.lines[0]


def test_short_runs_are_not_compiled() -> None:
    notes = Notes()
    assert wants_compile(Runtime(progress=notes), CPU, 1e9) is False
    assert notes.lines == []


def test_precision_is_chosen_by_the_processor_or_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert resolve_precision("auto", CPU) == expected
        assert resolve_precision("float32", CPU) == torch.float32
