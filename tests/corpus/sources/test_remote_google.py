"""Objects of Google Cloud Storage are read as files of a folder are, and what goes wrong is one sentence, in time."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import rows, write_lines
from store_process import Faults, store_process

from lmcraft.corpus import collect
from lmcraft.corpus.sources.downloads import Partial
from lmcraft.corpus.sources.remote import RemoteSource
from lmcraft.corpus.sources.remote_stores import Bucket
from lmcraft.recipe.stage import Runtime, UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the bucket holds."""
    root = tmp_path_factory.mktemp("bucket")
    write_lines(root / "books" / "a.jsonl", [{"text": f"line {n} — ü"} for n in range(300)])
    packed = b"".join(json.dumps({"text": f"packed {n}"}).encode() + b"\n" for n in range(300))
    (root / "books" / "b c.jsonl.gz").write_bytes(gzip.compress(packed + b"{broken\n"))
    (root / "books" / "deep").mkdir()
    pq.write_table(pa.table({"text": [f"row {n} " * 1000 for n in range(300)]}), root / "books" / "deep" / "c.parquet")
    (root / "books" / "big.txt").write_bytes(b"0123456789" * 300_000)
    (root / "other.txt").write_text("other")
    return root


def source(*paths: str, **settings: Any) -> RemoteSource:
    urls = [f"gs://texts/{path}" for path in paths]
    return RemoteSource.model_validate({"kind": "remote", "name": "mine", "urls": urls, "retries": 0} | settings)


@pytest.fixture
def serve(folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    faults: Faults = getattr(request, "param", {})
    running = store_process(folder, faults)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.__enter__())
    request.addfinalizer(lambda: running.__exit__(None, None, None))


def collected(chosen: dict[str, Any], out: Path, runtime: Runtime) -> Path:
    collect.run(collect.CollectConfig.model_validate({"sources": [chosen]}), {}, out, runtime)
    return out


@pytest.mark.usefixtures("serve")
def test_the_documents_are_those_of_the_folder(folder: Path, tmp_path: Path, runtime: Runtime) -> None:
    settings = {"name": "mine", "licence": "CC0-1.0"}
    here = {"kind": "folder", "path": str(folder), "pattern": "books/**/*"} | settings
    there = {"kind": "remote", "urls": ["gs://texts/books/"]} | settings
    local = collected(here, tmp_path / "local", runtime)
    remote = collected(there, tmp_path / "remote", runtime)
    assert len(rows(local)) == 901
    for kind in ("documents", "removed"):
        without_address = [row | {"url": None} for row in rows(remote, kind)]
        assert without_address == rows(local, kind)
    assert {row["url"] for row in rows(remote) if row["path"].startswith("books/b c")} == {
        "gs://texts/books/b c.jsonl.gz"
    }


@pytest.mark.usefixtures("serve")
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("books/*.jsonl*", ["a.jsonl", "b c.jsonl.gz"]),
        ("books/**/*.parquet", ["deep/c.parquet"]),
        ("books/big.txt", ["big.txt"]),
    ],
)
def test_contents_are_those_of_the_objects(folder: Path, runtime: Runtime, pattern: str, names: list[str]) -> None:
    parts = source(pattern).listing(runtime).parts
    assert [part.name for part in parts] == [f"books/{name}" for name in names]
    assert [part.path.read_bytes() for part in parts if part.path] == [
        (folder / "books" / name).read_bytes() for name in names
    ]


@pytest.mark.usefixtures("serve")
def test_a_copy_goes_on_where_it_stopped(folder: Path, runtime: Runtime) -> None:
    (remote,) = Bucket("gs://texts/books/big.txt").files()
    half = Partial(runtime.cache, remote)
    half.start(remote.version)
    half.path.write_bytes(b"X" * 1_500_000)
    (part,) = source("books/big.txt").listing(runtime).parts
    assert part.path is not None
    assert part.path.read_bytes() == b"X" * 1_500_000 + (folder / "books" / "big.txt").read_bytes()[1_500_000:]


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        ({"books/a.jsonl": 403}, r"a\.jsonl could not be fetched: access is denied; check the credentials"),
        ({"books/a.jsonl": 401}, r"a\.jsonl could not be fetched: access is denied; check the credentials"),
        ({"books/a.jsonl": 404}, r"a\.jsonl could not be fetched: it is not there any more"),
        ({"texts": 403}, r"a\*' cannot be listed: access is denied; check the credentials"),
        ({"texts": 400}, r"a\*' cannot be listed: INVALID_ARGUMENT \(.*so it is set.*\)$"),
    ],
    indirect=["serve"],
)
@pytest.mark.usefixtures("serve")
def test_what_cannot_be_read_is_a_sentence(runtime: Runtime, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        source("books/a*").digests(runtime)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("serve")
def test_an_object_that_never_was(runtime: Runtime) -> None:
    with pytest.raises(UserError, match=r"there is no file 'gs://texts/books/none\.txt'"):
        source("books/none.txt").digests(runtime)


@pytest.mark.parametrize("serve", [{"books/a.jsonl": "hang"}], indirect=True)
@pytest.mark.usefixtures("serve")
def test_an_exchange_that_hangs_is_given_up(runtime: Runtime) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"a\.jsonl could not be fetched: no byte in 0\.5 s \(`timeout_s`\)"):
        source("books/*", timeout_s=0.5).digests(runtime)
    assert time.monotonic() - begun < 10
