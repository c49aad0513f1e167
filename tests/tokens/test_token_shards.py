from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from lmcraft.recipe.stage import Runtime, UserError
from lmcraft.tokens import Tokenizer, TokenShards, pack

Make = Callable[[list[dict[str, Any]]], Path]
CONFIG = pack.TokensConfig(shard_tokens=2500)


@pytest.fixture(scope="module")
def inputs(documents: Path, tokenizer_directory: Path) -> dict[str, Path]:
    return {"documents": documents, "tokenizer": tokenizer_directory}


@pytest.fixture(scope="module")
def shards(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokens")
    pack.run(CONFIG, inputs, out, Runtime())
    return out


def _files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_document_is_there_once_with_its_text(
    inputs: dict[str, Path], shards: Path, tokenizer: Tokenizer, split: str
) -> None:
    rows = {
        row["id"]: row
        for row in pq.read_table(inputs["documents"] / "documents-00000.parquet").to_pylist()
        if row["split"] == split
    }
    tokens = TokenShards(shards, split)
    assert sorted(tokens.ids) == sorted(rows)
    assert tokens.documents == len(rows) == len(tokens.lengths) == len(tokens.bytes) == len(tokens.languages)
    assert tokens.tokens == tokens.lengths.sum()
    assert tokens.tokenizer_sha256 == tokenizer.sha256
    for number, name in enumerate(tokens.ids):
        row = rows[name]
        text = f"# {row['title']}\n\n{row['text']}" if row["title"] else row["text"]
        ids = tokens.document(number)
        assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id and len(ids) == tokens.lengths[number]
        assert tokenizer.decode(ids[1:-1], skip_special=False) == text
        assert tokens.bytes[number] == len(text.encode())
        assert tokens.languages[number] == (row["language"] or "unknown")
    with pytest.raises(IndexError):
        tokens.document(tokens.documents)


def test_statistics_count_what_is_in_the_shards(shards: Path) -> None:
    statistics = json.loads((shards / "statistics.json").read_text(encoding="utf-8"))
    for split in ("train", "heldout"):
        tokens, counted = TokenShards(shards, split), statistics["splits"][split]
        assert (counted["documents"], counted["tokens"]) == (tokens.documents, tokens.tokens)
        assert counted["bytes"] == tokens.bytes.sum()
        assert counted["longest"] == tokens.lengths.max()
        assert sum(part["tokens"] for part in counted["languages"].values()) == tokens.tokens
        assert set(counted["languages"]) >= {"en", "es", "fr"}


def test_empty_short_and_long_documents_keep_their_place(
    make_documents: Make, tokenizer_directory: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    texts = ["", "x", "word " * 5000, "<|endoftext|>", "a" * 20_000]
    rows = [{"id": f"{n:032x}", "text": text, "source": "made", "split": "train"} for n, text in enumerate(texts)]
    inputs = {"documents": make_documents(rows), "tokenizer": tokenizer_directory}
    for shard_tokens, files in ((1, 5), (10**9, 1)):
        out = tmp_path / str(shard_tokens)
        pack.run(pack.TokensConfig(shard_tokens=shard_tokens), inputs, out, Runtime())
        tokens = TokenShards(out, "train")
        assert len(list(out.glob("train-*.npy"))) == 2 * files
        assert [tokenizer.decode(tokens.document(n)) for n in range(5)] == texts
        assert tokens.lengths[0] == 2
        assert tokens.bytes.tolist() == [len(text) for text in texts]


class _Killed(BaseException):
    pass


def test_killed_at_any_write_and_resumed_it_leaves_the_same_bytes(
    inputs: dict[str, Path], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole, written = pack.write_whole, [0]
    for limit in range(40):
        out, scratch = tmp_path / f"out{limit}", tmp_path / f"scratch{limit}"

        def stop(path: Path, write: Callable[[Any], object], limit: int = limit) -> None:
            if written[0] == limit:
                path.parent.mkdir(exist_ok=True)
                path.with_name(path.name + ".tmp").write_bytes(b"half")
                raise _Killed
            written[0] += 1
            write_whole(path, write)

        written[0] = 0
        monkeypatch.setattr(pack, "write_whole", stop)
        try:
            pack.run(CONFIG, inputs, out, Runtime(scratch=scratch))
        except _Killed:
            monkeypatch.setattr(pack, "write_whole", write_whole)
            pack.run(CONFIG, inputs, out, Runtime(scratch=scratch))
            assert _files(out) == _files(shards)
        else:
            break
    assert 10 < limit < 39, "the kill never or always struck"


def test_a_wide_vocabulary_is_stored_in_32_bits(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    assert pack._dtype(tokenizer) == np.uint16
    monkeypatch.setattr(tokenizer, "vocab_size", 2**16)
    assert pack._dtype(tokenizer) == np.uint32


def test_a_title_with_braces_stays_what_it_is() -> None:
    assert pack.render_document("# {title}\n\n{text}", "{text} {title}", "{title}") == "# {text} {title}\n\n{title}"
    assert pack.render_document("# {title}\n\n{text}", None, "body") == "body"
    with pytest.raises(ValueError, match="where the document's text stands"):
        pack.TokensConfig(template="# {title}")


def test_no_training_or_held_out_documents_is_a_sentence(
    make_documents: Make, tokenizer_directory: Path, tmp_path: Path
) -> None:
    row = {"id": "0" * 32, "text": "A river.", "split": "heldout"}
    given = {"documents": make_documents([row]), "tokenizer": tokenizer_directory}
    with pytest.raises(UserError, match="no documents of the train split"):
        pack.run(CONFIG, given, tmp_path / "a", Runtime())
    given["documents"] = make_documents([row | {"split": "train"}])
    pack.run(CONFIG, given, tmp_path / "b", Runtime())
    assert TokenShards(tmp_path / "b", "train").documents == 1
    with pytest.raises(UserError, match="no documents of the heldout split"):
        TokenShards(tmp_path / "b", "heldout")
    with pytest.raises(UserError, match="no split 'test'"):
        TokenShards(tmp_path / "b", "test")


def _edit(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        array = change(np.load(file))
        np.save(file, array)

    return damage


def _beyond(ids: Any) -> Any:
    ids[7] = 600
    return ids


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("tokens.json", Path.unlink, "holds no tokens.json"),
        ("tokens.json", lambda file: file.write_text("{"), "damaged"),
        ("tokens.json", lambda file: file.write_text("{}"), "not the description"),
        ("train-00001.npy", Path.unlink, "missing or damaged"),
        ("train-00001.npy", lambda file: file.write_bytes(file.read_bytes()[:-500]), "missing or damaged"),
        ("train-00001.npy", lambda file: file.write_bytes(b""), "missing or damaged"),
        ("train-00001.npy", _edit(lambda ids: ids[:0]), "empty"),
        ("train-00001.npy", _edit(lambda ids: ids[:-5]), "does not fit"),
        ("train-00001.npy", _edit(lambda ids: ids.astype(np.float32)), "not 1-D uint16"),
        ("train-00001.npy", _edit(_beyond), "token 600, outside the vocabulary of 600"),
        ("train-00001.offsets.npy", _edit(lambda offsets: offsets[::-1]), "does not fit"),
        ("train-00001.offsets.npy", _edit(lambda offsets: np.delete(offsets, 1)), "tokens.json says"),
    ],
)
def test_damaged_shards_are_a_sentence(
    shards: Path, tmp_path: Path, name: str, damage: Callable[[Path], Any], says: str
) -> None:
    directory = tmp_path / "tokens"
    shutil.copytree(shards, directory)
    damage(directory / name)
    with pytest.raises(UserError, match=says):
        TokenShards(directory, "train")


def test_a_damaged_index_is_a_sentence(shards: Path, tmp_path: Path) -> None:
    directory = tmp_path / "tokens"
    shutil.copytree(shards, directory)
    (directory / "documents.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"documents\.parquet is missing or damaged"):
        _ = TokenShards(directory, "train").bytes
