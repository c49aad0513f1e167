"""A run whose length is a time: how much of it is behind."""

from __future__ import annotations

import time


class Clock:
    """Counts from when it is made, on top of the `spent` seconds of the runs that were killed before."""

    def __init__(self, budget_s: float, spent: float = 0.0):
        self.budget_s = budget_s
        self.started = time.monotonic() - spent
        self._marked = time.monotonic()
        self._part = 0

    def spent(self) -> float:
        return time.monotonic() - self.started

    def resume(self, spent: float) -> None:
        """Add what a killed run had spent."""
        self.started -= spent

    def share(self) -> float:
        """How much of the time is behind, at most 1."""
        return min(1.0, self.spent() / self.budget_s)

    def has_time(self) -> bool:
        """Whether another step as long as the last one still fits; ask once a step."""
        now = time.monotonic()
        last, self._marked = now - self._marked, now
        return now - self.started + last <= self.budget_s

    def crossed(self, parts: int) -> bool:
        """Whether another of `parts` equal parts of the time ended since the last question, and not the whole."""
        before, self._part = self._part, int(self.share() * parts)
        return before < self._part < parts
