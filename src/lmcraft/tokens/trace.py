"""From a document to everything that was made of it, and from a training token back to its document and its bytes.

Both read artifacts of the store alone: the rows of documents and tokens, and what manifests say of their ancestors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lmcraft.corpus.sources.opt_out import OptOut
from lmcraft.recipe.stage import UserError, count
from lmcraft.store.store import SHORT, Artifact, Store
from lmcraft.tokens.pack import render_document
from lmcraft.tokens.shards import offsets_name, shard_name
from lmcraft.tokens.tokenizer import Tokenizer

ID = 32
"""Digits of a document's id."""


@dataclass(frozen=True)
class Wanted:
    """Which documents are meant; what is None does not matter.

    `text` must occur in the document as it stands; `kept` means those that were removed for the sake of that document,
    `parent` those that were cut out of it; `rule` is a line of an opt-out list.
    """

    document: str | None = None
    source: str | None = None
    path: str | None = None
    url: str | None = None
    text: str | None = None
    parent: str | None = None
    kept: str | None = None
    rule: str | None = None

    def columns(self) -> list[str]:
        """Names of the columns that decide."""
        named = {"id": self.document, "kept_id": self.kept} | {
            name: getattr(self, name) for name in ("source", "path", "url", "text", "parent")
        }
        ruled = ["id", "source", "path", "url"] if self.rule is not None else []
        return list(dict.fromkeys([*ruled, *(name for name, value in named.items() if value is not None)]))

    def mask(self, batch: pa.RecordBatch) -> pa.Array:
        found = pa.array(np.ones(batch.num_rows, np.bool_))
        if self.document is not None:
            same = pc.equal(batch["id"], self.document)
            found = pc.and_(found, same if len(self.document) == ID else pc.starts_with(batch["id"], self.document))
        if self.source is not None:
            found = pc.and_(found, pc.equal(batch["source"], self.source))
        if self.path is not None:  # a file means all its records
            starts = [pc.starts_with(batch["path"], f"{self.path}{mark}") for mark in ":!"]
            found = pc.and_(found, pc.or_(pc.equal(batch["path"], self.path), pc.or_(*starts)))
        if self.url is not None:
            found = pc.and_(found, pc.equal(batch["url"], self.url))
        if self.rule is not None:
            said = OptOut.parse([self.rule], "the rule").judge(batch)
            found = pc.and_(found, pa.array([rule is not None for rule in said], pa.bool_()))
        if self.parent is not None:
            found = pc.and_(found, pc.equal(batch["parent"], self.parent))
        if self.kept is not None:
            found = pc.and_(found, pc.equal(batch["kept_id"], self.kept))
        if self.text is not None:
            found = pc.and_(found, pc.match_substring(batch["text"], self.text))
        return pc.fill_null(found, False)


@dataclass(frozen=True)
class Row:
    """A row of a documents artifact; `state` is "kept" or "removed"."""

    artifact: Artifact
    state: str
    values: dict[str, Any]


def find_documents(artifact: Artifact, wanted: Wanted, most: int | None = None) -> list[Row]:
    """Rows of one documents artifact, kept and removed ones. Only the columns asked about are read of the others."""
    found: list[Row] = []
    for state, pattern in (("kept", "documents-*.parquet"), ("removed", "removed-*.parquet")):
        for path in sorted(artifact.path.glob(pattern)):
            for values in _matching(path, wanted):
                found.append(Row(artifact, state, values))
                if most is not None and len(found) >= most:
                    return found
    return found


def of_kind(store: Store, kind: str) -> list[Artifact]:
    """Artifacts of a kind, each after what it was made of."""
    found = [artifact for artifact in store.artifacts() if artifact.manifest["kind"] == kind]
    return sorted(
        found, key=lambda artifact: (len(artifact.manifest["ancestors"]), artifact.manifest["provenance"]["finished"])
    )


def made_of(store: Store, holders: set[str]) -> set[str]:
    """Keys of the artifacts that stand on documents of these (keys of artifacts of documents), themselves included.

    What a step of documents left out is not in what was made of its output, so the way leads through the inputs of
    each artifact, and ends at documents that do not hold it.
    """
    made: dict[str, bool] = {}

    def stands(record: Mapping[str, Any], ancestors: Mapping[str, Any]) -> bool:
        key = record["key"]
        if key not in made:
            made[key] = key in holders or (
                record["kind"] != "documents"
                and any(
                    stands(ancestors[each["key"]], ancestors)
                    for given in record["inputs"].values()
                    for each in ([given] if isinstance(given, dict) else given)
                )
            )
        return made[key]

    return {artifact.key for artifact in store.artifacts() if stands(artifact.manifest, artifact.manifest["ancestors"])}


def resolve(store: Store, wanted: Wanted) -> list[str]:
    """Ids of the documents that are meant, as they were collected. Raises UserError when there is none."""
    ids: dict[str, None] = {}
    for artifact in of_kind(store, "documents"):
        if _is_first(artifact):
            ids |= dict.fromkeys(row.values["id"] for row in find_documents(artifact, wanted))
    for artifact in () if ids else of_kind(store, "documents"):  # a piece that a later step cut out
        ids |= dict.fromkeys(row.values["id"] for row in find_documents(artifact, wanted))
    if not ids:
        raise UserError(
            f"no document in the store {str(store.root)!r} fits {_said(wanted)}; ids, sources, paths and URLs are "
            "written as in the documents' columns"
        )
    return list(ids)


def trace_document(store: Store, document: str) -> dict[str, Any]:
    """What became of one document (its full id), as JSON values.

    `origin`: file and digest; `steps`: an entry for each artifact that saw it; `tokens`: where its tokens are; `used`:
    what was made of these. Pieces that a step cut out of it are followed as well.
    """
    holders = of_kind(store, "documents")
    family, rows = _family(holders, document)
    if not rows:
        raise UserError(f"no document {document!r} in the store {str(store.root)!r}")
    first = rows[0]
    names = ("id", "title", "source", "path", "url", "offset", "licence", "language", "parent")
    known = {name: first.values.get(name) for name in names} | {"bytes": len((first.values["text"] or "").encode())}
    tokens = [place for artifact in of_kind(store, "tokens") for place in _token_places(artifact, family)]
    return {
        "document": known,
        "origin": _origin(first),
        "pieces": sorted(family - {document}),
        "steps": [_step(row) for row in rows],
        "tokens": tokens,
        "used": _used(store, family, rows, tokens),
    }


def trace_token(
    store: Store, name: str, split: str, position: int | None, shard: tuple[int, int] | None
) -> dict[str, Any]:
    """The document of one token of a `tokens` artifact (or of the one that a model was trained on).

    `position` counts through all shards of the split, `shard` is (shard, place in it). `token`: id, text, and the bytes
    of the document's text that it stands for; `context`: the text around it; `checked`: whether these bytes are there.
    """
    artifact = _tokens_of(store, store.resolve(name))
    number, place = _locate(artifact, split, position, shard)
    ids = np.load(artifact.path / shard_name(split, number), mmap_mode="r", allow_pickle=False)
    offsets = np.load(artifact.path / offsets_name(split, number), mmap_mode="r", allow_pickle=False)
    row = int(np.searchsorted(offsets, place, side="right")) - 1
    entry = _index_row(artifact, split, number, row)
    tokenizer = Tokenizer.load(_input(store, artifact, "tokenizer").path)
    before = ids[int(offsets[row]) : place].tolist()
    begin = sum(len(tokenizer.token_bytes(token)) for token in before if token != tokenizer.bos_id)
    token = int(ids[place])
    special = token in (tokenizer.bos_id, tokenizer.eos_id)
    own = b"" if special else tokenizer.token_bytes(token)
    if tokenizer.leading_space:  # which is not in the text
        own, begin = (own, begin - 1) if begin else (own.removeprefix(b" "), 0)
    size = len(own)
    meta = json.loads((artifact.path / "tokens.json").read_text(encoding="utf-8"))
    values = _document_row(_input(store, artifact, "documents"), entry["id"])
    rendered = render_document(meta["template"], values["title"], values["text"]).encode()
    return {
        "artifact": artifact.name,
        "split": split,
        "shard": number,
        "offset": place,
        "row": row,
        "token": {
            "id": token,
            "bytes": own.decode("utf-8", "backslashreplace"),
            "boundary": special,
            "begin": begin,
            "end": begin + size,
        },
        "in_text": _in_text(meta["template"], values, begin, begin + size),
        "checked": rendered[begin : begin + size] == own,
        "context": {
            "before": rendered[max(0, begin - 80) : begin].decode("utf-8", "replace"),
            "token": rendered[begin : begin + size].decode("utf-8", "replace"),
            "after": rendered[begin + size : begin + size + 80].decode("utf-8", "replace"),
        },
        "trace": trace_document(store, entry["id"]),
    }


def original_bytes(trace: Mapping[str, Any], folder: Path, length: int = 400) -> dict[str, Any]:
    """The beginning of the document's record in its source file, read again; `unchanged` compares the file's digest.

    `folder` is where the source's files are now. Raises UserError when the file is not there.
    """
    from lmcraft.corpus.readers.streams import decompressed
    from lmcraft.store.identity import hash_file

    origin = trace["origin"]
    if origin["file"] is None:
        raise UserError("the source of this document is no file of a folder, so there are no bytes to show")
    relative = origin["file"].removeprefix(f"{trace['document']['source']}/")
    path = (folder / relative) if folder.is_dir() else folder
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise UserError(f"{folder} holds no file {relative!r}; give the folder that the source was collected from")
    offset = trace["document"]["offset"] or 0
    with path.open("rb") as file, decompressed(file, path.name) as stream:
        left = offset
        while left and (skipped := len(stream.read(min(left, 1 << 20)))):
            left -= skipped
        data = stream.read(length)
    return {
        "file": relative,
        "unchanged": hash_file(path) == origin["sha256"],
        "offset": offset,
        "bytes": data.decode("utf-8", "backslashreplace"),
    }


def print_trace(trace: Mapping[str, Any]) -> str:
    """What `trace_document` found, as text."""
    document, origin = trace["document"], trace["origin"]
    lines = [f"document {document['id']}" + (f"  {document['title']}" if document["title"] else "")]
    lines.append(f"  source    {document['source']} / {document['path']}" + _suffix("byte", document["offset"]))
    if origin["file"]:
        lines.append(f"  file      {origin['file']}  sha256 {origin['sha256'][:12]}")
    if document["url"]:
        lines.append(f"  url       {document['url']}")
    lines.append(f"  licence   {document['licence'] or 'not known'}")
    lines.append(f"  collected {origin['collected_at']}" + ("" if origin["time_of_source"] else " (time of the run)"))
    if document["parent"]:
        lines.append(f"  cut from  {document['parent']}")
    if trace["pieces"]:
        lines.append(f"  pieces    {', '.join(trace['pieces'])}")
    lines.append("steps")
    for step in trace["steps"]:
        lines.append(f"  {step['artifact']:28} {step['step']:14} {_fate(step)}")
    lines.append("tokens" if trace["tokens"] else "tokens    in none")
    for place in trace["tokens"]:
        lines.append(
            f"  {place['artifact']:28} {place['split']} shard {place['shard']}, "
            f"tokens {place['begin']} to {place['end']}"
        )
    lines.append("used in" if trace["used"] else "used in   nothing")
    for use in trace["used"]:
        latest = f"  (latest of {', '.join(use['latest_of'])})" if use["latest_of"] else "  (no recipe's latest run)"
        lines.append(f"  {use['artifact']:28} {use['kind']:13} {use['how']}{latest}")
    return "\n".join(lines)


def print_token(trace: Mapping[str, Any]) -> str:
    """What `trace_token` found, as text."""
    token, context = trace["token"], trace["context"]
    lines = [
        f"{trace['artifact']} {trace['split']} shard {trace['shard']}, token {trace['offset']}",
        f"  token     {token['id']} {token['bytes']!r}" + (" (between documents)" if token["boundary"] else ""),
    ]
    if trace["in_text"] is not None:
        begin, end = trace["in_text"]
        lines.append(
            f"  bytes     {begin} to {end} of the document's text" + ("" if trace["checked"] else ", which DIFFER")
        )
    shown = f"{context['before']}[{context['token']}]{context['after']}".replace("\n", "⏎")
    return "\n".join([*lines, f"  context   {shown}", "", print_trace(trace["trace"])])


def _matching(path: Path, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The asked columns alone are read of every row group, all columns only where something was found."""
    try:
        with pq.ParquetFile(path) as file:
            if not set(wanted.columns()) <= set(file.schema_arrow.names):
                return
            for group in range(file.num_row_groups):
                if not _may_hold(file.metadata.row_group(group), wanted):
                    continue
                asked = file.read_row_group(group, columns=wanted.columns()).combine_chunks()
                places = np.flatnonzero(_mask(asked, wanted))
                if len(places):
                    yield from file.read_row_group(group).take(pa.array(places)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}); `lmcraft verify --repair` sets it aside") from None


def _mask(table: pa.Table, wanted: Wanted) -> np.ndarray:
    masks = [wanted.mask(batch).to_numpy(zero_copy_only=False) for batch in table.to_batches()]
    return np.concatenate([np.empty(0, np.bool_), *masks])


def _may_hold(group: Any, wanted: Wanted) -> bool:
    """Whether the row group's statistics allow the id or the source."""
    for name, value in (("id", wanted.document), ("source", wanted.source)):
        if value is None:
            continue
        columns = (group.column(index) for index in range(group.num_columns))
        found = next((column.statistics for column in columns if column.path_in_schema == name), None)
        if found is None or not found.has_min_max:
            continue
        if found.max[: len(value)] < value[: len(found.max)] or found.min > value + "\U0010ffff":
            return False
    return True


def _is_first(artifact: Artifact) -> bool:
    return not artifact.manifest["inputs"]


def _family(holders: Sequence[Artifact], document: str) -> tuple[set[str], list[Row]]:
    """The document and the pieces cut out of it, and every row of any of them."""
    family = {document}
    rows: list[Row] = []
    for artifact in holders:
        for state, pattern in (("kept", "documents-*.parquet"), ("removed", "removed-*.parquet")):
            for path in sorted(artifact.path.glob(pattern)):
                for values in _rows_of_family(path, family):
                    family.add(values["id"])
                    rows.append(Row(artifact, state, values))
    return family, rows


def _rows_of_family(path: Path, family: set[str]) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            names = ["id", "parent"] if "parent" in file.schema_arrow.names else ["id"]
            for group in range(file.num_row_groups):
                asked = file.read_row_group(group, columns=names)
                members = pa.array(sorted(family), pa.string())
                found = pc.is_in(asked["id"], members)
                if "parent" in names:
                    found = pc.or_(found, pc.is_in(asked["parent"], members))
                places = np.flatnonzero(found.to_numpy(zero_copy_only=False) if len(asked) else [])
                if len(places):
                    yield from file.read_row_group(group).take(pa.array(places)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}); `lmcraft verify --repair` sets it aside") from None


def _origin(row: Row) -> dict[str, Any]:
    """The source file that a document's path begins with, among those that the manifest names."""
    manifest = row.artifact.manifest
    place = f"{row.values['source']}/{row.values['path']}"
    fits = [
        source
        for source in manifest["sources"]
        if place == source["name"] or (place.startswith(source["name"]) and place[len(source["name"])] in ":!/")
    ]
    file = max(fits, key=lambda source: len(source["name"]), default=None)
    collected = row.values.get("collected_at")
    return {
        "artifact": row.artifact.name,
        "file": file["name"] if file else None,
        "sha256": file["sha256"] if file else None,
        "collected_at": collected.isoformat() if collected else manifest["provenance"]["finished"],
        "time_of_source": collected is not None,
    }


def _step(row: Row) -> dict[str, Any]:
    manifest, values = row.artifact.manifest, row.values
    chosen = manifest["config"].get("steps") or []
    entry = {
        "artifact": row.artifact.name,
        "step": manifest["step"],
        "stage": manifest["stage"],
        "id": values["id"],
        "state": row.state,
        "changes": values.get("changes") or [],
        "split": values.get("split"),
        "scores": dict(values.get("scores") or []),
        "steps": [next(iter(step)) for step in chosen if isinstance(step, dict)],
    }
    if row.state == "removed":
        entry |= {name: values.get(name) for name in ("reason", "value", "threshold", "kept_id")}
    return entry


def _fate(step: Mapping[str, Any]) -> str:
    if step["state"] == "removed":
        why = f"removed: {step['reason']}"
        if step["value"] is not None and step["threshold"] is not None:
            why += f" ({step['value']:.4g}, limit {step['threshold']:.4g})"
        return why + (f", for the sake of {step['kept_id']}" if step["kept_id"] else "")
    parts = ["kept" + (f" ({step['split']})" if step["split"] else "")]
    if step["steps"]:
        parts.append(f"passed {', '.join(step['steps'])}")
    if step["changes"]:
        parts.append(f"changed: {', '.join(step['changes'])}")
    return "; ".join(parts)


def _token_places(artifact: Artifact, family: set[str]) -> Iterator[dict[str, Any]]:
    path = artifact.path / "documents.parquet"
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            asked = file.read_row_group(group, columns=["id"])
            found = pc.is_in(asked["id"], pa.array(sorted(family), pa.string())).to_numpy(zero_copy_only=False)
            places = np.flatnonzero(found)
            for values in file.read_row_group(group).take(pa.array(places)).to_pylist() if len(places) else ():
                name = offsets_name(values["split"], values["shard"])
                offsets = np.load(artifact.path / name, mmap_mode="r", allow_pickle=False)
                begin, end = int(offsets[values["row"]]), int(offsets[values["row"] + 1])
                named = {name: values[name] for name in ("id", "split", "shard", "row")}
                yield {"artifact": artifact.name, **named, "begin": begin, "end": end}


def _used(
    store: Store, family: set[str], rows: Sequence[Row], tokens: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Everything else that stands on artifacts with the document, and how far it can be said to have seen it."""
    made = made_of(store, {row.artifact.key for row in rows if row.state == "kept"})
    splits: dict[str, set[str]] = {}
    for place in tokens:
        splits.setdefault(place["artifact"], set()).add(place["split"])
    owners: dict[str, list[str]] = {}
    for name, ref in store.refs().items():
        owners.setdefault(ref["key"], []).append(name)
    used = []
    for artifact in store.artifacts():
        manifest = artifact.manifest
        above = set(manifest["ancestors"])
        if manifest["kind"] in ("documents", "tokens") or artifact.key not in made:
            continue
        seen = {
            split for key in above for split in splits.get(f"{manifest['ancestors'][key]['stage']}-{key[:SHORT]}", ())
        }
        how = "made of documents that hold it"
        if manifest["kind"] == "conversations":
            how = "asks about it" if _names_one(artifact.path, family) else "made beside it: no question is about it"
        elif "train" in seen:
            how = "trained on tokens that hold it"
        elif "heldout" in seen:
            how = "held out: measured on it, not trained"
        used.append(
            {
                "artifact": artifact.name,
                "kind": manifest["kind"],
                "step": manifest["step"],
                "how": how,
                "latest_of": owners.get(artifact.key, []),
            }
        )
    return used


def _names_one(folder: Path, family: set[str]) -> bool:
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for line in file:
                if any(member in line for member in family):
                    return True
    return False


def _tokens_of(store: Store, artifact: Artifact) -> Artifact:
    """The artifact itself, or the tokens among its ancestors. Raises UserError when there is not exactly one."""
    if artifact.manifest["kind"] == "tokens":
        return artifact
    above = artifact.manifest["ancestors"]
    found = [(record["stage"], key) for key, record in above.items() if record["kind"] == "tokens"]
    if len(found) != 1:
        raise UserError(
            f"{artifact.name} stands on {len(found)} artifacts of tokens; name one (`lmcraft lineage` shows them)"
        )
    tokens = store.artifact(*found[0])
    if tokens is None:
        raise UserError(
            f"the tokens that {artifact.name} was trained on are gone from the store; `lmcraft run` builds them"
        )
    return tokens


def _input(store: Store, artifact: Artifact, name: str) -> Artifact:
    record = artifact.manifest["inputs"][name]
    found = store.artifact(record["stage"], record["key"])
    if found is None:
        raise UserError(f"the {name} of {artifact.name} are gone from the store; `lmcraft run` builds them again")
    return found


def _locate(artifact: Artifact, split: str, position: int | None, shard: tuple[int, int] | None) -> tuple[int, int]:
    """Number of the shard and place in it. Raises UserError when there is no such token."""
    sizes: list[int] = []
    while (path := artifact.path / shard_name(split, len(sizes))).is_file():
        sizes.append(len(np.load(path, mmap_mode="r", allow_pickle=False)))
    if not sizes:
        raise UserError(f"{artifact.name} has no shard of the split {split!r}; it is train or heldout")
    if shard is not None:
        number, place = shard
        if not 0 <= number < len(sizes) or not 0 <= place < sizes[number]:
            raise UserError(
                f"{artifact.name} has no token {place} in {split} shard {number}; its {len(sizes)} shards hold "
                f"{', '.join(map(count, sizes[:5]))} tokens"
            )
        return number, place
    assert position is not None
    if not 0 <= position < sum(sizes):
        raise UserError(f"{artifact.name} has {sum(sizes)} {split} tokens, so there is no token {position}")
    ends = np.cumsum(sizes)
    number = int(np.searchsorted(ends, position, side="right"))
    return number, position - int(ends[number] - sizes[number])


def _index_row(artifact: Artifact, split: str, shard: int, row: int) -> dict[str, Any]:
    wanted = [("split", "=", split), ("shard", "=", shard), ("row", "=", row)]
    table = pq.read_table(artifact.path / "documents.parquet", filters=wanted)
    if table.num_rows != 1:
        raise UserError(
            f"{artifact.path / 'documents.parquet'} does not list row {row} of {split} shard {shard}; rebuild it"
        )
    return dict(table.to_pylist()[0])


def _document_row(artifact: Artifact, document: str) -> dict[str, Any]:
    found = [row for row in find_documents(artifact, Wanted(document=document)) if row.state == "kept"]
    if not found:
        raise UserError(f"{artifact.name} does not hold document {document}; `lmcraft verify` checks the store")
    return found[0].values


def _in_text(template: str, values: Mapping[str, Any], begin: int, end: int) -> tuple[int, int] | None:
    """The bytes of the document's own text that these bytes of the rendered text are; None outside it."""
    lead = 0
    if values["title"]:
        lead = len(template.partition("{text}")[0].replace("{title}", values["title"]).encode())
    size = len(values["text"].encode())
    return (begin - lead, end - lead) if lead <= begin and end - lead <= size else None


def _suffix(what: str, value: Any) -> str:
    return "" if value is None else f", {what} {value}"


def _said(wanted: Wanted) -> str:
    return ", ".join(
        f"{name} {value!r}"
        for name in ("document", "source", "path", "url", "text")
        if (value := getattr(wanted, name))
    )
