"""Step `topics`: topics that nobody named, found by clustering, each called by its most telling words.

Latent semantic analysis (Deerwester et al. 1990) and spherical k-means (Dhillon and Modha 2001): documents as words
weighed by TF-IDF in hashed buckets, projected on the main directions of a sample (subspace iteration; Halko,
Martinsson and Tropp 2011), and clustered there by cosine. All loops are our own, compiled and of one thread: a
library's matrix product may round otherwise on another number of threads, and a document would change its topic.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lmcraft.corpus.documents import NONE
from lmcraft.corpus.step import Arrays, Judged, Known, Shard, Step, add_score, note_changes, replace_columns
from lmcraft.corpus.words import word_hashes, words
from lmcraft.recipe.stage import StageConfig, UserError

if TYPE_CHECKING:
    from lmcraft.corpus.engine.corpus import Corpus

BUCKETS = 1 << 16
LONGEST = 4000
"""Words looked at in a document."""

MOST_WORDS = 8_000_000
"""Distinct words of all documents of a sample: books make the sample smaller, not the memory larger."""

MOST_DIRECTIONS = 1024
"""Of all languages together, 256 KiB each: the largest languages have topics of their own, the rest share some."""

OTHERS = "(others)"
"""Stands for all languages too small for topics of their own."""


class Topics(StageConfig):
    """Finds topics by clustering and writes each document's into the column `topic`."""

    topics: int = Field(20, ge=2, le=1000, description="How many, of each language.")
    replace: bool = Field(False, description="Also where a document has a topic; else only where it has none.")
    each_language: bool = Field(True, description="Languages apart; together, the languages become the topics.")
    sample: int = Field(
        20_000, ge=100, description="About so many documents, chosen by hash, are looked at to find them."
    )
    dimensions: int = Field(64, ge=2, le=512, description="Directions that are kept of the space of words.")
    min_documents: int = Field(3, ge=1, description="A word in fewer documents of the sample says nothing.")
    max_share: float = Field(0.25, gt=0, le=1, description="A word in a larger share of them says nothing either.")
    label_words: int = Field(3, ge=1, le=10, description="Words in a topic's name.")
    seed: int = Field(0, ge=0)


def learn(corpus: Corpus, config: Topics) -> Arrays:
    """Arrays with one entry a language: `languages`, `labels` [L, topics], `idf` [L, buckets], `basis` [L, buckets,
    dimensions], `centres` [L, topics, dimensions], `sizes` [L, topics] (documents of the sample)."""
    limit = min(2**63 - 1, int(2**63 * min(1.0, config.sample / max(corpus.rows, 1))))
    kinds: Counter[str] = Counter()
    for found in corpus.map(_features, config, limit, corpus.scratch, label="topics: sample"):
        kinds.update(found)
    large = sorted(kinds, key=lambda name: (-kinds[name], name))[: max(1, MOST_DIRECTIONS // config.dimensions)]
    own = sorted(name for name in large if kinds[name] >= 10 * config.topics)
    rest = sum(kinds.values()) - sum(kinds[name] for name in own)
    languages = [*own, OTHERS] if rest >= 2 * config.topics or (rest and not own) else own
    tried = {name: _model(corpus, config, name, own) for name in languages}
    found_models = {name: model for name, model in tried.items() if model is not None}
    if not found_models:
        raise UserError(
            f"topics: {sum(kinds.values())} documents (of {len(kinds)} languages) share too few words for "
            f"{config.topics} topics; ask for fewer, or set each_language: false"
        )
    languages, models = list(found_models), list(found_models.values())
    wanted = {name: model["telling"] for name, model in zip(languages, models, strict=True)}
    spelt: dict[str, dict[int, Counter[str]]] = {name: {} for name in languages}
    for counts in corpus.map(_spellings, config, limit, wanted, own, label="topics: names"):
        for name, buckets in counts.items():
            for bucket, forms in buckets.items():
                spelt[name].setdefault(bucket, Counter()).update(forms)
    labels = [_labels(model["telling"], spelt[name], config) for name, model in zip(languages, models, strict=True)]
    stacked = {key: np.stack([model[key] for model in models]) for key in ("idf", "basis", "centres", "sizes")}
    return {"languages": np.array(languages), "labels": np.array(labels), **stacked}


def topics(batch: pa.RecordBatch, config: Topics, known: Known) -> Judged:
    names = known.arrays["languages"].tolist()
    languages = [name if name in names else OTHERS for name in _languages(batch, config)]
    found: list[str | None] = batch["topic"].to_pylist()
    sought = np.array([config.replace or topic is None for topic in found], bool)
    likeness = np.full(batch.num_rows, np.nan)
    changes: list[list[str]] = [[] for _ in found]
    for number, name in enumerate(names):
        rows = np.flatnonzero(sought & (np.array(languages) == name))
        if not len(rows):
            continue
        lengths, buckets, counts = bucket_counts(batch["text"].take(pa.array(rows)))
        arrays = (known.arrays[key][number] for key in ("idf", "basis"))
        embedded = _project(lengths, buckets, _weights(lengths, buckets, counts, next(arrays)), next(arrays))
        best, cosine = _nearest(embedded, np.ascontiguousarray(known.arrays["centres"][number].T))
        for row, topic, near in zip(rows.tolist(), best.tolist(), cosine.tolist(), strict=True):
            if near > 0:
                found[row] = str(known.arrays["labels"][number, topic])
                likeness[row] = near
                changes[row] = ["topic by clustering"]
    batch = replace_columns(batch, {"topic": pa.array(found, pa.string())})
    return Judged(note_changes(add_score(batch, "topic", likeness), changes))


def report(arrays: Arrays, config: Topics) -> dict[str, Any]:
    """The topics of each language and how many documents of the sample were in each, largest first."""
    return {
        str(language): [
            {"topic": str(labels[place]), "documents_of_sample": int(sizes[place])}
            for place in np.argsort(-sizes, kind="stable").tolist()
        ]
        for language, labels, sizes in zip(arrays["languages"], arrays["labels"], arrays["sizes"], strict=True)
    }


def bucket_counts(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct buckets of each text (int64), the buckets of all in a row (uint16), and the counts (float32)."""
    hashes, starts = word_hashes(texts)
    return _bucket_counts(hashes, starts)


def _languages(batch: pa.RecordBatch, config: Topics) -> list[str]:
    if not config.each_language:
        return [NONE] * batch.num_rows
    return list(pc.fill_null(batch["language"], NONE).to_pylist())


def _draw(ids: pa.Array, seed: int) -> np.ndarray:
    key = f"topics {seed}".encode()
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in ids.to_pylist())
    return (np.frombuffer(digests, "<u8") >> np.uint64(1)).astype(np.int64)


def _features(shard: Shard, config: Topics, limit: int, scratch: Path) -> Counter[str]:
    """Writes the buckets of a shard's part of the sample, a file a language; gives documents by language."""
    from lmcraft.corpus.engine import advance

    parts: dict[str, list[tuple[np.ndarray, ...]]] = {}
    for _, batch in shard.batches(["id", "text", "language"]):
        draws = _draw(batch["id"], config.seed)
        languages = np.array(_languages(batch, config))
        chosen = draws < limit
        for name in sorted(set(languages[chosen].tolist())):
            rows = np.flatnonzero(chosen & (languages == name))
            parts.setdefault(name, []).append((draws[rows], *bucket_counts(batch["text"].take(pa.array(rows)))))
        advance(batch.num_rows / 2)
    for name, found in parts.items():
        for place, part in enumerate(("draws", "lengths", "buckets", "counts")):
            array = np.concatenate([one[place] for one in found])
            np.save(scratch / f"topics-{shard.index:05d}-{_file(name)}-{part}.npy", array, allow_pickle=False)
    return Counter({name: sum(len(one[0]) for one in found) for name, found in parts.items()})


def _file(language: str) -> str:
    return hashlib.sha256(language.encode()).hexdigest()[:16]  # a language's name may hold anything


def _sample(corpus: Corpus, language: str, own: list[str]) -> tuple[np.ndarray, ...]:
    """The sample of a language, in the order of the draw, so that it does not matter how shards were cut."""
    mine = {_file(language)} if language != OTHERS else None
    others = {_file(name) for name in own}
    found = []
    for path in sorted(corpus.scratch.glob("topics-*-draws.npy")):
        name = path.name.split("-")[2]
        if (name in mine) if mine is not None else (name not in others):
            load = (np.load(str(path).replace("-draws", f"-{part}"), allow_pickle=False) for part in _PARTS)
            found.append(tuple(load))
    draws, lengths, buckets, counts = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(draws, kind="stable")
    order = order[: max(1, int(np.searchsorted(np.cumsum(lengths[order]), MOST_WORDS)))]
    starts = np.cumsum(lengths) - lengths
    places = np.concatenate([np.arange(starts[row], starts[row] + lengths[row]) for row in order])
    return lengths[order], buckets[places], counts[places]


_PARTS = ("draws", "lengths", "buckets", "counts")


def _model(corpus: Corpus, config: Topics, language: str, own: list[str]) -> dict[str, np.ndarray] | None:
    """The arrays of a language; None when fewer of its documents than topics share words."""
    lengths, buckets, counts = _sample(corpus, language, own)
    documents = len(lengths)
    if documents < config.topics:
        return None
    frequency = np.bincount(buckets, minlength=BUCKETS)
    useful = (frequency >= min(config.min_documents, documents)) & (frequency <= max(1, config.max_share * documents))
    idf = np.where(useful, np.log(documents / np.maximum(frequency, 1)), 0).astype(np.float32)
    weights = _weights(lengths, buckets, counts, idf)
    basis = _basis(lengths, buckets, weights, config)
    embedded = _project(lengths, buckets, weights, basis)
    embedded = embedded[np.square(embedded).sum(axis=1) > 0]
    if len(embedded) < config.topics:
        return None
    centres = _cluster(embedded, config.topics, config.seed)
    best, _ = _nearest(_project(lengths, buckets, weights, basis), np.ascontiguousarray(centres.T))
    telling = _telling(lengths, buckets, best, frequency * useful, config)
    return {
        "idf": idf,
        "basis": basis,
        "centres": centres,
        "telling": telling,
        "sizes": np.bincount(best, minlength=config.topics),
    }


def _basis(lengths: np.ndarray, buckets: np.ndarray, weights: np.ndarray, config: Topics) -> np.ndarray:
    """An orthonormal basis [buckets, dimensions] of the main directions. Cosines do not change when it is turned, so
    the singular vectors themselves are not needed."""
    draw = np.random.Generator(np.random.PCG64(config.seed))
    basis = np.zeros((BUCKETS, config.dimensions), np.float32)
    present = np.unique(buckets[weights > 0])
    basis[present] = draw.standard_normal((len(present), config.dimensions)).astype(np.float32)
    for _ in range(5):
        basis = _multiply_back(lengths, buckets, weights, _project_raw(lengths, buckets, weights, basis))
        basis[present] = _orthonormal(basis[present])
    return basis


def _cluster(points: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Centres [number, dimensions] by spherical k-means; the best of a few starts by k-means++ (Arthur 2007)."""
    best, best_sum = np.zeros((0, 0), np.float32), -1.0
    for start in range(4):
        draw = np.random.Generator(np.random.PCG64([seed, start]))
        centres = points[_spread(points, draw.random(number))].copy()
        total = 0.0
        for _ in range(60):
            nearest, cosine = _nearest(points, np.ascontiguousarray(centres.T))
            grown = float(cosine.astype(np.float64).sum())
            if grown <= total * (1 + 1e-6):
                break
            total = grown
            centres = _means(points, nearest, centres)
        if total > best_sum:
            best, best_sum = centres, total
    return best


def _telling(
    lengths: np.ndarray, buckets: np.ndarray, topic: np.ndarray, frequency: np.ndarray, config: Topics
) -> np.ndarray:
    """For each topic the buckets that tell it from the others [topics, 4 x label_words], best first: those with much
    of their topic's documents, weighed by how much more of them than of all (a pointwise Kullback-Leibler term)."""
    rows = np.repeat(topic.astype(np.int64), lengths)
    inside = np.bincount(rows * BUCKETS + buckets, minlength=config.topics * BUCKETS).reshape(config.topics, BUCKETS)
    share = inside / np.maximum(np.bincount(topic, minlength=config.topics), 1)[:, None]
    overall = frequency / len(lengths)
    rare = (frequency > 0) & (overall <= max(0.08, 1.5 / config.topics))  # what is everywhere names nothing
    lift = np.log(np.maximum(share, 1e-9) / np.maximum(overall, 1e-9))
    value = np.where(rare & (inside > 1), share * lift, 0)
    return np.argsort(-value, axis=1, kind="stable")[:, : 4 * config.label_words]


def _spellings(
    shard: Shard, config: Topics, limit: int, wanted: dict[str, np.ndarray], own: list[str]
) -> dict[str, dict[int, Counter[str]]]:
    """How the words of the telling buckets are written in the sample."""
    from lmcraft.corpus.engine import advance

    found: dict[str, dict[int, Counter[str]]] = {}
    sought = {name: np.isin(np.arange(BUCKETS), buckets) for name, buckets in wanted.items()}
    for _, batch in shard.batches(["id", "text", "language"]):
        languages = _languages(batch, config)
        for row in np.flatnonzero(_draw(batch["id"], config.seed) < limit).tolist():
            name = languages[row] if languages[row] in own else OTHERS
            if name not in sought:
                continue
            text = batch["text"].slice(row, 1)
            here = words(text)
            buckets = here.hashes[:LONGEST] & np.uint64(BUCKETS - 1)
            raw = text[0].as_py().encode()
            places = np.flatnonzero(sought[name][buckets])
            _, first = np.unique(buckets[places], return_index=True)
            for place in places[first].tolist():
                form = raw[here.begin[place] : here.end[place]].decode().casefold()
                found.setdefault(name, {}).setdefault(int(buckets[place]), Counter())[form] += 1
        advance(batch.num_rows / 2)
    return found


def _labels(telling: np.ndarray, spelt: dict[int, Counter[str]], config: Topics) -> list[str]:
    labels: list[str] = []
    for buckets in telling.tolist():
        forms = [min(spelt[one].items(), key=lambda item: (-item[1], item[0]))[0] for one in buckets if one in spelt]
        chosen: list[str] = []
        for form in forms:
            # Stars and star say the same.
            if not any(form.startswith(other[:5]) and len(other) >= 4 for other in chosen):
                chosen.append(form)
        label = ", ".join(chosen[: config.label_words]) or "topic"
        number = 1 + sum(other == label or other.startswith(label + " (") for other in labels)
        labels.append(label if number == 1 else f"{label} ({number})")
    return labels


@numba.njit(cache=True, nogil=True)
def _bucket_counts(hashes: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    seen = np.zeros(BUCKETS, np.int32)
    lengths = np.zeros(len(starts) - 1, np.int64)
    buckets = np.empty(len(hashes), np.uint16)
    counts = np.empty(len(hashes), np.float32)
    used = 0
    for document in range(len(starts) - 1):
        first = used
        for place in range(starts[document], min(starts[document + 1], starts[document] + LONGEST)):
            bucket = hashes[place] & np.uint64(BUCKETS - 1)
            if seen[bucket] == 0:
                buckets[used] = bucket
                used += 1
            seen[bucket] += 1
        for place in range(first, used):
            counts[place] = seen[buckets[place]]
            seen[buckets[place]] = 0
        lengths[document] = used - first
    return lengths, buckets[:used].copy(), counts[:used].copy()


@numba.njit(cache=True, nogil=True)
def _weights(lengths: np.ndarray, buckets: np.ndarray, counts: np.ndarray, idf: np.ndarray) -> np.ndarray:
    """(1 + ln count) x idf, each document of length 1."""
    result = np.empty(len(buckets), np.float32)
    first = 0
    for length in lengths:
        total = 0.0
        for place in range(first, first + length):
            weight = (1 + np.log(counts[place])) * idf[buckets[place]]
            result[place] = weight
            total += weight * weight
        scale = 1 / np.sqrt(total) if total > 0 else 0.0
        for place in range(first, first + length):
            result[place] *= scale
        first += length
    return result


@numba.njit(cache=True, nogil=True)
def _project_raw(lengths: np.ndarray, buckets: np.ndarray, weights: np.ndarray, basis: np.ndarray) -> np.ndarray:
    result = np.zeros((len(lengths), basis.shape[1]), np.float32)
    first = 0
    for document in range(len(lengths)):
        row = result[document]
        for place in range(first, first + lengths[document]):
            weight = weights[place]
            if weight > 0:
                direction = basis[buckets[place]]
                for d in range(len(row)):
                    row[d] += weight * direction[d]
        first += lengths[document]
    return result


@numba.njit(cache=True, nogil=True)
def _project(lengths: np.ndarray, buckets: np.ndarray, weights: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Documents on the basis, each of length 1 (0 for one of no known word)."""
    result = _project_raw(lengths, buckets, weights, basis)
    for document in range(len(result)):
        total = 0.0
        for d in range(result.shape[1]):
            total += result[document, d] * result[document, d]
        if total > 0:
            for d in range(result.shape[1]):
                result[document, d] /= np.sqrt(total)
    return result


@numba.njit(cache=True, nogil=True)
def _multiply_back(lengths: np.ndarray, buckets: np.ndarray, weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Transposed documents times `rows`."""
    result = np.zeros((BUCKETS, rows.shape[1]), np.float32)
    first = 0
    for document in range(len(lengths)):
        row = rows[document]
        for place in range(first, first + lengths[document]):
            weight = weights[place]
            if weight > 0:
                target = result[buckets[place]]
                for d in range(len(row)):
                    target[d] += weight * row[d]
        first += lengths[document]
    return result


@numba.njit(cache=True, nogil=True)
def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """Gram-Schmidt, each column twice against those before it; a column that nothing is left of becomes 0."""
    turned = np.ascontiguousarray(columns.T).astype(np.float64)
    for column in range(len(turned)):
        before = np.sqrt((turned[column] * turned[column]).sum())
        for _ in range(2):
            for other in range(column):
                product = 0.0
                for place in range(turned.shape[1]):
                    product += turned[column, place] * turned[other, place]
                for place in range(turned.shape[1]):
                    turned[column, place] -= product * turned[other, place]
        size = np.sqrt((turned[column] * turned[column]).sum())
        turned[column] *= 1 / size if size > 1e-6 * before else 0.0
    return np.ascontiguousarray(turned.T).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _nearest(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centre (of `centres` [dimensions, topics]) with the largest cosine to each point, and that cosine."""
    best = np.zeros(len(points), np.int64)
    cosine = np.zeros(len(points), np.float32)
    sums = np.empty(centres.shape[1], np.float32)
    for point in range(len(points)):
        sums[:] = 0
        for d in range(len(centres)):
            value = points[point, d]
            for centre in range(len(sums)):
                sums[centre] += value * centres[d, centre]
        at = 0
        for centre in range(1, len(sums)):
            if sums[centre] > sums[at]:
                at = centre
        best[point], cosine[point] = at, sums[at]
    return best, cosine


@numba.njit(cache=True, nogil=True)
def _means(points: np.ndarray, nearest: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The directions of the sums of each topic's points; a topic of none keeps its centre."""
    sums = np.zeros(before.shape, np.float64)
    for point in range(len(points)):
        for d in range(points.shape[1]):
            sums[nearest[point], d] += points[point, d]
    for centre in range(len(sums)):
        size = np.sqrt((sums[centre] * sums[centre]).sum())
        for d in range(points.shape[1]):
            sums[centre, d] = sums[centre, d] / size if size > 0 else before[centre, d]
    return sums.astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _spread(points: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """First centres: each drawn with a chance that grows with its distance from those drawn before."""
    chosen = np.empty(len(draws), np.int64)
    distance = np.ones(len(points), np.float64)
    for number in range(len(draws)):
        aim = draws[number] * distance.sum()
        at = 0
        while at < len(points) - 1 and aim >= distance[at]:
            aim -= distance[at]
            at += 1
        chosen[number] = at
        for point in range(len(points)):
            product = 0.0
            for d in range(points.shape[1]):
                product += points[point, d] * points[at, d]
            distance[point] = min(distance[point], max(0.0, 1 - product))
    return chosen


TOPICS = Step("topics", Topics, topics, learn=learn, report=report)
