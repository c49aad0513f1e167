"""Step `decontaminate`: documents that hold items of evaluation sets are removed, marked, or cut.

Overlap of word n-grams as for GPT-3 (Brown et al., 2020, appendix C): n = 13; items of fewer words, down to 8, are
looked for as a whole; a cut takes 200 characters on each side with it, pieces under 200 characters go, and so does a
document cut into more than ten. Unlike there an item counts only when the share of its n-grams that one document holds
reaches `min_overlap`: one n-gram of a long passage is mostly a quotation or a set phrase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from lmcraft.corpus import documents
from lmcraft.corpus.overlap import Overlaps, find, gram_table, overlaps
from lmcraft.corpus.step import Drop, Judged, Known, Step, add_score, note_changes
from lmcraft.corpus.words import words
from lmcraft.recipe.stage import Inputs, Runtime, StageConfig, UserError

REASON = "evaluation overlap"
LEFT_OVER = "left over from a cut"
ASIDE = "contamination"
SCORE = "contamination"
MOST_PIECES = 10
EXCERPT = 200

CONTAMINATION = pa.schema(
    [
        pa.field("document", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("set", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("share", pa.float64(), nullable=False),
        pa.field("grams", pa.int64(), nullable=False),
        pa.field("item_grams", pa.int64(), nullable=False),
        pa.field("counts", pa.bool_(), nullable=False),
        pa.field("begin", pa.list_(pa.int64()), nullable=False),
        pa.field("end", pa.list_(pa.int64()), nullable=False),
        pa.field("excerpt", pa.string(), nullable=False),
    ]
)
"""A row for each pair of a document and an item with a common n-gram; `counts` where the share reaches `min_overlap`.

`begin` and `end`: the common spans, in bytes of the document's text as it was. `excerpt`: beginning of the longest."""


class Decontaminate(StageConfig):
    """Finds items of the evaluation sets (input `evaluation_sets`) in documents by common word n-grams."""

    ngram: int = Field(13, ge=1, description="Words in an n-gram.")
    shortest: int = Field(
        8, ge=1, description="Items of fewer words than an n-gram are looked for whole, down to this."
    )
    min_overlap: float = Field(
        0.1, ge=0, le=1, description="Share of an item's n-grams that a document must hold; 0: one is enough."
    )
    action: Literal["remove", "mark", "cut"] = Field(
        "remove",
        description="Remove the document, write the share into its scores as `contamination`, or cut the spans out.",
    )
    margin: int = Field(200, ge=0, description="Characters that a cut takes on each side.")
    shortest_piece: int = Field(200, ge=1, description="Pieces of fewer characters that a cut leaves are removed.")
    generic: int = Field(10, ge=1, description="An n-gram of more than so many items is no evidence for any of them.")
    sets: list[str] | None = Field(None, min_length=1, description="Names of the sets to look for; null: all given.")

    @model_validator(mode="after")
    def _lengths_fit(self) -> Decontaminate:
        if self.shortest > self.ngram:
            raise ValueError(f"shortest ({self.shortest}) must not be more than ngram ({self.ngram})")
        return self


def prepare(config: Decontaminate, inputs: Inputs, runtime: Runtime) -> dict[str, np.ndarray]:
    """The table of n-grams (`overlap.gram_table`), and of each item the id and the set it belongs to."""
    names: list[str] = []
    ids: list[str] = []
    numbers: list[int] = []

    def texts() -> Iterator[pa.StringArray]:
        for every in _items(inputs):
            names.extend(name for name in every["source"].unique().to_pylist() if name not in names)
            batch = every
            if config.sets is not None:
                batch = every.filter(pc.is_in(every["source"], pa.array(config.sets, pa.string())))
            numbers.extend(pc.index_in(batch["source"], pa.array(names)).to_pylist())
            ids.extend(batch["id"].to_pylist())
            yield batch["text"]

    table = gram_table(texts(), config.ngram, config.shortest, config.generic)
    if missing := sorted(set(config.sets or ()) - set(names)):
        raise UserError(
            f"decontaminate: no evaluation set is called {missing[0]!r}; those given are {', '.join(sorted(names))}"
        )
    if not ids:
        raise UserError("decontaminate: the evaluation sets hold no item; give documents that `collect` made of them")
    return table | {
        "item_ids": np.array([item.encode() for item in ids]),
        "item_sets": np.array(numbers, np.int32),
        "set_names": np.array([name.encode() for name in names]),
    }


def decontaminate(batch: pa.RecordBatch, config: Decontaminate, known: Known) -> Judged:
    found_words = words(batch["text"])
    hits = find(found_words, known.arrays)
    if not len(hits.rows):  # marking gives each document a map of scores, so it must not depend on its neighbours
        return Judged(add_score(batch, SCORE, np.full(batch.num_rows, np.nan)) if config.action == "mark" else batch)
    found = overlaps(found_words, hits, known.arrays)
    counts = found.shares >= config.min_overlap
    aside = {ASIDE: _table(batch, found, counts, known)}
    highest = np.zeros(batch.num_rows)
    np.maximum.at(highest, found.rows[counts], found.shares[counts])
    if config.action == "mark":
        return Judged(add_score(batch, SCORE, np.where(highest > 0, highest, np.nan)), aside=aside)
    if not counts.any():
        return Judged(batch, aside=aside)
    if config.action == "remove":
        return Judged(batch, (Drop(REASON, highest > 0, highest, config.min_overlap),), aside)
    return _cut(batch, config, found, counts, highest, aside)


def by_set(directory: Path, evaluation_sets: list[Path], config: Decontaminate) -> dict[str, dict[str, int]]:
    """For each set of a curated artifact: items, those that could be looked for, and those found in some document.

    `touched`: with any n-gram in a document; `found`: with at least the share `min_overlap` of them in one.
    """
    table = prepare(config, {"evaluation_sets": evaluation_sets}, Runtime())
    sets = [name.decode() for name in table["set_names"].tolist()]
    checked = table["item_grams"] > 0
    counted = {
        name: {
            "items": int((table["item_sets"] == number).sum()),
            "checked": int(checked[table["item_sets"] == number].sum()),
            "touched": 0,
            "found": 0,
            "documents": 0,
        }
        for number, name in enumerate(sets)
    }
    paths = sorted(directory.glob(f"{ASIDE}-*.parquet"))
    if paths:
        rows = pa.concat_tables(pq.read_table(path) for path in paths)
        for kind, some in (("touched", rows), ("found", rows.filter(rows["counts"]))):
            for row in some.group_by("set").aggregate([("item", "count_distinct")]).to_pylist():
                counted[row["set"]][kind] = row["item_count_distinct"]
        found = rows.filter(rows["counts"]).group_by("set").aggregate([("document", "count_distinct")])
        for row in found.to_pylist():
            counted[row["set"]]["documents"] = row["document_count_distinct"]
    return counted


def _items(inputs: Inputs) -> Iterator[pa.RecordBatch]:
    directories = inputs.get("evaluation_sets")
    if not directories:
        raise UserError(
            "the step `decontaminate` needs the stage's input `evaluation_sets`: a list of steps that collect the items"
        )
    for directory in directories:
        yield from documents.read_documents(Path(directory), ["id", "text", "source"])


def _table(batch: pa.RecordBatch, found: Overlaps, counts: np.ndarray, known: Known) -> pa.Table:
    rows = batch.select(["id", "source", "path"]).take(pa.array(found.rows))
    longest = [max(spans, key=lambda span: span[1] - span[0]) for spans in found.spans]
    texts = {row: batch["text"][row].as_py().encode() for row in np.unique(found.rows).tolist()}
    excerpts = [
        texts[row][begin:end].decode()[:EXCERPT] for row, (begin, end) in zip(found.rows.tolist(), longest, strict=True)
    ]
    arrays = known.arrays
    names = [name.decode() for name in arrays["set_names"].tolist()]
    columns = [
        rows["id"],
        rows["source"],
        rows["path"],
        [names[number] for number in arrays["item_sets"][found.items].tolist()],
        [item.decode() for item in arrays["item_ids"][found.items].tolist()],
        found.shares,
        found.grams,
        arrays["item_grams"][found.items],
        counts,
        [[begin for begin, _ in spans] for spans in found.spans],
        [[end for _, end in spans] for spans in found.spans],
        excerpts,
    ]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, CONTAMINATION, strict=True)], CONTAMINATION
    )


def _cut(
    batch: pa.RecordBatch,
    config: Decontaminate,
    found: Overlaps,
    counts: np.ndarray,
    highest: np.ndarray,
    aside: Mapping[str, pa.Table],
) -> Judged:
    """Documents with spans give way to the pieces between them, which name them as their parent."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for row, some, counting in zip(found.rows.tolist(), found.spans, counts.tolist(), strict=True):
        if counting:
            spans.setdefault(row, []).extend(some)
    taken: list[int] = []
    texts: list[tuple[int, int] | None] = []  # begin and end of a piece; None: as it was
    shattered: list[bool] = []
    for row in range(batch.num_rows):
        pieces = _pieces(batch["text"][row].as_py(), spans[row], config.margin) if row in spans else [None]
        keep = row in spans and not 1 <= len(pieces) <= MOST_PIECES
        taken += [row] if keep else [row] * len(pieces)
        texts += [None] if keep else pieces
        shattered += [keep] if keep else [False] * len(pieces)
    rows = batch.take(pa.array(taken, pa.int64()))
    cut = np.array([piece is not None for piece in texts], bool)
    columns: dict[str, list[Any]] = {name: rows[name].to_pylist() for name in ("id", "text", "path", "parent")}
    for place in np.flatnonzero(cut).tolist():
        piece = texts[place]
        assert piece is not None
        text = columns["text"][place][piece[0] : piece[1]]
        columns["path"][place] = where = f"{columns['path'][place]}#char={piece[0]},{piece[1]}"  # RFC 5147
        columns["parent"][place] = columns["parent"][place] or columns["id"][place]
        columns["id"][place] = documents.document_id(rows["source"][place].as_py(), where, text)
        columns["text"][place] = text
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else rows[field.name]
        for field in rows.schema
    ]
    pieces_batch = pa.RecordBatch.from_arrays(arrays, schema=rows.schema)
    pieces_batch = note_changes(pieces_batch, [["cut evaluation overlap"] if each else [] for each in cut.tolist()])
    length = np.array([piece[1] - piece[0] if piece is not None else 0 for piece in texts], np.float64)
    drops = (
        Drop(REASON, np.array(shattered, bool), highest[taken], config.min_overlap),
        Drop(LEFT_OVER, cut & (length < config.shortest_piece), length, config.shortest_piece),
    )
    return Judged(pieces_batch, drops, aside)


def _pieces(text: str, spans: list[tuple[int, int]], margin: int) -> list[tuple[int, int]]:
    """Begin and end (characters) of what stands between the spans (bytes) and `margin` characters around each.

    Never half a word where words have spaces between them, and no blanks at the ends.
    """
    data = text.encode()
    places = [(len(data[:begin].decode()) - margin, len(data[:end].decode()) + margin) for begin, end in sorted(spans)]
    pieces = []
    last = 0
    for begin, end in places:
        if begin > last:
            pieces.append(_whole_words(text, last, begin))
        last = max(last, end)
    if last < len(text):
        pieces.append(_whole_words(text, last, len(text)))
    return [(begin, end) for begin, end in pieces if begin < end]


def _whole_words(text: str, begin: int, end: int) -> tuple[int, int]:
    """Begin and end of that part, less the words that its ends run through (within `LONGEST_WORD` characters)."""
    if begin > 0 and not text[begin - 1].isspace():
        begin += next((at for at, char in enumerate(text[begin : min(end, begin + LONGEST_WORD)]) if char.isspace()), 0)
    if end < len(text) and not text[end].isspace():
        tail = text[max(begin, end - LONGEST_WORD) : end][::-1]
        end -= next((at for at, char in enumerate(tail) if char.isspace()), 0)
    piece = text[begin:end]
    begin += len(piece) - len(piece.lstrip())
    return begin, begin + len(piece.strip())


LONGEST_WORD = 40

DECONTAMINATE = Step("decontaminate", Decontaminate, decontaminate, prepare=prepare)
