"""Fixtures: collect a folder, curate what was collected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import folder_source

from lmcraft.corpus import collect, curate
from lmcraft.recipe.stage import Runtime


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(workers=1, cache=tmp_path / "cache", scratch=None)


@pytest.fixture
def collected(tmp_path: Path, runtime: Runtime) -> Callable[..., Path]:
    """Collect a folder with settings of the source and of the stage; returns the artifact's directory."""

    def make(folder: Path, name: str = "collected", stage: dict[str, Any] | None = None, **settings: Any) -> Path:
        config = collect.CollectConfig.model_validate({"sources": [folder_source(folder, **settings)], **(stage or {})})
        out = tmp_path / name
        collect.run(config, {}, out, runtime)
        return out

    return make


@pytest.fixture
def curated(tmp_path: Path, runtime: Runtime) -> Callable[..., Path]:
    """Curate an artifact; returns the new artifact's directory."""

    def make(documents: Path, name: str = "curated", **settings: Any) -> Path:
        out = tmp_path / name
        curate.run(curate.CurateConfig.model_validate(settings), {"documents": documents}, out, runtime)
        return out

    return make
