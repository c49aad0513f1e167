"""What all contenders share: the clock, the settings, rows of tokens for those who bring no loader of their own."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks.time_to_quality.judging import Judge


class Clock:
    """A budget of seconds since the training process was started (before Python, imports and compilation)."""

    def __init__(self, started: float, budget: float, most_steps: int | None = None):
        self.started, self.budget = started, budget  # `time.time()`, which a child process shares
        self.most_steps, self.steps = most_steps, 0
        self.first: float | None = None  # seconds until the end of the first step
        self._last: float | None = None
        self._steps: list[float] = []

    def elapsed(self) -> float:
        return time.time() - self.started

    def share(self) -> float:
        """How much of the time for steps is spent, from 0 to 1: the schedules' argument. It begins with the end of the
        first step, whose compilation would otherwise swallow the warm-up."""
        if self.first is None:
            return 0.0
        return min(1.0, (self.elapsed() - self.first) / max(1e-9, self.budget - self.first))

    def another_step(self) -> bool:
        """Called before each step: whether one more, as long as the longest of the last five, still fits."""
        now = self.elapsed()
        if self._last is not None:
            if self.first is None:
                self.first = now
            else:
                self._steps = [*self._steps[-4:], now - self._last]
        self._last = now
        self.steps += 1
        if self.most_steps is not None and self.steps > self.most_steps:
            return False
        return now + max(self._steps, default=0.0) <= self.budget


@dataclass
class Trained:
    """What a contender hands over when the clock stops."""

    judge: Judge
    parameters: int
    tokens: int
    steps: int
    notes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def add_settings(parser: argparse.ArgumentParser, settings: type) -> None:
    """An option a field; its type is that of the default, and `metadata["help"]` its help."""
    for each in fields(settings):
        default = each.default if not callable(each.default_factory) else each.default_factory()
        name = f"--{each.name.replace('_', '-')}"
        said = f"{each.metadata.get('help', '')} (default: {default})"
        if isinstance(default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=default, help=said)
        elif isinstance(default, list):
            parser.add_argument(name, action="append", default=list(default), help=said)
        else:
            parser.add_argument(name, type=type(default), default=default, help=said)


def say(text: str, default: Any) -> Any:
    """A dataclass field with a help text."""
    return field(default=default, metadata={"help": text})


def training_texts(data: Path) -> Iterator[str]:
    with (data / "train.jsonl").open(encoding="utf-8") as file:
        yield from (json.loads(line)["text"] for line in file)


@dataclass(frozen=True)
class TokenFile:
    """All training documents as one array, each document begun by BOS."""

    ids: np.ndarray
    starts: np.ndarray  # of each document, and the end of the last

    @classmethod
    def open(cls, folder: Path) -> TokenFile:
        return cls(np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "starts.npy"))

    @classmethod
    def make(cls, folder: Path, texts: Iterator[str], encode: Callable[[list[str]], list[list[int]]], bos: int) -> None:
        """Tokenise once, before any clock runs. The ids come last: where they are, the rest is."""
        parts, lengths, batch = [], [], []

        def flush() -> None:
            for ids in encode(batch):
                parts.append(np.array([bos, *ids], np.uint32))
                lengths.append(len(parts[-1]))
            batch.clear()

        for text in texts:
            batch.append(text)
            if len(batch) == 256:
                flush()
        flush()
        np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(lengths)]))
        partial = folder / "ids.partial.npy"
        np.save(partial, np.concatenate(parts))
        partial.replace(folder / "ids.npy")

    def document(self, number: int) -> np.ndarray:
        return self.ids[self.starts[number] : self.starts[number + 1]]


class Rows:
    """Rows of `length` + 1 tokens of the stream of all documents, each token predicted once an epoch, in an order drawn
    from the seed: nothing is cropped or padded, and documents run on into the next row."""

    def __init__(self, tokens: TokenFile, length: int, seed: int):
        self.ids, self.length, self.seed = tokens.ids, length, seed
        self.count = (len(tokens.ids) - 1) // length

    def __len__(self) -> int:
        return self.count

    def row(self, number: int) -> np.ndarray:
        at = number * self.length
        return np.asarray(self.ids[at : at + self.length + 1], np.int64)

    def batches(self, rows: int) -> Iterator[np.ndarray]:
        """[rows, length + 1] without end."""
        epoch = 0
        waiting: list[int] = []
        while True:
            while len(waiting) < rows:
                waiting += np.random.default_rng([self.seed, epoch]).permutation(self.count).tolist()
                epoch += 1
            chosen, waiting = waiting[:rows], waiting[rows:]
            yield np.stack([self.row(number) for number in chosen])
