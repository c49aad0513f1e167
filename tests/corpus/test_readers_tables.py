"""Tables and JSON: a row or an object a document, its line and offset known, a bad one costing only itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import brief, file, one_fault, read, records

from lmcraft.corpus.readers.files import Columns, Reading, read_file
from lmcraft.recipe.stage import UserError


def test_rows_of_csv_may_hold_lines_and_know_where_they_began(tmp_path: Path) -> None:
    content = '\ufefftitle,text\r\nA,"one, and\r\ntwo ""quoted"""\r\n\r\nB,three\r\n'.encode()
    one, two = records(read(file(tmp_path, "a.csv", content)))
    assert (one.place, one.title, one.text) == ("a.csv:2", "A", 'one, and\ntwo "quoted"')
    assert (two.place, two.title, two.text) == ("a.csv:5", "B", "three")
    assert content[one.offset :].startswith(b"A,")
    assert content[two.offset :].startswith(b"B,")


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_the_delimiter_is_the_one_of_the_first_line(tmp_path: Path, delimiter: str) -> None:
    content = f"id{delimiter}text\n1{delimiter}one, two\n".encode()
    assert brief(read(file(tmp_path, "a.csv", content))) == [("a.csv:2", "one, two")]


def test_quotation_marks_in_tsv_are_letters_unless_told_otherwise(tmp_path: Path) -> None:
    path = file(tmp_path, "a.tsv", b'id\ttext\n1\t"Go," she said\n2\t"quoted"\n')
    assert [text for _, text in brief(read(path))] == ['"Go," she said', '"quoted"']
    assert [text for _, text in brief(read(path, quotes=True))] == ["Go, she said", "quoted"]


def test_bad_rows_cost_themselves(tmp_path: Path) -> None:
    rows = [b"text,title", b"one,a", b"two", b"th\xe9,c", b"x" * 300 + b",d", b" ,e", b"six,f"]
    items = read(file(tmp_path, "a.csv", b"\n".join(rows)), max_record_bytes=200)
    assert brief(items) == [
        ("a.csv:2", "one"),
        ("a.csv:3", "malformed CSV"),
        ("a.csv:4", "invalid UTF-8"),
        ("a.csv:5", "record too long"),
        ("a.csv:6", "empty text"),
        ("a.csv:7", "six"),
    ]


def test_a_quotation_mark_that_never_closes_is_bounded(tmp_path: Path) -> None:
    content = b'text\none\n"open\n' + b"more and more text\n" * 100 + b"last\n"
    items = read(file(tmp_path, "a.csv", content), max_record_bytes=500)
    reasons = [item.reason for item in items if not records([item])]
    assert reasons
    assert set(reasons) <= {"malformed CSV", "record too long"}
    assert records(items)[0].text == "one"
    assert records(items)[-1].text == "last"


def test_csv_of_nothing_of_bytes_and_without_the_column(tmp_path: Path) -> None:
    assert one_fault(read(file(tmp_path, "a.csv", b""))).reason == "empty text"
    assert one_fault(read(file(tmp_path, "b.csv", b"\0" * 50))).reason == "binary file"
    assert one_fault(read(file(tmp_path, "d.csv", b"text\rid\none,1\n"))).reason == "malformed CSV"
    with pytest.raises(UserError, match=r"c.csv has no column 'text'.*did you mean 'Text'"):
        read(file(tmp_path, "c.csv", b"Text,id\none,1\n"))


def test_a_row_with_a_nul_byte_is_kept_as_it_is(tmp_path: Path) -> None:
    assert brief(read(file(tmp_path, "a.jsonl", b'{"text": "a\\u0000b"}\n'))) == [("a.jsonl:1", "a\0b")]
    assert brief(read(file(tmp_path, "a.csv", b"text\na\0b\n"))) == [("a.csv:2", "a\0b")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": "one", "title": "A"}, [("a.json", "one")]),
        (
            [{"text": "one"}, {"text": ""}, 3],
            [("a.json#1", "one"), ("a.json#2", "empty text"), ("a.json#3", "not a JSON object")],
        ),
        ({"k": {"text": "one"}}, [("a.json#k", "one")]),
        ({"name": "settings"}, [("a.json", "no records in JSON")]),
        (7, [("a.json", "no records in JSON")]),
    ],
)
def test_json_is_a_record_or_holds_records(tmp_path: Path, value: object, expected: list[tuple[str, str]]) -> None:
    assert brief(read(file(tmp_path, "a.json", json.dumps(value).encode()))) == expected


def test_json_that_is_none(tmp_path: Path) -> None:
    for content in (b'{"text": ', b"[" * 100_000, b"\xff"):
        assert one_fault(read(file(tmp_path, "a.json", content))).reason == "malformed JSON"


def test_what_only_the_lenient_parser_takes_is_still_read(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"text": "one", "n": NaN}\n{"text": "two", "n": 1e999}\n'
    assert [text for _, text in brief(read(file(tmp_path, "a.jsonl", content)))] == ["one", "two"]


def test_records_carry_offset_address_and_time(tmp_path: Path) -> None:
    line = json.dumps({"text": "one", "url": "http://a.example", "date": "2024-05-18T01:58:10Z"}).encode() + b"\n"
    columns = Columns(collected_at="date")
    _, found = records(read(file(tmp_path, "a.jsonl", line + line), columns=columns))
    assert (found.offset, found.url) == (len(line), "http://a.example")
    assert found.collected_at == datetime(2024, 5, 18, 1, 58, 10, tzinfo=UTC)
    pq.write_table(pa.table({"text": ["one"], "date": [datetime(2024, 5, 18)]}), tmp_path / "a.parquet")
    (row,) = records(read(tmp_path / "a.parquet", columns=columns))
    assert row.collected_at == datetime(2024, 5, 18, tzinfo=UTC)


def test_parquet_strings_of_every_kind_and_long_rows(tmp_path: Path) -> None:
    texts = ["short", "x" * 500, "last"]
    for number, kind in enumerate(
        [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
    ):
        column = pa.array(texts, pa.string()).cast(kind) if kind != pa.string_view() else pa.array(texts, kind)
        pq.write_table(pa.table({"text": column}), tmp_path / f"{number}.parquet")
        items = read(tmp_path / f"{number}.parquet", max_record_bytes=100)
        assert [text for _, text in brief(items)] == ["short", "record too long", "last"]


def test_a_cut_parquet_file_is_damaged(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    assert one_fault(read(file(tmp_path, "b.parquet", content[: len(content) // 2]))).reason == "damaged Parquet"


def test_the_text_of_several_fields_is_joined(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    first = {"q": "Which?", "choices": ["one", "two"], "answer": 1}
    second = {"q": "Why?", "more": {"a": "so", "b": ["x"]}}
    path.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    reading = Reading(Columns(text="q", more_text=("choices", "more")))
    assert [item.text for item in read_file(path, "items.jsonl", reading)] == ["Which?\none\ntwo", "Why?\nso\nx"]
