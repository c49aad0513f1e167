"""`lmcraft overlap`: asks an index of the store whether a text was in the documents it was made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmcraft.corpus.documents import read_documents
from lmcraft.corpus.index import Answer, TextIndex
from lmcraft.recipe.stage import UserError
from lmcraft.store.store import Artifact, Store

EXCERPT = 300


def index_of(store: Store, name: str) -> tuple[Artifact, TextIndex]:
    """The index that an artifact is, or the newest one of documents that an artifact (a model, say) stands on.

    Raises UserError when there is none.
    """
    artifact = store.resolve(name)
    if artifact.manifest["kind"] != "index":
        above = {artifact.key, *artifact.manifest["ancestors"]}
        fitting = [
            index
            for index in store.artifacts()
            if index.manifest["kind"] == "index"
            and {each["key"] for each in index.manifest["inputs"]["documents"]} <= above
        ]
        if not fitting:
            raise UserError(
                f"there is no index of the documents that {artifact.name} stands on; add a step of `stage: index` with "
                "their names under `documents:` to the recipe and run it"
            )
        artifact = fitting[-1]
    inputs = [store.artifact(each["stage"], each["key"]) for each in artifact.manifest["inputs"]["documents"]]
    return artifact, TextIndex(artifact.path, [found.path if found else None for found in inputs])


def answer_json(index: Artifact, answer: Answer) -> dict[str, Any]:
    """An answer as JSON values."""
    matches = []
    for match in answer.matches:
        row = asdict(match)
        row["covered"] = None if match.covered is None else int(match.covered.sum())
        matches.append(row)
    return {
        "index": index.name,
        "words": answer.words,
        "fingerprints": answer.fingerprints,
        "found": answer.found,
        "documents": answer.documents,
        "verbatim": answer.verbatim,
        "matches": matches,
    }


def print_answer(index: TextIndex, name: str, answer: Answer) -> str:
    """An answer as text."""
    least = index.meta["guaranteed_words"]
    lines = [
        f"{name}: {index.meta['documents']} documents; every common run of {least} words is found, none "
        f"under {index.ngram}",
        f"{answer.found} of the text's {answer.fingerprints} fingerprints are in {answer.documents} documents",
    ]
    if answer.verbatim is not None:
        read = sum(match.covered is not None for match in answer.matches)
        lines.append(
            f"{answer.verbatim:.0%} of its {answer.words} words lie in {index.ngram}-grams of the {read} nearest"
        )
    for match in answer.matches:
        document = match.document
        place = f"{document['source']} / {document['path']}" + (f"  {document['url']}" if document["url"] else "")
        split = f", {document['split']}" if document["split"] else ""
        lines.append(f"\n{document['id']}  {place}  ({document['licence'] or 'licence not known'}{split})")
        if match.words is None:
            lines.append(f"  {match.shared} common fingerprints; its text is no longer in the store")
        elif not match.words:
            lines.append(f"  {match.shared} common fingerprints, but no common run of {index.ngram} words: by chance")
        else:
            excerpt = " ".join((match.excerpt or "").split())
            shown = excerpt if len(excerpt) <= EXCERPT else f"{excerpt[:EXCERPT]}…"
            lines.append(f"  longest common run: {match.words} words\n  {shown}")
    return "\n".join(lines)


def ask_sets(index: TextIndex, directory: Path, threshold: float = 0.5) -> dict[str, dict[str, int]]:
    """For each source of a documents artifact: items, those of enough words, those with any fingerprint in the index,
    and those with at least the share `threshold` of their fingerprints in it."""
    counted: dict[str, dict[str, int]] = {}
    for batch in read_documents(directory, ["text", "source"]):
        for text, source in zip(batch["text"].to_pylist(), batch["source"].to_pylist(), strict=True):
            row = counted.setdefault(source, {"items": 0, "checked": 0, "touched": 0, "found": 0})
            keys = index.fingerprints(text)
            row["items"] += 1
            if len(keys):
                held = sum(len(each) > 0 for each in index.look_up(keys))
                row["checked"] += 1
                row["touched"] += held > 0
                row["found"] += held >= threshold * len(keys)
    return counted


def print_sets(index: TextIndex, counted: dict[str, dict[str, int]]) -> str:
    """The counts of `ask_sets` as a table."""
    width = max([len(name) for name in counted] + [6])
    lines = [f"{'set':{width}}  {'items':>8} {'asked':>8} {'touched':>8} {'found':>8}"]
    for name, row in sorted(counted.items()):
        numbers = " ".join(f"{row[key]:8}" for key in ("items", "checked", "touched", "found"))
        lines.append(f"{name:{width}}  {numbers}")
    lines.append(f"asked: items of {index.ngram} words and more; touched: some fingerprint found; found: half of them")
    return "\n".join(lines)
