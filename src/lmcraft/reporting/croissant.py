"""Croissant 1.1: documents described for machines, with the RAI vocabulary, from the facts of the data card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from typing import Any

import pyarrow as pa

from lmcraft.corpus import documents
from lmcraft.reporting.artifacts import Artifact

FORMAT = "http://mlcommons.org/croissant/1.1"
RAI = "http://mlcommons.org/croissant/RAI/1.0"

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the specification prescribes."""

SPDX = re.compile(r"[A-Za-z]+[A-Za-z0-9.]*-[A-Za-z0-9.+-]*[0-9][A-Za-z0-9.+-]*|MIT|ISC|Zlib")
"""What looks like one identifier of the list of SPDX: its address can be given."""

FIELDS = {
    "id": "32 hexadecimal characters that follow from source, place and text.",
    "text": "The text, UTF-8.",
    "title": "Title, where the source or the page has one.",
    "description": "Short description, where the source has one.",
    "language": "Language (ISO 639), declared by the source or found by the step language.",
    "topic": "Topic, declared by the source or found by a step.",
    "format": "Null for plain text, else html, markdown or code.",
    "source": "Name of the source.",
    "path": "Place inside the source, with the line or record where a file holds several.",
    "url": "Address, where the source states one.",
    "offset": "First byte of the record in its file, decompressed.",
    "collected_at": "When the source says that it was fetched; null when it does not say.",
    "licence": "Licence (SPDX) of the document or of its source.",
    "parent": "Id of the collected document that this one was made of.",
    "split": "train, or heldout: kept from training.",
    "repeats": "How often one pass over the training text sees the document; null: once.",
    "scores": "What steps measured, as pairs of name and number.",
    "changes": "What was changed in the document, by name.",
}
"""Column -> what it holds."""


@dataclass(frozen=True)
class Naming:
    """What the recipe says about the documents and nothing else knows."""

    name: str
    description: str
    licences: Sequence[str]
    url: str | None
    published: str | None
    version: str
    creator: str | None


def croissant(
    naming: Naming, final: Artifact, facts: Mapping[str, Any], sentences: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of `croissant.json`.

    Shards are named as they lie in the folder of the documents, so the file is read beside them; with `naming.url`,
    at that address. `sentences`: the texts of the RAI properties, by their names.
    """
    shards = documents.shard_paths(final.path)
    described: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": re.sub(r"[^A-Za-z0-9_-]+", "-", naming.name).strip("-") or "documents",
        "alternateName": naming.name,
        "description": naming.description,
        "conformsTo": [FORMAT, RAI],
        "license": [_licence(licence) for licence in naming.licences],
        "version": naming.version,
        "inLanguage": languages(facts),
        "keywords": ["text", "language modelling", "lmcraft"],
    }
    if naming.url:
        described["url"] = naming.url
    if naming.published:
        described["datePublished"] = naming.published
    if naming.creator:
        described["creator"] = {"@type": "sc:Organization", "name": naming.creator}
    described |= {f"rai:{name}": value for name, value in sentences.items() if value}
    base = naming.url.rstrip("/") + "/" if naming.url else ""
    hashes = final.manifest.get("files", {})
    described["distribution"] = [
        {
            "@type": "cr:FileObject",
            "@id": path.name,
            "name": path.name,
            "contentUrl": base + path.name,
            "contentSize": f"{path.stat().st_size} B",
            "encodingFormat": "application/x-parquet",
            "sha256": hashes.get(path.name, {}).get("sha256") or _sha256(path),
        }
        for path in shards
    ]
    whole: dict[str, Any] = {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": "All shards, in the order of their names.",
        "encodingFormat": "application/x-parquet",
        "includes": "documents-*.parquet",
    }
    if naming.url:
        whole["containedIn"] = [{"@id": path.name} for path in shards]
    described["distribution"].append(whole)
    described["recordSet"] = [
        {
            "@type": "cr:RecordSet",
            "@id": "documents",
            "name": "documents",
            "description": "One record a document.",
            "key": {"@id": "documents/id"},
            "field": [_field(field) for field in documents.SCHEMA],
        }
    ]
    return described


def languages(facts: Mapping[str, Any]) -> list[str]:
    """Codes of the languages of kept documents, by size."""
    rows = facts["composition"].get("language", [])
    return [row["value"] for row in rows if row["kept"]["documents"] and not row["value"].startswith("(")]


def _field(field: pa.Field) -> dict[str, Any]:
    described: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"documents/{field.name}",
        "name": field.name,
        "description": FIELDS[field.name],
    }
    if pa.types.is_map(field.type):
        # Readers of Parquet give a list of pairs, of which each subfield takes one side.
        parts = (("name", field.type.key_type), ("value", field.type.item_type))
        subfields = [
            {
                "@type": "cr:Field",
                "@id": f"documents/{field.name}/{name}",
                "name": name,
                "description": f"The {name} of a pair.",
                "dataType": _data_type(kind),
                **_array(),
                "source": _column(field.name) | {"transform": {"jsonPath": f"[{place}]"}},
            }
            for place, (name, kind) in enumerate(parts)
        ]
        return described | {"subField": subfields}
    described |= {"dataType": _data_type(field.type), "source": _column(field.name)}
    return described | (_array() if pa.types.is_list(field.type) else {})


def _column(name: str) -> dict[str, Any]:
    return {"fileSet": {"@id": "shards"}, "extract": {"column": name}}


def _array() -> dict[str, Any]:
    return {"isArray": True, "arrayShape": "-1"}


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "sc:DateTime"
    if pa.types.is_integer(kind):
        return f"cr:Int{kind.bit_width}"
    if pa.types.is_floating(kind):
        return f"cr:Float{kind.bit_width}"
    return "sc:Text"  # strings, and lists of them


def _licence(licence: str) -> str:
    """The address of an SPDX licence; anything else (an expression, a name) as it is."""
    return f"https://spdx.org/licenses/{licence}.html" if SPDX.fullmatch(licence) else licence


def _sha256(path: Any) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
