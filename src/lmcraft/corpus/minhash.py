"""MinHash signatures, their bands, and the greedy choice of what to remove: compiled, over flat arrays.

Broder, "On the resemblance and containment of documents", 1997; banding: Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", 3.4.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa

from lmcraft.corpus.words import WORDS, mixed, splitmix, word_hashes

SIGNATURE = f"lmcraft-minhash-2 over {WORDS}"
"""Names how signatures are computed; a change that alters one needs a new name, as stored ones are void.

The hashes of n words in a row by a polynomial modulo 2**64, mixed by splitmix64; times an odd multiplier for each place
of the signature (splitmix64 of 1, 2, ... with the lowest bit set) modulo 2**64; the minimum over the document, mixed
again, of which the lowest 16 bits are stored. A document of fewer than n words has one n-gram, of all its words; one
without words has none, and its signature is all zeros.
"""


def signatures(texts: pa.StringArray, ngram: int, hashes: int) -> tuple[np.ndarray, np.ndarray]:
    """Signature of each text, uint16 of shape (texts, hashes), and whether it has a word (bool)."""
    found, starts = word_hashes(texts)
    result = np.zeros((len(starts) - 1, hashes), np.uint16)
    _signatures(found, starts, ngram, mixed(np.arange(1, hashes + 1, dtype=np.uint64)) | np.uint64(1), result)
    return result, np.diff(starts) > 0


def ngrams(texts: pa.StringArray, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The set of n-grams of each text: sorted hashes without repeats (uint64), and where each begins (int64, n + 1)."""
    found, starts = word_hashes(texts)
    counts = np.diff(starts)
    sizes = np.where(counts > 0, np.maximum(counts - ngram + 1, 1), 0)
    grams = np.empty(int(sizes.sum()), np.uint64)
    places = np.empty(len(starts), np.int64)
    return grams[: _ngrams(found, starts, ngram, grams, places)], places


@numba.njit(cache=True, nogil=True)
def band_keys(signatures: np.ndarray, first: int, end: int, rows: int) -> np.ndarray:
    """A hash of the bands from `first` to `end` of each signature: uint64 of shape (documents, end - first)."""
    keys = np.empty((len(signatures), end - first), np.uint64)
    for document in range(len(signatures)):
        for band in range(first, end):
            key = np.uint64(band + 1)
            for place in range(band * rows, (band + 1) * rows):
                key = splitmix(key ^ np.uint64(signatures[document, place]))
            keys[document, band - first] = key
    return keys


@numba.njit(cache=True, nogil=True)
def choose(
    settled: np.ndarray,
    bucket_starts: np.ndarray,
    buckets: np.ndarray,
    places: np.ndarray,
    members: np.ndarray,
    most: int,
    signatures: np.ndarray,
    least: float,
    grams: np.ndarray,
    gram_first: np.ndarray,
    gram_end: np.ndarray,
    agree: float,
    kept: np.ndarray,
    values: np.ndarray,
) -> int:
    """Greedy: in order of rank, remove what shares a bucket with a kept document and agrees with it enough.

    Document r (ranks 0 to n) is in the buckets `buckets[bucket_starts[r]:bucket_starts[r + 1]]`; bucket b has room for
    its kept documents in `members[places[b]:places[b + 1]]`, and compares with the first `most` of them. `settled`
    documents are kept whatever they resemble. Agreement is that of the `signatures`, or where `grams` are given (those
    of document r at `gram_first[r]` to `gram_end[r]`) the Jaccard similarity of the sets of n-grams, which is looked at
    when the signatures agree by `least`. Of several kept documents, the one that agrees most counts, then the first.

    Fills `kept` (the rank of the document it goes for, -1: stays) and `values`; gives how many buckets had no room.
    """
    count = len(kept)
    exact = len(gram_first) > 0
    filled = np.zeros(len(places) - 1, np.int32)
    seen = np.full(count, -1, np.int32)
    full = 0
    for rank in range(count):
        best, chosen = -1.0, -1
        if not settled[rank]:
            for at in range(bucket_starts[rank], bucket_starts[rank + 1]):
                bucket = buckets[at]
                for place in range(places[bucket], places[bucket] + filled[bucket]):
                    other = members[place]
                    if seen[other] == rank:
                        continue
                    seen[other] = rank
                    value = _agreement(signatures[rank], signatures[other])
                    if value < least:
                        continue
                    if exact:
                        value = _jaccard(
                            grams[gram_first[rank] : gram_end[rank]],
                            grams[gram_first[other] : gram_end[other]],
                        )
                    if value > best or (value == best and other < chosen):
                        best, chosen = value, other
        if best >= agree:
            kept[rank], values[rank] = chosen, best
            continue
        kept[rank] = -1
        for at in range(bucket_starts[rank], bucket_starts[rank + 1]):
            bucket = buckets[at]
            if filled[bucket] < most:
                members[places[bucket] + filled[bucket]] = rank
                filled[bucket] += 1
                full += filled[bucket] == most
    return full


@numba.njit(cache=True, nogil=True)
def worth_comparing(listed: np.ndarray, ranks: np.ndarray, signatures: np.ndarray, least: float) -> np.ndarray:
    """Which documents (bool, by rank) share a bucket with one whose signature agrees with theirs by `least`.

    `listed` and `ranks` as in `spread`. In a bucket of more than `_PAIRS` all are taken to be.
    """
    worth = np.zeros(len(signatures), np.bool_)
    begin = 0
    while begin < len(listed):
        end = begin + 1
        while end < len(listed) and listed[end] >= 0:
            end += 1
        many = end - begin > _PAIRS
        for one in range(begin, end):
            row = listed[one]
            rank = ranks[~row if row < 0 else row]
            if many:
                worth[rank] = True
                continue
            for two in range(one + 1, end):
                other = ranks[listed[two]]
                if not (worth[rank] and worth[other]) and _agreement(signatures[rank], signatures[other]) >= least:
                    worth[rank] = worth[other] = True
        begin = end
    return worth


_PAIRS = 64


@numba.njit(cache=True, nogil=True)
def spread(
    listed: np.ndarray,
    ranks: np.ndarray,
    used: np.ndarray,
    bucket_starts: np.ndarray,
    buckets: np.ndarray,
    places: np.ndarray,
) -> None:
    """Turn lists of members by bucket into lists of buckets by member.

    `listed` are rows, bucket after bucket, the first of each inverted (~row); `ranks` gives the document of a row.
    Fills `buckets` from `bucket_starts[r]` on, counting in `used`, and `places`, where each bucket's members begin.
    """
    bucket = -1
    for row in listed:
        if row < 0:
            bucket += 1
            places[bucket + 1] = places[bucket]
        places[bucket + 1] += 1
        rank = ranks[~row if row < 0 else row]
        buckets[bucket_starts[rank] + used[rank]] = bucket
        used[rank] += 1


_BLOCK = 2048
_BASE = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(inline="always")
def _gram(hashes: np.ndarray, first: int, end: int) -> np.uint64:
    value = np.uint64(0)
    for word in range(first, end):
        value = value * _BASE + hashes[word]
    return splitmix(value)


@numba.njit(cache=True, nogil=True)
def _signatures(
    hashes: np.ndarray, starts: np.ndarray, ngram: int, multipliers: np.ndarray, result: np.ndarray
) -> None:
    grams = np.empty(_BLOCK, np.uint64)  # a block of them stays in the fastest cache while each multiplier passes
    least = np.empty(len(multipliers), np.uint64)
    for document in range(len(starts) - 1):
        first, stop = starts[document], starts[document + 1]
        if first == stop:
            continue
        least[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
        total = max(1, stop - first - ngram + 1)
        for base in range(0, total, _BLOCK):
            size = min(_BLOCK, total - base)
            for place in range(size):
                at = first + base + place
                grams[place] = _gram(hashes, at, min(at + ngram, stop))
            for number in range(len(multipliers)):
                multiplier, smallest = multipliers[number], least[number]
                for place in range(size):
                    value = multiplier * grams[place]
                    smallest = value if value < smallest else smallest
                least[number] = smallest
        for number in range(len(multipliers)):
            result[document, number] = np.uint16(splitmix(least[number]) & np.uint64(0xFFFF))


@numba.njit(cache=True, nogil=True)
def _ngrams(hashes: np.ndarray, starts: np.ndarray, ngram: int, grams: np.ndarray, places: np.ndarray) -> int:
    count = 0
    for document in range(len(starts) - 1):
        places[document] = count
        first, stop = starts[document], starts[document + 1]
        if first == stop:
            continue
        size = max(1, stop - first - ngram + 1)
        found = np.empty(size, np.uint64)
        for place in range(size):
            found[place] = _gram(hashes, first + place, min(first + place + ngram, stop))
        found.sort()
        for place in range(size):
            if place == 0 or found[place] != found[place - 1]:
                grams[count] = found[place]
                count += 1
    places[len(starts) - 1] = count
    return count


@numba.njit(inline="always")
def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    same = 0
    for place in range(len(one)):
        same += one[place] == other[place]
    return same / len(one)


@numba.njit(cache=True, nogil=True)
def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Of two sorted arrays without repeats."""
    left, right, both = 0, 0, 0
    while left < len(one) and right < len(other):
        if one[left] == other[right]:
            both += 1
            left += 1
            right += 1
        elif one[left] < other[right]:
            left += 1
        else:
            right += 1
    return both / max(1, len(one) + len(other) - both)
