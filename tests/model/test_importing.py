"""Stage `import`: what transformers writes becomes a model artifact; anything else is refused in one sentence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, difference, load_theirs, random_model, shape, tokens
from safetensors.torch import load_file, save_file

from lmcraft.model import ModelConfig, load_model, save_model
from lmcraft.model.importing import STAGE, ImportConfig
from lmcraft.recipe.stage import Progress, Runtime, UserError
from lmcraft.tokens import Tokenizer
from lmcraft.tokens.tokenizer import default_chat_template
from lmcraft.tokens.train import TokenizerConfig, train_bpe


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(iter(["some words"] * 9), TokenizerConfig(vocab_size=512)), default_chat_template())


def write_theirs(folder: Path, tokenizer: Tokenizer, changes: dict[str, Any], **saving: Any) -> Any:
    """A directory that transformers itself wrote, with a tokenizer and a card."""
    size = {"vocab_size": tokenizer.vocab_size, "eos_token_id": tokenizer.eos_id}
    save_model(random_model(shape({**changes, **size})), folder / "ours")
    theirs = load_theirs(folder / "ours")
    theirs.save_pretrained(folder / "theirs", **saving)
    tokenizer.save(folder / "theirs")
    card = "---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n"
    (folder / "theirs" / "README.md").write_text(card)
    return theirs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_theirs(folder, tokenizer, FAMILIES["qwen3"], max_shard_size="20KB")
    return folder / "theirs"


def imported(folder: Path, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    config = ImportConfig(model=str(folder), **settings)
    assert STAGE.check is not None
    STAGE.check(config, Runtime())
    summary = STAGE.run(config, {}, out, Runtime())
    assert summary is not None
    return summary


@pytest.mark.parametrize("family", ["qwen3 tied", "llama", "olmo3", "qwen3_moe"])
def test_what_transformers_wrote_in_parts_is_the_same_model(tmp_path: Path, tokenizer: Tokenizer, family: str) -> None:
    theirs = write_theirs(tmp_path, tokenizer, FAMILIES[family], max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    summary = imported(tmp_path / "theirs", tmp_path / "out")
    row = tokens(2, 40)
    with torch.no_grad():
        assert difference(load_model(tmp_path / "out")(row), theirs(row).logits) < 1e-4
    assert summary["family"] == FAMILIES[family]["model_type"]
    assert (summary["dtype"], summary["licence"], summary["tokenizer"]) == ("float32", "apache-2.0", "usable")
    assert Tokenizer.load(tmp_path / "out").sha256 == tokenizer.sha256
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["model.safetensors"]


def test_types_are_kept_or_converted_as_said(tmp_path: Path, whole: Path) -> None:
    assert imported(whole, tmp_path / "half", dtype="bfloat16")["dtype"] == "bfloat16"
    assert {w.dtype for w in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    again = imported(tmp_path / "half", tmp_path / "again")
    assert (again["source_dtype"], again["dtype"]) == (["bfloat16"], "bfloat16")
    name = "model.safetensors"
    assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    mixed = shutil.copytree(tmp_path / "half", tmp_path / "mixed")
    state = load_file(mixed / name)
    state["model.norm.weight"] = state["model.norm.weight"].float()
    save_file(state, mixed / name, metadata={"format": "pt"})
    assert imported(mixed, tmp_path / "from mixed")["dtype"] == "float32"


def test_every_file_that_is_read_enters_the_identity(tmp_path: Path, whole: Path) -> None:
    assert STAGE.sources is not None
    copy = shutil.copytree(whole, tmp_path / "theirs")
    config = ImportConfig(model=str(copy))
    before = STAGE.sources(config, Runtime())
    assert config.identity() == {"dtype": None}, "where it lies is no part of what it is"
    assert all(source.name.startswith("theirs/") for source in before)
    assert {"config.json", "tokenizer.json", "README.md"} < {source.name.partition("/")[2] for source in before}
    part = sorted(copy.glob("model-*.safetensors"))[-1]
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    after = STAGE.sources(config, Runtime())
    assert [a.name for a, b in zip(before, after, strict=True) if a != b] == [f"theirs/{part.name}"]


def rewrite(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return damage


def pickled(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def one_file(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state: dict[str, torch.Tensor] = {}
        for path in sorted(folder.glob("model-*.safetensors")):
            state |= load_file(path)
            path.unlink()
        (folder / "model.safetensors.index.json").unlink()
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


NORM, GATE = "model.norm.weight", "model.layers.0.mlp.gate_proj.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is no folder; give one, or hf://organisation/name"),
        (lambda folder: (folder / "config.json").unlink(), r"is not a model directory: it has no config\.json"),
        (
            rewrite("config.json", lambda c: c.update(model_type="mamba")),
            "model_type is 'mamba'; lmcraft loads the fam",
        ),
        (pickled, r"holds its weights in a pickle \(pytorch_model\.bin\).* never opened"),
        (lambda folder: [path.unlink() for path in folder.glob("model-*")], "lacks model-00001-of-.*its index names"),
        (
            rewrite(
                "model.safetensors.index.json", lambda i: i["weight_map"].update({NORM: "../elsewhere.safetensors"})
            ),
            r"names '\.\./elsewhere\.safetensors': a part must be a \*\.safetensors file in the same folder",
        ),
        (
            rewrite("model.safetensors.index.json", lambda i: i["weight_map"].update({NORM: "pytorch_model.bin"})),
            r"names 'pytorch_model\.bin': a part must be",
        ),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), r"index\.json is damaged"),
        (one_file(lambda s: s.pop(NORM)), r"'model\.norm\.weight' does not fit .*found None"),
        (one_file(lambda s: s.update(other=torch.ones(2))), "'other' does not fit config.json .expected None"),
        (one_file(lambda s: s.update({GATE: s[GATE].t().contiguous()})), "gate_proj.weight' does not fit config.json"),
        (
            one_file(lambda s: s.update({GATE: s[GATE].to(torch.int8)})),
            "gate_proj.weight is stored as I8; .*quantisation",
        ),
        (
            one_file(lambda s: s[GATE].view(-1)[3:5].fill_(float("nan"))),
            r"bad: 2 of \d+ weights in model\.layers\.0\.mlp\.gate_proj\.weight are NaN or infinite; restore the model",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"holds no tokenizer\.json: save the tokenizer beside"),
        (rewrite("config.json", lambda c: c.update(tie_word_embeddings=True)), "ties lm_head.weight to the embeddings"),
    ],
)
def test_a_bad_directory_is_refused_in_one_sentence(
    tmp_path: Path, whole: Path, damage: Callable[[Path], Any], message: str
) -> None:
    folder = shutil.copytree(whole, tmp_path / "bad")
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        imported(folder, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_weights_that_a_type_cannot_hold_are_refused(tmp_path: Path, whole: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "large")
    one_file(lambda s: s[NORM].fill_(1e5))(folder)
    with pytest.raises(UserError, match=r"in model\.norm\.weight are too large for float16; set dtype to bfloat16"):
        imported(folder, tmp_path / "out", dtype="float16")
    imported(folder, tmp_path / "out", dtype="bfloat16")


def test_pickles_beside_safetensors_are_left_closed(tmp_path: Path, whole: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "theirs")
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    imported(folder, tmp_path / "out")


def test_a_tokenizer_that_is_not_of_bytes_is_kept_and_said_to_be_one(tmp_path: Path, whole: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "theirs")
    text = (folder / "tokenizer.json").read_text().replace("<|pad|>", "<pad>").replace('"ø"', '"\u2581"')
    (folder / "tokenizer.json").write_text(text)
    found = imported(folder, tmp_path / "out")["tokenizer"]
    assert found == "token '\u2581' is not of a byte-level vocabulary"
    assert (tmp_path / "out" / "tokenizer.json").read_text() == text


class Hub:
    """Stands in for the hub: what it was asked for, and a folder for an answer."""

    def __init__(self, folder: Path | None):
        self.folder, self.asked = folder, {}

    def snapshot_download(self, name: str, **asked: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        self.asked = {"name": name, **asked}
        if self.folder is None:
            raise LocalEntryNotFoundError("not there")
        return str(self.folder)


def test_a_model_of_the_hub_is_fetched_without_pickles_or_code(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(whole)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    config = ImportConfig(model="hf://made/small@v1.0")
    runtime = Runtime(cache=tmp_path / "cache")
    assert STAGE.check is not None and STAGE.sources is not None
    STAGE.check(config, runtime)
    names = [source.name for source in STAGE.sources(config, runtime)]
    assert names[0] == "hf://made/small@v1.0/config.json"
    (tmp_path / "out").mkdir()
    STAGE.run(config, {}, tmp_path / "out", runtime)
    assert load_model(tmp_path / "out").config == ModelConfig.read(whole)
    assert (hub.asked["name"], hub.asked["revision"], hub.asked["local_files_only"]) == ("made/small", "v1.0", False)
    assert not [each for each in hub.asked["allow_patterns"] if each.endswith((".bin", ".pt", ".py", "*"))]


def test_planning_fetches_nothing_and_a_failure_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    config = ImportConfig(model="hf://made/small")
    assert STAGE.sources is not None and STAGE.check is not None
    planned = STAGE.sources(config, Runtime(cache=tmp_path, planning=True))
    assert [source.name for source in planned] == ["hf://made/small (not fetched yet)"]
    assert hub.asked["local_files_only"] is True
    with pytest.raises(UserError, match="'hf://made/small' cannot be fetched: not there"):
        STAGE.sources(config, Runtime(cache=tmp_path, progress=Progress()))
    for address in ("hf://small", "hf://datasets/a/b", "hf://a/b/c", "hf://../x"):
        with pytest.raises(UserError, match="is not of the form hf://organisation/name"):
            STAGE.check(ImportConfig(model=address), Runtime())
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install "lmcraft\[hub\]"'):
        STAGE.sources(config, Runtime(cache=tmp_path))
