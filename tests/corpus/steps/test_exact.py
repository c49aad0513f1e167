"""Exact duplicates: the same text but for case, space and Unicode form, whatever the order of the documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from corpora import batch_of, corpus_of, sentence
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmcraft.corpus import documents
from lmcraft.corpus.normalised import normalised
from lmcraft.corpus.step import Known
from lmcraft.corpus.steps import exact
from lmcraft.corpus.steps.exact import Exact, text_keys


def judged(folder: Path, config: Exact, *batches: pa.RecordBatch, **inputs: object) -> dict[str, str]:
    """What goes, by id: the id that it goes for."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = corpus_of(folder, *batches, **inputs)
    arrays = exact.learn(corpus, config)
    gone: dict[str, str] = {}
    for shard in corpus.shards:
        for rows, batch in shard.batches(documents.SCHEMA.names):
            (drop,) = exact.judge(batch, config, Known(arrays, corpus.inputs, rows)).drops
            assert drop.kept is not None
            gone |= {batch["id"][row].as_py(): str(drop.kept[row]) for row in np.flatnonzero(drop.rows).tolist()}
    return gone


def test_they_differ_only_in_case_space_and_form(tmp_path: Path) -> None:
    batch = batch_of(["Café au  lait", "cafe\u0301 au lait ", "café au lait!", "thé"])
    assert judged(tmp_path, Exact(), batch) == {f"{0:032x}": f"{1:032x}"}  # the longer one stays
    assert judged(tmp_path / "one", Exact(), batch_of(["a"])) == {}
    assert judged(tmp_path / "none", Exact(), batch_of([])) == {}


SPACED = st.text(alphabet="aAbB \t\n\x0b\x1c\x85\u00a0\u3000é\u0301E", max_size=12)


@given(st.lists(st.one_of(SPACED, st.text(max_size=10)), max_size=8))
@example(["A  b\n", " a B", "a b\x1f", "12345678", "1234567 8", "1234567  8", "\u212a", "k", "", " "])
@settings(max_examples=300, deadline=None)
def test_keys_are_equal_where_the_normalised_texts_are(texts: list[str]) -> None:
    keys = [tuple(key) for key in text_keys(pa.array(texts, pa.string())).tolist()]
    for row, text in enumerate(texts):
        for other in range(row):
            assert (keys[row] == keys[other]) == (normalised(text) == normalised(texts[other]))


def test_keys_stay_the_same_over_versions() -> None:
    assert text_keys(pa.array(["The quick brown fox", "Café"])).tolist() == EXPECTED


EXPECTED = [[9981041979135721206, 15036276692522298750], [7071997847845086370, 7413096659987137808]]


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_neither_order_nor_shards_matter(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    texts = [sentence(n % 5, 6 + n % 3) for n in range(20)] + ["", " ", "A b", "a B", "a  b"]
    batch = batch_of(texts)
    first = judged(tmp_path_factory.mktemp("a"), Exact(), batch)
    assert len(first) == 8
    assert not set(first) & set(first.values())
    order = data.draw(st.permutations(range(len(texts))))
    cut = data.draw(st.integers(0, len(texts)))
    mixed = pa.table(batch).take(pa.array(order)).combine_chunks().to_batches()[0]
    parts = [part for part in (mixed.slice(0, cut), mixed.slice(cut)) if part.num_rows]
    assert judged(tmp_path_factory.mktemp("b"), Exact(), *parts) == first


def test_policy_and_earlier_artifacts(tmp_path: Path) -> None:
    batch = batch_of(
        ["same", "same", "same", "other"], source=["a", "b", "c", "c"], scores=[None, [("good", 2.0)], None, None]
    )
    kept = set(judged(tmp_path / "1", Exact(keep=["quality"], quality="good"), batch).values())
    assert kept == {f"{1:032x}"}
    assert set(judged(tmp_path / "2", Exact(keep=["source"], sources=["c"]), batch).values()) == {f"{2:032x}"}
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    documents.write_parquet(
        earlier / "documents-00000.parquet",
        pa.Table.from_batches([batch_of(["SAME", "same", "x", "x"], id=["old-0", "old-1", "old-2", "old-3"])]),
    )
    gone = judged(tmp_path / "3", Exact(), batch, earlier=[earlier])
    assert gone == {f"{row:032x}": "old-0" for row in range(3)}
