"""XML by a mapping: what was asked for, in order; and nothing that a hostile file wants."""

from __future__ import annotations

import bz2
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from reading import brief, file, one_fault, read, records

from lmcraft.corpus.readers.wikipedia import plain_text
from lmcraft.corpus.readers.xml_mapping import XmlMapping

QUESTIONS = b"""<?xml version="1.0"?>
<Document id="1" url="http://a.example/toc"><Focus>Gout</Focus>
<Pair><Question type="cause">What causes
   gout ?</Question><Answer>Too much <b>uric</b> acid.</Answer></Pair>
<Pair><Question type="care">How is it treated?</Question><Answer></Answer><Note>no</Note></Pair>
</Document>"""

NOVEL = b"""<?xml version="1.0" encoding="iso-8859-1"?>
<TEI xmlns="http://www.tei-c.org/ns/1.0" xml:lang="de"><teiHeader><title>F\xfcchse</title></teiHeader>
<text><body><head>I</head><p>Es war <hi>einmal</hi>
   ein Fuchs.<note>(1)</note></p><lg><l>Eine Zeile</l><l>noch eine</l></lg></body></text></TEI>"""


def mapped(path: Path, **mapping: Any) -> list[Any]:
    return read(path, xml=XmlMapping(**mapping))


def test_questions_and_answers_become_records_with_what_stands_around_them(tmp_path: Path) -> None:
    path = file(tmp_path, "a.xml", QUESTIONS)
    one, two = records(
        mapped(
            path, record="Pair", text=["Question", "Answer"], title="Focus", topic="Question@type", url="/Document@url"
        )
    )
    assert one.text == "What causes gout ?\n\nToo much uric acid."
    assert (one.place, one.title, one.topic, one.url) == ("a.xml#1", "Gout", "cause", "http://a.example/toc")
    assert QUESTIONS[one.offset :].startswith(b'<Pair><Question type="cause"')
    assert (two.place, two.text, two.topic) == ("a.xml#2", "How is it treated?", "care")


def test_a_novel_keeps_paragraphs_and_lines_and_drops_notes(tmp_path: Path) -> None:
    path = file(tmp_path, "a.xml", NOVEL)
    (found,) = records(mapped(path, text=["/TEI/text"], title="title", language="/TEI@lang", drop=["note"]))
    assert (found.place, found.title, found.language) == ("a.xml", "Füchse", "de")
    assert found.text == "I\n\nEs war einmal ein Fuchs.\n\nEine Zeile\nnoch eine"


def test_space_is_kept_when_asked_for(tmp_path: Path) -> None:
    path = file(tmp_path, "a.xml", b"<d><a>one\n  - two\n  - three</a></d>")
    assert brief(mapped(path, text=["a"], keep_space=True)) == [("a.xml", "one\n  - two\n  - three")]


def test_missing_mappings_records_and_text_are_faults(tmp_path: Path) -> None:
    path = file(tmp_path, "a.xml", QUESTIONS)
    assert "mapping" in one_fault(read(path)).detail
    assert one_fault(mapped(path, record="Question/Answer")).reason == "no records in XML"
    assert {item.reason for item in mapped(path, record="Pair", text=["Summary"])} == {"empty text"}
    assert {item.reason for item in read(path, xml=XmlMapping(record="Pair"), max_record_bytes=10)} == {
        "record too long"
    }


@pytest.mark.parametrize("path", ["//a", "a[1]", "a b", "", "@x"])
def test_a_path_that_is_none_is_refused_in_the_recipe(path: str) -> None:
    with pytest.raises(ValidationError):
        XmlMapping(title=path)


def test_a_bad_end_costs_the_rest_of_the_file(tmp_path: Path) -> None:
    items = mapped(file(tmp_path, "a.xml", QUESTIONS.replace(b"<Note>", b"<Nope>")), record="Pair", text=["Question"])
    assert len(records(items)) == 1
    found = one_fault(items)
    assert (found.reason, found.place) == ("malformed XML", "a.xml")
    assert "line 5" in found.detail


LAUGHS = (
    b"<!DOCTYPE d [<!ENTITY a 'ha'>"
    + b"".join(b"<!ENTITY %c '%s'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><d><p>before</p><p>&j;</p></d>"
)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(LAUGHS, id="billion laughs"),
        pytest.param(
            b"<!DOCTYPE d [<!ENTITY a '" + b"x" * 10_000 + b"'>]><d>" + b"&a;" * 10_000 + b"</d>", id="quadratic"
        ),
        pytest.param(b"<!DOCTYPE d [<!ENTITY % a 'b'> %a;]><d>x</d>", id="parameter entity"),
        pytest.param(b"<a>" * 5000 + b"deep" + b"</a>" * 5000, id="nested deep"),
    ],
)
def test_what_expands_or_nests_without_end_is_refused(tmp_path: Path, content: bytes) -> None:
    assert one_fault(mapped(file(tmp_path, "a.xml", content))).reason == "XML refused"


def test_entities_are_read_unless_they_lie_elsewhere(tmp_path: Path) -> None:
    secret = file(tmp_path, "secret.txt", b"secret")
    content = f"""<!DOCTYPE d SYSTEM "http://127.0.0.1:9/d.dtd" [
        <!ENTITY house "Example &amp;#38; Sons"><!ENTITY out SYSTEM "{secret.as_uri()}">]>
        <d>&house; M&uuml;ller&nbsp;&out;&unknown;</d>"""
    (found,) = mapped(file(tmp_path, "a.xml", content.replace("&amp;#38;", "and").encode()))
    assert found.text == "Example and Sons Müller\xa0&unknown;"


DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de">
<siteinfo><base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>
<namespaces><namespace key="0" /><namespace key="6" case="first-letter">Datei</namespace>
<namespace key="14">Kategorie</namespace></namespaces></siteinfo>
<page><title>Roter Fuchs</title><ns>0</ns><id>7</id><revision><id>99</id><timestamp>2024-01-02T03:04:05Z</timestamp>
<text xml:space="preserve">'''Der Fuchs''' ist ein [[Hund|hundeartiges]] Tier.&lt;ref&gt;Quelle&lt;/ref&gt;{{Navi|x}}
== Verhalten ==
* jagt [[Datei:x.jpg|mini|Bild]]
{| class="t"
| Zelle
|}
[[Kategorie:Tier]]</text></revision></page>
<page><title>Fuchs</title><ns>0</ns><id>8</id><redirect title="Roter Fuchs" /><revision><id>100</id>
<text>#WEITERLEITUNG [[Roter Fuchs]]</text></revision></page>
<page><title>Diskussion:Fuchs</title><ns>1</ns><id>9</id><revision><id>101</id><text>Ja.</text></revision></page>
<page><title>Lang</title><ns>0</ns><id>10</id><revision><id>1</id><text>{long}</text></revision></page>
<page><title>Ende</title><ns>0</ns><id>11</id><revision><id>2</id><text>Schluss.</text></revision></page>
</mediawiki>"""


def test_a_dump_of_wikipedia_gives_articles_as_text(tmp_path: Path) -> None:
    content = DUMP.replace("{long}", "x" * 100_000).encode()
    path = file(tmp_path, "dewiki-pages-articles.xml.bz2", bz2.compress(content[:500]) + bz2.compress(content[500:]))
    items = read(path, max_record_bytes=50_000)
    fox, *rest = items
    assert fox.text == "Der Fuchs ist ein hundeartiges Tier.\n Verhalten \njagt".replace(
        "\n Verhalten \n", "\nVerhalten\n"
    )
    assert (fox.place, fox.title) == (f"{path.name}#7", "Roter Fuchs")
    assert fox.url == "https://de.wikipedia.org/wiki/Roter_Fuchs"
    assert fox.collected_at == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert content[fox.offset :].startswith(b"<page><title>Roter Fuchs")
    assert brief(rest) == [
        (f"{path.name}#8", "redirect"),
        (f"{path.name}#9", "other namespace"),
        (f"{path.name}#10", "record too long"),
        (f"{path.name}#11", "Schluss."),
    ]


def test_a_cut_dump_gives_its_whole_pages_and_a_fault(tmp_path: Path) -> None:
    content = DUMP.replace("{long}", "kurz").encode()
    items = read(file(tmp_path, "a.xml", content[: content.index(b"Lang")]))
    assert len(records(items)) == 1
    assert items[-1].reason == "malformed XML"


@pytest.mark.parametrize("wikitext", ["{{" * 20_000, "[[" * 20_000, "{|\n" * 5_000, "'''''" * 10_000, "<ref>" * 5_000])
def test_wikitext_that_never_closes_ends_in_time(wikitext: str) -> None:
    assert isinstance(plain_text(wikitext), str)
