"""`lmcraft remove`: notes in the store what must not be used any more, and shows what holds it and must be built again.

The list itself and how collection honours it: `corpus/removals.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmcraft.corpus.removals import Removal, Removals, add_removals, read_removals, text_digest
from lmcraft.corpus.sources.opt_out import OptOut
from lmcraft.recipe.stage import UserError
from lmcraft.store.store import REMOVALS, Artifact, Store
from lmcraft.tokens.trace import ID, Row, Wanted, find_documents, made_of, of_kind

DUPLICATE_REASONS = ("exact duplicate", "near duplicate")


def remove(
    store: Store, wanted: Sequence[Wanted], reason: str, duplicates: bool = False, ahead: bool = False
) -> dict[str, Any]:
    """Note removals; returns what was noted, what is left to say, and who holds it. JSON values.

    A document must be in the store, unless `ahead`; a source, path or URL need not be there (yet). With `duplicates`
    the documents go too that were dropped for its sake: without it they would take its place.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = _documents(store)
    new: list[Removal] = []
    twins: list[Row] = []
    for each in wanted:
        if each.document is None:
            rule = f"url: {each.url}" if each.url is not None else each.rule
            if rule is not None and (each.source is not None or each.path is not None):
                raise UserError("a URL means its pages whatever the source; name it alone")
            new.append(Removal(now, reason, source=each.source, path=each.path, rule=rule))
            continue
        if len(each.document) == ID and ahead and not any(find_documents(artifact, each, 1) for artifact in found):
            new.append(Removal(now, reason, document=each.document))
            continue
        rows = _collected(found, each)
        new.extend(_of_document(now, reason, row) for row in rows)
        twins.extend(_twins(found, {row.values["id"] for row in rows}))
    kept_back = {row.values["id"]: row for row in twins if row.values["id"] not in {item.document for item in new}}
    if duplicates:
        for twin in list(kept_back.values()):
            new.extend(_of_document(now, reason, row) for row in _collected(found, Wanted(document=twin.values["id"])))
        kept_back = {}
    added = add_removals(store.root / REMOVALS, new)
    return {
        "added": [_said(item) for item in added],
        "known": len(new) - len(added),
        "duplicates": [
            {name: row.values[name] for name in ("id", "source", "path", "reason")} for row in kept_back.values()
        ],
        **holders(store, Removals(tuple(new))),
    }


def listed(store: Store) -> dict[str, Any]:
    """Every removal of the store, and which artifacts still hold something of them."""
    removals = read_removals(store.root / REMOVALS)
    return {"removals": [_said(item) for item in removals.items], **holders(store, removals)}


def holders(store: Store, removals: Removals) -> dict[str, Any]:
    """`hold`: documents that hold what is to go, with how many; `stand_on`: what was made of these; `recipes`."""
    hold: dict[str, int] = {}
    kept: set[str] = set()
    for artifact in of_kind(store, "documents"):
        states = _states(artifact, removals)
        if states:
            hold[artifact.name] = len(states)
        if "kept" in states.values():
            kept.add(artifact.key)
    made = made_of(store, kept)
    owners: dict[str, list[str]] = {}
    for name, ref in store.refs().items():
        owners.setdefault(ref["key"], []).append(name)
    stand_on = [
        {"artifact": artifact.name, "kind": artifact.manifest["kind"], "latest_of": owners.get(artifact.key, [])}
        for artifact in store.artifacts()
        if artifact.name in hold or artifact.key in made
    ]
    recipes = sorted({name.split("/")[0] for each in stand_on for name in each["latest_of"]})
    return {"hold": hold, "stand_on": stand_on, "recipes": recipes}


def read_list(path: Path) -> list[Wanted]:
    """What an opt-out list names (`sources/opt_out.py`). Raises UserError when a line is no rule, or there is none."""
    rules = OptOut.load(str(path)).rules()
    if not rules:
        raise UserError(f"the list {path} names nothing to remove")
    wanted = []
    for rule in rules:
        kind, _, value = rule.partition(": ")
        wanted.append({"id": Wanted(document=value), "source": Wanted(source=value)}.get(kind, Wanted(rule=rule)))
    return wanted


def print_removal(result: dict[str, Any], run: str) -> str:
    """What `remove` or `listed` gives, as text; `run` is the command that builds a recipe."""
    lines = []
    for item in result.get("removals", result.get("added", ())):
        what = ", ".join(f"{name} {item[name]}" for name in ("document", "source", "path", "rule") if item.get(name))
        lines.append(f"{'' if 'removals' in result else 'noted  '}{item['time']}  {what}  ({item['reason']})")
    if result.get("known"):
        lines.append(f"{result['known']} noted before")
    if "removals" in result and not result["removals"]:
        lines.append("no removals are noted")
    for twin in result.get("duplicates", ()):
        lines.append(
            f"left   {twin['id']}  {twin['source']} / {twin['path']}: it was dropped as {twin['reason']} of what goes "
            "and takes its place; --duplicates removes it too"
        )
    if result["hold"]:
        lines.append("documents that hold it:")
        lines += [f"  {name}  {number} documents" for name, number in result["hold"].items()]
        lines.append("what stands on them:")
        for each in result["stand_on"]:
            latest = (
                f"latest of {', '.join(each['latest_of'])}" if each["latest_of"] else "`lmcraft gc --apply` deletes it"
            )
            lines.append(f"  {each['artifact']:28} {each['kind']:13} {latest}")
        for recipe in result["recipes"]:
            lines.append(f"run the recipe {recipe!r} again to build them without it: {run} <its file>; then gc --apply")
    elif result.get("removals") or "added" in result:
        lines.append("no artifact of the store holds it")
    if result["hold"]:
        lines.append("copies outside the store (exports, uploads) are not known here")
    return "\n".join(lines)


def _documents(store: Store) -> list[Artifact]:
    return of_kind(store, "documents")


def _collected(found: Iterable[Artifact], wanted: Wanted) -> list[Row]:
    """The document as it was collected: that, or what it was cut from. Raises UserError when it is not there."""
    artifacts = list(found)
    for _ in range(100):
        rows = [row for artifact in artifacts for row in find_documents(artifact, wanted)]
        if not rows:
            raise UserError(f"no document {wanted.document!r} in the store; `lmcraft trace-document` finds ids")
        if len({row.values["id"] for row in rows}) > 1:
            raise UserError(
                f"{wanted.document!r} fits {len({row.values['id'] for row in rows})} documents; give more digits"
            )
        first = [row for row in rows if not row.artifact.manifest["inputs"]]
        if first:
            return first[:1]
        parent = rows[0].values.get("parent")
        if parent is None:
            return rows[:1]
        wanted = Wanted(document=parent)
    raise UserError(f"the document {wanted.document!r} is cut from itself; `lmcraft verify` checks the store")


def _of_document(now: str, reason: str, row: Row) -> Removal:
    values = row.values
    digest = text_digest(values["text"]) if values["text"] else None
    return Removal(now, reason, source=values["source"], document=values["id"], text_sha256=digest)


def _twins(found: Iterable[Artifact], ids: set[str]) -> list[Row]:
    """Documents that were dropped for the sake of these."""
    rows = []
    for artifact in found:
        for document in sorted(ids):
            for row in find_documents(artifact, Wanted(kept=document)):
                rows.append(row)
    return rows


def _states(artifact: Artifact, removals: Removals) -> dict[str, str]:
    """State of each document of an artifact that is to go and has its text still, and of pieces cut out of it."""
    states: dict[str, str] = {}
    for item in removals.items:
        wanted = (
            [Wanted(document=item.document), Wanted(parent=item.document)]
            if item.document is not None
            else [Wanted(source=item.source, path=item.path, rule=item.rule)]
        )
        for each in wanted:
            for row in find_documents(artifact, each):
                if row.values["text"]:
                    states.setdefault(row.values["id"], row.state)  # kept ones come first
    return states


def _said(item: Removal) -> dict[str, Any]:
    names = ("time", "reason", "source", "document", "path", "rule")
    return {name: value for name in names if (value := getattr(item, name)) is not None}
