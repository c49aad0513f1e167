"""Packing sequences into rows, and batches as a pure function of (seed, step): resuming is seeking."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lmcraft.recipe.stage import UserError
from lmcraft.training.loss import IGNORE
from lmcraft.training.ngram_labels import NgramLabels
from lmcraft.training.objectives import Batch

Piece = tuple[int, int, int]
"""A run of tokens of one sequence: (sequence, start, stop)."""

WINDOW = 128
"""Pieces looked at when a row wants one that fits."""


class Sequences(Protocol):
    """Tokenised material: documents or conversations."""

    @property
    def lengths(self) -> NDArray[np.int64]: ...

    def tokens_of(self, number: int) -> NDArray[Any]: ...

    def trained_on(self, number: int) -> NDArray[np.bool_] | None:
        """Which tokens are predicted (the mask of an answer); None means all."""
        ...


def split_sequences(lengths: NDArray[np.int64], row_tokens: int) -> list[Piece]:
    """Whole sequences where they fit a row; longer ones cut into pieces that overlap by one token, so that every token
    but the first of each sequence is predicted exactly once."""
    pieces: list[Piece] = []
    for sequence, length in enumerate(lengths.tolist()):
        start = 0
        while length - start > row_tokens:
            pieces.append((sequence, start, start + row_tokens))
            start += row_tokens - 1
        if length - start > 1:
            pieces.append((sequence, start, length))
    return pieces


def pack(pieces: Sequence[Piece], row_tokens: int, order: NDArray[np.int64]) -> list[list[Piece]]:
    """Fill rows in the given order, each time with the longest of the next WINDOW pieces that still fits (best fit).

    No token is dropped; what stays free in a row is padding. Ties go to the earlier piece.
    """
    rows: list[list[Piece]] = []
    upcoming = [pieces[i] for i in order[:WINDOW].tolist()]
    following = iter(order[WINDOW:].tolist())
    while upcoming:
        row, free = [], row_tokens
        while True:
            best = -1
            best_length = 0
            for i, (_, start, stop) in enumerate(upcoming if free > 1 else ()):  # no piece is shorter than two tokens
                if best_length < stop - start <= free:
                    best, best_length = i, stop - start
                    if best_length == free:
                        break
            if best < 0:
                break
            row.append(upcoming.pop(best))
            free -= best_length
            for following_piece in following:
                upcoming.append(pieces[following_piece])
                break
        rows.append(row)
    return rows


def concatenate(lengths: NDArray[np.int64], row_tokens: int, order: NDArray[np.int64]) -> list[list[Piece]]:
    """Fill rows with sequences one after the other, cut wherever a row is full; only the last row has padding.

    A piece that goes on in the next row begins there with the token it ended with, so that none goes unpredicted.
    """
    rows: list[list[Piece]] = [[]]
    free = row_tokens
    for sequence in order.tolist():
        start, length = 0, int(lengths[sequence])
        while length - start > 1:
            if free < 2:
                rows.append([])
                free = row_tokens
            stop = min(start + free, length)
            rows[-1].append((sequence, start, stop))
            free -= stop - start
            start = stop if stop == length else stop - 1
    return [row for row in rows if row]


class Loader:
    """Batches of `rows` rows of `row_tokens` tokens. Each epoch packs all sequences anew in an order drawn from
    (seed, epoch); batches run on across epochs, so `batch(step)` depends on nothing but its argument, as
    must what `masking(batch, step)` makes of it. `tokenizer` is the digest of the one that made the tokens."""

    def __init__(
        self,
        sequences: Sequences,
        row_tokens: int,
        rows: int,
        seed: int,
        *,
        split: bool = True,
        packing: str = "best_fit",
        masking: Callable[[Batch, int], Batch] | None = None,
        ngram_labels: NgramLabels | None = None,
        tokenizer: str | None = None,
    ):
        longest = int(sequences.lengths.max()) if len(sequences.lengths) else 0
        if not split and longest > row_tokens:
            raise UserError(f"a sequence of {longest} tokens does not fit rows of {row_tokens}; raise `context`")
        self.sequences, self.row_tokens, self.rows, self.seed = sequences, row_tokens, rows, seed
        self.packing, self.masking = packing, masking
        self.ngram_labels, self.tokenizer = ngram_labels, tokenizer
        self._place_of = np.concatenate(([0], np.cumsum(sequences.lengths)))
        self.pieces = split_sequences(sequences.lengths, row_tokens)
        if not self.pieces:
            raise UserError("there is nothing to train on: no sequence has two tokens; add text")
        self._epochs: dict[int, list[list[Piece]]] = {}
        self._firsts = [0]

    def fingerprint(self) -> str:
        """sha256 of the lengths of all sequences, and of the tokens and masks of 1000 of them spread over all."""
        lengths = np.ascontiguousarray(self.sequences.lengths, np.int64)
        digest = hashlib.sha256(lengths.tobytes())
        for number in np.unique(np.linspace(0, len(lengths) - 1, 1000, dtype=np.int64)).tolist():
            digest.update(np.ascontiguousarray(self.sequences.tokens_of(number), np.int64).tobytes())
            mask = self.sequences.trained_on(number)
            digest.update(b"" if mask is None else np.packbits(mask).tobytes())
        return digest.hexdigest()

    def epoch(self, number: int) -> list[list[Piece]]:
        """The rows of an epoch."""
        if number not in self._epochs:
            random = np.random.default_rng([self.seed, number])
            self._epochs = {n: rows for n, rows in self._epochs.items() if n == number - 1}
            if self.packing == "concatenate":
                lengths = self.sequences.lengths
                rows = concatenate(lengths, self.row_tokens, random.permutation(len(lengths)))
                # Neighbouring rows are of one document where it is long: a batch of them would be of a single book.
                self._epochs[number] = [rows[i] for i in random.permutation(len(rows)).tolist()]
            else:
                self._epochs[number] = pack(self.pieces, self.row_tokens, random.permutation(len(self.pieces)))
        return self._epochs[number]

    def batch(self, step: int) -> Batch:
        """The global batch of a step (from 0)."""
        rows = [self._row(step * self.rows + i) for i in range(self.rows)]
        batch = self.collate(rows)
        if self.ngram_labels is not None:
            others = torch.from_numpy(self.ngram_labels.draw(self.places(rows), step))
            batch = replace(batch, other_labels=others, other_share=self.ngram_labels.share)
        return batch if self.masking is None else self.masking(batch, step)

    def _row(self, number: int) -> list[Piece]:
        while number >= self._firsts[-1]:
            self._firsts.append(self._firsts[-1] + len(self.epoch(len(self._firsts) - 1)))
        epoch = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self.epoch(epoch)[number - self._firsts[epoch]]

    def fill(self) -> float:
        """Share of the positions of the first epoch's rows that hold a token; the rest is padding."""
        rows = self.epoch(0)
        return sum(stop - start for row in rows for _, start, stop in row) / (len(rows) * self.row_tokens)

    def places(self, rows: Sequence[Sequence[Piece]]) -> NDArray[np.int64]:
        """[R, T]: where in the sequences, one after the other, the token stands that each position predicts; -1 where
        it predicts none."""
        places = np.full((len(rows), self.row_tokens), -1, np.int64)
        for r, row in enumerate(rows):
            at = 0
            for sequence, start, stop in row:
                end = at + stop - start
                places[r, at : end - 1] = np.arange(start + 1, stop) + self._place_of[sequence]
                at = end
        return places

    def collate(self, rows: Sequence[Sequence[Piece]]) -> Batch:
        """Rows of pieces -> tensors. Padding is token 0, its own document, and predicts nothing."""
        shape = (len(rows), self.row_tokens)
        tokens = np.zeros(shape, np.int64)
        labels = np.full(shape, IGNORE, np.int64)
        positions = np.zeros(shape, np.int64)
        documents = np.full(shape, -1, np.int64)
        for r, row in enumerate(rows):
            at = 0
            for number, (sequence, start, stop) in enumerate(row):
                end = at + stop - start
                ids = self.sequences.tokens_of(sequence)[start:stop].astype(np.int64)
                tokens[r, at:end] = ids
                targets = ids[1:].copy()
                mask = self.sequences.trained_on(sequence)
                if mask is not None:
                    targets[~mask[start + 1 : stop]] = IGNORE
                labels[r, at : end - 1] = targets
                positions[r, at:end] = np.arange(end - at)
                documents[r, at:end] = number
                at = end
            positions[r, at:] = np.arange(self.row_tokens - at)
        return Batch(
            torch.from_numpy(tokens),
            torch.from_numpy(labels),
            torch.from_numpy(positions),
            torch.from_numpy(documents),
        )


class Prefetched:
    """Batches of the steps before `stop`, each made by a thread while the one before it is used."""

    def __init__(self, loader: Loader, stop: int):
        self.loader, self.stop = loader, stop
        self._thread = ThreadPoolExecutor(1, "loader")
        self._coming: tuple[int, Future[Batch]] | None = None

    def __enter__(self) -> Prefetched:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """As that of the loader."""
        if self._coming is None or self._coming[0] != step:
            self._coming = self._start(step)
        batch = self._coming[1].result()
        self._coming = self._start(step + 1) if step + 1 < self.stop else None
        return batch

    def _start(self, step: int) -> tuple[int, Future[Batch]]:
        return step, self._thread.submit(self.loader.batch, step)
