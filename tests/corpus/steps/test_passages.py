"""Repeated passages: what goes is what a suffix array over all documents says, and it stays where it came first."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from corpora import batch_of, corpus_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcraft.corpus import documents
from lmcraft.corpus.step import Known
from lmcraft.corpus.steps import passages
from lmcraft.corpus.steps.passages import Passages
from lmcraft.corpus.words import words


def judged(folder: Path, config: Passages, *batches: pa.RecordBatch, **inputs: object) -> tuple[dict[str, str], list]:
    """Texts that are left by id (without those that went whole), and the passages put aside."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = corpus_of(folder, *batches, **inputs)
    arrays = passages.learn(corpus, config)
    left: dict[str, str] = {}
    aside: list[dict] = []
    for shard in corpus.shards:
        for rows, batch in shard.batches(documents.SCHEMA.names):
            result = passages.judge(batch, config, Known(arrays, corpus.inputs, rows))
            gone = np.zeros(batch.num_rows, bool)
            for drop in result.drops:
                gone |= drop.rows
            for row in np.flatnonzero(~gone).tolist():
                left[result.batch["id"][row].as_py()] = result.batch["text"][row].as_py()
            for table in result.aside.values():
                aside += table.to_pylist()
    return left, sorted(aside, key=lambda item: (item["document"], item["begin"]))


def suffix_array_cuts(texts: list[str], size: int, inside: bool) -> list[np.ndarray]:
    """Which words of each text go: by a suffix array with longest common prefixes, documents in this order."""
    cut = words(pa.array(texts, pa.string()))
    counts = cut.counts.tolist()
    document = np.repeat(np.arange(len(texts)), [count + 1 for count in counts])
    sequence: list[int] = []
    for row in range(len(texts)):  # each document ends with a number of its own
        sequence += [*cut.hashes[cut.starts[row] : cut.starts[row + 1]].tolist(), -1 - row]
    array = sorted(range(len(sequence)), key=lambda at: sequence[at : at + size])
    gone = [np.zeros(count, bool) for count in counts]
    starts = np.concatenate([[0], np.cumsum([count + 1 for count in counts])])
    begin = 0
    for end in range(1, len(array) + 1):
        same = end < len(array) and sequence[array[begin] :][:size] == sequence[array[end] :][:size]
        if same:
            continue
        run = sorted(array[begin:end])
        begin = end
        if len(run) < 2 or any(value < 0 for value in sequence[run[0] : run[0] + size]):
            continue
        for at in run[1:]:
            if inside or document[at] != document[run[0]]:
                row = int(document[at])
                gone[row][at - starts[row] :][:size] = True
    return gone


def check(folder: Path, texts: list[str], size: int, inside: bool, cut: int) -> None:
    # No preference but the id, so that documents come in this order.
    batch = batch_of(texts)
    config = Passages(words=size, inside=inside, keep=[])
    parts = [part for part in (batch.slice(0, cut), batch.slice(cut)) if part.num_rows]
    left, aside = judged(folder, config, *parts)
    expected = suffix_array_cuts(texts, size, inside)
    spans: dict[str, list[tuple[int, int]]] = {}
    for item in aside:
        spans.setdefault(item["document"], []).append((item["begin"], item["end"]))
    for row, (text, gone) in enumerate(zip(texts, expected, strict=True)):
        name = f"{row:032x}"
        found = words(pa.array([text], pa.string()))
        covered = np.zeros(len(gone), bool)
        for begin, end in spans.get(name, []):
            covered |= (found.begin >= begin) & (found.end <= end)
        assert covered.tolist() == gone.tolist()
        if not gone.any():
            assert left[name] == text
        elif gone.all():
            assert name not in left
        else:
            assert np.array_equal(words(pa.array([left[name]])).hashes, found.hashes[~gone])
    for item in aside:  # every window of a passage stands in the document that keeps it, for all that are whole here
        passage = texts[int(item["document"], 16)].encode()[item["begin"] : item["end"]].decode()
        mine, keeper = (
            words(pa.array([text])).hashes.tolist() for text in (passage, texts[int(item["first_document"], 16)])
        )
        assert item["words"] == len(mine)
        there = {tuple(keeper[at : at + size]) for at in range(len(keeper) - size + 1)}
        assert {tuple(mine[at : at + size]) for at in range(len(mine) - size + 1)} <= there


@given(
    st.lists(st.text(alphabet="ab", max_size=40), min_size=1, max_size=5),
    st.integers(2, 7),
    st.booleans(),
    st.integers(0, 5),
)
@settings(max_examples=120, deadline=None)
def test_it_is_what_a_suffix_array_finds_in_repetitive_text(
    tmp_path_factory: pytest.TempPathFactory, letters: list[str], size: int, inside: bool, cut: int
) -> None:
    texts = [" ".join(text) for text in letters]
    check(tmp_path_factory.mktemp("a"), texts, size, inside, min(cut, len(texts)))


@pytest.mark.parametrize("inside", [False, True])
def test_it_is_what_a_suffix_array_finds_at_50_words(tmp_path: Path, inside: bool) -> None:
    draw = random.Random(3)
    passage = [" ".join(f"p{draw.randrange(300)}" for _ in range(draw.randrange(40, 120))) for _ in range(12)]
    texts = []
    for _ in range(40):
        pieces = [" ".join(f"w{draw.randrange(500)}" for _ in range(draw.randrange(60))) for _ in range(4)]
        for _ in range(draw.randrange(3)):
            chosen = draw.choice(passage).split()
            begin = draw.randrange(len(chosen) // 4)
            pieces.insert(draw.randrange(len(pieces)), " ".join(chosen[begin:]))
        texts.append(". ".join(pieces) + ".")
    check(tmp_path, texts, 50, inside, 17)


def test_rounds_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    shared = " ".join(f"p{draw.randrange(300)}" for _ in range(300))
    batch = batch_of([f"a {shared}", f"b {shared} b", f"{shared[5:]} c"])
    whole = judged(tmp_path / "a", Passages(), batch)
    assert len(whole[1]) == 2
    monkeypatch.setattr(passages, "ROUND_BYTES", 1000)
    assert judged(tmp_path / "b", Passages(), batch) == whole


def test_the_order_of_documents_and_shards_does_not_matter(tmp_path: Path) -> None:
    draw = random.Random(5)
    shared = [" ".join(f"p{draw.randrange(300)}" for _ in range(80)) for _ in range(5)]
    texts = [f"start{n} {shared[n % 5]} middle{n} {shared[(n * 2) % 5]} {'end ' * n}" for n in range(20)]
    batch = batch_of(texts)
    whole = judged(tmp_path / "whole", Passages(), batch)
    order = list(range(20))
    for seed in range(3):
        random.Random(seed).shuffle(order)
        mixed = pa.table(batch).take(pa.array(order)).combine_chunks().to_batches()[0]
        assert judged(tmp_path / str(seed), Passages(), mixed.slice(0, 7), mixed.slice(7)) == whole


def test_text_around_a_cut_stays_readable(tmp_path: Path) -> None:
    shared = " ".join(f"Möbel{n}" for n in range(60))
    texts = [
        f"Long first. {shared}. And after it: much more text.",
        f"Mine. {shared.upper()}. After.",
        f"Last: {shared}!",
    ]
    left, aside = judged(tmp_path, Passages(), batch_of(texts))
    assert left == {f"{0:032x}": texts[0], f"{1:032x}": "Mine. After.", f"{2:032x}": "Last:"}
    assert {item["first_document"] for item in aside} == {f"{0:032x}"}
    assert [item["words"] for item in aside] == [60, 60]
    left, _ = judged(tmp_path / "2", Passages(least=2), batch_of(texts))
    assert set(left) == {f"{0:032x}", f"{1:032x}"}


def test_passages_of_earlier_artifacts_go(tmp_path: Path) -> None:
    shared = " ".join(f"word{n}" for n in range(60))
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    old = batch_of([f"{shared} old", f"{shared} older"], id=["old-0", "old-1"])
    documents.write_parquet(earlier / "documents-00000.parquet", pa.Table.from_batches([old]))
    left, aside = judged(
        tmp_path / "new", Passages(), batch_of([f"New and much longer. {shared} x"]), earlier=[earlier]
    )
    assert left == {f"{0:032x}": "New and much longer. x"}
    assert [item["first_document"] for item in aside] == ["old-1"]


def test_nothing_repeated(tmp_path: Path) -> None:
    batch = batch_of(["one two three", "", "four"])
    left, aside = judged(tmp_path, Passages(), batch)
    assert list(left.values()) == ["one two three", "", "four"]
    assert aside == []
    assert judged(tmp_path / "none", Passages(), batch_of([])) == ({}, [])
