"""Segments: joined they are the text, none is too long, and they end where the structure does."""

from __future__ import annotations

from corpora import batch_of
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.corpus.step import Known
from lmcraft.corpus.steps.segment import Segment, cuts, segment


@given(text=st.text(alphabet="ab .\n#。", max_size=400), longest=st.integers(20, 60))
def test_pieces_joined_are_the_text(text: str, longest: int) -> None:
    places = cuts(text, longest)
    assert "".join(text[begin:end] for begin, end in places) == text
    assert all(end - begin <= longest for begin, end in places)
    assert all(end > begin for begin, end in places) or not text


def test_the_best_boundary_in_reach_is_taken() -> None:
    sentences = "One two three. Four five six. Seven eight. "
    assert [sentences[b:e] for b, e in cuts(sentences, 32)] == ["One two three. Four five six. ", "Seven eight. "]
    paragraphs = "A short line. And more.\n\nThe next paragraph. Goes on and on."
    assert cuts(paragraphs, 40)[0] == (0, paragraphs.index("The"))
    chapters = "Some text of it.\n\nMore text.\n\n# Two\n\nText of two goes on here."
    assert cuts(chapters, 45)[0] == (0, chapters.index("# Two"))
    assert cuts("x" * 50, 20) == [(0, 20), (20, 40), (40, 50)]


def test_pieces_say_where_they_came_from() -> None:
    batch = batch_of(["short", "One two three. Four five six. Seven eight.", "z" * 30], title=["a", "b", None])
    made = segment(batch, Segment(max_characters=32), Known()).batch
    assert made.num_rows == 4
    rows = made.to_pylist()
    assert rows[0] == batch.slice(0, 1).to_pylist()[0] and rows[3] == batch.slice(2, 1).to_pylist()[0]
    assert [row["path"] for row in rows[1:3]] == ["1.txt#char=0,30", "1.txt#char=30,42"]
    assert {row["parent"] for row in rows[1:3]} == {batch["id"][1].as_py()}
    assert {row["title"] for row in rows[1:3]} == {"b"} and rows[1]["changes"] == ["segmented"]
    assert len({row["id"] for row in rows}) == 4
    again = segment(made, Segment(max_characters=20), Known()).batch.to_pylist()
    assert {row["parent"] for row in again if row["title"] == "b"} == {batch["id"][1].as_py()}
