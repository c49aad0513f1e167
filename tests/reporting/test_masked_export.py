"""A masked LM is exported as one that transformers loads for masked LM; a mixed one as that or as a causal LM."""

import json

import pytest
import torch

from lmcraft.model import load_model
from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.reporting import check
from lmcraft.reporting.check import TEXTS, ExportDiffers
from lmcraft.reporting.export import STAGE, ExportConfig
from lmcraft.tokens import Tokenizer
from lmcraft.tokens.tokenizer import default_chat_template
from lmcraft.tokens.train import TokenizerConfig, train_bpe


@pytest.fixture(scope="module")
def masked_tokenizer():
    config = TokenizerConfig(vocab_size=513, min_frequency=1, mask_token=True)
    return Tokenizer(train_bpe(iter(TEXTS * 20), config), default_chat_template())


@pytest.fixture
def save(save_random, masked_tokenizer, tmp_path):
    def save(**changes):
        save_random(tmp_path / "model", tokenizer=masked_tokenizer, mask_token_id=masked_tokenizer.mask_id, **changes)
        return {"model": tmp_path / "model"}

    return save


@pytest.mark.parametrize("tied", [True, False])
def test_a_masked_model_loads_for_masked_lm_with_equal_logits_packed_or_not(save, tmp_path, tied):
    from transformers import AutoModelForMaskedLM

    inputs = save(model_type="eurobert", tie_word_embeddings=tied)
    summary = STAGE.run(ExportConfig(), inputs, tmp_path / "out", Runtime())
    assert summary["masks_filled"] == len(TEXTS)
    assert summary["max_relative_logit_difference"] < 1e-5
    assert not (tmp_path / "out" / "generation_config.json").exists()
    theirs, report = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "out", local_files_only=True, output_loading_info=True
    )
    assert type(theirs).__name__ == "EuroBertForMaskedLM"
    assert not any(report.values()), report
    lengths, vocabulary = [5, 17, 9], theirs.config.vocab_size
    documents = [torch.randint(0, vocabulary, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    numbers = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    with torch.no_grad():
        packed = load_model(inputs["model"])(torch.cat(documents)[None], positions, numbers)[0].split(lengths)
        for document, ours in zip(documents, packed, strict=True):
            assert (theirs.eval()(document[None]).logits[0] - ours).abs().max() < 1e-4


def test_a_mixed_model_is_exported_either_way_with_the_same_weights(save, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "GREEDY_TOKENS", 5)
    inputs = save(model_type="llama")
    STAGE.run(ExportConfig(), inputs, tmp_path / "causal", Runtime())
    STAGE.run(ExportConfig(masked=True), inputs, tmp_path / "masked", Runtime())
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("causal", "masked")]
    assert weights[0] == weights[1]
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("causal", "masked")]
    assert [c["architectures"] for c in configs] == [["LlamaForCausalLM"], ["EuroBertForMaskedLM"]]
    assert {name for name in configs[0] if configs[0][name] != configs[1][name]} == {"architectures", "model_type"}
    cards = [(tmp_path / name / "README.md").read_text() for name in ("causal", "masked")]
    assert ["pipeline_tag: fill-mask" in card for card in cards] == [False, True]
    assert ["AutoModelForCausalLM" in card for card in cards] == [True, False]


def test_what_was_not_trained_with_masks_is_not_exported_so(save_random, tmp_path):
    save_random(tmp_path / "model", model_type="llama")
    with pytest.raises(UserError, match="was not trained to fill masks and cannot be exported so"):
        STAGE.run(ExportConfig(masked=True), {"model": tmp_path / "model"}, tmp_path / "out", Runtime())


def test_a_masked_export_that_differs_is_refused(save, tmp_path, monkeypatch):
    inputs = save(model_type="eurobert")
    monkeypatch.setattr(check, "_compare_logits", lambda *arguments: 0.0)
    file = inputs["model"] / "tokenizer.json"
    file.write_text(file.read_text().replace('"lstrip": true', '"lstrip": false'))
    with pytest.raises(ExportDiffers, match="fills 'The river"):
        STAGE.run(ExportConfig(), inputs, tmp_path / "out", Runtime())
