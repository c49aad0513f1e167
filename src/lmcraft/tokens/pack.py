"""Stage `tokens`: documents + tokenizer -> shards of ids, each published whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, field_validator

from lmcraft.corpus.documents import read_documents
from lmcraft.recipe.stage import Input, Inputs, Runtime, Stage, StageConfig, Task, UserError
from lmcraft.tokens.encoder import CHECKED, Encoder
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
    encoder = Encoder(tokenizer)
    scratch = runtime.scratch or out / ".scratch"
    out.mkdir(parents=True, exist_ok=True)
    counts = {}
    with runtime.progress.task("tokens", None, "tokens") as task:
        for split in SPLITS:
            counts[split] = _encode_split(config, documents, encoder, _Place(split, out, scratch), task)
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
    return {
        "documents": meta["documents"],
        "tokens": meta["tokens"],
        "bytes_per_token": statistics["bytes_per_token"],
        "encoder": {"name": encoder.name, "checked": encoder.checked, "differing": encoder.differing},
    }


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
    rows: int = 0
    ids: list[NDArray[Any]] = field(default_factory=list)
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    index: list[pa.Table] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # a sample, for the check

    def add(self, index: pa.Table, ids: NDArray[Any], lengths: NDArray[np.int64], texts: list[str]) -> None:
        rows = np.arange(self.rows, self.rows + len(lengths))
        columns = {"shard": np.full(len(lengths), self.number, np.int32), "row": rows, "tokens": lengths}
        for name, values in columns.items():
            index = index.append_column(name, pa.array(values))
        self.index.append(index.select(INDEX.names).cast(INDEX))
        self.ids.append(ids)
        self.lengths.append(lengths)
        self.texts.extend(texts[:: max(1, len(texts) // CHECKED)])
        self.rows += len(lengths)
        self.tokens += len(ids)

    def publish(self, place: _Place) -> None:
        """The ids come last: where they are, the rest is."""
        index = pa.concat_tables(self.index)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(self.lengths), dtype=np.int64)])
        ids = np.concatenate(self.ids)
        write_whole(place.index(self.number), lambda file: pq.write_table(index, file))
        write_whole(place.offsets(self.number), lambda file: write_array(file, offsets))
        write_whole(place.ids(self.number), lambda file: write_array(file, ids))


def _encode_split(config: TokensConfig, documents: Path, encoder: Encoder, place: _Place, task: Task) -> int:
    """Write the shards that are not there yet; return how many there are."""
    done = 0
    while place.ids(done).exists():
        done += 1
    skip = sum(pq.read_metadata(place.index(n)).num_rows for n in range(done))
    shard = _Shard(done)
    for index, texts in _documents(documents, place.split, config.template, skip):
        ids, ends = _encoded(encoder, texts)
        start = begin = 0
        while start < len(texts):
            # The document that reaches the limit is still of this shard.
            stop = min(int(np.searchsorted(ends, begin + config.shard_tokens - shard.tokens)) + 1, len(texts))
            end = int(ends[stop - 1])
            lengths = np.diff(ends[start:stop], prepend=begin)
            shard.add(index.slice(start, stop - start), ids[begin:end], lengths, texts[start:stop])
            task.advance(end - begin)
            start, begin = stop, end
            if shard.tokens >= config.shard_tokens:
                if not encoder.check(shard.texts):
                    return _encode_split(config, documents, encoder, place, task)
                shard.publish(place)
                shard = _Shard(shard.number + 1)
    if shard.rows:
        if not encoder.check(shard.texts):
            return _encode_split(config, documents, encoder, place, task)
        shard.publish(place)
        shard = _Shard(shard.number + 1)
    return shard.number


def _encoded(encoder: Encoder, texts: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Ids of the texts in a row, <|endoftext|> before and after each, and where each ends."""
    encoded = encoder.encode(texts)
    lengths = np.diff(encoded.offsets) + 2
    ends = np.cumsum(lengths)
    ids = np.empty(int(ends[-1]), _dtype(encoder.tokenizer))
    inside = np.ones(len(ids), bool)
    inside[ends - lengths] = inside[ends - 1] = False
    ids[ends - lengths], ids[ends - 1] = encoder.tokenizer.bos_id, encoder.tokenizer.eos_id
    ids[inside] = encoded.ids
    return ids, ends


def _documents(documents: Path, split: str, template: str, skip: int) -> Iterator[tuple[pa.Table, list[str]]]:
    """Columns of the index and the texts to encode, batch by batch; a document that repeats comes so often."""
    columns = ["id", "title", "text", "language", "source", "repeats"]
    for batch in read_documents(documents, columns=columns, split=split):
        table = pa.Table.from_batches([batch])
        repeats = table["repeats"].fill_null(1).to_numpy()
        if split == "train" and (repeats != 1).any():
            table = table.take(pa.array(np.repeat(np.arange(table.num_rows), repeats)))
        if skip >= table.num_rows:
            skip -= table.num_rows
            continue
        table, skip = table.slice(skip), 0
        titles, bodies = table["title"].to_pylist(), table["text"].to_pylist()
        texts = [render_document(template, title, text) for title, text in zip(titles, bodies, strict=True)]
        sizes = pc.binary_length(pa.array(texts, pa.large_string())).cast(pa.int64())
        index = table.select(["id", "language", "source"]).append_column("bytes", sizes)
        yield index.append_column("split", pa.array([split] * len(texts), pa.string())), texts


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
    inputs={"documents": Input(kinds=("documents",)), "tokenizer": Input(kinds=("tokenizer", "model"))},
    output="tokens",
    run=run,
    help="Encode the documents and pack them into shards of token ids.",
)
