"""A large file read in pieces, wherever it is cut, gives what it gives when it is read whole."""

from __future__ import annotations

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import Killed, KillingProgress, contents, folder_source, rows, sentence, write_lines
from reading import brief, file, read

from lmcraft.corpus import collect
from lmcraft.corpus.readers import cuts
from lmcraft.corpus.readers.cuts import cuts_of
from lmcraft.corpus.readers.files import Item, Reading, read_file
from lmcraft.recipe.stage import Runtime, UserError


def in_pieces(path: Path, **settings: Any) -> tuple[list[Item], int]:
    """The items of all pieces, and how many pieces there were."""
    found = cuts_of(path, path.name, Reading(**settings)) or [None]
    return [item for cut in found for item in read_file(path, path.name, Reading(**settings, cut=cut))], len(found)


def lines(*records: Any) -> list[bytes]:
    return [json.dumps(record).encode() for record in records]


SOUND = lines({"text": "one"}, {"text": "two", "title": "2"}, {"text": "drei ü"}, {"text": "four"})
ODD = {
    "sound": b"\n".join(SOUND) + b"\n",
    "no final newline": b"\n".join(SOUND),
    "windows lines": b"\r\n".join(SOUND) + b"\r\n",
    "byte order mark": codecs.BOM_UTF8 + b"\n".join(SOUND) + b"\n",
    "blank lines": b"\n\n".join(SOUND) + b"\n\n\n  \n",
    "broken lines": b"\n".join([SOUND[0], b'{"text": "cut', SOUND[1], b"[1]", b'{"text": "caf\xe9"}', SOUND[2], b"{}"]),
    "half a surrogate": b"\n".join([SOUND[0], b'{"text": "\\ud800"}', SOUND[1]]),
    "long records": b"\n".join([SOUND[0], *lines({"text": "x" * 300}), SOUND[1], *lines({"text": "y" * 70}), SOUND[2]]),
}


@pytest.mark.parametrize("block", [100, cuts.BLOCK_BYTES])
@pytest.mark.parametrize("name", ODD)
def test_lines_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, block: int) -> None:
    path = file(tmp_path, "a.jsonl", ODD[name])
    settings = {"max_record_bytes": 200}
    whole = read(path, **settings)
    assert len(whole) >= 3
    monkeypatch.setattr(cuts, "BLOCK_BYTES", block)
    for size in range(1, len(ODD[name])):
        monkeypatch.setattr(cuts, "CUT_BYTES", size)
        items, pieces = in_pieces(path, **settings)
        assert items == whole
        if size == 1:
            assert pieces == ODD[name].count(b"\n") + (not ODD[name].endswith(b"\n"))


def test_lines_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, "a.txt", codecs.BOM_UTF8 + "first\r\n\nthird ü\n".encode() + b"caf\xe9\n" + b"z" * 90)
    for encoding in ("auto", "cp1252"):
        whole = read(path, format="lines", encoding=encoding, max_record_bytes=50)
        assert len(whole) == 4
        for size in range(1, 120):
            monkeypatch.setattr(cuts, "CUT_BYTES", size)
            items, pieces = in_pieces(path, format="lines", encoding=encoding, max_record_bytes=50)
            assert items == whole
            assert pieces > 1 or size > 20


def test_rows_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [b"one", b"", b"caf\xe9", None, *(sentence(n).encode() for n in range(60)), b"x" * 900]
    column = pa.Array.from_buffers(pa.string(), len(texts), pa.array(texts, pa.binary()).buffers())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column, "title": [str(n) for n in range(len(texts))]}), path, row_group_size=7)
    whole = read(path, max_record_bytes=500)
    assert len(whole) == len(texts)
    seen = set()
    for size in (1, 400, 1200, 2000, 10**6):
        monkeypatch.setattr(cuts, "CUT_BYTES", size)
        items, pieces = in_pieces(path, max_record_bytes=500)
        assert items == whole
        seen.add(pieces)
    assert {1, 10} < seen


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", gzip.compress(ODD["sound"])),
        ("a.json", b"[" + b",\n".join(SOUND) + b"]"),
        ("a.txt", b"one\ntwo\nthree\n"),
        ("a.csv", b"text\none\ntwo\n"),
        ("a.jsonl", b'{"text": "\0"}\n{"text": "two"}\n'),
        ("a.jsonl", b'[]\n{"text": 1\n[]\n'),
        ("a.jsonl", b'{"text": "one line"}'),
        ("a.parquet", b"PAR1 is not enough"),
        ("a.bin", b"one\ntwo\n"),
    ],
)
def test_what_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes) -> None:
    monkeypatch.setattr(cuts, "CUT_BYTES", 4)
    path = file(tmp_path, name, content)
    assert cuts_of(path, name, Reading()) == []
    assert brief(in_pieces(path)[0]) == brief(read(path))


def test_a_field_that_is_missing_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "CUT_BYTES", 20)
    path = file(tmp_path, "a.jsonl", b"broken\n" + b"\n".join(lines(*({"Text": str(n)} for n in range(9)))))
    (first, *later) = cuts_of(path, path.name, Reading())
    with pytest.raises(UserError, match=r"a\.jsonl:2 has no column 'text'.*did you mean 'Text'"):
        list(read_file(path, path.name, Reading(cut=first)))
    found = [item for cut in later for item in read_file(path, path.name, Reading(cut=cut))]
    assert {each[1] for each in brief(found)} == {"empty text"}


@pytest.fixture
def large(tmp_path: Path) -> Path:
    folder = tmp_path / "large"
    write_lines(folder / "a.jsonl", [{"text": sentence(n)} if n % 50 else {"no": n} for n in range(1, 900)])
    pq.write_table(pa.table({"text": [sentence(n) for n in range(900, 1500)]}), folder / "b.parquet", row_group_size=50)
    (folder / "c.txt").write_text("Small.")
    return folder


def collected(folder: Path, out: Path, **runtime: Any) -> Path:
    config = collect.CollectConfig.model_validate({"sources": [folder_source(folder)], "shard_documents": 100})
    collect.run(config, {}, out, Runtime(**{"workers": 1} | runtime))
    return out


def test_the_documents_do_not_depend_on_cuts_nor_the_shards_on_workers(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collected(large, tmp_path / "whole")
    monkeypatch.setattr(cuts, "CUT_BYTES", 20_000)
    monkeypatch.setattr(collect, "TASK_BYTES", 20_000)
    one, two = collected(large, tmp_path / "one"), collected(large, tmp_path / "two", workers=2)
    assert contents(one) == contents(two)
    assert len({path.name.split("-")[1] for path in one.glob("documents-*")}) > 8  # tasks
    for kind in ("documents", "removed"):
        assert rows(one, kind) == rows(whole, kind)
    assert (one / "statistics.json").read_bytes() == (whole / "statistics.json").read_bytes()


def test_a_killed_run_goes_on_inside_a_cut_file(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuts, "CUT_BYTES", 40_000)
    monkeypatch.setattr(collect, "TASK_BYTES", 40_000)
    whole = collected(large, tmp_path / "whole")
    for reports in (5, 4, 7):
        with pytest.raises(Killed):
            collected(large, tmp_path / "killed", scratch=tmp_path / "s", progress=KillingProgress(reports))
    assert contents(collected(large, tmp_path / "killed", scratch=tmp_path / "s")) == contents(whole)
