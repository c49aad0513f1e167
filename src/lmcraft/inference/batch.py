"""Rows that are generated together: they may join and leave at any step (continuous batching, Yu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lmcraft.inference.sampling import Sampling, Uniforms, choose
from lmcraft.inference.text import TextStream
from lmcraft.model import KVCache, Transformer
from lmcraft.tokens import Tokenizer

PREFILL_TOKENS = 16_384
"""Prompts that join together are computed in groups of at most this many positions, padding included."""


class Row:
    """One generation under way. `finish` is None until it ends."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, tokenizer: Tokenizer, context: int):
        self.prompt = list(prompt)
        self.sampling = sampling
        self.tokens: list[int] = []
        self.finish: Literal["stop", "length"] | None = None
        self.limit = min(sampling.max_tokens, context - len(prompt))
        self._stop_tokens = frozenset(tokenizer.stop_ids if sampling.stop_tokens is None else sampling.stop_tokens)
        self._stream = TextStream(tokenizer, sampling.stop)
        self._uniforms = None if sampling.greedy else Uniforms(sampling.seed)

    @property
    def text(self) -> str:
        return self._stream.text

    @property
    def length(self) -> int:
        """Positions it will fill at most."""
        return len(self.prompt) + self.limit

    def draw(self) -> float:
        return self._uniforms.draw() if self._uniforms else 0.0

    def accept(self, token: int) -> str:
        """Takes the next token; returns the text that it completes."""
        self.tokens.append(token)
        if token in self._stop_tokens:
            self.finish = "stop"
            return self._stream.finish()
        delta = self._stream.push(token)
        if self._stream.stopped:
            self.finish = "stop"
        elif len(self.tokens) >= self.limit:
            self.finish = "length"
            delta += self._stream.finish()
            if self._stream.stopped:
                self.finish = "stop"
        return delta


class Batch:
    """At most `slots` rows of at most `capacity` positions, one cache slot each, the taken ones always in front."""

    def __init__(self, model: Transformer, vocab_size: int, slots: int, capacity: int):
        weight = model.lm_head.weight
        self.model, self.vocab_size, self.slots, self.capacity = model, vocab_size, slots, capacity
        self.device = weight.device
        with torch.inference_mode():
            self.cache = KVCache(model.config, slots, capacity, weight.device, weight.dtype)
        self.rows: list[Row] = []

    @property
    def free(self) -> int:
        return self.slots - len(self.rows)

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row]) -> list[tuple[Row, str]]:
        """Computes the prompts of new rows (at most `free`) and their first tokens; returns each with its text."""
        assert len(rows) <= self.free and all(row.length <= self.capacity for row in rows)
        deltas: list[tuple[Row, str]] = []
        group: list[Row] = []
        for row in rows:
            longest = max(len(each.prompt) for each in [*group, row])
            if group and longest * (len(group) + 1) > PREFILL_TOKENS:
                deltas += self._prefill(group)
                group = []
            group.append(row)
        deltas += self._prefill(group) if group else []
        self._leave()
        return deltas

    @torch.inference_mode()
    def step(self) -> list[tuple[Row, str]]:
        """One token more for every row; returns each with the text that it completed. Finished rows leave."""
        if not self.rows:
            return []
        places = [len(row.prompt) + len(row.tokens) - 1 for row in self.rows]
        tokens_B1 = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self.device)
        positions_B1 = torch.tensor([[place] for place in places], device=self.device)
        cache = self.cache.rows(0, len(self.rows), reach=max(places) + 1)
        deltas = self._accept(self.rows, self.model.hidden(tokens_B1, positions_B1, cache=cache)[:, -1])
        self._leave()
        return deltas

    def drop(self, row: Row) -> None:
        """Takes out a row that nobody waits for any more."""
        if row in self.rows:
            self._vacate(self.rows.index(row))

    def _prefill(self, rows: Sequence[Row]) -> list[tuple[Row, str]]:
        lengths = [len(row.prompt) for row in rows]
        T = max(lengths)
        tokens_BT = torch.tensor([row.prompt + [0] * (T - len(row.prompt)) for row in rows], device=self.device)
        positions_BT = torch.arange(T, device=self.device).expand(len(rows), T)
        taken = len(self.rows)
        cache = self.cache.rows(taken, taken + len(rows), prefill=True)
        hidden_BTD = self.model.hidden(tokens_BT, positions_BT, cache=cache)
        last = torch.tensor(lengths, device=self.device) - 1
        self.rows.extend(rows)
        return self._accept(rows, hidden_BTD[torch.arange(len(rows), device=self.device), last])

    def _accept(self, rows: Sequence[Row], hidden_BD: Tensor) -> list[tuple[Row, str]]:
        logits_BV = self.model.lm_head(hidden_BD)[:, : self.vocab_size].float()  # ids of padding are never drawn
        chosen = choose(logits_BV, [row.sampling for row in rows], [row.draw() for row in rows])
        return [(row, row.accept(token)) for row, token in zip(rows, chosen, strict=True)]

    def _leave(self) -> None:
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].finish:
                self._vacate(slot)

    @torch.inference_mode()
    def _vacate(self, slot: int) -> None:
        """The last row moves into the slot that becomes free."""
        last = len(self.rows) - 1
        if slot != last:
            moved = self.rows[last]
            filled = len(moved.prompt) + len(moved.tokens)
            for table in (self.cache.keys, self.cache.values):
                table[:, slot, :, :filled] = table[:, last, :, :filled]
            self.rows[slot] = moved
        self.rows.pop()
