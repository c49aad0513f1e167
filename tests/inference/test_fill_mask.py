"""Filling masks: what transformers' pipeline finds, in any batch; what cannot be filled is said in a sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from tiny import TEXT

from lmcraft import cli
from lmcraft.inference import Engine, Sampling
from lmcraft.inference.fill_mask import fill_mask
from lmcraft.model import ModelConfig, Transformer, save_model
from lmcraft.recipe.stage import UserError
from lmcraft.tokens import Tokenizer
from lmcraft.tokens.tokenizer import default_chat_template
from lmcraft.tokens.train import TokenizerConfig, train_bpe

TEXTS = [
    "Paris is the <|mask|> of France.",
    "<|mask|> est la tour",
    "Où est la <|mask|> Eiffel ? ¿Qué es <|mask|> número π?\n <|mask|>",
    "<|im_end|> is text, not a token, and <|mask|> a mask",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    config = TokenizerConfig(vocab_size=513, min_frequency=1, mask_token=True)
    return Tokenizer(train_bpe(iter([TEXT]), config), default_chat_template())


def save(directory: Path, tokenizer: Tokenizer, **changes: object) -> Path:
    """Random weights; what is a mask to them is no matter."""
    base = {"model_type": "eurobert", "vocab_size": tokenizer.vocab_size, "hidden_size": 32, "intermediate_size": 48}
    base |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    base |= {"max_position_embeddings": 96, "mask_token_id": tokenizer.mask_id, "pad_token_id": tokenizer.pad_id}
    model = Transformer(ModelConfig.model_validate({**base, **changes}))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=generator)
    save_model(model, directory)
    tokenizer.save(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("masked"), tokenizer)


def test_it_finds_what_the_pipeline_of_transformers_finds(directory: Path) -> None:
    from transformers import pipeline

    ours = fill_mask(Engine.load(directory, "cpu"), TEXTS[:3], top_k=7)
    theirs = pipeline("fill-mask", model=str(directory), top_k=7, device="cpu")
    for text, masks in zip(TEXTS[:3], ours, strict=True):
        expected = theirs(text)
        expected = expected if isinstance(expected[0], list) else [expected]
        assert len(masks) == len(expected) == text.count("<|mask|>")
        for mask, others in zip(masks, expected, strict=True):
            assert [each.token for each in mask] == [other["token"] for other in others]
            assert [each.probability for each in mask] == pytest.approx([o["score"] for o in others], abs=1e-6)
            assert [each.text.strip() for each in mask] == [other["token_str"].strip() for other in others]


def test_a_text_is_filled_the_same_in_any_company(directory: Path) -> None:
    engine = Engine.load(directory, "cpu")
    together = fill_mask(engine, TEXTS)
    for text, masks in zip(TEXTS, together, strict=True):
        for mask, same in zip(masks, fill_mask(engine, [text])[0], strict=True):
            assert [each.token for each in mask] == [each.token for each in same]
            assert [e.probability for e in mask] == pytest.approx([e.probability for e in same], abs=1e-6)
    assert fill_mask(engine, []) == []


def test_what_cannot_be_filled_or_continued_is_refused_in_a_sentence(
    directory: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    engine = Engine.load(directory, "cpu")
    with pytest.raises(UserError, match=r"text 2 of 2 has no <\|mask\|> to fill: 'Paris'"):
        fill_mask(engine, [TEXTS[0], "Paris"])
    with pytest.raises(UserError, match="the context of the model is 96 tokens; shorten it"):
        fill_mask(engine, ["<|mask|>" * 96])
    with pytest.raises(UserError, match=f"top_k must be between 1 and {tokenizer.vocab_size}"):
        fill_mask(engine, TEXTS, top_k=0)
    with pytest.raises(UserError, match="fills masks and cannot continue a text"):
        engine.generate([[0, 5]], Sampling())
    with pytest.raises(UserError, match="fills masks and cannot continue a text"):
        engine.log_likelihood([[0, 5]])
    causal = Engine.load(save(tmp_path, tokenizer, model_type="llama", mask_token_id=None), "cpu")
    with pytest.raises(UserError, match="not trained to fill masks: pretrain it with objective: masked or mixed"):
        fill_mask(causal, TEXTS)


def test_a_mixed_model_fills_masks_and_generates(tokenizer: Tokenizer, tmp_path: Path, directory: Path) -> None:
    mixed = Engine.load(save(tmp_path, tokenizer, model_type="llama"), "cpu")
    assert fill_mask(mixed, TEXTS) == fill_mask(Engine.load(directory, "cpu"), TEXTS), "the same weights"
    assert len(mixed.generate([[0, 5]], Sampling(max_tokens=3, stop_tokens=()))[0].tokens) == 3


def test_the_command_reads_a_pipe(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fill-mask", str(directory), TEXTS[0], "--top-k", "2", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == TEXTS[0]
    assert len(lines) == 3
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TEXTS[0]}\n\n{TEXTS[1]}\n"))
    assert cli.main(["fill-mask", str(directory), "--json", "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == TEXTS[:2]
    assert all(len(row["masks"][0]) == 5 for row in rows)
    assert cli.main(["fill-mask", str(directory), "no mask", "--device", "cpu"]) == 2
    assert "has no <|mask|> to fill" in capsys.readouterr().err
