"""How a task says that it has moved on, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_sink: Callable[[float], None] = lambda amount: None  # noqa: E731


def advance(amount: float) -> None:
    """Called by a task: so much more is done (documents, mostly)."""
    _sink(amount)


@contextmanager
def heard_by(sink: Callable[[float], None]) -> Iterator[None]:
    """Called by an engine: what is said inside goes to `sink`."""
    global _sink  # noqa: PLW0603
    before, _sink = _sink, sink
    try:
        yield
    finally:
        _sink = before
