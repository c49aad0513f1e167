"""What a site repeats goes; what it says once, and what other sites repeat, stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from corpora import batch_of, corpus_of, sentence

from lmcraft.corpus.step import Judged, Known
from lmcraft.corpus.steps.boilerplate import Boilerplate, boilerplate, learn, site_of

MENU = "Home  |  News | Subscribe"


def judged(tmp_path: Path, batches: list[pa.RecordBatch], config: Boilerplate) -> list[Judged]:
    tmp_path.mkdir(exist_ok=True)
    corpus = corpus_of(tmp_path, *batches)
    arrays = learn(corpus, config)
    return [
        boilerplate(batch, config, Known(arrays, rows=np.arange(shard.first_row, shard.first_row + batch.num_rows)))
        for shard, batch in zip(corpus.shards, batches, strict=True)
    ]


def pages(count: int, host: str, line: str, first: int = 0) -> tuple[list[str], list[str]]:
    texts = [f"{line}\n\n{sentence(first + number)}\n\n\n{line.upper()}" for number in range(count)]
    return texts, [f"https://{host}/{number}" for number in range(count)]


def test_lines_that_a_site_repeats_are_removed_and_named_once(tmp_path: Path) -> None:
    texts, urls = pages(6, "www.news.example", MENU)
    other, other_urls = pages(4, "blog.example", MENU, 100)
    batch = batch_of(texts + other, url=urls + other_urls)
    (done,) = judged(tmp_path, [batch], Boilerplate())
    after = done.batch["text"].to_pylist()
    assert after[:6] == [sentence(number) for number in range(6)]
    assert after[6:] == other  # too few pages
    assert done.batch["changes"].to_pylist() == [["boilerplate removed"]] * 6 + [[]] * 4
    removed = done.aside["boilerplate"].to_pylist()
    assert sorted(row["line"] for row in removed) == [MENU.upper(), MENU]
    assert {(row["site"], row["documents"], row["site_documents"]) for row in removed} == {("news.example", 6, 6)}
    assert {row["id"] for row in removed} == {batch["id"][0].as_py()}


def test_a_line_must_reach_the_share_of_its_site(tmp_path: Path) -> None:
    texts = [sentence(number) + ("\nA notice that is here and there." if number < 6 else "") for number in range(20)]
    batch = batch_of(texts, path=[f"folder/{number}.txt" for number in range(20)])
    (kept,) = judged(tmp_path / "a", [batch], Boilerplate(min_share=0.5))
    assert kept.batch["text"].to_pylist() == texts
    (gone,) = judged(tmp_path / "b", [batch], Boilerplate(min_share=0.3))
    assert gone.batch["text"].to_pylist() == [sentence(number) for number in range(20)]


def test_code_short_lines_and_lines_without_letters_stay(tmp_path: Path) -> None:
    texts = [f"|---|---|---|---|\n\n```\nimport numpy as np\n```\n\nshort\n\n{sentence(number)}" for number in range(8)]
    code = [f"from numpy import array\n# {sentence(number)}" for number in range(8)]
    batch = batch_of(texts + code, format=[None] * 8 + ["code"] * 8, path=["d/x"] * 16)
    (done,) = judged(tmp_path, [batch], Boilerplate())
    assert done.batch["text"].to_pylist() == texts + code


def test_a_document_that_is_nothing_else_is_dropped_as_it_was(tmp_path: Path) -> None:
    texts = [f"{MENU}\n{sentence(number)}" for number in range(6)] + [f"{MENU}\n"]
    (done,) = judged(tmp_path, [batch_of(texts)], Boilerplate())
    (drop,) = done.drops
    assert drop.reason == "only boilerplate"
    assert drop.rows.tolist() == [False] * 6 + [True]
    assert done.batch["text"][6].as_py() == texts[6]


def test_a_line_that_one_document_repeats_counts_once(tmp_path: Path) -> None:
    texts = ["\n".join(["The refrain of a song"] * 50), *(sentence(number) for number in range(9))]
    (done,) = judged(tmp_path, [batch_of(texts)], Boilerplate())
    assert done.batch["text"].to_pylist() == texts


def test_shards_do_not_matter(tmp_path: Path) -> None:
    texts, urls = pages(12, "news.example", "Lies weiter über Öl – täglich")
    whole = judged(tmp_path / "a", [batch_of(texts, url=urls)], Boilerplate())
    cut = [batch_of(texts[start : start + 5], url=urls[start : start + 5]) for start in (0, 5, 10)]
    parts = judged(tmp_path / "b", cut, Boilerplate())
    assert [text for part in parts for text in part.batch["text"].to_pylist()] == whole[0].batch["text"].to_pylist()
    assert sum(part.aside["boilerplate"].num_rows for part in parts) == whole[0].aside["boilerplate"].num_rows == 2


def test_no_documents_and_no_repetition(tmp_path: Path) -> None:
    (done,) = judged(tmp_path, [batch_of([sentence(1)])], Boilerplate())
    assert done.batch["text"].to_pylist() == [sentence(1)]
    assert done.aside["boilerplate"].num_rows == 0


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://www.news.example.com/a?b", "example.com"),
        ("http://sport.bbc.co.uk:80/", "bbc.co.uk"),
        ("https://www.ibm.de/x", "ibm.de"),
        ("https://www.a.com.br/", "a.com.br"),
        ("https://ann.github.io/x", "ann.github.io"),
        ("https://www.ann.blogspot.com/x", "ann.blogspot.com"),
        ("http://192.168.1.1/x", "192.168.1.1"),
        ("http://[broken", "s/sub"),
        (None, "s/sub"),
        ("http://localhost/", "localhost"),
    ],
)
def test_sites(url: str | None, site: str) -> None:
    assert site_of(url, "s", "sub/file.txt") == site
