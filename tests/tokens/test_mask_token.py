"""The mask: as transformers reads it, only where it was asked for, and never by accident."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.tokens import Tokenizer, train
from lmcraft.tokens.tokenizer import MASK


@pytest.fixture(scope="module")
def masked(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masked")
    train.run(train.TokenizerConfig(vocab_size=601, mask_token=True), {"documents": documents}, out, Runtime())
    return out


def test_a_text_with_masks_has_the_ids_that_transformers_gives_it(masked: Path) -> None:
    from transformers import AutoTokenizer

    ours, theirs = Tokenizer.load(masked), AutoTokenizer.from_pretrained(masked)
    assert theirs.mask_token_id == ours.mask_id == 4

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.one_of(st.text(max_size=8), st.sampled_from([MASK, " ", "\n", "\u00a0", "\u3000", "\x1c", "a"])))
    )
    def check(parts: list[str]) -> None:
        text = "".join(parts)
        if not any(token in text for token in theirs.all_special_tokens if token != MASK):
            assert [ours.bos_id, *ours.encode_masked(text)] == theirs(text)["input_ids"]

    check()


def test_the_mask_moves_the_other_tokens_by_one_and_is_none_by_default(
    masked: Path, tokenizer: Tokenizer, tokenizer_directory: Path
) -> None:
    ours = Tokenizer.load(masked)
    assert tokenizer.mask_id is None
    assert "mask_token" not in json.loads((tokenizer_directory / "tokenizer_config.json").read_text())
    text = "the river flows où l'été dure 1850"
    assert ours.encode(text) == [number + (number > 3) for number in tokenizer.encode(text)]
    assert ours.mask_id not in ours.encode(f"a document about {MASK}")
    assert ours.decode(ours.encode(f"a document about {MASK}")) == f"a document about {MASK}"
    with pytest.raises(UserError, match=r"the tokenizer has no <\|mask\|>: train it with mask_token: true"):
        tokenizer.encode_masked(text)
