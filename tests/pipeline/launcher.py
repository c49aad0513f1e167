"""`lmcraft run` in a process of its own that counts its file operations and can be told to die before one of them.

Usage: launcher.py ORDERS ARGUMENT... with ORDERS a JSON object:
  counts     write here, at the end, how many file operations on the store each step made
  target     the step in the making (16 digits of its key) to act in
  operation  SIGKILL the process group before the n-th of them in that step, or before the next step begins
  publish    ... or before that step is published, whichever comes first
  full       a list of [step in the making, bytes]: one run after the other in the same process, and in each no file
             of that step can grow beyond so many bytes, as on a full disk; then one run without. Prints a JSON line
             a run: its exit code and what it said on standard error.
  serve      read orders from standard input, a JSON line each, and do each in a process forked from this one, which has
             everything imported. Two more are known there: `seconds` (SIGKILL so long after the beginning of the step
             named `step`). Prints a JSON line each as above; the code is negative when a signal ended the process.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

import lmcraft.training.loop
from lmcraft.cli import main

CHECKPOINT_SECONDS = 0.1
"""So that a run of a few seconds has checkpoints to resume from."""

OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


class Watch:
    """Hears of every file operation before it is done."""

    def __init__(self, orders: dict[str, object]):
        self.target, self.last = orders.get("target"), orders.get("operation")
        self.stop_at_publishing = bool(orders.get("publish"))
        self.step: str | None = None
        self.counts: dict[str, dict[str, int]] = {}
        self.armed = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in OPERATIONS or not str(arguments[0]).startswith("store" + os.sep):
            return
        path = Path(str(arguments[0])).as_posix()
        if begun := re.fullmatch(r"store/work/([0-9a-f]{16})/attempts", path):
            if self.armed and begun[1] != self.target:
                self.die()
            self.step = begun[1]
            self.counts.setdefault(self.step, {"operations": 0, "published": 0})
            self.armed = self.step == self.target
        if self.step is None:
            return
        count = self.counts[self.step]
        count["operations"] += 1
        publishing = event == "os.rename" and path == f"store/work/{self.step}/out"
        if publishing:
            count["published"] = count["operations"]
        if self.armed and (count["operations"] == self.last or (publishing and self.stop_at_publishing)):
            self.die()

    def die(self) -> None:
        os.killpg(os.getpgrp(), signal.SIGKILL)


class FullDisk:
    """While a step is made, the system refuses to let a file grow beyond a limit (Python ignores SIGXFSZ)."""

    def __init__(self) -> None:
        self.target: str | None = None
        self.bytes = 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        path = Path(str(arguments[0])).as_posix() if event == "open" else ""
        if self.target is not None and path == f"store/work/{self.target}/attempts":
            self.limit(self.bytes)

    def limit(self, size: int | None) -> None:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def run_on_full_disks(limits: list[tuple[str | None, int]], arguments: list[str]) -> int:
    disk = FullDisk()
    sys.addaudithook(disk)
    for target, size in [*limits, (None, 0)]:
        disk.target, disk.bytes = target, size
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            code = main(arguments)
        disk.limit(None)
        print(json.dumps({"code": code, "said": said.getvalue()}))
    return 0


def serve(arguments: list[str]) -> int:
    for line in sys.stdin:
        orders = json.loads(line)
        receive, send = os.pipe()
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            os.dup2(send, 2)
            os.close(receive)
            sys.addaudithook(Watch(orders))
            os._exit(main(arguments))
        os.close(send)
        print(json.dumps(watch_child(child, receive, orders)), flush=True)
    return 0


def watch_child(child: int, receive: int, orders: dict[str, object]) -> dict[str, object]:
    """Hear what a child says until it ends, and kill its group when the time has come."""
    seconds = orders.get("seconds")
    timer = threading.Timer(float(str(seconds)) if seconds is not None else 0, os.killpg, [child, signal.SIGKILL])
    said = []
    with open(receive, encoding="utf-8") as errors:
        for line in errors:
            said.append(line)
            if seconds is not None and line.rstrip().endswith(f"] {orders['step']}"):
                timer.start()
    timer.cancel()
    _, status = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), "said": "".join(said)}


if __name__ == "__main__":
    orders = json.loads(sys.argv[1])
    lmcraft.training.loop.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS
    if "serve" in orders:
        import lmcraft.stages

        for stage in lmcraft.stages.STAGES.values():
            assert stage.run
        sys.exit(serve(sys.argv[2:]))
    if "full" in orders:
        sys.exit(run_on_full_disks(orders["full"], sys.argv[2:]))
    watch = Watch(orders)
    sys.addaudithook(watch)
    if "counts" in orders:
        atexit.register(lambda: Path(orders["counts"]).write_text(json.dumps(watch.counts)))
    sys.exit(main(sys.argv[2:]))
