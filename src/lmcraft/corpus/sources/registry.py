"""The kinds of sources that a recipe may name under `collect`. A new one is a module like `folder.py` and a name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, Field

from lmcraft.corpus.sources.code import CodeSource
from lmcraft.corpus.sources.crawl import CrawlSource
from lmcraft.corpus.sources.folder import FolderSource
from lmcraft.corpus.sources.git import GitSource
from lmcraft.corpus.sources.remote import RemoteSource
from lmcraft.corpus.sources.wheel import WheelSource

_KINDS = (FolderSource, RemoteSource, CrawlSource, GitSource, CodeSource, WheelSource)


def _named(value: Any) -> Any:
    """Refuses a source whose `kind` is missing or unknown, with the nearest one."""
    names = [name for kind in _KINDS for name in get_args(kind.model_fields["kind"].annotation)]
    if isinstance(value, dict) and (kind := value.get("kind")) not in names:
        if kind is None:
            raise ValueError(f"a source needs `kind:`, one of {', '.join(names)}")
        near = get_close_matches(str(kind), names, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(names)}"
        raise ValueError(f"there is no kind of source {kind!r}; {hint}")
    return value


AnySource = Annotated[
    Annotated[
        FolderSource | RemoteSource | CrawlSource | GitSource | CodeSource | WheelSource, Field(discriminator="kind")
    ],
    BeforeValidator(_named),
]
