"""Names and addresses come from the model that the user names; what surrounds the model is tried without one."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest

from lmcraft.corpus.documents import SCHEMA
from lmcraft.corpus.step import Known
from lmcraft.corpus.steps.mask import Mask, mask
from lmcraft.corpus.steps.personal_data_names import PIECE, addresses, pieces

MODEL = os.environ.get("LMCRAFT_TEST_SPACY_MODEL")


def test_long_texts_are_cut_where_it_hurts_least() -> None:
    for text in ("word " * 30_000, "line\n" * 30_000, "x" * 120_000, "", "short"):
        cut = list(pieces(text))
        assert "".join(piece for _, piece in cut) == text
        assert all(len(piece) <= PIECE for _, piece in cut)
        assert all(text[begin : begin + len(piece)] == piece for begin, piece in cut)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He lives at 12 Old Mill Road, Apt 4, Springfield 62704 now.", ["12 Old Mill Road, Apt 4, Springfield 62704"]),
        ("Send it to 10 rue de la Paix.", ["10 rue de la Paix"]),
        ("Hauptstraße 17 b, Springfield", ["Hauptstraße 17 b, Springfield"]),
        ("He went to Springfield in 1990 and met 12 men.", []),
    ],
)
def test_addresses_are_streets_with_numbers_and_what_follows(text: str, found: list[str]) -> None:
    places = [(text.index("Springfield"), text.index("Springfield") + 11)] if "Springfield" in text else []
    assert [text[start:end] for start, end in addresses(text, places)] == found


@pytest.mark.skipif(MODEL is None, reason="LMCRAFT_TEST_SPACY_MODEL names no installed spaCy model of English")
def test_names_are_masked_by_a_model() -> None:
    row = {"id": "0", "text": "Angela Merkel met Barack Obama in Berlin.", "source": "s", "path": "p", "changes": []}
    batch = pa.RecordBatch.from_pylist([row], SCHEMA)
    done = mask(batch, Mask(kinds=["name"], model=MODEL), Known()).batch.to_pylist()[0]
    assert done["text"] == "<NAME> met <NAME> in Berlin."
    assert done["changes"] == ["masked name"]
