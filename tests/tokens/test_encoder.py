"""The fast encoder gives the ids of `tokenizers`, or is not used; documents may repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.tokens import Tokenizer, TokenShards, pack
from lmcraft.tokens import encoder as encoder_module
from lmcraft.tokens.encoder import Encoded, Encoder
from lmcraft.tokens.tokenizer import default_chat_template
from lmcraft.tokens.train import TokenizerConfig, train_bpe

pytest.importorskip("gigatoken")

ODD = [
    "",
    " ",
    "\n\n \t",
    "a<|im_end|>b<|endoftext|>",
    "\0",
    "e\u0301 𐍈 안녕 你好。สวัสดี",
    "x" * 5000,
    "12345 1,234.5",
    "don't I'LL",
]


def rows_of(encoded: Encoded) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]


def test_same_ids_with_both_encoders(tokenizer: Tokenizer) -> None:
    fast = Encoder(tokenizer)
    assert fast.name == "gigatoken"
    assert rows_of(fast.encode(ODD)) == tokenizer.encode_batch(ODD)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=200), min_size=1, max_size=5))
def test_same_ids_of_any_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert rows_of(Encoder(tokenizer).encode(texts)) == tokenizer.encode_batch(texts)


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_a_vocabulary_is_encoded_whatever_its_digits(digits: int) -> None:
    backend: tokenizers.Tokenizer = train_bpe(
        iter(["in 1850 and 1790 there were 12345 of them"] * 20), TokenizerConfig(digits=digits)
    )
    made = Tokenizer(backend, default_chat_template())
    encoder = Encoder(made)
    texts = ["the year 185012 and 7", "1 22 333 4444"]
    assert encoder.check(texts) or encoder.name == "tokenizers"
    assert rows_of(encoder.encode(texts)) == made.encode_batch(texts)


def test_text_that_is_not_unicode_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="text 2 of 2 is not Unicode text"):
        Encoder(tokenizer).encode(["fine", "half \ud800"])


def test_an_encoder_that_differs_is_found_out(
    tokenizer: Tokenizer, documents: Path, tokenizer_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"documents": documents, "tokenizer": tokenizer_directory}
    config = pack.TokensConfig(shard_tokens=2500)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    assert pack.run(config, inputs, right, Runtime())["encoder"]["name"] == "gigatoken"
    made = encoder_module._gigatoken

    class Wrong:
        """Says the first token of every text twice."""

        def __init__(self, real: Any) -> None:
            self.real = real

        def encode_batch(self, texts: list[str], parallel: bool) -> Any:
            return self.real.encode_batch([text[:1] + text for text in texts], parallel=parallel)

    monkeypatch.setattr(encoder_module, "_gigatoken", lambda tokenizer: Wrong(made(tokenizer)))
    summary = pack.run(config, inputs, wrong, Runtime())["encoder"]
    assert summary["name"] == "tokenizers" and summary["differing"] > 0
    assert {path.name: path.read_bytes() for path in right.iterdir()} == {
        path.name: path.read_bytes() for path in wrong.iterdir()
    }


def test_a_document_that_repeats_is_seen_so_often(documents: Path, tokenizer_directory: Path, tmp_path: Path) -> None:
    table = pq.read_table(documents / "documents-00000.parquet")
    repeats = [n % 4 for n in range(table.num_rows)]
    folder = tmp_path / "repeating"
    folder.mkdir()
    pq.write_table(table.append_column("repeats", pa.array(repeats, pa.int32())), folder / "documents-00000.parquet")
    pack.run(
        pack.TokensConfig(shard_tokens=2500),
        {"documents": folder, "tokenizer": tokenizer_directory},
        tmp_path / "t",
        Runtime(),
    )
    wanted = {row["id"]: n % 4 for n, row in enumerate(table.to_pylist()) if row["split"] == "train" and n % 4}
    found = list(TokenShards(tmp_path / "t", "train").ids)
    assert {name: found.count(name) for name in found} == wanted
    held = [row["id"] for row in table.to_pylist() if row["split"] == "heldout"]
    assert list(TokenShards(tmp_path / "t", "heldout").ids) == held
