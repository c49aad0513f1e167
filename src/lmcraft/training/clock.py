"""A run whose length is a time: how much of it is behind."""

from __future__ import annotations

import time
from typing import Any


class Clock:
    """Counts from when it is made. Schedules follow `share`, which begins with the end of the first step: its
    compilation would otherwise swallow the warm-up."""

    def __init__(self, budget_s: float):
        self.budget_s = budget_s
        self._started = time.monotonic()
        self._first: float | None = None  # seconds until the end of the first step
        self._asked: float | None = None
        self._part = 0

    def spent(self) -> float:
        return time.monotonic() - self._started

    def share(self) -> float:
        """How much of the time for steps is behind, from 0 to 1."""
        if self._first is None:
            return 0.0
        return min(1.0, (self.spent() - self._first) / max(1e-9, self.budget_s - self._first))

    def has_time(self) -> bool:
        """Whether another step as long as the last one still fits; to be asked once before each step."""
        now = self.spent()
        last = 0.0 if self._asked is None or self._first is None else now - self._asked
        if self._asked is not None and self._first is None:
            self._first = now
        self._asked = now
        return now + last <= self.budget_s

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
