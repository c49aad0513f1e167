"""Engines run module-level functions over lists of tasks, on this machine's processes or on a Ray cluster.

The port is one call, `Engine.map`. Everything else that curation needs of an engine (maps over shards, bucketed
reduces, broadcasts) is built on it in `engine/corpus.py`, with files in a folder that all workers see. Tasks must be
idempotent: one whose worker dies is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from lmcraft.corpus.engine.advance import advance
from lmcraft.recipe.stage import Runtime

__all__ = ["Engine", "advance", "open_engine"]


class Engine(Protocol):
    """Where tasks run. A context manager: leaving it ends the workers."""

    workers: int

    def map(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Any, ...]],
        advanced: Callable[[float], None] = lambda amount: None,
    ) -> Iterator[Any]:
        """`function(*task)` for each task; results in the order of the tasks.

        `function` is found by its name on the worker; tasks and results are small and can be pickled. `advanced`
        hears what tasks say with `advance`. What a task raises is raised here; a task whose worker died is run again.
        """
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc: object) -> None: ...


def open_engine(runtime: Runtime, tasks: int) -> Engine:
    """The engine that `runtime.engine` names, for about so many tasks. Raises UserError when it cannot be had."""
    if runtime.engine == "ray":
        from lmcraft.corpus.engine.ray import RayEngine

        return RayEngine()
    from lmcraft.corpus.engine.local import Inline, Processes

    workers = min(runtime.workers, tasks)
    return Processes(workers) if workers > 1 else Inline()
