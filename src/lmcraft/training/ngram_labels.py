"""Labels from elsewhere: what followed the same last tokens at other places of the training text.

The one token that follows says little about a context, and is often chance. So a share of the label goes to what an
n-gram model of the whole text expects there: label smoothing (Szegedy et al. 2016) towards n-grams, which Xie et al.
(2017, Data Noising as Smoothing in Neural Network Language Models) did by changing the tokens. The model is not built:
places are sorted by the tokens before them, so that equal contexts stand side by side, and labels are drawn from a
place's neighbours, never from the place itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 3
"""Tokens of a context at most."""

DRAWS = 8
"""Labels drawn for a position."""

PRIOR = 6.0
"""A context met at n other places is believed with n / (n + PRIOR); else the one that is a token shorter is asked."""

MOST_TOKENS = 2**26
"""The longest text that is sorted, in memory."""

SORTING_BYTES = 56
"""Memory that this takes for each token; a quarter of it is kept."""


class NgramLabels:
    """What follows the contexts of a text of at most `MOST_TOKENS` tokens [N], and the share of a label it gets."""

    def __init__(self, tokens_N: NDArray[np.unsignedinteger[Any]], vocab_size: int, share: float, seed: int):
        places_N = _sorted_by_context(tokens_N, vocab_size)
        self.share, self.seed = share, seed
        self.following_N = tokens_N.take(places_N)
        self.rank_N = np.empty(len(tokens_N), np.int32)
        self.rank_N[places_N] = np.arange(len(tokens_N), dtype=np.int32)
        self.bounds = [np.array([0, len(tokens_N)], np.int32)]
        """Where the blocks of places with the same context begin, and the end: of the longest contexts first, and last
        of none, which all places share."""
        begins = np.zeros(len(tokens_N) - 1, bool)
        for back in range(1, LONGEST + 1):
            before_N = _shifted(tokens_N, back).take(places_N)
            begins |= before_N[1:] != before_N[:-1]
            bounds = np.concatenate(([0], np.flatnonzero(begins) + 1, [len(tokens_N)]))
            self.bounds.insert(0, bounds.astype(np.int32))

    def draw(self, places: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        """[..., DRAWS]: labels for the tokens at these places of the text, a pure function of (seed, step, places). A
        place below 0 is none, and gets zeros."""
        random = np.random.default_rng([self.seed, step])
        wanted_P = np.flatnonzero(places.reshape(-1) >= 0)
        rank_P = self.rank_N[places.reshape(-1)[wanted_P]]
        ascending_P = np.argsort(rank_P, kind="stable")  # in order they are found twice as fast
        wanted_P, rank_P = wanted_P[ascending_P], rank_P[ascending_P]
        first, others, passed = [], [], []  # by context, longest first
        disbelief_P = np.ones(len(rank_P))
        for bounds in self.bounds:
            block_P = np.searchsorted(bounds, rank_P, side="right") - 1
            first.append(bounds[block_P])
            others.append(bounds[block_P + 1] - bounds[block_P] - 1)
            disbelief_P = disbelief_P * (PRIOR / (others[-1] + PRIOR))
            passed.append(disbelief_P)
        level_PM = np.zeros((len(rank_P), DRAWS), np.int64)
        doubt_PM = random.random(level_PM.shape)
        for disbelief_P in passed[:-1]:
            level_PM += doubt_PM < disbelief_P[:, None]
        first_PM, others_PM = (np.take_along_axis(np.stack(each, 1), level_PM, 1) for each in (first, others))
        drawn_PM = first_PM + (random.random(level_PM.shape) * others_PM).astype(np.int64)
        drawn_PM += drawn_PM >= rank_P[:, None]  # not the place itself
        labels = np.zeros((places.size, DRAWS), np.int64)
        labels[wanted_P] = self.following_N[drawn_PM]
        return labels.reshape(*places.shape, DRAWS)


def _sorted_by_context(tokens_N: NDArray[np.unsignedinteger[Any]], vocab_size: int) -> NDArray[np.int64]:
    """The places of a text by the `LONGEST` tokens before them, the nearest first; alike ones as they stand. As many
    tokens at a time, the furthest first, as fit 64 bits beside a place."""
    place_bits, token_bits = (max(1, (n - 1).bit_length()) for n in (len(tokens_N), vocab_size))
    at_a_time = (64 - place_bits) // token_bits
    numbers_N = np.arange(len(tokens_N), dtype=np.uint64)
    places_N = np.arange(len(tokens_N))
    for furthest in range(LONGEST, 0, -at_a_time):
        keys_N = np.zeros(len(tokens_N), np.uint64)
        for back in range(max(1, furthest - at_a_time + 1), furthest + 1):
            keys_N <<= np.uint64(token_bits)
            keys_N |= _shifted(tokens_N, back).take(places_N)
        keys_N <<= np.uint64(place_bits)
        keys_N |= numbers_N
        keys_N.sort()
        keys_N &= np.uint64(2**place_bits - 1)
        places_N = places_N.take(keys_N.view(np.int64))
    return places_N


def _shifted(tokens_N: NDArray[np.unsignedinteger[Any]], back: int) -> NDArray[np.unsignedinteger[Any]]:
    """The token so many places before each; before the text stands its first token."""
    return np.concatenate((np.repeat(tokens_N[:1], back), tokens_N))[: len(tokens_N)]
