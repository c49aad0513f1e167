"""Trains a small network in forked processes and kills them at random moments: `killed_training.py FOLDER KILLS`.

Everything is imported before the first fork, and no thread runs then. Prints where each killed process began.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from lmcraft.model import ModelConfig, Transformer
from lmcraft.recipe.stage import Progress, Runtime
from lmcraft.training import loop
from lmcraft.training.config import TrainingConfig
from lmcraft.training.loader import Loader
from lmcraft.training.loop import Machine, train
from lmcraft.training.monitors import Monitors
from lmcraft.training.ngram_labels import NgramLabels
from lmcraft.training.objectives import next_token

STEPS = 300
ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT
"""Look whether a child has ended, and leave it to be waited for."""

SHAPE = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=32,
)


class Texts:
    lengths = np.random.default_rng(0).integers(4, 30, 80).astype(np.int64)

    def tokens_of(self, number: int) -> Any:
        return (np.arange(self.lengths[number]) + number * 7) % 61

    def ngram_labels(self) -> NgramLabels:
        return NgramLabels(np.concatenate([self.tokens_of(n) for n in range(80)]).astype(np.uint16), 61, 0.6, seed=0)

    def trained_on(self, number: int) -> None:
        return None


class Said(Progress):
    def __init__(self, file: Path) -> None:
        self.file = file

    def note(self, text: str) -> None:
        if "resuming" not in text:
            return
        temporary = self.file.with_suffix(".tmp")  # a kill may come in the middle of it
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.file)


def run(folder: Path) -> None:
    torch.set_num_threads(1)
    loop.CHECKPOINT_SECONDS = 0.03
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    model = Transformer(SHAPE)
    model.initialise(0)
    heldout = Loader(Texts(), 32, 4, seed=9).batch(0)
    train(
        model,
        Loader(Texts(), 32, 4, seed=0, ngram_labels=Texts().ngram_labels()),
        next_token(),
        TrainingConfig(evaluations=5),
        steps=STEPS,
        micro_rows=4,
        machine=Machine(torch.device("cpu"), torch.float32, False, 1e-6),
        evaluate=lambda nats_of: nats_of(heldout)[0],
        out=folder,
        runtime=Runtime(workers=1, scratch=scratch, progress=Said(folder / "said.txt")),
        monitors=Monitors(heldout),
    )
    save_file({name: value.detach().clone() for name, value in model.named_parameters()}, folder / "end.safetensors")


def newest(folder: Path) -> int:
    """Step of the newest checkpoint, 0 when there is none."""
    return max((int(path.name[5:]) for path in (folder / "scratch" / "checkpoints").glob("step-*")), default=0)


def forked(folder: Path, seconds: float | None = None, after_a_checkpoint: bool = False) -> bool:
    """Whether the run came to its end. It is killed `seconds` after its start, or after its first checkpoint: on a busy
    machine a process may take longer to begin than the whole run did."""
    before = newest(folder)
    child = os.fork()
    if not child:
        run(folder)
        os._exit(0)
    if seconds is not None:
        while after_a_checkpoint and newest(folder) == before and not os.waitid(os.P_PID, child, ENDED):
            time.sleep(0.001)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    started = time.monotonic()
    assert forked(folder / "whole")
    whole = time.monotonic() - started
    draw = random.Random(0)
    said = folder / "killed" / "said.txt"
    begun: list[int] = []
    for _ in range(5):
        while len(begun) < kills and not forked(
            folder / "killed", draw.uniform(0, 0.5 * whole / kills), after_a_checkpoint=len(begun) % 2 == 0
        ):
            begun.append(int(said.read_text(encoding="utf-8").split()[3]) if said.exists() else 0)
        if len(begun) == kills:
            break
        shutil.rmtree(folder / "killed")  # it ended before all kills, sooner than the first one did
        (folder / "killed").mkdir()
        begun = []
    assert forked(folder / "killed")
    print(json.dumps({"begun": begun, "seconds": whole}))


if __name__ == "__main__":
    main()
