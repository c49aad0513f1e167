"""The processes that `torchrun` starts: how they meet, agree, and notice that one is missing.

What they say to each other is JSON over torch's key-value store (PyTorch pickles the objects of its collectives); only
tensors travel through the process group.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from lmcraft.inference.devices import resolve_device
from lmcraft.recipe.schema import ParallelConfig
from lmcraft.recipe.stage import UserError
from lmcraft.training.checkpoint import differences

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
AFTER = "give the same command again: training goes on from the last checkpoint (torchrun --max-restarts does it alone)"


class Ranks:
    """All processes of the run; `rank` is this one's number, the first has 0.

    Raises UserError when the degrees of `settings` do not divide their number, when this machine has fewer GPUs than
    processes, and when not all of them come within `settings.timeout` seconds.
    """

    def __init__(self, settings: ParallelConfig, device: str) -> None:
        if missing := [name for name in VARIABLES if name not in os.environ]:
            raise UserError(f"several processes, but {missing[0]} is not set: start them with torchrun")
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self.settings, self.timeout = settings, timedelta(seconds=settings.timeout)
        self.shard = _shard_degree(settings, self.size)
        self.device = _own_device(device, self.local_rank, self.local_size)
        with self.watched():
            store, rank, size = next(iter(dist.rendezvous("env://", timeout=self.timeout)))
            if self.local_size == self.size:
                # torchrun on one machine keeps its store when it starts the processes again, and with it what the dead
                # ones said. On many (--rdzv-backend=c10d) it makes a new one; there the count may differ.
                store = dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
            store.set_timeout(self.timeout)
            self._store = dist.PrefixStore("lmcraft", store)
            self._said = self._called = 0
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=self.timeout)

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def data(self) -> int:
        return self.settings.replicate * self.shard

    @property
    def shards(self) -> int:
        return self.size // self.settings.replicate

    @property
    def shares_layers(self) -> bool:
        return self.settings.context * self.settings.tensor > 1

    def leave(self) -> None:
        """At the end; on the first rank it ends what the others wait for."""
        if self.first:
            self.call({})
            with self.watched():
                for rank in range(1, self.size):
                    self._hear(f"left/{rank}", rank)
        else:
            self._store.set(f"left/{self.rank}", "")
        dist.destroy_process_group()

    def call(self, order: Mapping[str, Any]) -> None:
        self._store.set(f"call/{self._called}", json.dumps(order))
        self._called += 1

    def calls(self) -> Iterator[dict[str, Any]]:
        while True:
            key = f"call/{self._called}"
            with self.watched():
                while True:  # the first rank may be at other work for hours
                    with contextlib.suppress(dist.DistStoreError):
                        self._store.wait([key], timedelta(seconds=60))
                        break
                order = json.loads(self._store.get(key))
            self._called += 1
            if not order:
                return
            yield order

    def agree(self, what: str, value: Mapping[str, Any]) -> None:
        turn = self._turn()
        self._store.set(f"{turn}/{self.rank}", json.dumps(value))
        with self.watched():
            if self.first:
                self._store.set(f"{turn}/verdict", self._verdict(turn, what, value))
            verdict = self._hear(f"{turn}/verdict", 0)
        if verdict:
            raise UserError(verdict)

    def _verdict(self, turn: str, what: str, value: Mapping[str, Any]) -> str:
        own = json.loads(json.dumps(value))
        for rank in range(1, self.size):
            theirs = json.loads(self._hear(f"{turn}/{rank}", rank))
            if found := differences(own, theirs):
                shown = "; ".join(f"{name} is {here} on rank 0, {there} there" for name, here, there in found[:3])
                return f"rank {rank} has another {what}: {shown}; start all ranks with the same command and files"
        return ""

    def share(self, value: Any = None) -> Any:
        """The first rank's value (JSON), on all."""
        turn = self._turn()
        with self.watched():
            if self.first:
                self._store.set(turn, json.dumps(value))
            return json.loads(self._hear(turn, 0))

    def gather(self, value: Any) -> list[Any]:
        """The values (JSON) of all ranks, on all."""
        turn = self._turn()
        self._store.set(f"{turn}/{self.rank}", json.dumps(value))
        with self.watched():
            return [json.loads(self._hear(f"{turn}/{rank}", rank)) for rank in range(self.size)]

    def sum(self, *numbers: float) -> list[float]:
        """Each number's sum over all ranks, in float64."""
        sums = torch.tensor(numbers, dtype=torch.float64)
        with self.watched():
            dist.all_reduce(sums)
        return cast(list[float], sums.tolist())

    def _turn(self) -> str:
        self._said += 1
        return f"said/{self._said}"

    def _hear(self, key: str, rank: int) -> str:
        try:
            return self._store.get(key).decode()
        except dist.DistStoreError:
            raise UserError(f"rank {rank} did not come within {self.settings.timeout:g} s; {AFTER}") from None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Makes a sentence of what PyTorch throws when another process is gone or silent."""
        try:
            yield
        except RuntimeError as error:
            said = str(error)
            if isinstance(error, dist.DistError) or any(
                word in said for word in ("gloo", "NCCL", "Connection", "Broken")
            ):
                late = "timed out" in said.lower() or "timeout" in said.lower()
                what = f"did not answer within {self.settings.timeout:g} s" if late else "ended or cannot be reached"
                raise UserError(f"rank {self.rank}: another process {what}; {AFTER}") from error
            raise


def _shard_degree(settings: ParallelConfig, size: int) -> int:
    others = settings.replicate * settings.context * settings.tensor
    if size % others:
        raise UserError(
            f"runtime.parallel: replicate {settings.replicate} x context {settings.context} x tensor {settings.tensor} "
            f"= {others} does not divide the {size} processes; start a multiple of {others}, or lower one of them"
        )
    return size // others


def _own_device(name: str, local_rank: int, local_size: int) -> torch.device:
    device = resolve_device(name)
    if device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise UserError(f"runtime.device {name!r} is one device, but {local_size} processes run here: say cuda or cpu")
    if local_size > torch.cuda.device_count():
        raise UserError(
            f"{local_size} processes run on this machine, which has {torch.cuda.device_count()} GPUs: lower torchrun's "
            "--nproc-per-node, or set runtime.device: cpu"
        )
    torch.cuda.set_device(local_rank)  # what "cuda" means from here on
    return torch.device("cuda", local_rank)
