"""The small interface between a stage and the house: what a stage is given and what it declares.

Every room may import this module; it imports none of them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, JsonValue

if TYPE_CHECKING:
    from lmcraft.recipe.schema import ParallelConfig


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM) and has saved what it had."""


class Followed(BaseException):
    """Ends a stage's `run` on every rank but the first, which goes on alone with what all have made."""


class UserError(ValueError):
    """A mistake the user can mend: one sentence that says what, where and how. The command line exits with 2."""


class StageConfig(BaseModel):
    """Base of every stage's settings: unknown keys are errors, values are not coerced across types.

    A field declared with `location()` says *where* something is; it is left out of the artifact's identity
    (what is found there enters it by digest, through `Stage.sources`).
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """The settings that decide the output: everything but locations, as JSON values."""
        return _without_locations(self)


LOCATION: dict[str, JsonValue] = {"location": True}
"""Pass as `Field(json_schema_extra=LOCATION)` to keep a path or address out of the artifact's identity."""


def _without_locations(model: BaseModel) -> dict[str, Any]:
    identity: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("location"):
            continue
        identity[name] = _identity_value(getattr(model, name))
    return identity


def _identity_value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _without_locations(value)
    if isinstance(value, Mapping):
        return {str(key): _identity_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity_value(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a setting of type {type(value).__name__} has no place in an artifact's identity")


@dataclass(frozen=True)
class Input:
    """One named reference of a stage to other steps.

    `kinds` are the artifact kinds it accepts; none means any. With `many`, the recipe gives a list of steps and the
    stage receives a list of directories.
    """

    kinds: tuple[str, ...] = ()
    many: bool = False
    required: bool = True


@dataclass(frozen=True)
class Source:
    """Something outside the store that a step reads: a name without machine paths, and the digest of its bytes."""

    name: str
    sha256: str
    bytes: int | None = None


Inputs = Mapping[str, Any]
"""Name of the input -> its directory (`Path`), a list of directories, or absent when optional and not given."""


@dataclass(frozen=True)
class Stage:
    """A kind of work. `run(config, inputs, out, runtime)` reads input directories and writes files into `out`.

    `run` returns a small JSON-able summary for the manifest. It must give the same files for the same config and
    inputs, except those that match `volatile` (times, speeds), which are hashed but stay out of the artifact's digest.
    `check` raises UserError for what can be known before any step runs; `sources` names what the step reads from
    outside the store; `estimate` gives expected seconds on this machine; `rederive` works the metrics of a finished
    directory out again from its items: (metric, stored, recomputed).
    When a run is killed, the next one is called with the same `out` and `runtime.scratch` as the last one left them;
    files that end in `.tmp` are never published.
    Under `torchrun` the first rank runs all steps; a stage with `ranks` is run by the others too, with the same inputs
    and `runtime.scratch`, an `out` that is thrown away, and `runtime.ranks` set.
    """

    name: str
    version: int
    config: type[StageConfig]
    inputs: Mapping[str, Input]
    output: str
    run: Callable[[Any, Inputs, Path, Runtime], dict[str, Any] | None]
    help: str
    check: Callable[[Any, Runtime], None] | None = None
    sources: Callable[[Any, Runtime], list[Source]] | None = None
    estimate: Callable[[Any, Runtime], float | None] | None = None
    rederive: Callable[[Path], Sequence[tuple[str, Any, Any]]] | None = None
    volatile: tuple[str, ...] = ()
    ranks: bool = False


class Ranks(Protocol):
    """The processes that one `torchrun` started, as the runner sees them (training/ranks.py)."""

    rank: int
    local_rank: int
    local_size: int
    settings: ParallelConfig

    @property
    def data(self) -> int:
        """Parts that a batch is cut into: groups of processes that read different rows."""
        ...

    @property
    def shards(self) -> int:
        """Processes that one copy of weights and optimizer is spread over."""
        ...

    @property
    def shares_layers(self) -> bool:
        """Whether several processes work on one layer of the same rows."""
        ...

    def call(self, order: Mapping[str, Any]) -> None:
        """On the first rank: have all others do this (JSON values)."""

    def calls(self) -> Iterator[dict[str, Any]]:
        """On the others: what the first one calls for, until it leaves."""
        ...

    def agree(self, what: str, value: Mapping[str, Any]) -> None:
        """Raises UserError on all ranks when one of them has another value, and names what differs."""

    def watched(self) -> AbstractContextManager[None]:
        """Within it, a process that is gone or silent is a UserError."""
        ...

    def leave(self) -> None:
        """At the end; on the first rank it ends the others' `calls`."""


class Task:
    """One bar of progress. `advance` moves it; `text` is shown behind it (loss, speed)."""

    def advance(self, amount: float = 1, text: str | None = None) -> None: ...

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *exc: object) -> None: ...


class Progress:
    """Where a stage reports what it is doing. This one is silent; `ConsoleProgress` draws."""

    def note(self, text: str) -> None:
        """One line that stays on the screen."""

    def task(self, description: str, total: float | None, unit: str, done: float = 0) -> Task:
        """A bar with rate and time left; `total` in `unit`s, None when unknown; `done` when resuming."""
        return Task()


WATTS_PER_CORE = 10.0
"""An assumption: by what makers state as thermal design power, a server's core comes to 5 to 7 W, a desktop's to 8 to
15."""

GRID_INTENSITY = 473.0
GRID_SOURCE = "world average of 2024: Ember, Global Electricity Review 2025"
"""Grams of CO2 equivalent per kWh, over the life cycle of the power stations."""


@dataclass
class Runtime:
    """Where and how a step runs. Nothing in here enters an artifact's identity."""

    device: str = "auto"
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    compile: str = "auto"
    engine: str = "local"
    planning: bool = False  # nothing may be fetched: only what a run would do is asked
    cache: Path = field(default_factory=lambda: default_cache())  # noqa: PLW0108 - defined below
    scratch: Path | None = None
    removals: Path | None = None  # the store's list of what must not be used any more
    tensorboard: Path | None = None
    watts_per_core: float = WATTS_PER_CORE  # of a busy core, where energy cannot be measured
    grid_intensity: float = GRID_INTENSITY  # gCO2e/kWh of the electricity where this machine stands
    ranks: Ranks | None = None  # more than one process works on this step
    progress: Progress = field(default_factory=Progress)


def default_cache() -> Path:
    """Folder for downloads and compiled kernels: `LMCRAFT_CACHE`, else the platform's cache folder."""
    if chosen := os.environ.get("LMCRAFT_CACHE"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lmcraft"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "lmcraft"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lmcraft"


class ConsoleProgress(Progress):
    """Progress on standard error: bars on a terminal, otherwise a line now and then, so that logs stay readable."""

    def __init__(self, every_s: float = 15.0) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False)
        self.every_s = every_s

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def task(self, description: str, total: float | None, unit: str, done: float = 0) -> Task:
        if self.console.is_terminal:
            return _BarTask(self.console, description, total, unit, done)
        return _LineTask(self, description, total, unit, done)


class _LineTask(Task):
    def __init__(self, progress: ConsoleProgress, description: str, total: float | None, unit: str, done: float):
        self.progress, self.description, self.total, self.unit = progress, description, total, unit
        self.start = self.last = time.monotonic()
        self.first = self.done = done
        self.text = ""

    def advance(self, amount: float = 1, text: str | None = None) -> None:
        self.done += amount
        self.text = text or self.text
        if time.monotonic() - self.last >= self.progress.every_s:
            self._print()

    def _print(self) -> None:
        self.last = time.monotonic()
        elapsed = self.last - self.start
        rate = (self.done - self.first) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.description}: {count(self.done)}"]
        if self.total:
            parts[0] += f" of {count(self.total)}"
        parts[0] += f" {self.unit}"
        parts.append(f"{count(rate)} {self.unit}/s")
        if self.total and rate > 0 and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        if self.text:
            parts.append(self.text)
        self.progress.note("  " + " · ".join(parts))

    def __exit__(self, *exc: object) -> None:
        self._print()


class _BarTask(Task):
    def __init__(self, console: Any, description: str, total: float | None, unit: str, done: float):
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.bars = Bars(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            refresh_per_second=4,
        )
        self.unit, self.first, self.done = unit, done, done
        self.start = time.monotonic()
        self.id = self.bars.add_task(description, total=total, completed=int(done), rate="", text="")

    def __enter__(self) -> Task:
        self.bars.start()
        return self

    def advance(self, amount: float = 1, text: str | None = None) -> None:
        self.done += amount
        elapsed = max(time.monotonic() - self.start, 1e-9)
        rate = f"{count((self.done - self.first) / elapsed)} {self.unit}/s"
        fields: dict[str, Any] = {"rate": rate} | ({"text": text} if text is not None else {})
        self.bars.update(self.id, completed=self.done, **fields)

    def __exit__(self, *exc: object) -> None:
        self.bars.stop()


def count(number: float) -> str:
    """1234567 -> '1.23M': three significant digits with a decimal prefix."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit * 0.9995:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.3g}" if number != int(number) else str(int(number))


def duration(seconds: float) -> str:
    """3725 -> '1 h 2 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
