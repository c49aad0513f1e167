"""Reading an artifact of kind `tokens`: documents as arrays of ids, mapped from disk."""

from __future__ import annotations

import json
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lmcraft.recipe.stage import UserError

SPLITS = ("train", "heldout")


class TokenShards:
    """The documents of one split. Each is <|endoftext|>, the tokens of its text, <|endoftext|>."""

    def __init__(self, directory: Path, split: str) -> None:
        """Open and check every shard: whole, not empty, every id inside the vocabulary. Raises UserError otherwise."""
        self.directory, self.split = Path(directory), split
        meta = self._meta()
        self.vocab_size: int = meta["vocab_size"]
        self.tokenizer_sha256: str = meta["tokenizer_sha256"]
        """Digest of the `tokenizer.json` that made the tokens; compare with `Tokenizer.sha256`."""
        if split not in meta["documents"]:
            raise UserError(f"{directory} has no split {split!r}: it has {', '.join(meta['documents'])}")
        if not meta["documents"][split]:
            raise UserError(
                f"{directory} has no documents of the {split} split: add text, or set the share that curate holds out"
            )
        self._shards = [self._open(n, meta["dtype"]) for n in range(meta["shards"][split])]
        self._first = np.cumsum([0] + [len(offsets) - 1 for _, offsets in self._shards]).tolist()
        self.documents: int = self._first[-1]
        self.tokens: int = sum(len(ids) for ids, _ in self._shards)
        """The <|endoftext|> around each document included."""
        if (self.documents, self.tokens) != (meta["documents"][split], meta["tokens"][split]):
            raise UserError(
                f"{directory}: the {split} shards hold {self.documents} documents and {self.tokens} tokens, but "
                f"tokens.json says {meta['documents'][split]} and {meta['tokens'][split]}; rebuild or restore them"
            )

    def document(self, number: int) -> NDArray[np.unsignedinteger[Any]]:
        """Ids of a document, uint16 or uint32, a read-only view of the mapped file."""
        if not 0 <= number < self.documents:
            raise IndexError(f"document {number} of {self.documents}")
        shard = bisect_right(self._first, number) - 1
        ids, offsets = self._shards[shard]
        row = number - self._first[shard]
        return ids[offsets[row] : offsets[row + 1]]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, the <|endoftext|> around it included."""
        return np.concatenate([np.diff(offsets) for _, offsets in self._shards])

    @cached_property
    def bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes of the text of each document, title line included."""
        return self._index.column("bytes").to_numpy().astype(np.int64)

    @cached_property
    def languages(self) -> list[str]:
        """Language of each document, "unknown" where it has none."""
        return [language or "unknown" for language in self._index.column("language").to_pylist()]

    @cached_property
    def sources(self) -> list[str]:
        """Name of the source of each document."""
        return [source or "unknown" for source in self._index.column("source").to_pylist()]

    @cached_property
    def ids(self) -> list[str]:
        """Id of each document in the documents it was made from."""
        return list(self._index.column("id").to_pylist())

    @cached_property
    def _index(self) -> pa.Table:
        file = self.directory / "documents.parquet"
        try:
            table = pq.read_table(file, columns=["id", "split", "language", "source", "bytes"])
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file} is missing or damaged ({error}); rebuild or restore it") from None
        table = table.filter(pa.compute.equal(table.column("split"), self.split))
        if table.num_rows != self.documents:
            raise UserError(f"{file} lists {table.num_rows} {self.split} documents of {self.documents}; rebuild it")
        return table

    def _meta(self) -> dict[str, Any]:
        file = self.directory / "tokens.json"
        try:
            meta: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self.directory} holds no tokens.json: give the directory of a tokens step") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{file} is damaged ({error}); rebuild or restore it") from None
        needed = {"vocab_size", "dtype", "tokenizer_sha256", "documents", "tokens", "shards"}
        if not isinstance(meta, dict) or not needed <= meta.keys():
            raise UserError(f"{file} is not the description of token shards; rebuild or restore it")
        return meta

    def _open(self, number: int, dtype: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
        file = self.directory / shard_name(self.split, number)
        offsets_file = self.directory / offsets_name(self.split, number)
        ids, offsets = _map(file, dtype), np.asarray(_map(offsets_file, "int64"))
        if len(ids) == 0 or len(offsets) < 2:
            raise UserError(f"{file} is empty; rebuild it")
        if offsets[0] != 0 or offsets[-1] != len(ids) or np.any(np.diff(offsets) <= 0):
            raise UserError(f"{offsets_file} does not fit {file.name}; rebuild or restore them")
        if (highest := int(ids.max())) >= self.vocab_size:
            raise UserError(f"{file} holds token {highest}, outside the vocabulary of {self.vocab_size}; rebuild it")
        return ids, offsets


def shard_name(split: str, number: int) -> str:
    """File of the ids of a shard."""
    return f"{split}-{number:05d}.npy"


def offsets_name(split: str, number: int) -> str:
    """File of the places in the shard where each document begins, and of its end."""
    return f"{split}-{number:05d}.offsets.npy"


def _map(file: Path, dtype: str) -> NDArray[Any]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is missing or damaged ({error}); rebuild or restore it") from None
    if array.ndim != 1 or array.dtype != np.dtype(dtype):
        raise UserError(f"{file} holds {array.ndim}-D {array.dtype}, not 1-D {dtype}; rebuild or restore it")
    result: NDArray[Any] = array
    return result
