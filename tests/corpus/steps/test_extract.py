"""Pages become their main content with its structure; what a page does to the extractor costs that page alone."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lmcraft.corpus.documents import SCHEMA
from lmcraft.corpus.step import Judged, Known
from lmcraft.corpus.steps.extract import Extract, extract, read_page

PROSE = [
    "The harbour had been quiet since the ferry stopped, and the fishermen mended their nets on the long stone quay.",
    "In the evening a wind came up from the south, and every boat that could float was pulled well above the tide.",
    "Nobody in the village remembered such a storm, although the oldest of them claimed to have heard of one like it.",
]


def page(body: str, head: str = "<title>The storm | Harbour News</title>", lang: str = "en-GB") -> str:
    menu = "".join(f'<li><a href="/{name}">{name} and more</a></li>' for name in ("Sport", "Politics", "Weather"))
    return (
        f'<!doctype html><html lang="{lang}"><head>{head}</head><body><nav><ul>{menu}</ul></nav><article>'
        f"<h1>The storm</h1><p>{PROSE[0]}</p>{body}<p>{PROSE[2]}</p></article>"
        '<footer><p>Copyright. <a href="/imprint">Imprint</a></p></footer></body></html>'
    )


def judged(texts: list[str], config: Extract | None = None, **columns: list[str | None]) -> Judged:
    rows = [
        {"id": str(index), "text": text, "source": "s", "path": "p", "format": "html", "changes": []}
        | {name: values[index] for name, values in columns.items()}
        for index, text in enumerate(texts)
    ]
    return extract(pa.RecordBatch.from_pylist(rows, SCHEMA), config or Extract(), Known())


@pytest.mark.parametrize("method", ["combined", "trafilatura", "resiliparse"])
def test_the_content_stays_and_the_page_around_it_goes(method: str) -> None:
    done = judged([page(f"<p>{PROSE[1]}</p>")], Extract.model_validate({"method": method})).batch.to_pylist()[0]
    assert [done["text"].index(sentence) for sentence in PROSE] == sorted(done["text"].index(one) for one in PROSE)
    assert "Politics" not in done["text"] and "Imprint" not in done["text"]
    assert (done["title"], done["language"], done["format"]) == ("The storm", "en", None)
    assert done["changes"] == ["extracted"]


def test_tables_code_lists_and_headings_keep_their_form() -> None:
    body = (
        "<h2>What was lost</h2><table><tr><th>Boat</th><th>Owner</th></tr><tr><td>Anna | Maria</td><td>Harris</td></tr>"
        "</table><pre><code>def tide(hour):\n    # `rise`\n\n    return hour % 12\n</code></pre>"
        "<ul><li>rope<ul><li>hemp</li></ul></li><li>nets</li></ul><ol><li>first</li><li>second</li></ol>"
        f"<p>{PROSE[1]} Use <code>tide(3)</code><br>or ask.</p>"
    )
    text = read_page(page(body)).text
    assert "## What was lost\n\n" in text
    assert "| Boat | Owner |\n|---|---|\n| Anna \\| Maria | Harris |" in text
    assert "```\ndef tide(hour):\n    # `rise`\n\n    return hour % 12\n```" in text
    assert "- rope\n  - hemp\n- nets" in text
    assert "1. first\n2. second" in text
    assert "Use tide(3)\nor ask." in text


def test_the_headline_and_lines_that_only_lead_on_are_left_out() -> None:
    onward = '<p>Read more: <a href="/x">The great storm of the last century</a></p>'
    text = read_page(page(f"<p>{PROSE[1]}</p>{onward}")).text
    assert "The storm" not in text
    assert "last century" not in text
    assert judged([page("")], Extract(title_in_text=True)).batch["text"][0].as_py().startswith("The storm\n\n")


def test_what_the_source_says_comes_before_what_the_page_says() -> None:
    done = judged([page("")] * 2, title=["Given", None], language=["fr", None]).batch.to_pylist()
    assert [(row["title"], row["language"]) for row in done] == [("Given", "fr"), ("The storm", "en")]


def test_other_documents_pass_untouched() -> None:
    texts = ["plain <b>text</b>", page("")]
    done = judged(texts, format=[None, "markdown"])
    assert done.batch["text"].to_pylist() == texts
    assert not done.drops


def test_pages_without_content_are_dropped() -> None:
    done = judged(["<html><body></body></html>", "", page("")])
    drop = done.drops[-1]
    assert drop.reason == "no main content"
    assert drop.rows.tolist() == [True, True, False]
    assert done.batch["format"].to_pylist() == ["html", "html", None]


DEEP = "<div>" * 10_000 + f"<p>{' '.join(PROSE)}</p>" + "</div>" * 10_000


@pytest.mark.parametrize("broken", [DEEP, "<table><tr><td>" * 10_000 + PROSE[0], "<b>" * 10_000, "<" * 100_000])
def test_hostile_markup_costs_at_most_its_own_page(broken: str) -> None:
    done = judged([page(""), broken, page("")], Extract(timeout_s=5))
    gone = [any(drop.rows[row] for drop in done.drops) for row in range(3)]
    assert gone[0] is gone[2] is False
    assert gone[1] or done.batch["text"][1].as_py()


def test_a_page_that_takes_too_long_or_too_much_is_dropped_with_its_reason() -> None:
    slow = page("<p>word</p>" * 1_000_000)
    done = judged([slow, page("")], Extract(timeout_s=1.0))
    (drop,) = [drop for drop in done.drops if drop.rows.any()]
    assert drop.reason == "extraction took longer than 1 s"
    assert drop.threshold == 1.0
    assert drop.rows.tolist() == [True, False]
    large = judged([page("<p>word</p>" * 2_000_000), page("")], Extract(timeout_s=100, memory_mb=128))
    assert [drop.reason for drop in large.drops if drop.rows.any()] in (
        ["extraction needed more memory than 128 MiB"],
        ["extraction crashed"],
        ["extraction failed"],
        ["no main content"],
    )


@pytest.mark.parametrize(
    "text", ["a\0b", "\0", "<?xml version='1.0' encoding='utf-16'?>", '<meta charset="ebcdic">', "é\x85\x1a"]
)
def test_bytes_and_charsets_that_lie_do_not_stop_it(text: str) -> None:
    done = judged([page(f"<p>{PROSE[1]}</p>").replace("<head>", f"<head>{text}"), page(f"<p>{PROSE[1]} {text}</p>")])
    assert not any(drop.rows.any() for drop in done.drops)
    assert all(PROSE[1] in text for text in done.batch["text"].to_pylist())


def test_the_cut_of_batches_does_not_show() -> None:
    texts = [page(f"<p>{PROSE[1]} {number}</p>") for number in range(5)]
    whole = judged(texts).batch["text"].to_pylist()
    assert whole == [judged([text]).batch["text"][0].as_py() for text in texts]
