"""Duplicates: planted ones are found, and a document goes only for a kept one that it resembles."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from corpora import sentence

from lmcraft.corpus.duplicates import Exact, Near, decide_exact, decide_near, exact_keys, signatures
from lmcraft.corpus.steps import Duplicates, Keys


def keys_of(texts: list[str], config: Near | Exact) -> Keys:
    batch = pa.record_batch({"text": pa.array(texts, pa.string())})
    keys = signatures(batch, config) if isinstance(config, Near) else exact_keys(batch, config)
    return Keys(np.array([f"{number:05d}" for number in range(len(texts))]), np.array([len(t) for t in texts]), keys)


def edited(text: str, seed: int, share: float) -> str:
    draw = random.Random(seed)
    return " ".join(f"new{draw.random()}" if draw.random() < share else word for word in text.split())


def grams(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = text.casefold().replace(".", "").split()
    return {tuple(words[at : at + n]) for at in range(max(1, len(words) - n + 1))}


def jaccard(one: str, other: str) -> float:
    return len(grams(one) & grams(other)) / len(grams(one) | grams(other))


@pytest.fixture(scope="module")
def planted() -> tuple[list[str], Keys, Duplicates]:
    """200 different texts, then of each of the first 60 three copies with 1%, 3% and 10% of the words exchanged."""
    texts = [sentence(n, 200) for n in range(200)]
    texts += [edited(texts[n], 3 * n + k, share) for n in range(60) for k, share in enumerate((0.01, 0.03, 0.1))]
    keys = keys_of(texts, Near())
    return texts, keys, decide_near(keys, Near())


def test_planted_near_duplicates_are_found(planted: tuple[list[str], Keys, Duplicates]) -> None:
    texts, _, found = planted
    removed = set(found.rows.tolist())
    pairs = [(row, 200 + 3 * row + k) for row in range(60) for k in range(3)]
    alike = [pair for pair in pairs if jaccard(texts[pair[0]], texts[pair[1]]) >= 0.65]
    both_kept = [pair for pair in alike if not removed & set(pair)]
    assert len(alike) > 60
    assert len(both_kept) <= 0.05 * len(alike)  # theory for these bands: 0.05 at a similarity of 0.65
    assert removed <= {row for pair in pairs for row in pair}


def test_each_removed_document_names_a_kept_one_that_agrees(planted: tuple[list[str], Keys, Duplicates]) -> None:
    texts, keys, found = planted
    removed = set(found.rows.tolist())
    assert len(removed) == len(found.rows)
    for row, kept, value in zip(found.rows, found.kept, found.values, strict=True):
        assert kept not in removed
        assert value == (keys.keys[row] == keys.keys[kept]).mean() >= 0.5
        assert abs(jaccard(texts[row], texts[kept]) - value) < 0.2
        assert (len(texts[kept]), keys.ids[row]) >= (len(texts[row]), keys.ids[kept])


def test_the_order_of_documents_does_not_matter(planted: tuple[list[str], Keys, Duplicates]) -> None:
    _, keys, found = planted
    turned = Keys(keys.ids[::-1], keys.characters[::-1], keys.keys[::-1])
    again = decide_near(turned, Near())
    pairs = {(keys.ids[row], keys.ids[kept]) for row, kept in zip(found.rows, found.kept, strict=True)}
    assert pairs == {(turned.ids[row], turned.ids[kept]) for row, kept in zip(again.rows, again.kept, strict=True)}


def test_a_chain_does_not_remove_what_resembles_nothing_kept() -> None:
    # a ~ b ~ c, but a and c have little in common: connected components would keep one of the three, this keeps two.
    words = [f"w{n}" for n in range(300)]
    texts = [" ".join(words[at : at + 200]) for at in (0, 50, 100)]
    config = Near(bands=50, rows=3, agree=0.45)
    keys = keys_of(texts, config)
    found = decide_near(Keys(keys.ids, np.array([3, 2, 1]), keys.keys), config)
    assert found.rows.tolist() == [1]
    assert found.kept.tolist() == [0]


def test_agreement_estimates_jaccard() -> None:
    one = sentence(1, 200)
    other = edited(one, 5, 0.05)
    rows = keys_of([one, other], Near(bands=200, rows=5)).keys
    assert abs((rows[0] == rows[1]).mean() - jaccard(one, other)) < 0.05


def test_signatures_stay_the_same_over_versions() -> None:
    # Stored under a name (SIGNATURE): if this fails on purpose, the algorithm needs a new name.
    batch = pa.record_batch({"text": ["The quick brown fox jumps over the lazy dog.", "", "東京は日本の首都です"]})
    assert signatures(batch, Near(bands=1, rows=3)).tolist() == EXPECTED


EXPECTED = [[278074944, 1649226924, 1151086274], [786482486, 819974060, 249671403], [793865762, 311564120, 956285686]]


def test_a_batch_does_not_change_the_signature_of_a_document() -> None:
    texts = [sentence(1), "two words", "", sentence(2, 80)]
    together = signatures(pa.record_batch({"text": texts}), Near())
    alone = [signatures(pa.record_batch({"text": [text]}), Near())[0] for text in texts]
    assert np.array_equal(together, np.stack(alone))
    assert signatures(pa.record_batch({"text": pa.array([], pa.string())}), Near()).shape == (0, 125)


def test_exact_duplicates_differ_only_in_case_space_and_form() -> None:
    texts = ["Café au  lait", "cafe\u0301 au lait ", "café au lait!", "thé"]
    found = decide_exact(keys_of(texts, Exact()), Exact())
    assert (found.rows.tolist(), found.kept.tolist()) == ([0], [1])
    assert len(decide_exact(keys_of(["a"], Exact()), Exact()).rows) == 0
