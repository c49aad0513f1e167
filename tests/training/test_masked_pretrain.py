"""Stage `pretrain` with masks: what is measured, what is written, what is refused; a killed run goes on the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_pretrain import SMALL, TOWNS, runtime, write_documents

from lmcraft.model import load_model
from lmcraft.posttraining import sft
from lmcraft.recipe.stage import Progress, Runtime, Task, UserError
from lmcraft.tokens import Tokenizer, pack, train
from lmcraft.training import loop, pretrain
from lmcraft.training.config import PretrainConfig


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("material")
    texts = [f"{TOWNS[i]} is a town. {TOWNS[i]} lies by the river {TOWNS[i * 7 % 900]}." for i in range(600)]
    documents = write_documents(folder / "documents", texts)
    for out in (folder / "tokenizer", folder / "tokens"):
        out.mkdir()
    inputs = {"documents": documents, "tokenizer": folder / "tokenizer"}
    config = train.TokenizerConfig(vocab_size=513, mask_token=True)
    train.STAGE.run(config, {"documents": documents}, folder / "tokenizer", Runtime())
    pack.STAGE.run(pack.STAGE.config(), inputs, folder / "tokens", Runtime())
    return {**inputs, "tokens": folder / "tokens"}


def run(material: dict[str, Path], folder: Path, progress: Progress | None = None, **changes: Any) -> dict[str, Any]:
    where = runtime(folder, **({"progress": progress} if progress else {}))
    summary = pretrain.STAGE.run(PretrainConfig(**{**SMALL, **changes}), material, folder / "out", where)
    assert summary is not None
    return summary


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("masking", ["tokens", "spans"])
def test_a_masked_model_learns_and_claims_no_bits_per_byte(
    material: dict[str, Path], tmp_path: Path, masking: str
) -> None:
    summary = run(material, tmp_path, objective="masked", masking=masking)
    rows = metrics(tmp_path)
    assert not any("heldout_bits_per_byte" in row for row in [summary, *rows])
    heldout = [row["heldout_masked_nats"] for row in rows if "heldout_masked_nats" in row]
    assert len(heldout) > 2
    assert heldout[-1] == summary["heldout_masked_nats"] < 0.8 * heldout[0]
    shape = load_model(tmp_path / "out").config
    assert (shape.model_type, shape.mask_token_id) == ("eurobert", Tokenizer.load(tmp_path / "out").mask_id)


def test_a_mixed_model_is_measured_both_ways(material: dict[str, Path], tmp_path: Path) -> None:
    summary = run(material, tmp_path, objective="mixed")
    assert summary["heldout_bits_per_byte"] > 0
    assert 0 < summary["heldout_masked_nats"] < 6.2, "guessing among 512 tokens is 6.24"
    assert metrics(tmp_path)[-1]["heldout_masked_nats"] == summary["heldout_masked_nats"]
    shape = load_model(tmp_path / "out").config
    assert (shape.model_type, shape.mask_token_id) == ("llama", 4)


class KillAt(Progress):
    def __init__(self, advances: int):
        self.left = advances

    def task(self, description: str, total: float | None, unit: str, done: float = 0) -> Task:
        progress = self

        class Counting(Task):
            def advance(self, amount: float = 1, text: str | None = None) -> None:
                progress.left -= 1
                if progress.left == 0:
                    raise KeyboardInterrupt

        return Counting()


def test_a_killed_mixed_run_ends_with_the_same_files(
    material: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    run(material, tmp_path / "whole", objective="mixed", masking="spans")
    with pytest.raises(KeyboardInterrupt):
        run(material, tmp_path / "killed", KillAt(10), objective="mixed", masking="spans")
    run(material, tmp_path / "killed", objective="mixed", masking="spans")
    for file in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "whole" / "out" / file).read_bytes() == (tmp_path / "killed" / "out" / file).read_bytes()


def test_settings_that_cannot_be_are_refused_in_a_sentence(material: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"objective masked trains no qwen3.*leave architecture out"):
        PretrainConfig(objective="masked", architecture="qwen3")
    for bad in ({"mask_share": 0.0}, {"mask_share": 0.9}, {"masked_rows": 1.0}, {"masking": "words"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PretrainConfig(objective="masked", **bad)
    plain = tmp_path / "tokenizer"
    plain.mkdir()
    train.STAGE.run(train.STAGE.config(vocab_size=512), {"documents": material["documents"]}, plain, Runtime())
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    inputs = {"documents": material["documents"], "tokenizer": plain, "tokens": tokens}
    pack.STAGE.run(pack.STAGE.config(), inputs, tokens, Runtime())
    with pytest.raises(UserError, match=r"hides tokens under <\|mask\|>, which this tokenizer lacks.*mask_token: true"):
        run(inputs, tmp_path, objective="masked")


def test_the_mask_leaves_the_other_tokens_of_the_tokenizer_as_they_are(
    material: dict[str, Path], tmp_path: Path
) -> None:
    train.STAGE.run(train.STAGE.config(vocab_size=512), {"documents": material["documents"]}, tmp_path, Runtime())
    plain, masked = Tokenizer.load(tmp_path), Tokenizer.load(material["tokenizer"])
    assert (plain.mask_id, masked.mask_id) == (None, 4)
    text = "Bake is a town by the river."
    assert masked.encode(text) == [number + (number > 3) for number in plain.encode(text)]
    assert len(masked.encode("<|mask|>")) > 1, "a text cannot hold a mask by accident"
    assert "mask_token" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


def test_a_masked_model_is_not_taught_to_answer(material: dict[str, Path], tmp_path: Path) -> None:
    run(material, tmp_path, objective="masked", evaluations=0, train_tokens=2048)
    inputs = {"model": tmp_path / "out", "conversations": tmp_path}
    with pytest.raises(UserError, match="fills masks and cannot learn to answer: pretrain with objective"):
        sft.STAGE.run(sft.STAGE.config(), inputs, tmp_path / "sft", Runtime())
