"""Stage `tokens`: documents + tokenizer -> shards of ids, each published whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, field_validator

from lmcraft.corpus.documents import read_documents
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, Task, UserError
from lmcraft.tokens.files import write_array, write_json, write_whole
from lmcraft.tokens.shards import SPLITS, offsets_name, shard_name
from lmcraft.tokens.tokenizer import Tokenizer

INDEX = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int64()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
"""Columns of `documents.parquet`."""


class TokensConfig(StageConfig):
    """Settings of the shards."""

    template: str = Field(
        default="# {title}\n\n{text}", description="How a document with a title is written; without one it is its text."
    )
    shard_tokens: int = Field(
        default=2**24, ge=1, description="A shard is closed at the first document that reaches this."
    )

    @field_validator("template")
    @classmethod
    def _has_text(cls, template: str) -> str:
        if "{text}" not in template:
            raise ValueError("a template needs {text} where the document's text stands, and may have {title}")
        return template


def run(config: TokensConfig, inputs: Inputs, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Encode each document as <|endoftext|> text <|endoftext|>, split by split, in the order of the documents.

    Shards already in `out` are kept. Raises UserError when there is nothing in the train split.
    """
    documents: Path = inputs["documents"]
    tokenizer = Tokenizer.load(inputs["tokenizer"])
    scratch = runtime.scratch or out / ".scratch"
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    with runtime.progress.task("tokens", None, "tokens") as task:
        for split in SPLITS:
            counts[split] = _encode_split(config, documents, tokenizer, _Place(split, out, scratch), task)
    if not counts["train"]:
        raise UserError(f"{documents} has no documents of the train split: let a curate step split them, or add text")
    index = pa.concat_tables(
        [
            pq.read_table(_Place(split, out, scratch).index(n), schema=INDEX)
            for split in SPLITS
            for n in range(counts[split])
        ]
    )
    write_whole(out / "documents.parquet", lambda file: pq.write_table(index, file, compression="zstd"))
    statistics = _statistics(index, tokenizer)
    write_json(out / "statistics.json", statistics)
    meta = {
        "vocab_size": tokenizer.vocab_size,
        "dtype": _dtype(tokenizer).name,
        "tokenizer_sha256": tokenizer.sha256,
        "template": config.template,
        "shards": counts,
        "documents": {split: statistics["splits"][split]["documents"] for split in SPLITS},
        "tokens": {split: statistics["splits"][split]["tokens"] for split in SPLITS},
    }
    write_json(out / "tokens.json", meta)
    if runtime.scratch is None:
        for file in scratch.iterdir():
            file.unlink()
        scratch.rmdir()
    return {"documents": meta["documents"], "tokens": meta["tokens"], "bytes_per_token": statistics["bytes_per_token"]}


def render_document(template: str, title: str | None, text: str) -> str:
    """The text that is encoded for a document."""
    if not title:
        return text
    # One pass, so that a title which holds "{text}" stays what it is.
    before, _, after = template.partition("{text}")
    return before.replace("{title}", title) + text + after.replace("{title}", title)


@dataclass(frozen=True)
class _Place:
    """Where the files of a split's shards are."""

    split: str
    out: Path
    scratch: Path

    def ids(self, number: int) -> Path:
        return self.out / shard_name(self.split, number)

    def offsets(self, number: int) -> Path:
        return self.out / offsets_name(self.split, number)

    def index(self, number: int) -> Path:
        return self.scratch / f"{self.split}-{number:05d}.parquet"


@dataclass
class _Shard:
    """Documents gathered until they fill a shard."""

    number: int
    tokens: int = 0
    ids: list[NDArray[Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def publish(self, place: _Place) -> None:
        """The ids come last: where they are, the rest is."""
        index = pa.Table.from_pylist(self.rows, schema=INDEX)
        offsets = np.cumsum([0] + [len(ids) for ids in self.ids], dtype=np.int64)
        ids = np.concatenate(self.ids)
        write_whole(place.index(self.number), lambda file: pq.write_table(index, file))
        write_whole(place.offsets(self.number), lambda file: write_array(file, offsets))
        write_whole(place.ids(self.number), lambda file: write_array(file, ids))


def _encode_split(config: TokensConfig, documents: Path, tokenizer: Tokenizer, place: _Place, task: Task) -> int:
    """Write the shards that are not there yet; return how many there are."""
    done = 0
    while place.ids(done).exists():
        done += 1
    skip = sum(pq.read_metadata(place.index(n)).num_rows for n in range(done))
    dtype = _dtype(tokenizer)
    shard = _Shard(done)
    for row, ids in _encoded(documents, tokenizer, place.split, config.template, skip):
        shard.rows.append(row | {"shard": shard.number, "row": len(shard.rows), "tokens": len(ids)})
        shard.ids.append(np.array(ids, dtype=dtype))
        shard.tokens += len(ids)
        if shard.tokens >= config.shard_tokens:
            shard.publish(place)
            shard = _Shard(shard.number + 1)
        task.advance(len(ids))
    if shard.rows:
        shard.publish(place)
        shard = _Shard(shard.number + 1)
    return shard.number


def _encoded(
    documents: Path, tokenizer: Tokenizer, split: str, template: str, skip: int
) -> Iterator[tuple[dict[str, Any], list[int]]]:
    columns = ["id", "title", "text", "language", "source"]
    for batch in read_documents(documents, columns=columns, split=split):
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        rows = batch.slice(skip).to_pylist()
        skip = 0
        texts = [render_document(template, row["title"], row["text"]) for row in rows]
        for row, text, ids in zip(rows, texts, tokenizer.encode_batch(texts), strict=True):
            known = {"id": row["id"], "split": split, "language": row["language"], "source": row["source"]}
            yield known | {"bytes": len(text.encode("utf-8"))}, [tokenizer.bos_id, *ids, tokenizer.eos_id]


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype(np.uint16 if tokenizer.vocab_size < 2**16 else np.uint32)


def _statistics(index: pa.Table, tokenizer: Tokenizer) -> dict[str, Any]:
    """Documents, tokens and bytes by split and by language; bytes per token counts the text's own tokens only."""
    filled = index.set_column(
        index.column_names.index("language"), "language", index.column("language").fill_null("unknown")
    )
    sums = [("id", "count"), ("tokens", "sum"), ("bytes", "sum"), ("tokens", "max")]
    groups = filled.group_by(["split", "language"]).aggregate(sums).to_pylist()
    splits: dict[str, Any] = {}
    for split in SPLITS:
        languages = {
            g["language"]: _counts(g["id_count"], g["tokens_sum"], g["bytes_sum"], g["tokens_max"])
            for g in sorted(groups, key=lambda g: str(g["language"]))
            if g["split"] == split
        }
        total = {name: sum(part[name] for part in languages.values()) for name in ("documents", "tokens", "bytes")}
        longest = max((part["longest"] for part in languages.values()), default=0)
        splits[split] = _counts(**total, longest=longest) | {"languages": languages}
    return {
        "vocab_size": tokenizer.vocab_size,
        "splits": splits,
        "bytes_per_token": splits["train"]["bytes_per_token"],
    }


def _counts(documents: int, tokens: int, bytes: int, longest: int) -> dict[str, Any]:
    of_text = tokens - 2 * documents  # without the <|endoftext|> before and after each document
    return {
        "documents": documents,
        "tokens": tokens,
        "bytes": bytes,
        "longest": longest,
        "bytes_per_token": round(bytes / of_text, 4) if of_text else None,
    }


STAGE = Stage(
    name="tokens",
    version=1,
    config=TokensConfig,
    inputs={"documents": Input(kinds=("documents",)), "tokenizer": Input(kinds=("tokenizer",))},
    output="tokens",
    run=run,
    help="Encode the documents and pack them into shards of token ids.",
)
