"""The engine of one machine: worker processes, each fed one task at a time through a pipe.

Plain subprocesses rather than multiprocessing: a worker never imports the caller's script again, a worker that is
killed costs one task a second try, and all of them end when their parent does, even by kill -9.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lmcraft.corpus.engine.advance import heard_by
from lmcraft.corpus.engine.worker import read_message, write_message
from lmcraft.recipe.stage import UserError

ATTEMPTS = 3
"""A task is given up when that many workers died over it."""


class Inline:
    """Runs tasks in this process, one after the other."""

    workers = 1

    def map(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Any, ...]],
        advanced: Callable[[float], None] = lambda amount: None,
    ) -> Iterator[Any]:
        for task in tasks:
            with heard_by(advanced):
                result = function(*task)
            yield result

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *exc: object) -> None: ...


class Processes:
    """Runs tasks in `workers` processes of one thread each."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []
        self._lock = threading.Lock()

    def map(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Any, ...]],
        advanced: Callable[[float], None] = lambda amount: None,
    ) -> Iterator[Any]:
        todo = list(enumerate(tasks))[::-1]
        count = len(todo)
        events: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
        cancelled = threading.Event()

        def feed() -> None:
            worker: _Worker | None = None
            while True:
                with self._lock:
                    if not todo or cancelled.is_set():
                        break
                    number, task = todo.pop()
                tell = functools.partial(_put, events, number)
                try:
                    worker = self._run(worker, function, task, tell, cancelled)
                except _TaskError as error:
                    worker = error.worker
                    tell("error", error.error)
                except Exception as error:
                    worker = None
                    tell("error", error)
            if worker is not None and not cancelled.is_set():
                with self._lock:
                    self._idle.append(worker)

        threads = [threading.Thread(target=feed, daemon=True) for _ in range(min(self.workers, count))]
        for thread in threads:
            thread.start()
        results: dict[int, Any] = {}
        try:
            for number in range(count):
                while number not in results:
                    kind, at, value = events.get()
                    if kind == "advance":
                        advanced(value)
                    elif kind == "error":
                        raise value
                    else:
                        results[at] = value
                yield results.pop(number)
        except BaseException:
            cancelled.set()
            self._stop()  # what the others do is of no use any more
            raise
        finally:
            for thread in threads:
                thread.join()

    def _run(
        self,
        worker: _Worker | None,
        function: Callable[..., Any],
        task: tuple[Any, ...],
        tell: Callable[[str, Any], None],
        cancelled: threading.Event,
    ) -> _Worker:
        """Have the task done, by new workers as long as they die; the worker that is left."""
        code = 0
        for _ in range(ATTEMPTS):
            worker = worker or self._take()
            said = 0.0
            try:
                write_message(worker.stdin, (function, task))
                while True:
                    kind, value = read_message(worker.stdout)
                    if kind == "error":
                        raise _TaskError(value, worker)
                    tell(kind, value)
                    if kind == "result":
                        return worker
                    said += value
            except (EOFError, BrokenPipeError):
                worker.stop()
                if cancelled.is_set():
                    raise
                tell("advance", -said)
                code, worker = worker.process.returncode, None
        raise UserError(
            f"{ATTEMPTS} workers died over the same piece of work (the last with exit status {code}; -9: killed, often "
            "for want of memory); free memory or set runtime.workers to fewer, and give the same command again"
        )

    def _take(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            worker = _Worker()
            self._all.append(worker)
            return worker

    def _stop(self) -> None:
        with self._lock:
            workers, self._all, self._idle = self._all, [], []
        for worker in workers:
            worker.stop()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()


def _put(events: queue.SimpleQueue[tuple[str, int, Any]], number: int, kind: str, value: Any) -> None:
    events.put((kind, number, value))


class _TaskError(Exception):
    """What a task raised, and the worker, which is still good."""

    def __init__(self, error: Exception, worker: _Worker) -> None:
        self.error, self.worker = error, worker


class _Worker:
    def __init__(self) -> None:
        one = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # The same modules as here, wherever they were found.
        path = os.pathsep.join(item for item in sys.path if item)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lmcraft.corpus.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | one | {"PYTHONPATH": path},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.stdin, self.stdout):
            with contextlib.suppress(OSError, ValueError):  # another thread may be at it
                stream.close()
