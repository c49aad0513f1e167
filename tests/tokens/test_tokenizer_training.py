from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.tokens import Tokenizer, train

TRAIN = """
import sys
from pathlib import Path
from lmcraft.recipe.stage import Runtime
from lmcraft.tokens import train
train.run(train.TokenizerConfig(vocab_size=600), {"documents": Path(sys.argv[1])}, Path(sys.argv[2]), Runtime())
"""
Make = Callable[[list[dict[str, Any]]], Path]


def _files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


def test_training_gives_the_same_bytes_in_any_process(
    documents: Path, tokenizer_directory: Path, tmp_path: Path
) -> None:
    for seed, threads in (("1", "1"), ("2", "4")):
        out = tmp_path / seed
        environment = os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", TRAIN, str(documents), str(out)], check=True, env=environment)
        assert _files(out) == _files(tokenizer_directory)


def test_the_order_of_documents_and_the_held_out_split_do_not_matter(
    rows: list[dict[str, Any]], make_documents: Make, tokenizer_directory: Path
) -> None:
    random.Random(3).shuffle(rows)
    rows = [row | {"text": "zzzz qqqq " * 50} if row["split"] == "heldout" else row for row in rows]
    directory = make_documents(rows)
    out = directory.parent / "out"
    train.run(train.TokenizerConfig(vocab_size=600), {"documents": directory}, out, Runtime())
    assert _files(out)["tokenizer.json"] == _files(tokenizer_directory)["tokenizer.json"]


def test_a_role_is_one_token(tokenizer: Tokenizer) -> None:
    assert [len(tokenizer.encode(role)) for role in ("system", "user", "assistant")] == [1, 1, 1]


def test_two_digits_to_a_token_when_asked(documents: Path, tmp_path: Path) -> None:
    config = train.TokenizerConfig(vocab_size=600, digits=2)
    train.run(config, {"documents": documents}, tmp_path, Runtime())
    tokenizer = Tokenizer.load(tmp_path)
    assert [tokenizer.decode([i]) for i in tokenizer.encode("1850")] == ["18", "50"]


def test_a_vocabulary_beyond_the_corpus_is_a_sentence(documents: Path, make_documents: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocab_size is 60000.*support only \d+ tokens: set vocab_size to \d+ or less"):
        train.run(train.TokenizerConfig(vocab_size=60_000), {"documents": documents}, tmp_path, Runtime())
    row = {"id": "0" * 32, "text": "word " * 9, "split": "heldout"}
    with pytest.raises(UserError, match="no documents of the train split"):
        train.run(train.TokenizerConfig(), {"documents": make_documents([row])}, tmp_path, Runtime())
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize("settings", [{"vocab_size": 100}, {"digits": 4}, {"min_frequency": 0}, {"size": 4096}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        train.TokenizerConfig(**settings)
