"""The spike guard: steps that stand out are left out, and a run that does not recover stops."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

WINDOW = 128
"""Steps that a new one is held against, the last of those that were taken."""

FEWEST = 32
"""Before so many, nothing stands out."""

PATIENCE = 8
"""So many steps left out in a row, or a tenth of all if that is less, and the run stops; at once if they are the first
of all."""


LEAST_NORM = 2.0
"""A gradient norm stands out only at so many times the mean, too. In quiet runs norms vary by a few hundredths but for
single steps at 1.4 times the mean, six deviations and more above it, which did no harm (docs/log.md)."""


@dataclass
class SpikeGuard:
    """Leaves out a step whose loss or gradient norm lies `limit` standard deviations above the mean of the last
    `WINDOW` (as OLMo-core's skip-step optimizer does; a norm only if it is `LEAST_NORM` times the mean, too), or is not
    finite.
    Its memory is part of every checkpoint, so that a resumed run decides as the first one did.
    """

    limit: float | None
    steps: int
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    left_out: int = 0  # in a row
    total: int = 0

    def stands_out(self, loss: float, norm: float) -> str | None:
        """Why a step is to be left out, None when it is to be taken."""
        reason = None
        for name, value, seen, least in (
            ("loss", loss, self.losses, 1.0),
            ("gradient norm", norm, self.norms, LEAST_NORM),
        ):
            if not math.isfinite(value):
                reason = f"the {name} is {value}"
                break
            if self.limit is None or len(seen) < FEWEST:
                continue
            mean, deviation = statistics.fmean(seen), statistics.stdev(seen)
            if value > max(mean + self.limit * deviation, least * mean):
                reason = f"the {name} is {value:.3g}, where the last {len(seen)} were {mean:.3g} ± {deviation:.2g}"
                break
        if reason is None:
            self.left_out = 0
            self.losses, self.norms = [*self.losses, loss][-WINDOW:], [*self.norms, norm][-WINDOW:]
        else:
            self.left_out += 1
            self.total += 1
        return reason

    @property
    def hopeless(self) -> bool:
        # Before a first step was taken nothing can get better by going on: the weights are still those it began with.
        return not self.losses or self.left_out >= min(PATIENCE, max(1, self.steps // 10))

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses, "norms": self.norms, "left_out": self.left_out, "total": self.total}

    def restore(self, state: dict[str, Any]) -> None:
        self.losses, self.norms = state["losses"], state["norms"]
        self.left_out, self.total = state["left_out"], state["total"]
