"""Packing sequences into rows, and batches as a pure function of (seed, step): resuming is seeking."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from lmcraft.recipe.stage import UserError
from lmcraft.training.loss import IGNORE
from lmcraft.training.ngram_labels import NgramLabels
from lmcraft.training.objectives import Batch

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


@dataclass(frozen=True)
class Rows:
    """Rows of pieces. Row r has those that `index[starts[r] : starts[r + 1]]` names; a piece is a run of tokens of one
    sequence, `pieces` [N, 3] int64: (sequence, start, stop)."""

    pieces: NDArray[np.int64]
    index: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        """The pieces of a row, [n, 3]."""
        return self.pieces[self.index[self.starts[row] : self.starts[row + 1]]]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return (self[row] for row in range(len(self)))

    def used(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        ends = np.concatenate(([0], np.cumsum(self.pieces[self.index, 2] - self.pieces[self.index, 1])))
        return ends[self.starts[1:]] - ends[self.starts[:-1]]

    def reordered(self, order: NDArray[np.int64]) -> Rows:
        sizes = np.diff(self.starts)[order]
        starts = np.concatenate(([0], np.cumsum(sizes)))
        return Rows(
            self.pieces, self.index[np.repeat(self.starts[order] - starts[:-1], sizes) + np.arange(starts[-1])], starts
        )


def split_sequences(lengths: NDArray[np.int64], row_tokens: int) -> NDArray[np.int64]:
    """Whole sequences where they fit a row; longer ones cut into pieces that overlap by one token, so that every token
    but the first of each sequence is predicted exactly once. [N, 3]: sequence, start, stop."""
    step = row_tokens - 1
    counts = np.where(lengths > 1, 1 + np.maximum(0, -(-(lengths - row_tokens) // step)), 0)
    sequences = np.repeat(np.arange(len(lengths)), counts)
    starts = step * (np.arange(len(sequences)) - np.repeat(np.cumsum(counts) - counts, counts))
    return np.stack((sequences, starts, np.minimum(starts + row_tokens, lengths[sequences])), axis=1)


def pack(pieces: NDArray[np.int64], row_tokens: int, order: NDArray[np.int64]) -> Rows:
    """Fill rows with the pieces that `order` names, each time with the longest of the next WINDOW that still fits (best
    fit).

    No token is dropped; what stays free in a row is padding. Ties go to the earlier piece.
    """
    sizes = (pieces[:, 2] - pieces[:, 1])[order]
    assert not len(sizes) or sizes.max() <= row_tokens, "a piece fits a row"
    taken, starts = _best_fit(sizes, row_tokens, WINDOW)
    return Rows(pieces, order[taken], starts)


@numba.njit(cache=True, nogil=True)
def _best_fit(sizes: np.ndarray, row_tokens: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    taken, starts = np.empty(len(sizes), np.int64), np.empty(len(sizes) + 1, np.int64)
    upcoming = np.arange(min(window, len(sizes)))
    waiting = following = len(upcoming)
    rows = done = 0
    while waiting:
        starts[rows] = done
        rows += 1
        free = row_tokens
        while free > 1:  # no piece is shorter than two tokens
            best, best_size = -1, 0
            for i in range(waiting):
                size = sizes[upcoming[i]]
                if best_size < size <= free:
                    best, best_size = i, size
                    if size == free:
                        break
            if best < 0:
                break
            taken[done] = upcoming[best]
            done += 1
            free -= best_size
            upcoming[best : waiting - 1] = upcoming[best + 1 : waiting].copy()
            if following < len(sizes):
                upcoming[waiting - 1] = following
                following += 1
            else:
                waiting -= 1
    starts[rows] = done
    return taken, starts[: rows + 1]


def concatenate(lengths: NDArray[np.int64], row_tokens: int, order: NDArray[np.int64]) -> Rows:
    """Fill rows with sequences one after the other, cut wherever a row is full; only the last row has padding.

    A piece that goes on in the next row begins there with the token it ended with, so that none goes unpredicted.
    """
    pieces, starts = _one_after_the_other(lengths, row_tokens, order)
    return Rows(pieces, np.arange(len(pieces)), starts)


@numba.njit(cache=True, nogil=True)
def _one_after_the_other(lengths: np.ndarray, row_tokens: int, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    most = len(lengths) + lengths.sum() // max(1, row_tokens - 2) + 2  # a full row takes so many new tokens at least
    pieces, starts = np.empty((most, 3), np.int64), np.empty(most + 1, np.int64)
    done = rows = free = 0
    for sequence in order:
        start, length = 0, lengths[sequence]
        while length - start > 1:
            if free < 2:
                starts[rows] = done
                rows += 1
                free = row_tokens
            stop = min(start + free, length)
            pieces[done, 0], pieces[done, 1], pieces[done, 2] = sequence, start, stop
            done += 1
            free -= stop - start
            start = stop if stop == length else stop - 1
    starts[rows] = done
    return pieces[:done].copy(), starts[: rows + 1].copy()


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
        if not len(self.pieces):
            raise UserError("there is nothing to train on: no sequence has two tokens; add text")
        self._epochs: dict[int, Rows] = {}
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

    def epoch(self, number: int) -> Rows:
        """The rows of an epoch."""
        if number not in self._epochs:
            random = np.random.default_rng([self.seed, number])
            self._epochs = {n: rows for n, rows in self._epochs.items() if n == number - 1}
            if self.packing == "concatenate":
                lengths = self.sequences.lengths
                rows = concatenate(lengths, self.row_tokens, random.permutation(len(lengths)))
                # Neighbouring rows are of one document where it is long: a batch of them would be of a single book.
                self._epochs[number] = rows.reordered(random.permutation(len(rows)))
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

    def _row(self, number: int) -> NDArray[np.int64]:
        while number >= self._firsts[-1]:
            self._firsts.append(self._firsts[-1] + len(self.epoch(len(self._firsts) - 1)))
        epoch = int(np.searchsorted(self._firsts, number, side="right")) - 1
        return self.epoch(epoch)[number - self._firsts[epoch]]

    def fill(self) -> float:
        """Share of the positions of the first epoch's rows that hold a token; the rest is padding."""
        used = self.epoch(0).used()
        return int(used.sum()) / (len(used) * self.row_tokens)

    def places(self, rows: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
        """[R, T]: where in the sequences, one after the other, the token stands that each position predicts; -1 where
        it predicts none."""
        rows = list(rows)
        places = np.full((len(rows), self.row_tokens), -1, np.int64)
        for r, row in enumerate(rows):
            at = 0
            for sequence, start, stop in row.tolist():
                end = at + stop - start
                places[r, at : end - 1] = np.arange(start + 1, stop) + self._place_of[sequence]
                at = end
        return places

    def collate(self, rows: Iterable[NDArray[np.int64]]) -> Batch:
        """Rows of pieces -> tensors. Padding is token 0, its own document, and predicts nothing."""
        rows = list(rows)
        shape = (len(rows), self.row_tokens)
        tokens = np.zeros(shape, np.int64)
        labels = np.full(shape, IGNORE, np.int64)
        positions = np.zeros(shape, np.int64)
        documents = np.full(shape, -1, np.int64)
        for r, row in enumerate(rows):
            at = 0
            for number, (sequence, start, stop) in enumerate(row.tolist()):
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
