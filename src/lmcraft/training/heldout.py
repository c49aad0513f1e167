"""Held-out text during training: bits per byte of a causal LM, nats per masked token of a masked one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lmcraft.tokens import TokenShards
from lmcraft.training.loader import Loader, pack
from lmcraft.training.masking import Masking
from lmcraft.training.objectives import Batch

NatsOf = Callable[[Batch], tuple[float, int]]
"""From a batch to (nats, predicted tokens)."""

MOST_SOURCES = 16
"""Sources that are told apart, those of the most documents first; the rest are one."""

REST = "(other)"

MONITORED_TOKENS = 2048
"""Size of the batch that the monitors look at: 2048 activations of each unit, for a fraction of an evaluation."""


class Evaluate(Protocol):
    """Given a function from a batch to (nats, predicted tokens), gives the figure; then that of each source."""

    def __call__(self, nats_of: NatsOf) -> float: ...

    def by_source(self) -> list[dict[str, Any]]: ...


def heldout_bits_per_byte(directory: Path, row_tokens: int, micro_rows: int, tokens: int) -> Evaluate | None:
    """A function that measures bits per byte on whole held-out documents, about `tokens` of them in a fixed order.

    Nats of every token of the text over ln 2 times its UTF-8 bytes; the boundary tokens around it, which stand for no
    byte, are not counted. None when nothing is held out.
    """
    heldout = _HeldOut.open(directory, tokens)
    return None if heldout is None else _BitsPerByte(heldout, row_tokens, micro_rows)


def heldout_masked_nats(
    directory: Path, row_tokens: int, micro_rows: int, tokens: int, masking: Masking
) -> Evaluate | None:
    """A function that measures nats per masked token on the same documents, masked once and for all as `masking` does.

    No bits per byte come of this: each token is judged given the rest of its document, and what one is told of another
    is counted twice. It compares masked models of one tokenizer, share and way of masking, and nothing else.
    """
    heldout = _HeldOut.open(directory, tokens)
    if heldout is None:
        return None
    return _MaskedNats(heldout, row_tokens, micro_rows, replace(masking, rows=1.0, seed=0))


def monitored_batch(directory: Path, row_tokens: int, masking: Masking | None) -> Batch | None:
    """A few full rows of held-out text for the monitors, masked where the model fills masks; None when nothing is held
    out."""
    heldout = _HeldOut.open(directory, 2 * MONITORED_TOKENS)
    if heldout is None:
        return None
    loader = Loader(heldout, row_tokens, 1, seed=0, packing="concatenate")
    rows = loader.epoch(0)
    fullest = np.argsort(-rows.used(), kind="stable")
    batch = loader.collate(rows[row] for row in fullest[: max(1, MONITORED_TOKENS // row_tokens)])
    return batch if masking is None else replace(masking, seed=0)(batch, 0)


@dataclass
class _BitsPerByte:
    heldout: _HeldOut
    row_tokens: int
    micro_rows: int
    nats: dict[str, float] = field(default_factory=dict)

    def __call__(self, nats_of: NatsOf) -> float:
        self.nats = dict.fromkeys(self.heldout.sources, 0.0)
        for source, batch in self.heldout.batches(self.row_tokens, self.micro_rows):
            self.nats[source] += nats_of(batch)[0]
        return sum(self.nats.values()) / (math.log(2) * self.heldout.bytes)

    def by_source(self) -> list[dict[str, Any]]:
        rows = []
        for source, nats in self.nats.items():
            size = self.heldout.size(source)
            bits = nats / (math.log(2) * max(1, size["bytes"]))
            rows.append({"source": source, "heldout_bits_per_byte": bits, **size})
        return rows


@dataclass
class _MaskedNats:
    heldout: _HeldOut
    row_tokens: int
    micro_rows: int
    masking: Masking
    found: dict[str, tuple[float, int]] = field(default_factory=dict)

    def __call__(self, nats_of: NatsOf) -> float:
        self.found = dict.fromkeys(self.heldout.sources, (0.0, 0))
        for number, (source, batch) in enumerate(self.heldout.batches(self.row_tokens, self.micro_rows)):
            nats, predicted = nats_of(self.masking(batch, number))
            self.found[source] = self.found[source][0] + nats, self.found[source][1] + predicted
        return sum(nats for nats, _ in self.found.values()) / max(1, sum(n for _, n in self.found.values()))

    def by_source(self) -> list[dict[str, Any]]:
        return [
            {"source": source, "heldout_masked_nats": nats / max(1, n), "masked_tokens": n, **self.heldout.size(source)}
            for source, (nats, n) in self.found.items()
        ]


class _HeldOut:
    """Some held-out documents as sequences in which the text is predicted, grouped by source."""

    def __init__(self, shards: TokenShards, tokens: int):
        chosen = np.random.default_rng(0).permutation(shards.documents)
        chosen = chosen[: 1 + int(np.searchsorted(np.cumsum(shards.lengths[chosen]), tokens))]
        named = [shards.sources[number] for number in chosen.tolist()]
        order = sorted(set(named), key=lambda name: (-named.count(name), name))
        self.sources = order if len(order) <= MOST_SOURCES else [*order[: MOST_SOURCES - 1], REST]
        place = {name: min(number, len(self.sources) - 1) for number, name in enumerate(order)}
        groups = np.array([place[name] for name in named])
        by_group = np.argsort(groups, kind="stable")
        self.shards, self.chosen, self.groups = shards, chosen[by_group], groups[by_group]
        self.lengths = shards.lengths[self.chosen]
        self.bytes = int(shards.bytes[self.chosen].sum())

    @classmethod
    def open(cls, directory: Path, tokens: int) -> _HeldOut | None:
        meta = json.loads((directory / "tokens.json").read_text(encoding="utf-8"))
        return cls(TokenShards(directory, "heldout"), tokens) if meta["documents"].get("heldout") else None

    def size(self, source: str) -> dict[str, int]:
        """What was measured of a source."""
        mine = self.chosen[self.groups == self.sources.index(source)]
        return {"documents": len(mine), "bytes": int(self.shards.bytes[mine].sum())}

    def tokens_of(self, number: int) -> np.ndarray:
        return self.shards.document(int(self.chosen[number]))

    def trained_on(self, number: int) -> np.ndarray:
        return np.arange(self.lengths[number]) < self.lengths[number] - 1

    def batches(self, row_tokens: int, micro_rows: int) -> Iterator[tuple[str, Batch]]:
        """Batches of one source each, so that its loss costs nothing that is not measured anyway."""
        loader = Loader(self, row_tokens, micro_rows, seed=0)
        group_of = self.groups[loader.pieces[:, 0]]
        for group, source in enumerate(self.sources):
            rows = pack(loader.pieces, row_tokens, np.flatnonzero(group_of == group))
            for start in range(0, len(rows), micro_rows):
                yield source, loader.collate(rows[row] for row in range(start, min(start + micro_rows, len(rows))))
