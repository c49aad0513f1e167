"""Croissant metadata: the reference implementation finds no fault and reads the shards by it."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lmcraft.corpus import documents
from lmcraft.recipe.stage import Runtime
from lmcraft.reporting.croissant import FIELDS
from lmcraft.reporting.data_card import STAGE, DataCardConfig

mlcroissant = pytest.importorskip("mlcroissant", reason="needs mlcroissant: pip install -e '.[dev]'")

ROWS: list[dict[str, Any]] = [
    {
        "id": f"{n:032x}",
        "text": f"Document {n}, with é and\nlines.",
        "source": "made",
        "path": f"{n}.txt",
        "language": "en" if n % 2 else None,
        "licence": "MIT",
        "offset": 10 * n,
        "collected_at": 1_700_000_000_000 + n if n else None,
        "split": "train",
        "repeats": 2 if n == 3 else None,
        "scores": [("quality", 0.5), ("toxicity", float(n))] if n % 3 else None,
        "changes": ["repaired", "masked email"][: n % 3],
    }
    for n in range(12)
]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder with two shards, as an artifact has them, and `croissant.json` beside them."""
    folder = tmp_path / "documents"
    folder.mkdir()
    statistics = documents.Statistics()
    for number, part in enumerate((ROWS[:7], ROWS[7:])):
        table = pa.Table.from_pylist(part, schema=documents.SCHEMA)
        documents.write_parquet(folder / f"documents-{number:05d}.parquet", table)
        statistics.keep(table)
    documents.write_json(folder / "statistics.json", statistics.to_json())
    out = tmp_path / "card"
    out.mkdir()
    STAGE.run(DataCardConfig(title="Made for a test", creator="A person"), {"of": [folder]}, out, Runtime())
    shutil.copy(out / "croissant.json", folder)
    return folder


def test_the_reference_implementation_finds_no_error(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    metadata = mlcroissant.Dataset(published / "croissant.json").metadata
    assert not metadata.ctx.issues.errors
    assert metadata.ctx.is_v1_1()
    assert "not standard" not in caplog.text  # the context is that of the specification, whole
    assert metadata.name in ("Made-for-a-test", {"en": "Made-for-a-test"})
    assert metadata.personal_sensitive_information and metadata.data_limitations and metadata.data_biases
    assert metadata.data_preprocessing_protocol and metadata.data_collection
    assert metadata.license == ["https://spdx.org/licenses/MIT.html"]


def test_records_are_read_from_the_shards(published: Path) -> None:
    records = list(mlcroissant.Dataset(published / "croissant.json").records("documents"))
    found = {record["documents/id"].decode(): record for record in records}
    assert len(records) == len(ROWS)
    for row in ROWS:
        record = found[row["id"]]
        assert record["documents/text"].decode() == row["text"]
        assert record["documents/offset"] == row["offset"]
        assert [change.decode() for change in record["documents/changes"]] == row["changes"]
        assert record["documents/repeats"] == row["repeats"]
        assert (record["documents/collected_at"] is None) == (row["collected_at"] is None)
        scores = record["documents/scores"]
        names = [name.decode() for name in scores["documents/scores/name"] or []]
        assert list(zip(names, scores["documents/scores/value"] or [], strict=True)) == (row["scores"] or [])


def test_shards_are_named_with_their_digests(published: Path) -> None:
    described = json.loads((published / "croissant.json").read_text())
    files = {each["@id"]: each for each in described["distribution"] if each["@type"] == "cr:FileObject"}
    assert sorted(files) == sorted(path.name for path in published.glob("documents-*.parquet"))
    for name, each in files.items():
        content = (published / name).read_bytes()
        assert each["sha256"] == sha256(content).hexdigest()
        assert each["contentSize"] == f"{len(content)} B"


def test_an_address_goes_before_the_shards(published: Path, tmp_path: Path) -> None:
    STAGE.run(DataCardConfig(url="https://example.org/set"), {"of": [published]}, tmp_path, Runtime())
    described = json.loads((tmp_path / "croissant.json").read_text())
    first = described["distribution"][0]
    assert first["contentUrl"] == "https://example.org/set/documents-00000.parquet"
    assert not mlcroissant.Dataset(tmp_path / "croissant.json").metadata.ctx.issues.errors


def test_every_column_is_described() -> None:
    assert list(FIELDS) == documents.SCHEMA.names
