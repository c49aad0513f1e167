"""Step `mask`: personal data becomes typed placeholders: <EMAIL>, <PHONE>, <IP>, <CARD>, <IBAN>, <NATIONAL_ID>, …

Text, title and description are masked; url, path and topic stay as they are. This step writes nowhere what was there,
unless the recipe says `reversible`; but what earlier steps removed or put aside, and the artifact of `collect`, are as
they were, so it belongs before all that removes. `benchmarks/personal_data.py` measures how much is found and how much
is wrongly taken for personal data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from lmcraft.corpus.step import Judged, Known, Step, note_changes, replace_columns
from lmcraft.corpus.steps.personal_data import ANCHORS, KINDS, Kind, Span, find, replaced, without_overlaps
from lmcraft.corpus.steps.personal_data_scan import windows
from lmcraft.recipe.stage import Inputs, Runtime, StageConfig

COLUMNS = ("text", "title", "description")

DEFAULT_KINDS: tuple[Kind, ...] = ("email", "phone", "ip", "card", "iban", "national_id", "secret")

ORIGINALS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("number", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("placeholder", pa.string(), nullable=False),
        pa.field("original", pa.string(), nullable=False),
    ]
)
"""One row a placeholder, of a reversible masking. `number` counts from 1 within the document's column; `start` is the
character of the masked text at which the placeholder stands."""


class Mask(StageConfig):
    """Replaces personal data in text, title and description by typed placeholders."""

    kinds: list[Kind] = Field(
        list(DEFAULT_KINDS),
        min_length=1,
        description="What is masked; name and address need a model, mac and wallet are off by default.",
    )
    model: str | None = Field(
        None,
        pattern=r"^[A-Za-z][A-Za-z0-9_-]*$",
        description="An installed spaCy model that finds names and places, such as en_core_web_sm.",
    )
    numbered: bool = Field(False, description="Write <EMAIL_1>, <EMAIL_2>: the same number for the same in a document.")
    reversible: bool = Field(
        False, description="Keep what was masked in files personal-data-*.parquet beside the documents."
    )

    @model_validator(mode="after")
    def _names_need_a_model(self) -> Mask:
        if self.model is None and {"name", "address"} & set(self.kinds):
            raise ValueError("the kinds name and address need a model, such as `model: en_core_web_sm`")
        return self


def mask(batch: pa.RecordBatch, config: Mask, known: Known) -> Judged:
    kinds = sorted(set(config.kinds), key=KINDS.index)
    changes: list[list[str]] = [[] for _ in range(batch.num_rows)]
    numbers: dict[int, dict[tuple[str, str], int]] = {}
    originals: list[dict[str, Any]] = []
    columns: dict[str, pa.Array] = {}
    for name in COLUMNS:
        masked: dict[int, str] = {}
        for row, text, spans in _found(batch[name], kinds, config.model):
            placeholder = _placeholders(text, numbers.setdefault(row, {})) if config.numbered else _plain
            masked[row] = replaced(text, spans, placeholder)
            changes[row] += [f"masked {span.kind}" for span in sorted(spans, key=lambda span: KINDS.index(span.kind))]
            if config.reversible:
                originals += _originals(batch["id"][row].as_py(), name, text, spans, placeholder)
        if masked:
            chosen = np.zeros(batch.num_rows, bool)
            chosen[list(masked)] = True
            new = pa.array([masked[row] for row in sorted(masked)], pa.string())
            columns[name] = pc.replace_with_mask(batch[name], pa.array(chosen), new)
    if columns:
        batch = note_changes(replace_columns(batch, columns), changes)
    return Judged(
        batch, aside={"personal-data": pa.Table.from_pylist(originals, ORIGINALS)} if config.reversible else {}
    )


def check_model(config: Mask, inputs: Inputs, runtime: Runtime) -> Mapping[str, np.ndarray]:
    """Nothing to know beforehand, but a model that is not there should be said before any document is looked at."""
    if config.model is not None and {"name", "address"} & set(config.kinds):
        from lmcraft.corpus.steps.personal_data_names import load

        load(config.model)
    return {}


MASK = Step("mask", Mask, mask, prepare=check_model)


def _found(column: pa.Array, kinds: list[Kind], model: str | None) -> Iterator[tuple[int, str, list[Span]]]:
    """Rows of a column with personal data: number, text and spans."""
    spans = dict(_by_rules(column, kinds))
    if {"name", "address"} & set(kinds):
        assert model is not None
        from lmcraft.corpus.steps.personal_data_names import find_with_model

        for row, text in enumerate(column.to_pylist()):
            if text and (more := find_with_model(text, kinds, model)):
                spans[row] = without_overlaps([*spans.get(row, []), *more])
    for row in sorted(spans):
        yield row, column[row].as_py(), spans[row]


def _by_rules(column: pa.Array, kinds: list[Kind]) -> Iterator[tuple[int, list[Span]]]:
    """Rows and spans (in characters) of the kinds that need no model."""
    _, offsets_buffer, data_buffer = column.buffers()
    if data_buffer is None or not len(column):
        return
    offsets = np.frombuffer(offsets_buffer, np.int32)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(data_buffer, np.uint8)
    view = memoryview(data_buffer)
    row, byte, character = -1, 0, 0  # how many characters of the row lie before the byte
    spans: list[Span] = []
    for found_row, start, end, signs in windows(data, offsets).tolist():
        if found_row != row:
            if spans:
                yield row, spans
            row, byte, character, spans = found_row, int(offsets[found_row]), 0, []
        window = bytes(view[start:end]).decode()
        found = find(window, [kind for kind in kinds if ANCHORS[kind] & signs])
        if found:
            character += len(bytes(view[byte:start]).decode())
            byte = start
            spans += [Span(span.start + character, span.end + character, span.kind) for span in found]
    if spans:
        yield row, spans


def _plain(span: Span) -> str:
    return f"<{span.kind.upper()}>"


def _placeholders(text: str, numbers: dict[tuple[str, str], int]) -> Callable[[Span], str]:
    def numbered(span: Span) -> str:
        said = text[span.start : span.end]
        of_kind = sum(kind == span.kind for kind, _ in numbers)
        number = numbers.setdefault((span.kind, said.casefold()), of_kind + 1)
        return f"<{span.kind.upper()}_{number}>"

    return numbered


def _originals(
    document: str, column: str, text: str, spans: list[Span], placeholder: Callable[[Span], str]
) -> Iterator[dict[str, Any]]:
    grown = 0
    for number, span in enumerate(spans, 1):
        written = placeholder(span)
        yield {
            "id": document,
            "column": column,
            "number": number,
            "start": span.start + grown,
            "kind": span.kind,
            "placeholder": written,
            "original": text[span.start : span.end],
        }
        grown += len(written) - (span.end - span.start)
