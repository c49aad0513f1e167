"""What a source says of itself while a run is only planned: nothing is fetched then."""

from __future__ import annotations

from hashlib import sha256

from lmcraft.recipe.stage import Runtime, Source


def only_planned(runtime: Runtime) -> bool:
    """Whether digests are asked for by `plan`, which must stay cheap and offline, and not by a run."""
    return runtime.planning


def not_yet_fetched(name: str) -> Source:
    """Stands for content that a run will fetch; no content has this digest, so nothing built counts as up to date."""
    return Source(f"{name} (not fetched yet)", sha256(b"not fetched yet").hexdigest())
