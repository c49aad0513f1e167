"""The engine of a cluster: Ray tasks. The store and its scratch folders must be on a file system that all nodes see."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lmcraft.corpus.engine.advance import heard_by
from lmcraft.corpus.engine.local import ATTEMPTS
from lmcraft.recipe.stage import UserError


class RayEngine:
    """Connects to the cluster that `RAY_ADDRESS` names, or starts one on this machine."""

    def __init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "runtime.engine: ray needs the package ray; install it with `pip install lmcraft[ray]`"
            ) from error
        self.ray = ray
        self.ours = not ray.is_initialized()
        if self.ours:
            address = os.environ.get("RAY_ADDRESS", "")
            try:
                _reach(address)
                # Told nothing, Ray would look for the machine's last cluster, and wait for it when it was killed.
                ray.init(address or "local", log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError) as error:
                what = f"the Ray cluster at RAY_ADDRESS={address} cannot be joined" if address else "Ray cannot start"
                raise UserError(
                    f"{what} ({(str(error).splitlines() or [''])[0]}); see that it runs and that RAY_AUTH_MODE and "
                    "RAY_AUTH_TOKEN are those that it was started with"
                ) from error
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        # A worker that dies is Ray's to replace; an error of the task itself is ours to show.
        self.call = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1, retry_exceptions=False)(_call)

    def map(
        self,
        function: Callable[..., Any],
        tasks: Iterable[tuple[Any, ...]],
        advanced: Callable[[float], None] = lambda amount: None,
    ) -> Iterator[Any]:
        running: deque[Any] = deque()
        for task in tasks:
            running.append(self.call.remote(function, task))
            if len(running) >= 4 * self.workers:
                yield self._result(running.popleft(), advanced)
        while running:
            yield self._result(running.popleft(), advanced)

    def _result(self, reference: Any, advanced: Callable[[float], None]) -> Any:
        lost = self.ray.exceptions
        try:
            amount, result = self.ray.get(reference)
        except (lost.WorkerCrashedError, lost.OutOfMemoryError, lost.NodeDiedError, lost.ObjectLostError) as error:
            raise UserError(
                f"{ATTEMPTS} Ray workers died over the same piece of work (killed, often for want of memory); give the "
                "nodes more memory and give the same command again"
            ) from error
        except lost.RayTaskError as error:
            raise error.cause from error
        advanced(amount)
        return result

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.ours:
            self.ray.shutdown()


def _reach(address: str) -> None:
    """Raise OSError when nothing answers at `host:port`: Ray itself would wait for longer than anyone does."""
    if match := re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address):
        socket.create_connection((match[1], int(match[2])), timeout=30).close()


def _call(function: Callable[..., Any], task: tuple[Any, ...]) -> tuple[float, Any]:
    amounts: list[float] = []
    with heard_by(amounts.append):
        result = function(*task)
    return sum(amounts), result
