"""An index finds every run of words it guarantees, says where it came from, and is the same whoever builds it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from corpora import contents, sentence

from lmcraft.corpus import documents, index
from lmcraft.corpus.index import IndexConfig, TextIndex
from lmcraft.corpus.words import mixed
from lmcraft.recipe.stage import Runtime, UserError


def artifact(folder: Path, texts: list[str], shard: int = 40) -> Path:
    folder.mkdir(parents=True)
    rows = [
        {
            "id": documents.document_id("mine", str(n), text),
            "text": text,
            "source": "mine",
            "path": f"file.txt:{n}",
            "licence": "CC0-1.0",
        }
        for n, text in enumerate(texts)
    ]
    for number, first in enumerate(range(0, len(rows), shard)):
        table = pa.Table.from_pylist(rows[first : first + shard], schema=documents.SCHEMA)
        documents.write_parquet(folder / f"documents-{number:05d}.parquet", table)
    return folder


def built(out: Path, *inputs: Path, workers: int = 1, **settings: Any) -> TextIndex:
    runtime = Runtime(workers=workers, scratch=out.with_name(out.name + "-scratch"))
    index.run(IndexConfig(**settings), {"documents": list(inputs)}, out, runtime)
    return TextIndex(out, inputs)


TEXTS = [" ".join(sentence(n * 50 + each) for each in range(1 + n % 7)) for n in range(100)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact(tmp_path_factory.mktemp("source") / "documents", TEXTS)


@pytest.fixture(scope="module")
def made(source: Path, tmp_path_factory: pytest.TempPathFactory) -> TextIndex:
    return built(tmp_path_factory.mktemp("index") / "out", source)


def test_every_run_of_the_guaranteed_length_is_found(made: TextIndex) -> None:
    least = made.meta["guaranteed_words"]
    assert least == 15
    rng = random.Random(0)
    for _ in range(200):
        row = rng.randrange(len(TEXTS))
        words = TEXTS[row].split()
        begin = rng.randrange(len(words) - least + 1)
        copied = " ".join(words[begin : begin + least])
        answer = made.ask(f"{sentence(9001)} {copied.upper()}! {sentence(9002)}")
        assert row in [match.row for match in answer.matches]
        (match,) = [match for match in answer.matches if match.row == row]
        assert match.words is not None
        assert match.words >= least
        assert copied.strip(".") in (match.excerpt or "")
        assert match.document["path"] == f"file.txt:{row}"
        assert match.document["licence"] == "CC0-1.0"


def test_a_text_that_is_not_there_is_not_found(made: TextIndex) -> None:
    answer = made.ask(" ".join(sentence(n) for n in range(100_000, 100_050)))
    assert (answer.found, answer.documents, answer.matches, answer.verbatim) == (0, 0, [], None)
    assert answer.fingerprints > 200


def test_what_is_covered_is_counted_in_words(made: TextIndex) -> None:
    words = TEXTS[6].split()
    half = made.ask(" ".join([*words[:20], *(f"new{n}" for n in range(20))]))
    assert half.verbatim == 0.5
    whole = made.ask(TEXTS[6])
    assert whole.verbatim == 1.0
    assert whole.found == whole.fingerprints
    assert whole.matches[0].words == len(words)
    assert whole.matches[0].document["id"] == documents.document_id("mine", "6", TEXTS[6])


def test_matches_without_their_documents_still_have_a_name(made: TextIndex) -> None:
    blind = TextIndex(made.directory)
    (match,) = blind.ask(TEXTS[3]).matches
    assert match.document["path"] == "file.txt:3"
    assert (match.words, match.excerpt) == (None, None)
    assert match.shared == len(blind.fingerprints(TEXTS[3]))


def test_workers_do_not_show_in_the_files(made: TextIndex, source: Path, tmp_path: Path) -> None:
    built(tmp_path / "two", source, workers=2)
    assert contents(tmp_path / "two") == contents(made.directory)


def test_several_inputs_count_through(source: Path, tmp_path: Path) -> None:
    other = artifact(tmp_path / "other", [sentence(777), "too short", ""])
    both = built(tmp_path / "both", source, other)
    assert both.meta["shards"] == [[40, 40, 20], [3]]
    assert both.meta["documents_of_fewer_words"] == 2
    (match,) = both.ask(sentence(777)).matches
    assert match.row == 100
    assert match.excerpt == sentence(777).rstrip(".")


def test_fingerprints_are_as_few_as_winnowing_promises(source: Path, tmp_path: Path) -> None:
    for window in (4, 8, 16):
        made = built(tmp_path / str(window), source, window=window)
        grams = sum(len(text.split()) - 7 for text in TEXTS)
        # short texts have a little more, as their ends are windows too
        assert made.meta["entries"] / grams == pytest.approx(2 / (window + 1), rel=0.12)
        assert made.meta["guaranteed_words"] == window + 7


def test_winnowing_selects_the_least_of_each_window() -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**63, 300).astype(np.uint64)
    hashes[100:140] = hashes[100]  # a text that repeats itself
    starts = np.array([0, 300])
    every = index._winnow(hashes, starts, 3, 1)[0]
    assert len(every) == 298
    chosen = set(index._winnow(hashes, starts, 3, 5)[0].tolist())
    ranks = dict(zip(every.tolist(), mixed(every).tolist(), strict=True))
    for first in range(298 - 4):
        assert min(every[first : first + 5].tolist(), key=ranks.__getitem__) in chosen
    assert len(index._winnow(hashes[100:140], np.array([0, 40]), 3, 5)[0]) <= 9  # a run of equals needs one in five


def test_too_few_words_are_refused(made: TextIndex) -> None:
    with pytest.raises(UserError, match="has 3 words, and this index answers from 8 on"):
        made.ask("three little words")


@pytest.mark.parametrize("damage", ["cut", "missing", "other algorithm"])
def test_a_damaged_index_is_named(made: TextIndex, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    for name, data in contents(made.directory).items():
        (folder / name).write_bytes(data)
    if damage == "cut":
        (folder / "rows.npy").write_bytes((folder / "rows.npy").read_bytes()[:-10])
    elif damage == "missing":
        (folder / "index.json").unlink()
    else:
        meta = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**meta, "algorithm": "lmcraft-winnow-0"}))
    with pytest.raises(UserError, match=r"damaged|holds no index|made by lmcraft-winnow-0"):
        TextIndex(folder)
