"""Requests from many clients -> one batch that a single thread advances: rows join and leave at every step."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from lmcraft.inference import Engine, Sampling
from lmcraft.inference.batch import Batch, Row


@dataclass(frozen=True)
class Event:
    """New text of a ticket. `row` is there at the end, or `error` when the computation broke."""

    text: str
    row: Row | None = None
    error: BaseException | None = None

    @property
    def last(self) -> bool:
        return self.row is not None or self.error is not None


class Ticket:
    """One generation asked for. `cancel` may be called from any thread, at any time, more than once."""

    def __init__(self, row: Row, deliver: Callable[[Event], None]):
        self.row, self.deliver = row, deliver
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Full(Exception):
    """More requests wait than the queue holds."""


class Scheduler:
    """Computes at most `slots` generations together; up to `waiting` more stand in line, first come first served."""

    def __init__(self, engine: Engine, slots: int = 8, waiting: int = 256):
        self.engine = engine
        self._slots = min(slots, engine.slots(engine.context))
        self._batch: Batch | None = None
        self._inbox: queue.Queue[Ticket | None] = queue.Queue(maxsize=waiting)
        self._running: dict[int, Ticket] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="lmcraft-scheduler", daemon=True)
        self._thread.start()

    def submit(self, prompt: list[int], sampling: Sampling, deliver: Callable[[Event], None]) -> Ticket:
        """`deliver` is called from the scheduler's thread. Raises UserError (a prompt that does not fit) and Full."""
        ticket = Ticket(self.engine.row(prompt, sampling), deliver)
        try:
            self._inbox.put_nowait(ticket)
        except queue.Full:
            raise Full from None
        return ticket

    @property
    def running(self) -> int:
        """Generations being computed now."""
        return len(self._running)

    def close(self) -> None:
        """Stops after the current step; unfinished tickets hear nothing more."""
        self._closing = True
        with contextlib.suppress(queue.Full):  # then the thread is not asleep
            self._inbox.put_nowait(None)
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._closing:
            try:
                self._step(self._joining())
            except Exception as error:  # those who wait must hear of it, and the thread must live
                for ticket in self._running.values():
                    self._deliver(ticket, Event("", error=error))
                self._running.clear()
                self._batch = None

    def _joining(self) -> list[Row]:
        """Rows to start now. With nothing to compute, sleeps until there is one (or the end)."""
        for ticket in [each for each in self._running.values() if each.cancelled]:
            if self._batch is not None:
                self._batch.drop(ticket.row)
            del self._running[id(ticket.row)]
        joining: list[Row] = []
        while len(self._running) < self._slots:
            try:
                arrived = self._inbox.get(block=not self._running)
            except queue.Empty:
                break
            if arrived is None:
                break
            if not arrived.cancelled:
                self._running[id(arrived.row)] = arrived
                joining.append(arrived.row)
        return joining

    def _step(self, joining: list[Row]) -> None:
        if self._batch is None:
            self._batch = self.engine.batch(self._slots)
        if joining:
            self._tell(self._batch.admit(joining))
        self._tell(self._batch.step())

    def _tell(self, deltas: list[tuple[Row, str]]) -> None:
        for row, text in deltas:
            ticket = self._running.pop(id(row)) if row.finish else self._running[id(row)]
            if text or row.finish:
                self._deliver(ticket, Event(text, row if row.finish else None))

    def _deliver(self, ticket: Ticket, event: Event) -> None:
        try:
            ticket.deliver(event)
        except RuntimeError:  # the client's event loop has ended
            ticket.cancel()
