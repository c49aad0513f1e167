"""Run a function on documents in a child process that may hang, crash or eat memory without taking the run along.

Parsers of HTML and PDF meet documents that their authors never saw. The child is started once and works through
document after document. The kernel itself holds it to its limits (interval timers whose signals nobody catches, and a
limit on its address space), so a loop in C that never lets Python run is ended as well, and so is a child whose parent
was killed.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")

CLOCK_FACTOR = 10
"""A document may take so many times its limit by the clock. The limit itself is processor time, since a deadline
changes what is kept and the clock also counts what other programs do."""

_CHUNK_BYTES, _CHUNK_ITEMS = 1 << 20, 64
_LENGTH = struct.Struct("<q")


@dataclass(frozen=True)
class Failure:
    """Why a document has no result. `detail` is the error's own words, for `error` only."""

    kind: Literal["time", "memory", "crash", "error"]
    limit: float | None = None  # seconds or bytes
    detail: str = ""

    def reason(self, work: str) -> str:
        """`work` is what was done to the document: "extraction took longer than 10 s"."""
        if self.kind == "time":
            return f"{work} took longer than {self.limit:g} s"
        if self.kind == "memory":
            return f"{work} needed more memory than {(self.limit or 0) / 2**20:.0f} MiB"
        return f"{work} crashed" if self.kind == "crash" else f"{work} failed"


class Isolated(Generic[Item, Result]):
    """`function` (module-level, or a `functools.partial` of such) with limits for each call.

    timeout_s: seconds of processor time, and `CLOCK_FACTOR` times that by the clock. memory_bytes: what the child may
    allocate beyond what it has after its imports (enforced on Linux). imports: modules to import before limits hold.
    Not to be shared by threads or forked processes: `isolated` gives each its own.
    """

    def __init__(
        self,
        function: Callable[[Item], Result],
        timeout_s: float,
        memory_bytes: int | None = None,
        imports: tuple[str, ...] = (),
    ) -> None:
        self.timeout_s, self.memory_bytes, self.imports = timeout_s, memory_bytes, imports
        self._function = pickle.dumps(function)
        self._child: subprocess.Popen[bytes] | None = None
        self._pid = os.getpid()

    def map(self, items: Iterable[Item]) -> Iterator[Result | Failure]:
        """The result or the failure of each item, in order."""
        for chunk in _chunks(items):
            yield from self._run(chunk)

    def close(self) -> None:
        """End the child; a later call of `map` starts another."""
        child, self._child = self._child, None
        if child is None or self._pid != os.getpid():
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                cast(Any, pipe).close()

    def __enter__(self) -> Isolated[Item, Result]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def _run(self, chunk: list[bytes]) -> Iterator[Result | Failure]:
        done, retried = 0, -1
        while done < len(chunk):
            for answer in self._answers(chunk[done:] if retried != done else chunk[done : done + 1]):
                if isinstance(answer, Failure) and answer.kind in ("crash", "memory") and retried != done:
                    # Perhaps the fault of what the child did before. What is kept must not depend on the documents
                    # that came before this one, so it is tried once more in a fresh child.
                    retried = done
                    break
                done += 1
                yield answer

    def _answers(self, part: list[bytes]) -> Iterator[Any]:
        """What the child says to each of `part`; ends early when it died, whose reason is the last answer."""
        finished = False
        try:
            with contextlib.suppress(BrokenPipeError):  # the child is gone: the answer that is missing will tell
                self._send(part)
            for _ in part:
                answer = self._answer()
                if isinstance(answer, Failure) and answer.kind != "error":
                    self.close()
                    yield answer
                    return
                yield answer
            finished = True
        finally:
            if not finished:  # the caller stopped listening: what is still in the pipe answers nobody
                self.close()

    def _send(self, part: list[bytes]) -> None:
        child = self._started()
        pipe = cast(Any, child.stdin)
        pipe.write(_LENGTH.pack(len(part)))
        for item in part:
            _write(pipe, item)
        pipe.flush()

    def _answer(self) -> Any:
        child = self._child
        frame = _read(cast(Any, child.stdout)) if child is not None else None
        if frame is not None:
            kind, value = pickle.loads(frame)
            if kind == "memory":
                return Failure("memory", self.memory_bytes)
            return value if kind == "result" else Failure("error", detail=value)
        status = child.wait() if child is not None else 0
        if status < 0 and signal.Signals(-status).name in _ENDED_BY:
            return Failure("time", self.timeout_s)
        return Failure("crash")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._pid != os.getpid():  # after a fork the child belongs to the other process
            self._child, self._pid = None, os.getpid()
        if self._child is not None and self._child.poll() is None:
            return self._child
        self.close()
        # The same modules must be found as here, wherever they came from.
        code = f"import sys; sys.path[:] = {sys.path!r}; from lmcraft.corpus.isolation import serve; serve()"
        self._child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1 << 16
        )
        pipe = cast(Any, self._child.stdin)
        _write(pipe, pickle.dumps((self._function, self.timeout_s, self.memory_bytes, self.imports)))
        pipe.flush()
        ready = _read(cast(Any, self._child.stdout))
        if ready is None:
            raise RuntimeError(f"the process that isolates {pickle.loads(self._function)} did not start")
        return self._child


_LOCAL = threading.local()


def isolated(
    function: Callable[[Item], Result],
    timeout_s: float,
    memory_bytes: int | None = None,
    imports: tuple[str, ...] = (),
) -> Isolated[Item, Result]:
    """This thread's isolated `function`; its child lives on between calls."""
    kept: dict[Any, Isolated[Any, Any]] = _LOCAL.__dict__.setdefault("kept", {})
    key = (os.getpid(), pickle.dumps(function), timeout_s, memory_bytes)
    if key not in kept:
        kept[key] = Isolated(function, timeout_s, memory_bytes, imports)
    return kept[key]


def _chunks(items: Iterable[Any]) -> Iterator[list[bytes]]:
    """Items as bytes, in lists of bounded size."""
    chunk: list[bytes] = []
    size = 0
    for item in items:
        chunk.append(pickle.dumps(item, protocol=5))
        size += len(chunk[-1])
        if size >= _CHUNK_BYTES or len(chunk) >= _CHUNK_ITEMS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _write(pipe: Any, frame: bytes) -> None:
    pipe.write(_LENGTH.pack(len(frame)))
    pipe.write(frame)


def _read(pipe: Any) -> bytes | None:
    """A frame, or None when the other side is gone."""
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(header)
    frame = pipe.read(length)
    return frame if len(frame) == length else None


# The child.

_ENDED_BY = ("SIGPROF", "SIGALRM")
"""The signals of the two timers."""


def serve() -> None:
    """Answer documents on standard input until it ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)  # what a library prints must not land among the answers
    requests = sys.stdin.buffer
    setup = _read(requests)
    if setup is None:
        return
    pickled, timeout_s, memory_bytes, imports = pickle.loads(setup)
    function = pickle.loads(pickled)
    for module in imports:
        importlib.import_module(module)
    logging.disable(logging.CRITICAL)  # a library's complaints about a page; a page that fails is reported
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    for name in _ENDED_BY:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if memory_bytes is not None:
        _limit_memory(memory_bytes)
    _write(answers, b"ready")
    answers.flush()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    with contextlib.suppress(BrokenPipeError):
        while header := requests.read(_LENGTH.size):
            # The whole chunk first: while the parent writes it does not read, and two full pipes would stand still.
            items = [_read(requests) for _ in range(_LENGTH.unpack(header)[0])]
            for index, item in enumerate(items):
                if item is None:
                    return
                items[index] = None
                _write(answers, _call(function, item, timeout_s))
                answers.flush()


def _call(function: Callable[[Any], Any], item: bytes, timeout_s: float) -> bytes:
    _set_timers(timeout_s)
    try:
        return pickle.dumps(("result", function(pickle.loads(item))), protocol=5)
    except MemoryError:
        return pickle.dumps(("memory", ""))
    except Exception as error:
        return pickle.dumps(("error", f"{type(error).__name__}: {error}"[:300]))
    finally:
        _set_timers(0)


def _set_timers(timeout_s: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, timeout_s)
        signal.setitimer(signal.ITIMER_REAL, CLOCK_FACTOR * timeout_s)


def _limit_memory(memory_bytes: int) -> None:
    # Without such a limit (not Linux) the deadline is what is left.
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (held + memory_bytes, held + memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
