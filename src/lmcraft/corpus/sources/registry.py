"""The kinds of sources that a recipe may name under `collect`. A new one is a module like `folder.py` and a name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lmcraft.corpus.sources.code import CodeSource
from lmcraft.corpus.sources.crawl import CrawlSource
from lmcraft.corpus.sources.folder import FolderSource
from lmcraft.corpus.sources.git import GitSource
from lmcraft.corpus.sources.remote import RemoteSource
from lmcraft.corpus.sources.wheel import WheelSource

AnySource = Annotated[
    FolderSource | RemoteSource | CrawlSource | GitSource | CodeSource | WheelSource, Field(discriminator="kind")
]
