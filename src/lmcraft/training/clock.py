"""A run whose length is a time: how much of it is behind."""

from __future__ import annotations

import time
from typing import Any


class Clock:
    """Counts from when it is made. Between two ticks, one before each step, it stands still, so that all that follows
    it within a step agrees, and all processes do that are given the same ticks. Schedules follow `share`, which begins
    with the end of the first step: its compilation would otherwise swallow the warm-up."""

    def __init__(self, budget_s: float):
        self.budget_s = budget_s
        self._started = time.monotonic()
        self._first: float | None = None  # seconds until the end of the first step
        self._ticked: float | None = None
        self._last: tuple[float, ...] = ()  # seconds of the last two steps, with what came after them
        self._part = 0

    def spent(self) -> float:
        """Seconds since it was made, by this process."""
        return time.monotonic() - self._started

    def tick(self, spent: float) -> bool:
        """Before each step, with the seconds that are `spent`: whether another step still fits that is as long as the
        shorter one of the last two (the other may have been followed by an evaluation)."""
        if self._ticked is not None:
            if self._first is None:
                self._first = spent
            else:
                self._last = (*self._last[-1:], spent - self._ticked)
        self._ticked = spent
        return spent + min(self._last, default=0.0) <= self.budget_s

    def share(self) -> float:
        """How much of the time for steps is behind, from 0 to 1."""
        if self._first is None or self._ticked is None:
            return 0.0
        return min(1.0, (self._ticked - self._first) / max(1e-9, self.budget_s - self._first))

    def crossed(self, parts: int) -> bool:
        """Whether another of `parts` equal parts of the time ended since the last question, and not the whole."""
        before, self._part = self._part, int(self.share() * parts)
        return before < self._part < parts

    def state(self) -> dict[str, Any]:
        return {"spent": self.spent(), "first": self._first, "part": self._part}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what a killed run had spent."""
        self._started -= state["spent"]
        self._first, self._part = state["first"], state["part"]
