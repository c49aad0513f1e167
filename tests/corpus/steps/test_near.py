"""Near duplicates: planted ones are found, and a document goes only for a kept one that it resembles."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import batch_of, corpus_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lmcraft.corpus import documents, keeping
from lmcraft.corpus.bands import chosen_bands, probability
from lmcraft.corpus.minhash import SIGNATURE, ngrams, signatures
from lmcraft.corpus.step import Known
from lmcraft.corpus.steps import near
from lmcraft.corpus.steps.near import NEAR, Near
from lmcraft.recipe.stage import UserError


def sentence(seed: int, words: int = 30) -> str:
    """Text of its own."""
    draw = random.Random(seed)
    return " ".join(f"word{draw.randrange(1000)}" for _ in range(words))


def edited(text: str, seed: int, share: float) -> str:
    draw = random.Random(seed)
    return " ".join(f"new{draw.randrange(10**9)}" if draw.random() < share else word for word in text.split())


def jaccard(one: str, other: str, n: int = 5) -> float:
    grams, starts = ngrams(pa.array([one, other]), n)
    sets = [set(grams[starts[row] : starts[row + 1]].tolist()) for row in (0, 1)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def judged(folder: Path, config: Near, *batches: pa.RecordBatch, **inputs: object) -> dict[str, tuple[str, float]]:
    """What goes, by id: the id that it goes for, and their agreement."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = corpus_of(folder, *batches, **inputs)
    arrays = near.learn(corpus, config)
    json.dumps(near.report(arrays, config))
    gone: dict[str, tuple[str, float]] = {}
    for shard in corpus.shards:
        for rows, batch in shard.batches(documents.SCHEMA.names):
            (drop,) = near.judge(batch, config, Known(arrays, corpus.inputs, rows)).drops
            assert drop.kept is not None and drop.values is not None
            for row in np.flatnonzero(drop.rows).tolist():
                gone[batch["id"][row].as_py()] = (str(drop.kept[row]), round(float(drop.values[row]), 4))
    return gone


@pytest.fixture(scope="module")
def planted() -> pa.RecordBatch:
    """200 different texts, then of each of the first 60 three copies with 1%, 3% and 10% of the words exchanged."""
    texts = [sentence(n, 200) for n in range(200)]
    texts += [edited(texts[n], 3 * n + k, share) for n in range(60) for k, share in enumerate((0.01, 0.03, 0.1))]
    return batch_of(texts)


@pytest.mark.parametrize("verify", ["signature", "jaccard"])
def test_planted_near_duplicates_are_found(planted: pa.RecordBatch, tmp_path: Path, verify: str) -> None:
    config = Near.model_validate({"verify": verify})
    gone = judged(tmp_path, config, planted.slice(0, 150), planted.slice(150))
    ids = planted["id"].to_pylist()
    texts = dict(zip(ids, planted["text"].to_pylist(), strict=True))
    pairs = [(ids[row], ids[200 + 3 * row + k]) for row in range(60) for k in range(3)]
    alike = [pair for pair in pairs if jaccard(texts[pair[0]], texts[pair[1]]) >= 0.65]
    both_kept = [pair for pair in alike if not set(gone) & set(pair)]
    assert len(alike) > 60
    assert len(both_kept) <= 0.05 * len(alike)  # theory for these bands: 0.05 at a similarity of 0.65
    assert set(gone) <= {name for pair in pairs for name in pair}
    for name, (kept, value) in gone.items():
        assert kept not in gone
        assert value >= 0.5
        assert abs(jaccard(texts[name], texts[kept]) - value) < (0.2 if verify == "signature" else 1e-4)
        assert (-len(texts[kept]), kept) <= (-len(texts[name]), name)


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_neither_order_nor_shards_nor_batches_matter(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    texts = [sentence(n, 40) for n in range(8)]
    texts += [edited(texts[n % 8], n, 0.04) for n in range(16)] + [texts[0], "", "!", "two words", "Two WORDS"]
    batch = batch_of(texts)
    first = judged(tmp_path_factory.mktemp("a"), Near(), batch)
    assert first
    order = data.draw(st.permutations(range(len(texts))))
    cut = data.draw(st.integers(0, len(texts)))
    mixed = pa.table(batch).take(pa.array(order)).combine_chunks().to_batches()[0]
    parts = [part for part in (mixed.slice(0, cut), mixed.slice(cut)) if part.num_rows]
    again = judged(tmp_path_factory.mktemp("b"), Near(), *parts)
    assert again == first


def test_rounds_of_bands_give_the_same(
    planted: pa.RecordBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = judged(tmp_path / "a", Near(), planted)
    monkeypatch.setattr(near, "ROUND_BYTES", 1)
    assert judged(tmp_path / "b", Near(), planted) == whole


def test_a_chain_does_not_remove_what_resembles_nothing_kept(tmp_path: Path) -> None:
    # a ~ b ~ c, but a and c have little in common: connected components would keep one of the three, this keeps two.
    words = [f"w{n}" for n in range(1000, 1300)]
    texts = [" ".join(words[at : at + 200]) for at in (0, 50, 100)]
    config = Near(bands=50, rows=3, agree=0.45, keep=["quality"])
    batch = batch_of(texts, scores=[[("quality", value)] for value in (3.0, 2.0, 1.0)])
    gone = judged(tmp_path, config, batch)
    assert {name: kept for name, (kept, _) in gone.items()} == {f"{1:032x}": f"{0:032x}"}


def test_what_stays_follows_the_policy(tmp_path: Path) -> None:
    base = sentence(1, 120)
    texts = [base, base + " End.", base]
    batch = batch_of(texts, source=["a", "b", "c"], scores=[[("quality", 0.1)], None, [("quality", 0.9)]])

    def stays(**policy: object) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        gone = judged(folder, Near.model_validate(policy), batch)
        (kept,) = {kept for kept, _ in gone.values()}
        assert len(gone) == 2
        return chr(ord("a") + int(kept, 16))

    assert stays() == "b"
    assert stays(keep=["quality", "longest"]) == "c"
    assert stays(keep=["source"], sources=["z", "c", "a"]) == "c"
    assert stays(keep=["source"], sources=["a"]) == "a"
    assert stays(keep=[]) == "a"


def test_documents_of_earlier_artifacts_win(planted: pa.RecordBatch, tmp_path: Path) -> None:
    texts = [edited(text, n, 0.02) + " and something longer" for n, text in enumerate(planted["text"].to_pylist()[:20])]
    old = planted.slice(0, 10)
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    documents.write_parquet(earlier / "documents-00000.parquet", pa.Table.from_batches([old]))
    new = batch_of(texts, id=[f"new-{n}" for n in range(20)])
    gone = judged(tmp_path / "new", Near(), new, earlier=[earlier])
    assert {name: kept for name, (kept, _) in gone.items()} == {f"new-{n}": f"{n:032x}" for n in range(10)}


def test_stored_signatures_are_used_where_the_text_is_the_same(planted: pa.RecordBatch, tmp_path: Path) -> None:
    config = Near(store_signatures=True)
    known = Known(near.learn(corpus_of(tmp_path, planted), config), {}, np.arange(planted.num_rows))
    stored = near.judge(planted, config, known)
    (drop,) = stored.drops
    table = stored.aside["signatures"]
    assert table.num_rows == planted.num_rows - drop.rows.sum()
    assert set(table["algorithm"].to_pylist()) == {f"{SIGNATURE}, 5-grams"}
    kept = planted.filter(pa.array(~drop.rows))
    changed = kept.slice(0, 50).set_column(1, "text", pa.array([sentence(1000 + n, 200) for n in range(50)]))
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    mixed = pa.Table.from_batches([changed.cast(documents.SCHEMA), kept.slice(50)])
    documents.write_parquet(earlier / "documents-00000.parquet", mixed)
    texts = [edited(text, n, 0.01) for n, text in enumerate([*changed["text"].to_pylist(), *kept["text"].to_pylist()])]
    new = batch_of(texts, id=[f"new-{n}" for n in range(len(texts))])
    without = judged(tmp_path / "a", Near(), new, earlier=[earlier])
    documents.write_parquet(earlier / "signatures-00000.parquet", table)
    assert judged(tmp_path / "b", Near(), new, earlier=[earlier]) == without
    fewer = Near(bands=10)
    with_table = judged(tmp_path / "c", fewer, new, earlier=[earlier])
    (earlier / "signatures-00000.parquet").unlink()
    assert judged(tmp_path / "d", fewer, new, earlier=[earlier]) == with_table


@pytest.mark.parametrize(
    ("config", "message"), [(Near(ngram=3), "set `ngram` as it was there"), (Near(bands=30), "of 125 hashes")]
)
def test_signatures_that_cannot_be_compared_are_refused(tmp_path: Path, config: Near, message: str) -> None:
    batch = batch_of([sentence(1), sentence(2)])
    stored = near.judge(
        batch,
        Near(store_signatures=True),
        Known(near.learn(corpus_of(tmp_path, batch), Near()), {}, np.arange(2)),
    )
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    documents.write_parquet(earlier / "documents-00000.parquet", pa.Table.from_batches([batch]))
    documents.write_parquet(earlier / "signatures-00000.parquet", stored.aside["signatures"])
    with pytest.raises(UserError, match=message):
        judged(tmp_path / "new", config, batch, earlier=[earlier])
    pq.write_table(pa.table({"id": ["a"]}), earlier / "signatures-00000.parquet")
    with pytest.raises(UserError, match="build those documents again"):
        judged(tmp_path / "new", config, batch, earlier=[earlier])


def test_a_crowded_bucket_is_compared_with_only_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One hash a band and a demand that none meets: all stay, and the bucket of the shared beginning is full.
    texts = [f"one two three four five {sentence(n, 20)}" for n in range(30)]
    monkeypatch.setattr(near, "COMPARED", 4)
    config = Near(bands=40, rows=1, agree=0.9)
    arrays = near.learn(corpus_of(tmp_path, batch_of(texts)), config)
    assert not len(arrays["rows"])
    assert arrays["full"][0] > 0


def test_documents_without_words_are_compared_with_nothing(tmp_path: Path) -> None:
    assert judged(tmp_path, Near(), batch_of(["", "!!!", "???", "...", "a", "A", "b"])) == {
        f"{5:032x}": (f"{4:032x}", 1.0)
    }


def test_agreement_estimates_jaccard_without_bias() -> None:
    texts = [sentence(n, 120) for n in range(60)]
    others = [edited(text, n, 0.01 + 0.002 * n) for n, text in enumerate(texts)]
    one, other = (signatures(pa.array(side), 5, 500)[0] for side in (texts, others))
    errors = (one == other).mean(axis=1) - [jaccard(*pair) for pair in zip(texts, others, strict=True)]
    assert abs(errors.mean()) < 0.01  # a standard error of 0.003
    assert errors.std() < 0.03  # theory: 0.022


def test_signatures_stay_the_same_over_versions() -> None:
    # Stored under a name (SIGNATURE): if this fails on purpose, the algorithm needs a new name.
    texts = pa.array(["The quick brown fox jumps over the lazy dog.", "", "東京は日本の首都です"])
    found, worded = signatures(texts, 5, 3)
    assert found.tolist() == EXPECTED
    assert worded.tolist() == [True, False, True]


EXPECTED = [[45767, 1258, 61658], [0, 0, 0], [57922, 59710, 54401]]


@given(st.lists(st.text(alphabet="ab é東\u0301", max_size=60), max_size=5), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_signatures_are_minima_over_ngrams(texts: list[str], n: int) -> None:
    found, worded = signatures(pa.array(texts, pa.string()), n, 7)
    grams, starts = ngrams(pa.array(texts, pa.string()), n)
    for row in range(len(texts)):
        mine = set(grams[starts[row] : starts[row + 1]].tolist())
        assert worded[row] == bool(mine)
        alone, _ = signatures(pa.array([texts[row]]), n, 7)
        assert np.array_equal(found[row], alone[0])
        for other in range(row):
            if mine == set(grams[starts[other] : starts[other + 1]].tolist()):
                assert np.array_equal(found[row], found[other])


def test_bands_follow_from_the_wanted_similarity() -> None:
    bands, rows = chosen_bands(0.7, 128)
    assert bands * rows <= 128
    grid = (np.arange(500) + 0.5) / 500

    def area(bands: int, rows: int) -> float:
        found = probability(grid, bands, rows)
        return float(np.where(grid < 0.7, found, 1 - found).mean())

    for other in ((25, 5), (14, 8), (32, 4), (12, 10)):
        assert area(bands, rows) <= area(*other) + 1e-4
    assert probability(0.5, 25, 5) == pytest.approx(0.5478, abs=1e-3)
    config = Near(similarity=0.7)
    assert config.shape == (bands, rows)
    assert config.threshold == 0.7
    assert Near(similarity=0.7, agree=0.6).threshold == 0.6
    with pytest.raises(ValidationError, match="either"):
        Near(similarity=0.7, bands=3)


def test_an_empty_corpus(tmp_path: Path) -> None:
    assert judged(tmp_path, Near(), batch_of([])) == {}


def test_ids_of_any_kind_are_named(tmp_path: Path) -> None:
    text = sentence(1)
    batch = batch_of([text, text, text], id=["ü" * 40 + "b", "ü" * 40 + "a", "ü" * 40 + "c"])
    gone = judged(tmp_path, Near(), batch)
    assert len({kept for kept, _ in gone.values()}) == 1
    assert set(gone) | {kept for kept, _ in gone.values()} == set(batch["id"].to_pylist())
    assert keeping.PRIORITY.names is not None
    assert NEAR.name == "near"
