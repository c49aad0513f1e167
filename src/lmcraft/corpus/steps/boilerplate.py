"""Step `boilerplate`: lines that a site repeats on many of its pages (menus, notices, calls to subscribe) are removed.

A site is the registered domain of a document's url, or without one the folder of its source. All documents are looked
at first: a line goes if it stands in enough documents of the site, in number and in share.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import numba as nb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lmcraft.corpus.engine.corpus import Corpus, advance
from lmcraft.corpus.step import Drop, Judged, Known, Shard, Step, note_changes, replace_columns
from lmcraft.recipe.stage import StageConfig

REMOVED_LINES = pa.schema(
    [
        pa.field("site", pa.string(), nullable=False),
        pa.field("line", pa.string(), nullable=False),
        pa.field("documents", pa.int64(), nullable=False),
        pa.field("site_documents", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
    ]
)
"""One row a removed line: where it stood, in how many of the site's documents, and the first of them."""


class Boilerplate(StageConfig):
    """Removes lines that a site repeats on many of its pages. Code is left alone."""

    min_documents: int = Field(
        5, ge=2, description="A line is removed if it stands in at least so many documents of a site"
    )
    min_share: float = Field(0.3, gt=0, le=1, description="and in at least this share of them.")
    min_characters: int = Field(8, ge=1, description="Shorter lines stay (bytes without blanks around).")


def learn(corpus: Corpus, config: Boilerplate) -> dict[str, np.ndarray]:
    """The lines to remove: `lines` (sorted, hashes), `documents`, `site_documents`, `first` (row number)."""
    sites = _joined(corpus.group(_site_keys, reduce=_count_sites, label="boilerplate: sites"), _SITES)
    sites = np.sort(sites[sites["documents"] >= config.min_documents], order="key")
    np.save(corpus.scratch / "sites.npy", sites["key"], allow_pickle=False)
    found = corpus.group(
        _line_keys,
        str(corpus.scratch / "sites.npy"),
        config.min_characters,
        config.min_documents,
        reduce=_count_lines,
        label="boilerplate: lines",
    )
    lines = _joined(found, _LINES)
    of_site = sites["documents"][np.searchsorted(sites["key"], lines["site"])] if len(sites) else np.zeros(0, np.int64)
    chosen = lines["documents"] >= config.min_share * of_site
    order = np.argsort(lines["key"][chosen])
    return {
        "lines": lines["key"][chosen][order],
        "documents": lines["documents"][chosen][order],
        "site_documents": of_site[chosen][order],
        "first": lines["row"][chosen][order],
    }


def boilerplate(batch: pa.RecordBatch, config: Boilerplate, known: Known) -> Judged:
    removed = known.arrays["lines"]
    changed: dict[int, str] = {}
    aside: list[dict[str, Any]] = []
    assert known.rows is not None
    if len(removed):
        sites = _sites(batch)
        lines = _lines(batch, np.array([_hash(site) for site in sites], np.uint64), config.min_characters)
        place = np.minimum(np.searchsorted(removed, lines["key"]), len(removed) - 1)
        hit = removed[place] == lines["key"]
        lines, place = lines[hit], place[hit]
        bounds = np.append(np.flatnonzero(np.diff(lines["row"], prepend=-1)), len(lines))
        for start, end in itertools.pairwise(bounds):
            row = int(lines["row"][start])
            text = batch["text"][row].as_py().encode()
            said: set[int] = set()
            for line, where in zip(lines[start:end], place[start:end].tolist(), strict=True):
                if known.arrays["first"][where] == known.rows[row] and where not in said:
                    said.add(where)
                    aside.append(
                        {
                            "site": sites[row],
                            "line": text[int(line["start"]) : int(line["end"])].decode().strip(),
                            "documents": int(known.arrays["documents"][where]),
                            "site_documents": int(known.arrays["site_documents"][where]),
                            "id": batch["id"][row].as_py(),
                        }
                    )
            changed[row] = _without(text, lines[start:end])
    empty = np.zeros(batch.num_rows, bool)
    if changed:
        chosen = np.zeros(batch.num_rows, bool)
        chosen[list(changed)] = True
        empty[[row for row, text in changed.items() if not text]] = True
        # What is removed is kept aside as it was.
        chosen &= ~empty
        new = pa.array([changed[row] for row in sorted(changed) if chosen[row]], pa.string())
        batch = replace_columns(batch, {"text": pc.replace_with_mask(batch["text"], pa.array(chosen), new)})
        batch = note_changes(batch, (["boilerplate removed"] if was else [] for was in chosen.tolist()))
    return Judged(
        batch,
        (Drop("only boilerplate", empty),),
        {"boilerplate": pa.Table.from_pylist(aside, REMOVED_LINES)},
    )


BOILERPLATE = Step("boilerplate", Boilerplate, boilerplate, learn=learn)

_REGISTRY_WORDS = """
ac asso co com ed edu firm gc go gob gouv gov govt gv id ltd me mil ne net nhs nic nom or org sch school
"""
_REGISTRIES = frozenset(_REGISTRY_WORDS.split())
_SHARED_HOST_NAMES = """
github.io gitlab.io blogspot.com wordpress.com tumblr.com substack.com medium.com livejournal.com typepad.com
weebly.com wixsite.com squarespace.com blogger.com neocities.org readthedocs.io netlify.app vercel.app pages.dev
herokuapp.com web.app firebaseapp.com hatenablog.com over-blog.com jimdofree.com webnode.page fandom.com
sourceforge.net
"""
_SHARED_HOSTS = frozenset(_SHARED_HOST_NAMES.split())


def site_of(url: str | None, source: str, path: str) -> str:
    """The registered domain of the url, else the source and the folder in it.

    The registry's names below a country (co.uk, com.br) and hosts that give each user a name of their own (github.io)
    belong to the domain; the list is short, so others are taken for one site.
    """
    try:
        host = (urlsplit(url).hostname or "") if url else ""
    except ValueError:
        host = ""
    labels = host.strip(".").split(".")
    if len(labels) >= 2 and not labels[-1].isdigit():
        registry = len(labels) > 2 and (
            (len(labels[-1]) == 2 and labels[-2] in _REGISTRIES) or ".".join(labels[-2:]) in _SHARED_HOSTS
        )
        return ".".join(labels[-3 if registry else -2 :])
    return host or f"{source}/{path.rpartition('/')[0]}"


def _sites(batch: pa.RecordBatch) -> list[str]:
    columns = (batch[name].to_pylist() for name in ("url", "source", "path"))
    return [site_of(url, source, path) for url, source, path in zip(*columns, strict=True)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


_SITE_RECORD = np.dtype([("key", np.uint64)])
_SITES = np.dtype([("key", np.uint64), ("documents", np.int64)])
_LINE_RECORD = np.dtype([("key", np.uint64), ("site", np.uint64), ("row", np.int64)])
_LINES = np.dtype([("key", np.uint64), ("site", np.uint64), ("row", np.int64), ("documents", np.int64)])
_FOUND = np.dtype([("key", np.uint64), ("row", np.int64), ("start", np.int64), ("end", np.int64)])


def _joined(parts: Iterator[np.ndarray], form: np.dtype) -> np.ndarray:
    found = list(parts)
    return np.concatenate(found) if found else np.empty(0, form)


def _site_keys(shard: Shard) -> Iterator[np.ndarray]:
    for _, batch in shard.batches(["url", "source", "path"]):
        records = np.empty(batch.num_rows, _SITE_RECORD)
        records["key"] = [_hash(site) for site in _sites(batch)]
        yield records
        advance(batch.num_rows)


def _count_sites(records: np.ndarray) -> np.ndarray:
    keys, counts = np.unique(records["key"], return_counts=True)
    counted = np.empty(len(keys), _SITES)
    counted["key"], counted["documents"] = keys, counts
    return counted


def _line_keys(shard: Shard, sites_file: str, min_characters: int, min_documents: int) -> Iterator[np.ndarray]:
    """Every line once a document, of sites that are large enough to have any removed."""
    large = np.load(sites_file, allow_pickle=False)
    for rows, batch in shard.batches(["url", "source", "path", "format", "text"]):
        sites = np.array([_hash(site) for site in _sites(batch)], np.uint64)
        wanted = np.isin(sites, large)
        lines = _lines(batch, sites, min_characters, wanted)
        records = np.empty(len(lines), _LINE_RECORD)
        records["key"], records["site"], records["row"] = lines["key"], sites[lines["row"]], rows[lines["row"]]
        yield np.unique(records)
        advance(batch.num_rows)


def _count_lines(records: np.ndarray, sites_file: str, min_characters: int, min_documents: int) -> np.ndarray:
    keys, first, counts = np.unique(records["key"], return_index=True, return_counts=True)
    often = counts >= min_documents
    counted = np.empty(int(often.sum()), _LINES)
    counted["key"], counted["documents"] = keys[often], counts[often]
    counted["site"], counted["row"] = records["site"][first[often]], records["row"][first[often]]
    return counted


def _lines(
    batch: pa.RecordBatch, sites: np.ndarray, min_characters: int, wanted: np.ndarray | None = None
) -> np.ndarray:
    """Lines of a batch: hash with the site's, row, first byte and end within the text."""
    column = batch["text"]
    _, offsets_buffer, data_buffer = column.buffers()
    if data_buffer is None or not len(column):
        return np.empty(0, _FOUND)
    offsets = np.frombuffer(offsets_buffer, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    data = np.frombuffer(data_buffer, np.uint8)
    prose = pc.fill_null(pc.not_equal(batch["format"], "code"), True).to_numpy(zero_copy_only=False)
    if wanted is not None:
        prose = prose & wanted
    lines = int((data[offsets[0] : offsets[-1]] == 10).sum()) + len(column)
    keys, places = np.empty(lines, np.uint64), np.empty((lines, 3), np.int64)
    count = _hash_lines(data, offsets, sites, prose, min_characters, keys, places)
    found = np.empty(count, _FOUND)
    found["key"] = keys[:count]
    found["row"], found["start"], found["end"] = places[:count].T
    return found


@nb.njit(cache=True, nogil=True)
def _hash_lines(
    data: Any, offsets: Any, sites: Any, wanted: Any, least: int, keys: Any, places: Any
) -> int:  # pragma: no cover - compiled
    count = 0
    for row in range(len(offsets) - 1):
        if not wanted[row]:
            continue
        first, end = offsets[row], offsets[row + 1]
        start = first
        fenced = False
        while start < end:
            stop = start
            while stop < end and data[stop] != 10:
                stop += 1
            left, right = start, stop
            while left < right and data[left] <= 32:
                left += 1
            while right > left and data[right - 1] <= 32:
                right -= 1
            if right - left >= 3 and data[left] == 96 and data[left + 1] == 96 and data[left + 2] == 96:
                fenced = not fenced
            elif not fenced and right - left >= least:
                # FNV-1a over the bytes, runs of blanks as one, then mixed so that the high bits can choose a bucket.
                value = np.uint64(0xCBF29CE484222325) ^ sites[row]
                letters = False
                blank = False
                for at in range(left, right):
                    byte = data[at]
                    if byte <= 32:
                        if blank:
                            continue
                        byte, blank = 32, True
                    else:
                        blank = False
                    letters |= byte >= 128 or 65 <= (byte & 0xDF) <= 90
                    value = (value ^ np.uint64(byte)) * np.uint64(0x100000001B3)
                if letters:
                    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                    keys[count] = value ^ (value >> np.uint64(31))
                    places[count, 0], places[count, 1], places[count, 2] = row, start - first, stop - first
                    count += 1
            start = stop + 1
    return count


def _without(text: bytes, lines: Sequence[Any] | np.ndarray) -> str:
    parts = []
    begin = 0
    for line in lines:
        parts.append(text[begin : int(line["start"])])
        begin = int(line["end"]) + 1
    parts.append(text[begin:])
    return re.sub(r"\n(?:[ \t]*\n){2,}", "\n\n", b"".join(parts).decode()).strip("\n")
