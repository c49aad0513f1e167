"""Models small enough to train one for every mixture: byte n-grams in seconds, a transformer in minutes.

Both are trained on the same drawn text and give nats on held-out text by group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from lmcraft.corpus.words import splitmix
from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.tokens import Tokenizer
from lmcraft.training.config import PretrainConfig, choose_micro_rows, default_batch_tokens, derive_shape

MeasureProxy = Callable[[Sequence[str], int, Path], list[float]]
"""(texts to train on, seed, folder for its checkpoints) -> bits per byte of each held-out set."""


def ngram_proxy(order: int, heldout: Sequence[Sequence[str]]) -> MeasureProxy:
    """A byte model with Witten-Bell interpolation (Witten and Bell 1991); the seed does not matter to it."""
    packed = [_pack(texts) for texts in heldout]

    def measure(texts: Sequence[str], seed: int, folder: Path) -> list[float]:
        data, starts = _pack(texts)
        size = 1 << 20
        while True:
            keys = np.zeros(size, np.uint64)
            counts, totals, kinds = (np.zeros(size, np.int32) for _ in range(3))
            if _learn(data, starts, order, keys, counts, totals, kinds):
                break
            size *= 2
        return [_nats(*one, order, keys, counts, totals, kinds) / (math.log(2) * len(one[0])) for one in packed]

    return measure


def transformer_proxy(
    config: PretrainConfig, tokenizer: Tokenizer, heldout: Sequence[Sequence[str]], runtime: Runtime
) -> MeasureProxy:
    """A network as `pretrain` makes it, trained for one pass over the drawn text."""
    import torch

    from lmcraft.inference.devices import resolve_device
    from lmcraft.model import Transformer
    from lmcraft.training.loader import Loader, pack, split_sequences
    from lmcraft.training.loop import resolve_machine, train
    from lmcraft.training.objectives import next_token

    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    shape = derive_shape(config, tokenizer.vocab_size, special)
    row = config.context
    measured = [_Encoded(tokenizer, texts, boundary=False) for texts in heldout]
    sizes = [sum(len(text.encode()) for text in texts) for texts in heldout]

    def measure(texts: Sequence[str], seed: int, folder: Path) -> list[float]:
        material = _Encoded(tokenizer, texts, boundary=True)
        tokens = int(material.lengths.sum())
        rows = max(1, (config.batch_tokens or default_batch_tokens(tokens, row)) // row)
        loader = Loader(material, row, rows, seed)
        steps = len(loader.epoch(0)) // rows
        if not steps:
            raise UserError(
                "a proxy's text does not fill one step of training: raise proxy_bytes or lower batch_tokens"
            )
        model = Transformer(shape)
        model.initialise(seed)
        micro_rows = choose_micro_rows(config, rows, row, resolve_device(runtime.device))
        machine = resolve_machine(model, config, runtime, steps * rows * row, micro_rows * row)
        folder.mkdir(parents=True, exist_ok=True)
        train(
            model,
            loader,
            next_token(config.z_loss),
            config,
            steps=steps,
            micro_rows=micro_rows,
            machine=machine,
            evaluate=None,
            out=folder,
            runtime=replace(runtime, scratch=folder, tensorboard=None),
        )
        bits = []
        for one, size in zip(measured, sizes, strict=True):
            pieces = split_sequences(one.lengths, row)
            packed = pack(pieces, row, np.arange(len(pieces)))
            collate = Loader(one, row, 1, 0).collate
            nats = 0.0
            with torch.no_grad():
                for first in range(0, len(packed), 8):
                    batch = collate(packed[row] for row in range(first, min(first + 8, len(packed))))
                    loss, _ = next_token()(model, batch.to(machine.device), torch.float32)
                    nats += float(loss)
            bits.append(nats / (math.log(2) * size))
        return bits

    return measure


@dataclass
class _Encoded:
    """Texts as sequences for the loader; without `boundary` the end of the text is not predicted."""

    lengths: NDArray[np.int64]
    ids: list[NDArray[Any]]

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], *, boundary: bool) -> None:
        end = [tokenizer.eos_id] if boundary else []
        encoded = tokenizer.encode_batch(list(texts))
        self.ids = [np.array([tokenizer.bos_id, *ids, *end], np.int64) for ids in encoded]
        self.lengths = np.array([len(ids) for ids in self.ids], np.int64)

    def tokens_of(self, number: int) -> NDArray[Any]:
        return self.ids[number]

    def trained_on(self, number: int) -> None:
        return None


def _pack(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    raw = [text.encode() for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in raw])]).astype(np.int64)
    return np.frombuffer(b"".join(raw), np.uint8), starts


@numba.njit(cache=True, nogil=True)
def _place(key: np.uint64, keys: np.ndarray) -> int:
    """Where the key is, or the free place where it would be."""
    last = np.uint64(len(keys) - 1)
    place = splitmix(key) & last
    while keys[place] != 0 and keys[place] != key:
        place = (place + np.uint64(1)) & last
    return int(place)


@numba.njit(inline="always")
def _key(length: int, history: np.uint64) -> np.uint64:
    """The last `length` bytes of the history (at most 7), told apart from shorter ones; never 0."""
    mask = (np.uint64(1) << np.uint64(8 * length)) - np.uint64(1)
    return (np.uint64(length + 1) << np.uint64(56)) | (history & mask)


@numba.njit(cache=True, nogil=True)
def _learn(
    data: np.ndarray,
    starts: np.ndarray,
    order: int,
    keys: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
    kinds: np.ndarray,
) -> bool:
    """Count n-grams and, for each context, how often it was followed and by how many bytes. False: too little room."""
    used = 0
    for document in range(len(starts) - 1):
        history = np.uint64(0)
        for place in range(starts[document], starts[document + 1]):
            before = history
            history = (history << np.uint64(8)) | np.uint64(data[place])
            for length in range(1, min(order, place - starts[document] + 1) + 1):
                gram = _key(length, history)
                at = _place(gram, keys)
                if keys[at] == 0:
                    keys[at] = gram
                    used += 1
                context = _key(length - 1, before)
                where = _place(context, keys)
                if keys[where] == 0:
                    keys[where] = context
                    used += 1
                if counts[at] == 0:
                    kinds[where] += 1
                counts[at] += 1
                totals[where] += 1
        if 2 * used > len(keys):
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _nats(
    data: np.ndarray,
    starts: np.ndarray,
    order: int,
    keys: np.ndarray,
    counts: np.ndarray,
    totals: np.ndarray,
    kinds: np.ndarray,
) -> float:
    nats = 0.0
    for document in range(len(starts) - 1):
        history = np.uint64(0)
        for place in range(starts[document], starts[document + 1]):
            before = history
            history = (history << np.uint64(8)) | np.uint64(data[place])
            p = 1 / 256
            for length in range(1, min(order, place - starts[document] + 1) + 1):
                where = _place(_key(length - 1, before), keys)
                if totals[where] == 0:
                    break
                seen = counts[_place(_key(length, history), keys)]
                p = (seen + kinds[where] * p) / (totals[where] + kinds[where])
            nats -= math.log(p)
    return nats
