"""Peak memory of two training steps, in a process of its own for each shape: prints planned and measured bytes."""

from __future__ import annotations

import json
import os
import resource
from typing import Any

import numpy as np
import psutil
import torch

from lmcraft.model import ModelConfig, Transformer
from lmcraft.training.config import TrainingConfig
from lmcraft.training.loader import Loader
from lmcraft.training.loop import Machine, _accumulate
from lmcraft.training.memory import plan_memory
from lmcraft.training.objectives import next_token
from lmcraft.training.optimizers import make_optimizers

CPU = torch.device("cpu")


class Texts:
    """Documents that nearly fill a row: the plan counts with those."""

    def __init__(self, row_tokens: int) -> None:
        self.lengths = np.full(64, row_tokens - 50, np.int64)

    def tokens_of(self, number: int) -> Any:
        return (np.arange(self.lengths[number]) + number) % 500

    def trained_on(self, number: int) -> None:
        return None


def shape(width: int, depth: int, vocabulary: int, positions: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=depth,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        head_dim=64,
        max_position_embeddings=positions,
    )


CASES = (
    # Mostly activations, mostly weights, and mostly the probabilities of attention.
    (shape(256, 4, 2048, 256), torch.float32, 8, "muon"),
    (shape(512, 3, 16384, 256), torch.bfloat16, 1, "adamw"),
    (shape(256, 4, 2048, 2048), torch.bfloat16, 2, "muon"),
)


def measure(config: ModelConfig, dtype: torch.dtype, micro_rows: int, optimizer: str) -> dict[str, int]:
    torch.set_num_threads(1)
    T = config.max_position_embeddings
    plan = plan_memory(config, dtype, CPU, rows=micro_rows, micro_rows=micro_rows, row_tokens=T, optimizer=optimizer)
    loader = Loader(Texts(T), T, micro_rows, seed=0)
    before = psutil.Process().memory_info().rss
    model = Transformer(config)
    model.initialise(0)
    optimizers = make_optimizers(model, TrainingConfig(optimizer=optimizer))  # type: ignore[arg-type]
    for step in range(2):
        _accumulate(model, loader.batch(step), next_token(), micro_rows, Machine(CPU, dtype, False, 1e-6))
        for each in optimizers:
            each.step()
            each.zero_grad(set_to_none=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"planned": plan.total, "measured": peak - before}


def main() -> None:
    for case in CASES:
        if not os.fork():
            print(json.dumps(measure(*case)), flush=True)
            os._exit(0)
        os.wait()


if __name__ == "__main__":
    main()
