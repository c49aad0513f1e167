"""Step `segment`: long documents are cut where their structure allows it, into documents that say where they came from.

Nothing is lost: the pieces of a document, joined, are its text. The place of a piece is that of its document with the
fragment `#char=begin,end` of RFC 5147.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lmcraft.corpus.documents import document_id
from lmcraft.corpus.step import Judged, Known, Step, note_changes, replace_columns
from lmcraft.recipe.stage import StageConfig


class Segment(StageConfig):
    """Cuts documents that are longer than a limit at headings, paragraphs, lines, sentences or words."""

    max_characters: int = Field(20_000, ge=20, description="No piece is longer.")


def segment(batch: pa.RecordBatch, config: Segment, known: Known) -> Judged:
    long = np.flatnonzero(pc.utf8_length(batch["text"]).to_numpy() > config.max_characters)
    if not len(long):
        return Judged(batch)
    texts = batch["text"]
    pieces = {int(row): cuts(texts[int(row)].as_py(), config.max_characters) for row in long}
    numbers = np.repeat(np.arange(batch.num_rows), [len(pieces.get(row, ((0, 0),))) for row in range(batch.num_rows)])
    # A text is cut into its pieces, not copied whole for each of them: a book has hundreds.
    made = replace_columns(batch, {"text": pa.array([""] * batch.num_rows, pa.string())}).take(pa.array(numbers))
    columns: dict[str, list[str | None]] = {name: made[name].to_pylist() for name in ("id", "path", "parent", "source")}
    columns["text"] = [None if row in pieces else texts[row].as_py() for row in numbers.tolist()]
    cut = np.isin(numbers, long)
    at = 0
    for row, places in pieces.items():
        at = int(np.searchsorted(numbers, row))
        whole = texts[row].as_py()
        for number, (begin, end) in enumerate(places, at):
            columns["parent"][number] = columns["parent"][number] or columns["id"][number]
            columns["text"][number] = whole[begin:end]
            columns["path"][number] = place = f"{columns['path'][number]}#char={begin},{end}"
            columns["id"][number] = document_id(str(columns["source"][number]), place, whole[begin:end])
    changed = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    made = note_changes(replace_columns(made, changed), (["segmented"] if was else [] for was in cut))
    return Judged(made)


# From the best place to cut to the worst; a cut is before the match's group.
_BOUNDARIES = (
    re.compile(r"\n\s*\n(?=(?:#{1,6} |(?:CHAPTER|Chapter|BOOK|PART|ACT|SCENE)\b))"),  # a heading follows
    re.compile(r"\n[ \t]*\n+"),  # a paragraph ends
    re.compile(r"\n"),
    re.compile(r"[.!?…][\"'”’»)\]]*\s+|[。！？][」』”’）]*"),  # a sentence ends
    re.compile(r"\s+"),
)


def cuts(text: str, longest: int) -> list[tuple[int, int]]:
    """Where the pieces of a text begin and end (characters): none is longer than `longest`, together they are it all.

    Each ends at the last boundary of the best kind found in the second half of the room there is.
    """
    places = []
    begin = 0
    while len(text) - begin > longest:
        end = begin + longest
        for boundary in _BOUNDARIES:
            last = 0
            for match in boundary.finditer(text, begin + longest // 2, end):
                last = match.end()
            if last:
                end = last
                break
        places.append((begin, end))
        begin = end
    places.append((begin, len(text)))
    return places


SEGMENT = Step("segment", Segment, segment)
