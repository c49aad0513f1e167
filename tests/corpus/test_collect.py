"""Collect: every record is kept with its place or counted with the reason; a killed run ends in the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from corpora import Killed, KillingProgress, contents, folder_source, rows, sentence, statistics, write_lines
from pydantic import ValidationError

from lmcraft.corpus import collect
from lmcraft.corpus.documents import SCHEMA, read_documents, read_statistics
from lmcraft.corpus.removals import Removal, add_removals
from lmcraft.corpus.sources.folder_listing import glob_regex
from lmcraft.recipe.stage import Runtime, UserError

Collect = Callable[..., Path]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """One good document of each kind, and bad input of many kinds."""
    folder = tmp_path / "mixed"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("A plain text.")
    (folder / "b.md").write_text("# Title\n\nBody.")
    write_lines(folder / "sub" / "c.jsonl", [{"text": "One.", "title": "T", "language": "EN-us"}, {"text": ""}])
    (folder / "zeros.txt").write_bytes(b"\0" * 100)
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden").write_text("secret")
    (folder / "gone.txt").symlink_to(folder / "nothing")
    (tmp_path / "outside.txt").write_text("not yours")
    (folder / "out.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "loop").symlink_to(folder)
    return folder


def test_everything_is_kept_or_counted(mixed: Path, collected: Collect) -> None:
    out = collected(mixed, licence="CC0-1.0", language="fr")
    kept = {row["path"]: row for row in rows(out)}
    assert list(kept) == ["a.txt", "b.md", "sub/c.jsonl:1"]
    assert kept["b.md"]["title"] == "Title"
    assert (kept["sub/c.jsonl:1"]["language"], kept["a.txt"]["language"]) == ("en", "fr")
    assert {row["licence"] for row in kept.values()} == {"CC0-1.0"}
    stats = statistics(out)
    removed = {reason: [sample["path"] for sample in item["samples"]] for reason, item in stats["removed"].items()}
    assert {reason: sorted(paths) for reason, paths in removed.items()} == {
        "binary file": ["zeros.txt"],
        "empty text": ["sub/c.jsonl:2"],
        "hidden file": [".hidden"],
        "invalid UTF-8": ["latin.txt"],
        "link not followed": ["loop", "out.txt"],
        "unknown format": ["picture.png"],
        "unreadable file": ["gone.txt"],
    }
    assert stats["in"]["documents"] == stats["documents"] + sum(item["documents"] for item in stats["removed"].values())
    assert len(rows(out, "removed")) == stats["in"]["documents"] - stats["documents"]
    assert stats["by"]["language"]["fr"]["documents"] == 2
    assert read_statistics(out) == stats
    assert [batch.schema.names for batch in read_documents(out)] == [SCHEMA.names]


def test_a_file_without_permission_is_set_aside(
    mixed: Path, collected: Collect, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    real = Path.open

    def guarded(path: Path, *args: object, **kwargs: object) -> object:
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", guarded)
    stats = statistics(collected(mixed))
    assert "a.txt" in [sample["path"] for sample in stats["removed"]["unreadable file"]["samples"]]
    config = collect.CollectConfig.model_validate({"sources": [folder_source(mixed)]})
    assert "mine/a.txt" in [source.name for source in collect.sources(config, runtime)]
    with pytest.raises(UserError, match=r"a\.txt: unreadable file \(Permission denied\)"):
        collected(mixed, name="fatal", on_bad_record="fail", pattern="a.txt")


@pytest.mark.parametrize("bad", ["cut", "too long"])
def test_bad_records_stop_the_run_when_so_set(tmp_path: Path, collected: Collect, bad: str) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    line = '{"text": "cut' if bad == "cut" else '{"text": "' + "x" * 1000 + '"}'
    (folder / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    limits = {"max_record_bytes": 500}
    assert statistics(collected(folder, stage=limits))["documents"] == 1
    with pytest.raises(UserError, match=r"mine/a\.jsonl:2: .*on_bad_record: skip"):
        collected(folder, name="fatal", stage=limits, on_bad_record="fail")


@pytest.mark.parametrize(
    ("names", "sentence_part"),
    [([], "no file in .* matches"), ([".hidden.txt"], "1 passed over: .hidden.txt"), (["empty.txt"], "1 x empty text")],
)
def test_a_source_that_gives_nothing_is_the_users_mistake(
    tmp_path: Path, collected: Collect, names: list[str], sentence_part: str
) -> None:
    folder = tmp_path / "nothing"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    with pytest.raises(UserError, match=sentence_part):
        collected(folder)


def test_a_folder_that_does_not_exist_is_the_users_mistake(tmp_path: Path, runtime: Runtime) -> None:
    config = collect.CollectConfig.model_validate({"sources": [folder_source(tmp_path / "none")]})
    with pytest.raises(UserError, match="does not exist"):
        collect.sources(config, runtime)


def test_sources_are_the_files_by_digest_and_the_place_is_not_in_the_identity(tmp_path: Path, runtime: Runtime) -> None:
    found, identities = [], []
    for place in ("here", "there"):
        folder = tmp_path / place / "texts"
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a.txt").write_text("same")
        config = collect.CollectConfig.model_validate({"sources": [{"kind": "folder", "path": str(folder)}]})
        found.append(collect.sources(config, runtime))
        identities.append(config.identity())
    assert found[0] == found[1]
    assert [(source.name, source.bytes) for source in found[0]] == [("texts/sub/a.txt", 4)]
    assert identities[0] == identities[1]
    (folder / "sub" / "a.txt").write_text("else")
    assert collect.sources(config, runtime) != found[0]


def test_ids_follow_from_place_and_text(tmp_path: Path, collected: Collect) -> None:
    folder = tmp_path / "texts"
    write_lines(folder / "a.jsonl", [{"text": "same"}, {"text": "same"}])
    first, again = rows(collected(folder)), rows(collected(folder, name="again"))
    assert [row["id"] for row in first] == [row["id"] for row in again]
    assert len({row["id"] for row in first}) == 2


def test_what_was_to_be_left_out_is_not_kept_as_a_faults_excerpt(tmp_path: Path, runtime: Runtime) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "Fine."}\nBROKEN jane {\nBROKEN paul {\nBROKEN mary {\n')
    add_removals(tmp_path / "removals.jsonl", [Removal("2026", "asked", path="a.jsonl:2")])
    source = folder_source(tmp_path / "in", on_bad_record="skip")
    config = collect.CollectConfig.model_validate({"sources": [source], "opt_out": ["path: a.jsonl:3"]})
    collect.run(config, {}, tmp_path / "out", replace(runtime, removals=tmp_path / "removals.jsonl"))
    gone = {row["path"]: row["text"] for row in rows(tmp_path / "out", "removed")}
    assert gone == {"a.jsonl:2": "", "a.jsonl:3": "", "a.jsonl:4": "BROKEN mary {"}
    assert "jane" not in (tmp_path / "out" / "statistics.json").read_text()


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://example.org/a", True),
        ("s3://bucket/key", True),
        ("example.org:80/a", True),
        ("//example.org/a", True),
        ("javascript:alert(1)", False),
        (" Java\nScript://example.org/%0aalert(1)", False),
        ("data:text/html,x", False),
        ("mailto:jane@example.org", False),
        (None, True),
    ],
)
def test_urls_that_a_browser_would_run_are_not_kept(url: str | None, kept: bool) -> None:
    assert collect.link(url) == (url if kept else None)


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="two sources are called 'mine'"):
        collect.CollectConfig.model_validate({"sources": [folder_source(tmp_path), folder_source(tmp_path / "b")]})


def test_a_killed_run_continues_to_the_same_bytes(tmp_path: Path, runtime: Runtime) -> None:
    folder = tmp_path / "texts"
    for name in "abc":
        write_lines(folder / f"{name}.jsonl", [{"text": sentence(n)} if n % 7 else {} for n in range(1, 700)])
    config = collect.CollectConfig.model_validate({"sources": [folder_source(folder)], "shard_documents": 250})
    whole = tmp_path / "whole"
    collect.run(config, {}, whole, runtime)
    killed = tmp_path / "killed"
    for reports in (4, 3, 2, 5):
        with pytest.raises(Killed):
            collect.run(config, {}, killed, Runtime(scratch=tmp_path / "scratch", progress=KillingProgress(reports)))
    made = {path.name: path.stat().st_mtime_ns for path in killed.glob("documents-*.parquet")}
    assert made
    collect.run(config, {}, killed, Runtime(scratch=tmp_path / "scratch"))
    assert contents(killed) == contents(whole)
    kept = {path.name: path.stat().st_mtime_ns for path in killed.glob("documents-*.parquet")}
    assert made.items() <= kept.items()


def test_a_folder_left_by_other_settings_is_not_continued(tmp_path: Path, collected: Collect) -> None:
    folder = tmp_path / "texts"
    write_lines(folder / "a.jsonl", [{"text": sentence(n)} for n in range(50)])
    many = collected(folder, stage={"shard_documents": 5})
    assert len(list(many.glob("documents-*"))) == 10
    one = collected(folder)
    assert contents(one) == contents(collected(folder, name="fresh"))


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("**/*", ["a.txt", "b/c/d.txt"], []),
        ("*.txt", ["a.txt"], ["b/a.txt", "atxt"]),
        ("b/**/*.txt", ["b/a.txt", "b/c/a.txt"], ["a.txt", "b/a.md"]),
        ("[a].txt", ["[a].txt"], ["a.txt"]),
        ("**/{test/*.csv,*.tar.?z}", ["test/a.csv", "b/test/a.csv", "a.tar.xz"], ["dev/a.csv", "a.tar"]),
        ("{a}.{txt,md}", ["{a}.txt", "{a}.md"], ["a.txt"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], other: list[str]) -> None:
    import re

    regex = re.compile(glob_regex(pattern))
    assert [path for path in matching + other if regex.fullmatch(path)] == matching


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_pipe_in_the_folder_does_not_hang(mixed: Path, collected: Collect) -> None:
    os.mkfifo(mixed / "pipe.txt")
    assert statistics(collected(mixed))["removed"]["not a regular file"]["documents"] == 1
