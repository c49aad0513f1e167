"""A small corpus in three languages, made here, and a tokenizer trained on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmcraft.recipe.stage import Runtime
from lmcraft.tokens import Tokenizer, train

COLUMNS = ["id", "text", "title", "description", "language", "topic", "source", "path", "licence", "split"]
WORDS = {
    "en": "the river flows through a green valley and people who live there grow wheat since 1850",
    "fr": "la rivière coule dans une vallée où l'été dure longtemps et les gens cultivent le blé depuis 1790",
    "es": "el río corre por un valle verde donde los niños juegan y la señora cultiva trigo desde 1812",
}


def write_documents(directory: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows of documents as the corpus room writes them; missing columns are null."""
    directory.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.string()) for name in COLUMNS] + [("changes", pa.list_(pa.string()))])
    table = pa.Table.from_pylist([dict.fromkeys(COLUMNS) | {"changes": []} | row for row in rows], schema=schema)
    pq.write_table(table, directory / "documents-00000.parquet", compression="zstd")
    return directory


def make_rows(count: int = 120) -> list[dict[str, Any]]:
    """Random sentences over made-up stems, so that there is something for a few hundred merges to learn."""
    rng = random.Random(7)
    stems = ["".join(rng.choice(("ka", "lo", "mi", "ter", "ran", "os", "ul")) for _ in range(3)) for _ in range(400)]
    rows = []
    for number in range(count):
        language = ("en", "fr", "es")[number % 3]
        words = [rng.choice(stems) if rng.random() < 0.4 else rng.choice(WORDS[language].split()) for _ in range(60)]
        rows.append(
            {
                "id": f"{number:032x}",
                "title": f"{rng.choice(stems).title()} {number}" if number % 4 else None,
                "text": f"{' '.join(words).capitalize()}. {' '.join(words[:9]).capitalize()}!",
                "language": language if number % 10 else None,
                "source": "made",
                "split": "heldout" if number % 11 == 5 else "train",
            }
        )
    return rows


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return make_rows()


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("documents"), make_rows())


@pytest.fixture(scope="session")
def tokenizer_directory(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer")
    train.run(train.TokenizerConfig(vocab_size=600), {"documents": documents}, out, Runtime())
    return out


@pytest.fixture(scope="session")
def tokenizer(tokenizer_directory: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_directory)


@pytest.fixture
def make_documents(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    return lambda rows: write_documents(tmp_path / "documents", rows)
