"""What steps share: notes of changes and scores by name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from corpora import batch_of

from lmcraft.corpus.documents import SCHEMA
from lmcraft.corpus.step import add_score, note_change, note_changes, score


def test_scores_are_written_replaced_and_read() -> None:
    batch = batch_of(["a", "b", "c"])
    first = add_score(batch, "quality", np.array([0.5, np.nan, 1.0]))
    first.validate(full=True)
    assert first["scores"].to_pylist() == [[("quality", 0.5)], None, [("quality", 1.0)]]
    np.testing.assert_array_equal(score(first, "quality"), [0.5, np.nan, 1.0])
    second = add_score(add_score(first, "language", np.array([0.25, 0.75, np.nan])), "quality", np.full(3, np.nan))
    assert second["scores"].to_pylist() == [[("language", 0.25)], [("language", 0.75)], None]
    assert np.isnan(score(second, "quality")).all()


def test_scores_do_not_depend_on_how_batches_are_cut() -> None:
    values = np.array([np.nan, 0.5, np.nan, 2.0])
    whole = add_score(batch_of(list("abcd")), "x", values)
    parts = [add_score(batch_of(list("abcd")).slice(at, 2), "x", values[at : at + 2]) for at in (0, 2)]
    assert pa.concat_batches(parts)["scores"].to_pylist() == whole["scores"].to_pylist()


def test_changes_are_noted_once() -> None:
    batch = batch_of(["a", "b"], changes=[["repaired"], None])
    assert note_changes(batch, [[], []]) is batch
    noted = note_changes(note_changes(batch, [["repaired", "masked email"], []]), [["masked email"], ["cut"]])
    assert noted["changes"].to_pylist() == [["repaired", "masked email"], ["cut"]]


def test_a_change_is_noted_once_and_only_where_it_happened() -> None:
    changes = [None, [], ["a"], ["b", "a"], None, ["c"]]
    columns = {"id": list("012345"), "text": ["x"] * 6, "source": ["s"] * 6, "path": ["p"] * 6, "changes": changes}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    batch = pa.RecordBatch.from_pylist(rows, SCHEMA)
    noted = note_change(batch, "a", np.array([True, True, True, True, False, True]))
    assert noted["changes"].to_pylist() == [["a"], ["a"], ["a"], ["b", "a"], None, ["c", "a"]]
    part = note_change(batch.slice(3, 3), "d", np.array([False, True, True]))
    assert part["changes"].to_pylist() == [["b", "a"], ["d"], ["c", "d"]]
    assert note_change(batch, "a", np.zeros(6, bool)) is batch
