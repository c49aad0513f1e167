"""Step `extract`: of pages that are still HTML, the main content as plain text with Markdown structure.

Extractors are bought: trafilatura (Barbaresi, "Trafilatura", ACL 2021) and resiliparse (Bevendorff et al., "Elastic
ChatNoir", ECIR 2018). What is ours is how they are combined, what is struck out afterwards, and how the result is
written: headings, lists, tables and code keep their form. `benchmarks/extraction.py` measures every choice.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lmcraft.corpus.isolation import Failure, isolated
from lmcraft.corpus.step import Drop, Judged, Known, Step, note_changes, replace_columns
from lmcraft.recipe.stage import StageConfig

Method = Literal["combined", "trafilatura", "resiliparse"]


class Extract(StageConfig):
    """Makes text of documents whose format is html: main content, title, language. Others pass untouched."""

    method: Method = Field(
        "combined",
        description="combined (most exact), trafilatura, or resiliparse (many times as fast, but with more of what is "
        "around the content).",
    )
    timeout_s: float = Field(
        10.0, gt=0, le=3600, description="A page that takes longer (seconds of processor time) is removed."
    )
    memory_mb: int = Field(1024, ge=128, description="A page that needs more memory than this is removed.")
    min_characters: int = Field(1, ge=1, description="A page with less main content is removed.")
    title_in_text: bool = Field(False, description="Begin the text with the title, which else is only in its column.")


class Page(NamedTuple):
    """What a page says. `text` is empty when no main content was found."""

    text: str
    title: str | None
    language: str | None


def extract(batch: pa.RecordBatch, config: Extract, known: Known) -> Judged:
    is_html = pc.fill_null(pc.equal(batch["format"], "html"), False).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(is_html)
    if not len(rows):
        return Judged(batch)
    read = functools.partial(read_page, method=config.method)
    run = isolated(read, config.timeout_s, config.memory_mb << 20, ("trafilatura", "resiliparse.extract.html2text"))
    columns = {name: batch[name].to_pylist() for name in ("text", "title", "language", "format")}
    size = np.full(batch.num_rows, np.nan)
    failures: dict[Failure, np.ndarray] = {}
    notes: list[list[str]] = [[] for _ in range(batch.num_rows)]
    for row, page in zip(rows.tolist(), run.map(columns["text"][row] for row in rows.tolist()), strict=True):
        if isinstance(page, Failure):
            failures.setdefault(replace(page, detail=""), np.zeros(batch.num_rows, bool))[row] = True
            continue
        size[row] = len(page.text)
        if size[row] < config.min_characters:
            continue
        title = columns["title"][row] or page.title
        columns["text"][row] = f"{title}\n\n{page.text}" if title and config.title_in_text else page.text
        columns["title"][row] = title
        columns["language"][row] = columns["language"][row] or page.language
        columns["format"][row] = None
        notes[row] = ["extracted"]
    arrays = {name: pa.array(values, batch.schema.field(name).type) for name, values in columns.items()}
    drops = [Drop(why.reason("extraction"), mask, threshold=why.limit) for why, mask in failures.items()]
    drops.sort(key=lambda drop: drop.reason)
    drops.append(Drop("no main content", size < config.min_characters, size, config.min_characters))
    return Judged(note_changes(replace_columns(batch, arrays), notes), tuple(drops))


EXTRACT = Step("extract", Extract, extract)


def read_page(html: str, method: Method = "combined") -> Page:
    """The page's main content as text, its title, and the language it declares (ISO 639)."""
    import trafilatura

    html = html.replace("\0", "")
    tree = trafilatura.load_html(html)
    if tree is None:
        return Page("", None, None)
    head = _Head.of(tree)  # before trafilatura changes the tree
    if method == "resiliparse":
        return Page(_without_furniture(_resiliparse(html), head, set()), head.title, head.language)
    links = _link_texts(tree)
    text = _combined(html, tree) if method == "combined" else _rendered(_trafilatura(tree, precise=False))
    return Page(_without_furniture(text, head, links), head.title, head.language)


def _combined(html: str, tree: Any) -> str:
    """Trafilatura at its most careful. Where that leaves less than half of what resiliparse sees it has missed the
    article: then its plain mode, and if that has missed it too, resiliparse's reading."""
    generous = _resiliparse(html)
    wanted = _words(generous) / 2
    for page, precise in ((tree, True), (html, False)):
        text = _rendered(_trafilatura(page, precise))
        if _words(text) >= wanted:
            return text
    return generous


def _words(text: str) -> int:
    return len(_WORD.findall(text))


_WORD = re.compile(r"\w+")


def _trafilatura(page: Any, precise: bool) -> Any:
    import trafilatura

    found: Any = trafilatura.bare_extraction(page, fast=not precise, favor_precision=precise, include_comments=False)
    return None if found is None else found.body


def _resiliparse(html: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    # Without alternative texts, bullets and dates of posts its F1 is .934 instead of .898.
    return str(
        extract_plain_text(
            html, main_content=True, comments=False, post_meta=False, alt_texts=False, list_bullets=False
        )
    )


# Writing the tree that trafilatura gives (TEI's names: head, list, item, row, cell, quote).


def _rendered(body: Any) -> str:
    """Markdown for structure (headings, lists, tables, code), plain text for everything within a line."""
    return "" if body is None else "\n\n".join(_blocks(body))


def _blocks(element: Any) -> Iterator[str]:
    """The blocks in an element, in order; text between them is a block as well."""
    line = [element.text or ""]
    for child in element:
        block = _block(child)
        if block is None:
            line.append("\n" if child.tag == "lb" else "".join(child.itertext()))
        else:
            yield from _text_block(line)
            yield from (text for text in block if text)
            line = []
        line.append(child.tail or "")
    yield from _text_block(line)


def _text_block(parts: list[str]) -> Iterator[str]:
    lines = (" ".join(line.split()) for line in "".join(parts).split("\n"))
    if text := "\n".join(line for line in lines if line):
        yield text


def _block(element: Any) -> Iterator[str] | None:
    """What an element that stands by itself gives; None for one that runs within a line."""
    match element.tag:
        case "head":
            level = str(element.get("rend"))[1:2]
            return iter([f"{'#' * int(level if level.isdigit() else 2)} {_line(element)}"])
        case "list":
            return iter(["\n".join(_items(element, 0))])
        case "table":
            return iter([_table(element)])
        case "code":
            code = "".join(element.itertext()).strip("\n")
            if "\n" not in code and element.getparent().tag in ("p", "item", "cell", "quote", "head"):
                return None
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
            return iter([f"{fence}\n{code}\n{fence}"])
        case "p" | "quote" | "item" | "div" | "body" | "main" | "section":
            return _blocks(element)
    return None


def _line(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def _items(element: Any, depth: int) -> Iterator[str]:
    ordered = element.get("rend") == "ol"
    for number, item in enumerate(element, 1):
        nested = [child for child in item if child.tag == "list"]
        own = [item.text or ""]
        for child in item:
            own += [" " if child in nested else "".join(child.itertext()), child.tail or ""]
        if text := " ".join("".join(own).split()):
            yield f"{'  ' * depth}{f'{number}.' if ordered else '-'} {text}"
        for child in nested:
            yield from _items(child, depth + 1)


def _table(element: Any) -> str:
    rows = [[_line(cell).replace("|", "\\|") for cell in row if cell.tag == "cell"] for row in element.iter("row")]
    rows = [row for row in rows if any(row)]
    width = max(map(len, rows), default=0)
    if width < 2:  # a table that only lays out
        return "\n\n".join(row[0] for row in rows)
    lines = [f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * width}", *lines[1:]])


# What the extractors leave in and no reader misses.


class _Head(NamedTuple):
    title: str | None
    language: str | None
    titles: frozenset[str]  # all that the page calls itself, for comparison

    @staticmethod
    def of(tree: Any) -> _Head:
        headings = [text for text in (_line(element) for element in tree.iter("h1")) if text]
        whole = next((text for text in (_line(element) for element in tree.iter("title")) if text), "")
        named = next((text for text in map(_named, tree.iter("meta")) if text), "")
        title = named or (headings[0] if len(headings) == 1 else "") or whole or next(iter(headings), "")
        # `Title | Site`, `Title - Site`: what stands before the separator is the title too.
        first = re.split(r"\s[|·•–—-]\s|\s::?\s", whole)[0]
        titles = frozenset(_comparable(text) for text in (named, whole, first, *headings)) - {""}
        return _Head(title or None, _language(tree), titles)


def _named(meta: Any) -> str:
    return " ".join((meta.get("content") or "").split()) if meta.get("property") == "og:title" else ""


def _language(tree: Any) -> str | None:
    declared = tree.get("lang") or tree.get("{http://www.w3.org/XML/1998/namespace}lang") or tree.get("xml:lang") or ""
    match = re.fullmatch(r"([a-z]{2,3})(?:[-_][a-z0-9_-]*)?", declared.strip().lower())
    return match[1] if match else None


def _link_texts(tree: Any) -> set[str]:
    """Texts of links to other pages, for comparison."""
    links = (element for element in tree.iter("a") if not (element.get("href") or "#").startswith("#"))
    return {_comparable("".join(element.itertext())) for element in links}


def _comparable(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


LEAST_LINK_WORDS = 5
"""A line that is all one link of so many words leads on to something else; shorter ones may be entries of a list."""

_LEAD = re.compile(r"^(?:[-*•]|#+|\d+\.)\s+|^[^:：]{1,24}[:：]\s+")


def _without_furniture(text: str, head: _Head, links: set[str]) -> str:
    """Without the headline (it is in the title), and without lines that are nothing but a link."""
    kept = []
    code = False
    for index, line in enumerate(text.split("\n")):
        if line.startswith("```"):
            code = not code
        said = _comparable(line)
        if not code and said:
            if index < 4 and said in head.titles:
                continue
            if said.count(" ") + 1 >= LEAST_LINK_WORDS and _is_link(line, links):
                continue
        kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")


def _is_link(line: str, links: set[str]) -> bool:
    if not links or line.startswith(("#", "|")):
        return False
    return _comparable(line) in links or _comparable(_LEAD.sub("", line, count=2)) in links
