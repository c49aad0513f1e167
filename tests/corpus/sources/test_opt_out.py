"""Whoever opted out is found by domain, address, source, path or id; a list says the same in any order."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmcraft.corpus.documents import document_id
from lmcraft.corpus.readers.records import Record
from lmcraft.corpus.sources.opt_out import OptOut
from lmcraft.recipe.stage import UserError


@pytest.mark.parametrize(
    ("rule", "url", "found"),
    [
        ("domain: example.org", "https://example.org/x", True),
        ("domain: Example.ORG", "http://www.example.org:8080/", True),
        ("domain: *.example.org", "https://a.b.example.org/", True),
        ("domain: example.org", "https://notexample.org/", False),
        ("domain: example.org", "https://example.org.evil.net/", False),
        ("domain: bücher.example", "https://xn--bcher-kva.example/1", True),
        ("domain: example.org", None, False),
        ("url: https://example.net/people/", "http://example.net/people/ann", True),
        ("url: https://example.net/people/", "https://example.net/people", False),
        ("url: example.net/a%7eb", "https://EXAMPLE.net/a~b/c", True),
        # The form of an address saves nothing.
        ("domain: example.org", "https://user:pw@EXAMPLE.org./a", True),
        ("domain: example.org", "https://example.org./" + "a" * 2100, True),
        ("domain: example.org", "//example.org/a", True),
        ("domain: example.org", "example.org/a", True),
        ("domain: example.org", "ftp://example.org./a", True),
        ("domain: example.org", "https:\\\\example.org\\a", True),
        ("domain: example.org", "https://exa%6Dple.org/a", True),
        ("domain: example.org", "https://example.net/?u=@example.org", False),
        ("domain: .example.org", "https://example.org:99999/a", True),
        ("domain: faß.de", "https://xn--fa-hia.de/a", True),
        ("domain: faß.de", "https://FAß.de/a", True),
        ("domain: faß.de", "https://fass.de/a", False),
        ("domain: BÜCHER.example", "https://bücher。example/a", True),
        ("url: https://example.net/people/", "https://user@example.net/people/1", True),
        ("url: https://example.net/people/", "https://Example.net/people/" + "a" * 2100, True),
        ("url: https://example.net/people/", "http://example.net:443/people/1", True),
        ("url: https://example.net/people/", "https://example.net//people/1", True),
        ("url: https://example.net/people/", "https://example.net/x/../%70eople/1", True),
        ("url: https://example.net/people/", "https://example.net:8080/people/1", False),
        ("url: https://example.net/péople/", "https://example.net/pe%CC%81ople/1", True),
        ("url: https://example.net", "https://example.net.evil.org/", False),
    ],
)
def test_addresses(rule: str, url: str | None, found: bool) -> None:
    listed = OptOut.load([rule])
    assert (listed.reason(Record("p", "text", url=url), "web") is not None) == found


def test_source_path_and_id() -> None:
    record = Record("letters/box-7/1.txt", "Dear Ann")
    number = document_id("archive", record.place, record.text)
    assert OptOut.load(["source: archive"]).reason(record, "archive") == "source: archive"
    assert OptOut.load(["source: archive"]).reason(record, "archives") is None
    assert OptOut.load(["path: letters/box-7/"]).reason(record, "archive") == "path: letters/box-7/"
    assert OptOut.load([f"id: {number}"]).reason(record, "archive") == f"id: {number}"
    fault = OptOut.load([f"id: {number}"]).fault(record, "archive")
    assert fault is not None
    assert (fault.reason, fault.excerpt, fault.size) == ("opted out", "", 8)


def test_the_digest_is_that_of_the_rules(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# asked for by mail\n\ndomain: b.org  # since May\nDOMAIN: a.org\nurl: https://c.org/#x\n")
    listed = OptOut.load(str(path))
    assert listed.rules() == ["domain: a.org", "domain: b.org", "url: c.org/"]
    assert listed.digest == OptOut.load(["url: c.org/", "domain: a.org", "domain: b.org", "domain: a.org"]).digest
    assert listed.digest != OptOut.load(["domain: a.org"]).digest
    assert OptOut.load(None).identity() == []
    assert not OptOut.load(None)


@pytest.mark.parametrize(
    "line", ["example.org", "host: example.org", "domain:", "domain: a/b", "id: 12", "url: mailto:x", "domain: a b"]
)
def test_a_line_that_is_no_rule_is_named(line: str) -> None:
    with pytest.raises(UserError, match="line 2: "):
        OptOut.load(["domain: ok.org", line])


def test_a_list_that_is_not_there() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        OptOut.load("/no/such/list")
