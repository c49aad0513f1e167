"""Bad input through whole runs of `collect` and `curate`: nothing is lost in silence, nothing hangs or is half."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from corpora import contents, rows, sentence, statistics, write_lines
from loopback import Site, hang, links, serving
from pypdf import PdfWriter
from small_pipeline import Said, environment, launched, lmcraft

from lmcraft.corpus import curate
from lmcraft.recipe.stage import Progress, Runtime, Task

UNIQUE: list[dict[str, Any]] = [{"exact": {}}, {"near": {}}]
GOOD = [{"text": sentence(number)} for number in range(20)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a run takes place; `in` is the folder of its source."""
    (tmp_path / "in").mkdir()
    return tmp_path


def write_recipe(folder: Path, curation: dict[str, Any] | None = None, workers: int = 1, **collection: Any) -> None:
    collection = {"sources": [{"kind": "folder", "path": "in"}]} | collection
    recipe = {
        "name": "bad",
        "runtime": {"workers": workers, "cache": "cache"},
        "steps": {
            "collect": {"stage": "collect", **collection},
            "curate": {"stage": "curate", "documents": ["collect"], "heldout": 0, **(curation or {"steps": UNIQUE})},
        },
    }
    (folder / "bad.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def run(folder: Path, *arguments: str) -> Said:
    return lmcraft(folder, ["run", "bad.yaml", *arguments])


def artifact(folder: Path, stage: str) -> Path:
    (found,) = (folder / "store" / "artifacts").glob(f"{stage}-*")
    return found


def removed(path: Path) -> dict[str, list[str]]:
    """Reason -> places."""
    found: dict[str, list[str]] = {}
    for row in rows(path, "removed"):
        found.setdefault(row["reason"], []).append(row["path"])
    return {reason: sorted(places) for reason, places in found.items()}


def refused(said: Said) -> str:
    """The one sentence of a user's mistake."""
    last = said.err.splitlines()[-1]
    assert said.code == 2, said
    assert last.startswith("lmcraft: ")
    assert "Traceback" not in said.err
    return last


def lines_of(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def zipped(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def pdf_without_text() -> bytes:
    writer, file = PdfWriter(), io.BytesIO()
    writer.add_blank_page(200, 200)
    writer.write(file)
    return file.getvalue()


def test_a_folder_full_of_bad_files(folder: Path) -> None:
    """One run: every bad record is counted by its reason and place, every good one beside it is kept."""
    noise = random.Random(1).randbytes(400)
    many = [{"text": sentence(number)} for number in range(100, 400)]
    packed = {"cut.jsonl.gz": gzip.compress(lines_of(many)), "cut.jsonl.zst": zstandard.compress(lines_of(many))}
    zeros = b"\0" * 250_000_000
    files = {name: content[: len(content) * 2 // 3] for name, content in packed.items()}
    files |= {
        "bomb.txt.gz": gzip.compress(zeros, 1),
        "bomb.zip": zipped(**{"a.txt": zeros}),
        "empty.txt": b"",
        "blank.txt": b" \n\t\n",
        "good.jsonl": lines_of(GOOD),
        "latin.txt": "Der Müller übte früh am Morgen, während die Kühe über die Brücke zögen.".encode("cp1252"),
        "mixed.jsonl": lines_of([{"text": sentence(50)}])
        + b'{"text": "caf\xe9"}\n'
        + lines_of([{"text": sentence(51)}]),
        "noise.txt": noise,
        "nested.json": b"[" * 100_000,
        "odd.jsonl": b'{"text": NaN}\n{"text": Infinity}\n{"text": null}\n{"text": 5}\n{"text": ["a"]}\nnull\nNaN\n'
        b'{"text": "Half of a pair \\ud800 of surrogates."}\n'
        + json.dumps({"text": sentence(52), "title": float("nan"), "language": float("inf"), "url": None}).encode(),
        "scan.pdf": pdf_without_text(),
        "utf16.txt": ("\ufeff" + sentence(53)).encode("utf-16-le"),
    }
    for name, content in files.items():
        (folder / "in" / name).write_bytes(content)
    table = pa.table({"text": pa.array([None, sentence(54), ""]), "title": pa.array([float("nan")] * 3)})
    pq.write_table(table, folder / "in" / "nulls.parquet")
    write_recipe(folder)
    assert run(folder).code == 0

    collected, curated = artifact(folder, "collect"), artifact(folder, "curate")
    found = removed(collected)
    cut = found.pop("damaged compression")
    assert [place.split(":")[0] for place in cut] == ["cut.jsonl.gz", "cut.jsonl.zst"]
    assert [place.split("!")[0] for place in found["expands too far"]] == ["bomb.zip"]
    assert found["record too long"] == ["bomb.txt.gz"]  # one text: no more of it is unpacked than a record may have
    by_file: dict[str, int] = {}
    for row in rows(collected, "removed"):
        name = row["path"].split(":")[0].split("!")[0]
        by_file[name] = by_file.get(name, 0) + 1
    lost = {name: by_file.get(name, 0) for name in ("mixed.jsonl", "odd.jsonl", "nulls.parquet", "noise.txt")}
    assert lost == {"mixed.jsonl": 1, "odd.jsonl": 8, "nulls.parquet": 2, "noise.txt": 1}
    for name in ("empty.txt", "blank.txt", "nested.json", "scan.pdf"):
        assert by_file[name] == 1, name
    texts = [row["text"] for row in rows(collected)]
    for number in (*range(20), 50, 51, 52, 53, 54):
        assert texts.count(sentence(number)) == 1
    stats = statistics(collected)
    assert stats["in"]["documents"] == len(texts) + len(rows(collected, "removed"))
    # What stood before the cut is kept, and the same documents from two files are one in the end.
    cut_short = [row for row in rows(collected) if row["path"].startswith("cut.")]
    assert len(cut_short) > 50
    kept = [row["text"] for row in rows(curated)]
    assert len(kept) == len(set(kept)) == len(set(texts))
    assert statistics(curated)["in"]["documents"] == len(texts)


@pytest.mark.parametrize(
    ("column", "sentence_part"),
    [
        (
            {"Text": ["a"], "n": [1]},
            "step collect: other.parquet has no column 'text'; it has 'Text', 'n'; did",
        ),
        ({"text": [["a"], ["b"]]}, "other.parquet: column 'text' is of type list<element: string>, not text; name a"),
    ],
)
def test_parquet_of_another_schema_is_named(folder: Path, column: dict[str, Any], sentence_part: str) -> None:
    pq.write_table(pa.table(column), folder / "in" / "other.parquet")
    write_recipe(folder)
    assert sentence_part in refused(run(folder))


@pytest.mark.parametrize(
    ("curation", "sentence_part"),
    [
        ({"steps": [{"filter": {"rules": ["gofer"]}}]}, "there is no rule 'gofer'; the nearest is 'gopher-quality'"),
        ({"steps": [{"filtr": {}}]}, "curate.steps.0: there is no step 'filtr'; did you mean 'filter'?"),
        ({"steps": [{"near": {"simlarity": 0.5}}]}, "curate.steps.0.near.simlarity: unknown setting; did you mean"),
        ({"steps": ["exact"]}, "curate.steps.0: write `- exact: {}`"),
        ({"steps": [{"exact": None}]}, "curate.steps.0: write `- exact: {}`"),
        ({"steps": [{"filter": {"drop": {"a": "uppercas > 5"}}}]}, "rule 'a': there is no signal 'uppercas'"),
        ({"steps": [{"filter": {"drop": {"a": "words >"}}}]}, "rule 'a': 'words >' is not a rule"),
        ({"steps": [], "on_error": "ignore"}, "curate.on_error: input should be 'set_aside' or 'stop'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_read(
    folder: Path, curation: dict[str, Any], sentence_part: str
) -> None:
    write_lines(folder / "in" / "a.jsonl", GOOD)
    write_recipe(folder, curation)
    assert sentence_part in refused(run(folder))
    assert not (folder / "store").exists()


def test_an_unknown_kind_of_source_is_refused_with_the_nearest(folder: Path) -> None:
    write_recipe(folder, sources=[{"kind": "foldr", "path": "in"}])
    assert "collect.sources.0: there is no kind of source 'foldr'; did you mean 'folder'?" in refused(run(folder))
    write_recipe(folder, sources=[{"path": "in"}])
    assert "collect.sources.0: a source needs `kind:`, one of folder" in refused(run(folder))


def test_empty_sources_are_the_users_mistake(folder: Path) -> None:
    write_recipe(folder)
    assert "no file in 'in' matches '**/*'" in refused(run(folder))
    for name in ("a.txt", "a.jsonl", "a.parquet", "a.zip", "a.pdf", "a.jsonl.gz"):
        (folder / "in" / name).touch()
    assert "the source 'in' gave no document (1 x damaged PDF, 1 x damaged Parquet, " in refused(run(folder))


def test_a_rule_that_raises_costs_its_documents_or_stops_the_run(folder: Path) -> None:
    texts = ["Seven words are in this one line.", "But here are exactly five.", *(row["text"] for row in GOOD)]
    write_lines(folder / "in" / "a.jsonl", [{"text": text} for text in texts])
    rule = {"steps": [{"filter": {"rules": [], "drop": {"mine": "1 / (words - 5) > 10"}}}]}
    write_recipe(folder, rule)
    assert run(folder).code == 0
    curated = artifact(folder, "curate")
    assert removed(curated) == {"error in filter": ["a.jsonl:2"]}
    (error,) = rows(curated, "errors")
    assert error["error"] == "ZeroDivisionError: division by zero in '1 / (words - 5) > 10'"
    assert len(rows(curated)) == len(texts) - 1

    write_recipe(folder, rule | {"on_error": "stop"})
    said = refused(run(folder))
    assert "step curate: the step 'filter' failed on in/a.jsonl:2 (id " in said
    assert "division by zero in '1 / (words - 5) > 10'; mend it, or set on_error: set_aside" in said

    write_recipe(folder, {"steps": [{"filter": {"rules": [], "drop": {"mine": "1 / (words - words) > 10"}}}]})
    said = refused(run(folder))
    assert "the first error: ZeroDivisionError: division by zero in '1 / (words - words) > 10'" in said


def test_html_nested_without_end_costs_at_most_its_own_page(folder: Path) -> None:
    prose = "".join(f"<p>{sentence(number)} {sentence(number + 50)}</p>" for number in range(5))
    deep = "<div>" * 10_000 + f"<p>{sentence(100)}</p>" + "</div>" * 10_000
    for name, page in {"a": prose, "deep": deep, "z": prose.replace("The", "A")}.items():
        (folder / "in" / f"{name}.html").write_text(f"<html><body><article>{page}</article></body></html>")
    write_recipe(folder, {"steps": [{"extract": {}}, {"exact": {}}]})
    assert run(folder).code == 0
    assert [row["path"] for row in rows(artifact(folder, "collect"))] == ["a.html", "deep.html", "z.html"]
    curated = artifact(folder, "curate")
    places = sorted(row["path"] for row in [*rows(curated), *rows(curated, "removed")])
    assert places == ["a.html", "deep.html", "z.html"]
    assert {"a.html", "z.html"} <= {row["path"] for row in rows(curated)}


def test_the_same_ids_twice_are_told_apart_by_their_rows(folder: Path) -> None:
    """Two artifacts with the same documents, and one whose rows all have the same id."""
    write_lines(folder / "in" / "a.jsonl", GOOD)
    write_recipe(folder)
    assert run(folder, "--until", "collect").code == 0
    first = artifact(folder, "collect")
    config = curate.CurateConfig.model_validate({"steps": UNIQUE, "heldout": 0})
    curate.run(config, {"documents": [first, first]}, folder / "twice", Runtime(workers=1))
    assert len(rows(folder / "twice")) == 20
    gone = rows(folder / "twice", "removed")
    assert {row["reason"] for row in gone} == {"exact duplicate"}
    assert len(gone) == 20
    assert all(row["kept_id"] == row["id"] for row in gone)

    same = folder / "same"
    same.mkdir()
    table = pq.read_table(next(first.glob("documents-*.parquet")))
    table = table.set_column(0, table.schema.field("id"), pa.array(["0" * 32] * table.num_rows))
    pq.write_table(table, same / "documents-00000-00000.parquet")
    curate.run(config, {"documents": [same]}, folder / "ids", Runtime(workers=1))
    assert sorted(row["text"] for row in rows(folder / "ids")) == sorted(str(row["text"]) for row in GOOD)


class Meddling(Progress):
    """Does something to the world at the third report of progress, when the first file has been read."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act, self.left = act, 3

    def task(self, description: str, total: float | None, unit: str, done: float = 0) -> Task:
        progress = self

        class Watching(Task):
            def advance(self, amount: float = 1, text: str | None = None) -> None:
                progress.left -= 1
                if progress.left == 0:
                    progress.act()

        return Watching()


@pytest.mark.parametrize("change", ["folder disappears", "file changes", "file disappears"])
def test_what_happens_to_a_source_in_mid_run_is_noticed(
    folder: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmcraft import cli

    for number in range(3):
        write_lines(
            folder / "in" / f"{number}.jsonl", [{"text": sentence(n)} for n in range(300 * number, 300 * number + 300)]
        )

    def act() -> None:
        match change:
            case "folder disappears":
                (folder / "in").rename(folder / "away")
            case "file changes":
                with (folder / "in" / "2.jsonl").open("a") as file:
                    file.write(json.dumps({"text": "One more."}) + "\n")
            case "file disappears":
                (folder / "in" / "2.jsonl").unlink()

    write_recipe(folder, shard_documents=100)
    with monkeypatch.context() as patch:
        patch.setattr(cli, "ConsoleProgress", lambda *_, **__: Meddling(act))
        said = refused(run(folder))
    expected = {
        "folder disappears": "the folder 'in' does not exist; correct `path` of this source",
        "file changes": "source 'in/2.jsonl' was changed while it was read; nothing was published, run again",
        "file disappears": "source 'in/2.jsonl' was changed while it was read; nothing was published, run again",
    }
    assert expected[change] in said
    assert not any((folder / "store" / "artifacts").glob("*"))
    if change == "folder disappears":
        (folder / "away").rename(folder / "in")
    assert run(folder, "--until", "collect").code == 0
    assert len(rows(artifact(folder, "collect"))) == {"file disappears": 600, "file changes": 901}.get(change, 900)


def crawl(site: Site, **settings: Any) -> list[dict[str, Any]]:
    defaults = {"kind": "crawl", "start": [f"{site.url}/"], "contact": "crawl@example.org", "delay": 0.0}
    return [defaults | {"timeout_s": 1.0, "retries": 0, "private_addresses": True, "licence": "CC0-1.0"} | settings]


def test_a_crawl_leaves_out_what_hangs_and_what_robots_txt_forbids_and_a_plan_asks_for_nothing(folder: Path) -> None:
    prose = " ".join(sentence(number) for number in range(6))
    with serving() as site:
        site.pages = {
            "/robots.txt": (200, {"Content-Type": "text/plain"}, b"User-agent: *\nDisallow: /private\n"),
            "/": links("/slow", "/private/a", "/open", text=prose),
            "/open": links(text=prose.replace("The", "One")),
            "/private/a": links(text="secret"),
            "/slow": hang,
        }
        write_recipe(folder, {"steps": [{"extract": {}}]}, sources=crawl(site, name="site"))
        assert lmcraft(folder, ["plan", "bad.yaml"]).code == 0
        assert site.asked == []
        began = time.monotonic()
        assert run(folder).code == 0
        assert time.monotonic() - began < 60
        assert "/private/a" not in site.paths()
        port = site.url.rsplit(":", 1)[1]
        write_recipe(folder, sources=crawl(site, start=[f"{site.url}/private/a"]))
        assert "the crawl gave no page (1 x forbidden by robots.txt; first: " in refused(run(folder))
    collected = artifact(folder, "collect")
    assert sorted(row["url"].partition(port)[2] for row in rows(collected)) == ["/", "/open"]
    assert sorted(reason for reason in removed(collected)) == ["forbidden by robots.txt", "timed out"]


PEAK = """
import os, resource
from lmcraft.cli import main
for store in ("small", "store"):
    assert main(["run", "bad.yaml", "--until", "collect", "--set", f"runtime.store={store}"]) == 0
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    for name in os.listdir("later"):
        os.rename(f"later/{name}", f"in/{name}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_an_endless_document_takes_no_memory(folder: Path) -> None:
    """A 2 GB document, to scale: 120 MB against a `max_record_bytes` of 1 MB, as one text and as one line of JSON."""
    unit = (sentence(1) + " ").encode() * 5000
    write_recipe(folder, max_record_bytes=1_000_000)
    (folder / "in" / "good.jsonl").write_bytes(lines_of(GOOD))
    (folder / "later").mkdir()
    with (folder / "later" / "big.txt").open("wb") as text, (folder / "later" / "big.jsonl").open("wb") as lines:
        lines.write(lines_of(GOOD[:10]) + b'{"text": "')
        for _ in range(120_000_000 // len(unit)):
            text.write(unit)
            lines.write(unit)
        lines.write(b'"}\n' + lines_of(GOOD[10:]))
    done = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    small, large = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("peak"))
    collected = artifact(folder, "collect")
    assert removed(collected) == {"record too long": ["big.jsonl:11", "big.txt"]}
    assert len(rows(collected)) == 40
    assert large - small < 40_000_000


def test_very_many_very_short_documents(folder: Path) -> None:
    """To scale (50,000 here): most of them equal or of one pattern, so that bands put thousands in one bucket."""
    made = {1: "All rights reserved.", 2: "Page {} of the list of all products, see the catalogue.", 3: "item {}"}
    texts = [made.get(n % 5, sentence(n, 10)).format(n % 1000 if n % 5 == 2 else n) for n in range(50_000)]
    write_lines(folder / "in" / "a.jsonl", [{"text": text} for text in texts])
    write_recipe(folder)
    assert run(folder).code == 0
    curated = artifact(folder, "curate")
    stats = statistics(curated)
    reasons = {reason: item["documents"] for reason, item in stats["removed"].items()}
    assert reasons["exact duplicate"] == len(texts) - len(set(texts))
    assert stats["documents"] + sum(reasons.values()) == len(texts)
    kept = [row["text"] for row in rows(curated)]
    assert kept.count("All rights reserved.") == 1
    assert sum(text.startswith("item") for text in kept) == 10_000  # two words have no 5-gram in common
    assert sum(text.startswith("Page") for text in kept) < 1000


# Kills, with two workers.


@pytest.fixture
def many(folder: Path) -> Path:
    """Two sources, so that two workers collect, of many shards."""
    sources = []
    for name, first in (("one", 0), ("two", 2000)):
        write_lines(folder / name / "a.jsonl", [{"text": sentence(n)} for n in range(first, first + 2000)])
        sources.append({"kind": "folder", "path": name})
    write_recipe(folder, workers=2, sources=sources, shard_documents=40)
    return folder


@contextlib.contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with launched(folder, {}, "run", "bad.yaml") as process:
        yield process


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> bool:
    """Whether it came true before the process ended."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return False


def shards(folder: Path, stage: str) -> dict[str, int]:
    """The finished shards of the stage in the making and when they were written."""
    found: dict[str, int] = {}
    for path in (folder / "store" / "work").glob("*/out/documents-*.parquet"):
        curating = path.name.count("-") == 1
        if curating == (stage == "curate"):
            with contextlib.suppress(FileNotFoundError):  # just published
                found[path.name] = path.stat().st_mtime_ns
    return found


def in_ledger(folder: Path, stage: str, name: str) -> bool:
    """Whether a shard's line in the ledger says that it is finished."""
    task, *rest = name.removesuffix(".parquet").split("-")[1:]
    (work,) = (folder / "store" / "work").glob(f"*/**/.{stage}/work.json")
    if stage == "collect":
        ledger = work.parent / f"{task}.json"
        return ledger.exists() and int(rest[0]) < json.loads(ledger.read_text(encoding="utf-8"))["shards"][0]
    return (max(work.parent.glob("pass-*")) / f"{task}.json").exists()  # the pass that writes the artifact


def have_shards(folder: Path, stage: str, wanted: int) -> bool:
    return len(shards(folder, stage)) >= wanted


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [
            child
            for child in psutil.Process(process.pid).children()
            if any("lmcraft.corpus.engine.worker" in word for word in child.cmdline())
        ]
    return []


def all_gone(processes: list[psutil.Process]) -> bool:
    gone, alive = psutil.wait_procs(processes, timeout=10)
    return not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] or bool(gone and not alive)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_kills_at_random_moments_with_two_workers(many: Path, tmp_path: Path) -> None:
    """kill -9 of the run alone: its workers end too, nothing half is published, and finished shards are not made anew.

    Then workers alone are killed, and the run goes on. The artifacts are those of a run of one worker left in peace.
    """
    expected: dict[str, dict[str, bytes]] = {}
    peace = tmp_path / "peace"
    said = lmcraft(many, ["run", "bad.yaml", "--set", f"runtime.store={peace}", "--set", "runtime.workers=1"])
    assert said.code == 0, said.err
    for stage in ("collect", "curate"):
        (path,) = (peace / "artifacts").glob(f"{stage}-*")
        expected[stage] = {name: content for name, content in contents(path).items() if name != "manifest.json"}
    rng = random.Random(3)
    kept: dict[str, dict[str, int]] = {"collect": {}, "curate": {}}
    for stage in ("collect", "curate"):
        wanted = rng.randint(3, 20)
        with running(many) as process:
            reached = wait_for(process, functools.partial(have_shards, many, stage, wanted))
            children = workers_of(process)
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)
        assert reached, f"{stage} ended before {wanted} shards were seen"
        assert len(children) == 2
        assert all_gone(children)
        assert not list((many / "store" / "artifacts").glob(f"{stage}-*"))
        kept[stage] = {name: at for name, at in shards(many, stage).items() if in_ledger(many, stage, name)}
        # A shard is published before its line in the ledger, so each worker may have one that is made again.
        assert len(kept[stage]) >= wanted - 2

    with running(many) as process:
        killed: list[psutil.Process] = []
        while process.poll() is None and len(killed) < 2:
            for worker in workers_of(process):
                if worker not in killed and shards(many, "curate"):
                    worker.kill()
                    killed.append(worker)
            time.sleep(0.01)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert killed
    for stage in ("collect", "curate"):
        made = artifact(many, stage)
        found = {name: content for name, content in contents(made).items() if name != "manifest.json"}
        assert found == expected[stage]
        times = {path.name: path.stat().st_mtime_ns for path in made.glob("documents-*")}
        assert kept[stage].items() <= times.items(), "a finished shard was made again"
    assert not list((many / "store" / "work").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="limits of Unix")
def test_a_full_disk_under_two_workers(many: Path) -> None:
    assert lmcraft(many, ["run", "bad.yaml", "--set", "runtime.workers=1"]).code == 0
    keys = {path.name.split("-")[0]: path.name.split("-")[1] for path in (many / "store" / "artifacts").iterdir()}
    largest = max(path.stat().st_size for path in artifact(many, "collect").glob("documents-*"))
    digests = {stage: manifest(many, stage)["digest"] for stage in keys}
    shutil.rmtree(many / "store")
    limits = [[keys["collect"], largest // 2], [keys["curate"], largest // 2]]
    with launched(many, {"full": limits}, "run", "bad.yaml") as process:
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    *stopped, finished = [json.loads(line) for line in out.splitlines()]
    for (key, _), said in zip(limits, stopped, strict=True):
        stage = next(stage for stage, found in keys.items() if found == key)
        last = said["said"].splitlines()[-1]
        assert said["code"] == 2, said["said"]
        assert last.startswith(f"lmcraft: step {stage}: the disk that holds store is full; free some space")
        assert "Traceback" not in said["said"]
    assert finished["code"] == 0, finished["said"]
    assert {stage: manifest(many, stage)["digest"] for stage in keys} == digests


def manifest(folder: Path, stage: str) -> dict[str, Any]:
    return dict(json.loads((artifact(folder, stage) / "manifest.json").read_text(encoding="utf-8")))
