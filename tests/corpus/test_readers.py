"""Bad bytes cost one record or one file, are named with their place, and never more memory than the limit."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from lmcraft.corpus.readers.files import Columns, Fault, Item, Reading, Record, read_file
from lmcraft.recipe.stage import UserError


def read(path: Path, **settings: object) -> list[Item]:
    return list(read_file(path, path.name, Reading(**settings)))  # type: ignore[arg-type]


def file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def fault(items: list[Item]) -> Fault:
    (found,) = [item for item in items if isinstance(item, Fault)]
    return found


def test_a_text_file_is_one_document_without_its_byte_order_mark(tmp_path: Path) -> None:
    assert read(file(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\ntwo")) == [Record("a.txt", "one\ntwo")]


@pytest.mark.parametrize(
    ("content", "title", "text"),
    [
        ("# Rivers #\n\nThey flow.", "Rivers", "They flow."),
        ("Before.\n\n# Rivers\n\nThey flow.", "Rivers", "Before.\n\n# Rivers\n\nThey flow."),
        ("```\n# not a heading\n```\nText", None, "```\n# not a heading\n```\nText"),
        ("## Smaller\nText", None, "## Smaller\nText"),
    ],
)
def test_the_first_heading_of_markdown_is_the_title(tmp_path: Path, content: str, title: str | None, text: str) -> None:
    assert read(file(tmp_path, "a.md", content.encode())) == [Record("a.md", text, title, format="markdown")]


def test_invalid_utf8_is_set_aside_with_the_offset_of_the_byte(tmp_path: Path) -> None:
    found = fault(read(file(tmp_path, "a.txt", b"caf\xe9 au lait")))
    assert (found.reason, found.value) == ("invalid UTF-8", 3)
    assert "0xe9 at offset 3" in str(found)
    good, bad = lines({"text": "fine"}), b'{"text": "caf\xe9"}\n'
    items = read(file(tmp_path, "a.jsonl", good + bad + good))
    assert [item.place for item in items] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert fault(items).value == len(good) + bad.index(b"\xe9")


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl"])
def test_a_file_of_nul_bytes_is_binary(tmp_path: Path, name: str) -> None:
    assert fault(read(file(tmp_path, name, b"\0" * 5000))).reason == "binary file"


def test_utf16_is_read_by_its_byte_order_mark_and_noted(tmp_path: Path) -> None:
    items = read(file(tmp_path, "a.txt", "text".encode("utf-16")))
    assert items == [Record("a.txt", "text", note="decoded from utf-16")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_line_of_200_mb_is_set_aside_without_loading_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as out:
        out.write(b'{"text": "')
        for _ in range(200):
            out.write(b"x" * 1_000_000)
        out.write(b'"}\n{"text": "after"}\n')
    tracemalloc.start()
    items = read(path, max_record_bytes=5_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found = fault(items)
    assert found.reason == "record too long"
    assert found.size >= 200_000_000
    assert peak < 25_000_000
    if name == "a.jsonl":
        assert items[1] == Record("a.jsonl:2", "after", offset=200_000_013)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "malformed JSON"),
        (b"[" * 100_000, "malformed JSON"),
        (b'["a"]', "not a JSON object"),
        (b'{"text": "  "}', "empty text"),
        (b'{"title": "no text"}', "empty text"),
        (b'{"text": 7}', "text is not a string"),
        (b'{"text": "\\ud800"}', "invalid Unicode"),
    ],
)
def test_a_bad_line_is_located_and_the_next_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    items = read(file(tmp_path, "a.jsonl", lines({"text": "one"}) + b"\n" + line + b"\n" + lines({"text": "two"})))
    assert [(item.place, isinstance(item, Record)) for item in items] == [
        ("a.jsonl:1", True),
        ("a.jsonl:3", False),
        ("a.jsonl:4", True),
    ]
    assert fault(items).reason == reason


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst"])
def test_compressed_lines_and_a_truncated_stream(tmp_path: Path, ending: str) -> None:
    records = [{"text": f"number {number} {os.urandom(20).hex()}"} for number in range(5000)]
    packed = gzip.compress(lines(*records)) if ending == ".jsonl.gz" else zstandard.compress(lines(*records))
    twice = read(file(tmp_path, "whole" + ending, packed + packed))
    assert len(twice) == 10_000
    assert all(isinstance(item, Record) for item in twice)
    cut = read(file(tmp_path, "cut" + ending, packed[: len(packed) // 2]))
    found = fault(cut)
    assert found.reason == "damaged compression"
    assert cut[-1] is found
    assert len(cut) > 1000
    assert [item.text for item in cut[:-1] if isinstance(item, Record)] == [r["text"] for r in records[: len(cut) - 1]]
    assert found.place == f"cut{ending}:{len(cut)}"


@pytest.mark.parametrize("ending", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_a_file_that_is_not_what_its_name_says_is_set_aside(tmp_path: Path, ending: str) -> None:
    assert fault(read(file(tmp_path, "a" + ending, b"plainly not that at all"))).reason.startswith("damaged")


def test_parquet_rows_have_numbers_and_a_bad_row_costs_itself(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"one", b"\xff\xfe", b"three"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": text, "title": ["a", None, "c"]}), tmp_path / "a.parquet", row_group_size=1)
    items = read(tmp_path / "a.parquet")
    assert items[0] == Record("a.parquet:1", "one", "a")
    assert fault(items).place == "a.parquet:2"
    assert items[2] == Record("a.parquet:3", "three", "c")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_missing_text_column_names_those_that_exist_and_the_nearest(tmp_path: Path, name: str) -> None:
    path = file(tmp_path, "a.jsonl", lines({"texte": "one", "id": 1}))
    pq.write_table(pa.table({"texte": ["one"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=rf"{name}.*no column 'text'.*'texte', 'id'.*did you mean 'texte'"):
        read(path.with_name(name))


def test_a_parquet_column_that_is_not_text_is_the_users_mistake(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [[1, 2]]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="'text' is of type list"):
        read(tmp_path / "a.parquet")


def test_an_optional_column_that_the_user_named_and_is_not_there_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    columns = Columns(title="titel", required=frozenset({"titel"}))
    read(file(tmp_path, "a.jsonl", lines({"text": "one", "title": "x"})), columns=columns, note=told.append)
    assert "did you mean 'title'" in told[0]
    pq.write_table(pa.table({"text": ["one"], "title": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="did you mean 'title'"):
        read(tmp_path / "a.parquet", columns=columns)


@pytest.mark.parametrize(
    "content", ["# " + "#" * 200_000 + "x", "#" + " " * 200_000 + "x", "# " * 100_000, "#" * 200_000]
)
def test_a_line_made_to_slow_the_search_for_a_title_does_not(tmp_path: Path, content: str) -> None:
    began = time.process_time()
    read(file(tmp_path, "a.md", content.encode()))
    assert time.process_time() - began < 2


def test_the_users_word_on_the_format_goes_before_the_name(tmp_path: Path) -> None:
    path = file(tmp_path, "a.conf", b"# Rivers\n\nThey flow.")
    assert fault(read(path)).reason == "unknown format"
    assert read(path, format="markdown") == [Record("a.conf", "They flow.", "Rivers", format="markdown")]
    assert read(path, format="code")[0] == Record("a.conf", "# Rivers\n\nThey flow.", format="code")


def test_records_inside_json_are_named_by_their_paths(tmp_path: Path) -> None:
    questions = [{"question": "Who?", "answers": []}, {"question": "Why?"}, {"question": 7}, "and a text", 8]
    nested = {"version": "1", "data": [{"paragraphs": [{"context": "A river.", "qas": questions}]}, {"title": "empty"}]}
    for name, place in (("a.json", "a.json"), ("a.jsonl", "a.jsonl:1")):
        path = file(tmp_path, name, lines(nested))
        columns = Columns(text="question")
        items = read(path, columns=columns, records=("data", "*", "paragraphs", "*", "qas", "*"))
        assert [(item.place, item.text if isinstance(item, Record) else item.reason) for item in items] == [
            (f"{place}#data.1.paragraphs.1.qas.1", "Who?"),
            (f"{place}#data.1.paragraphs.1.qas.2", "Why?"),
            (f"{place}#data.1.paragraphs.1.qas.3", "text is not a string"),
            (f"{place}#data.1.paragraphs.1.qas.4", "and a text"),
            (f"{place}#data.1.paragraphs.1.qas.5", "not a JSON object"),
        ]
        assert fault(read(path, columns=columns, records=("data", "*", "qas"))).reason == "no records in JSON"
        assert (
            fault(read(path, columns=columns, records=("data", "*", "paragraphs", "*"))).reason == "no records in JSON"
        )


def test_a_line_a_document(tmp_path: Path) -> None:
    items = read(
        file(tmp_path, "a.txt.dev", b"\xef\xbb\xbfone\r\n \ncaf\xe9\nfour and too long\nfive"),
        format="lines",
        max_record_bytes=10,
    )
    assert [(item.place, item.text if isinstance(item, Record) else item.reason) for item in items] == [
        ("a.txt.dev:1", "one"),
        ("a.txt.dev:3", "invalid UTF-8"),
        ("a.txt.dev:4", "record too long"),
        ("a.txt.dev:5", "five"),
    ]
    latin = read(file(tmp_path, "b.txt", b"caf\xe9\n\x81"), format="lines", encoding="cp1252")
    assert latin[0] == Record("b.txt:1", "caf\u00e9", offset=0)
    assert fault(latin).reason == "undecodable text"
    assert fault(read(file(tmp_path, "c.txt", b"\0\0\n"), format="lines")).reason == "binary file"


def test_code_is_read_only_when_the_pattern_asks_for_it(tmp_path: Path) -> None:
    path = file(tmp_path, "a.py", b"x = 1\n")
    assert fault(read(path)).reason == "unknown format"
    assert read(path, pattern="**/*.py") == [Record("a.py", "x = 1\n", format="code")]


@pytest.mark.parametrize(
    ("ending", "pack"),
    [("gz", gzip.compress), ("zst", zstandard.compress), ("xz", lzma.compress), ("bz2", bz2.compress)],
)
def test_every_text_format_may_be_compressed(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]) -> None:
    for name, content in (("a.txt", b"one"), ("a.md", b"one"), ("a.html", b"one"), ("a.csv", b"text\none\n")):
        (found,) = read(file(tmp_path, f"{name}.{ending}", pack(content)))
        assert isinstance(found, Record)
        assert found.text == "one"
