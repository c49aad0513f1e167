"""Why the local engine is a pool of our own processes, and the cluster's is plain Ray: five cases against Daft.

    python benchmarks/engines.py --peer PEER/bin/python [--cases killed,raises,jsonl,group,minhash] [--keys 60]

PEER is the Python of an environment with daft (and duckdb, for `group`). Each case says what happened to Daft and to
lmcraft's answer to the same, side by side:

killed   a worker of a user function is killed by SIGKILL once (the system, short of memory, does that)
raises   one document in 50 makes a function raise
jsonl    a blank line; a line of bad JSON; a gzip file cut in the middle
group    a group-by of so many million rows (default 60) under a memory limit of 3 GB (cgroup v1, needs root)
minhash  the kernel of signatures on the same texts, one thread each; equal settings (word 5-grams, 125 hashes)
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CASES = ("killed", "raises", "jsonl", "group", "minhash")
CGROUP = Path("/sys/fs/cgroup/memory")
LIMIT = 3_000_000_000
GROUP_SHARD = 1_000_000
TRIES = 60.0


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="Python with daft and duckdb")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--keys", type=float, default=60, help="millions of rows of the case `group`")
    parser.add_argument("--texts", type=int, default=6000, help="texts of the case `minhash`")
    options = parser.parse_args()
    version = f"daft {_version(options.peer, 'daft')}"
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in options.cases.split(","):
            rows += ask(case, options, Path(folder), version)
            print(f"({case} done)", flush=True)
    print("\n| case | engine | what happened |\n|-|-|-|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def ask(case: str, options: argparse.Namespace, folder: Path, version: str) -> list[tuple[str, str, str]]:
    """Run one case on each side; lines of the table."""
    work = folder / case
    work.mkdir()
    if case == "group":
        ours(work, "make-group", str(int(options.keys * 1e6)))
        label = f"group of {options.keys:.0f} M rows, 3 GB"
        duckdb = f"duckdb {_version(options.peer, 'duckdb')}"
        return [
            (label, version, _limited([options.peer, "-c", DAFT, "group", str(work)])),
            (label, duckdb, _limited([options.peer, "-c", DAFT, "duckdb", str(work)])),
            (label, "lmcraft Corpus.group", _limited(_ours(work, "group"))),
        ]
    if case == "minhash":
        ours(work, "make-minhash", str(options.texts))
        rates: dict[str, list[float]] = {"daft": [], "lmcraft": []}
        for _ in range(3):
            for side, measured in rates.items():
                command = [options.peer, "-c", DAFT, "minhash", str(work)] if side == "daft" else _ours(work, "minhash")
                measured.append(float(_said(command)[0]))
        return [
            ("minhash kernel", version if side == "daft" else "lmcraft",
             f"{statistics.median(found):.1f} MB a CPU-second [{min(found):.1f}-{max(found):.1f}], n={len(found)}")
            for side, found in rates.items()
        ]  # fmt: skip
    if case == "jsonl":
        make_jsonl(work)
        names = {"blank": "blank line", "bad": "bad line", "cut": "cut gzip"}
    else:
        names = {case: {"killed": "worker killed", "raises": "a document raises"}[case]}
    found = []
    for name, label in names.items():
        found.append((label, version, _told([options.peer, "-c", DAFT, name, str(work)])))
        found.append((label, "lmcraft", _told(_ours(work, name))))
    return found


def make_jsonl(work: Path) -> None:
    lines = [json.dumps({"text": f"document {number} says something of its own"}) for number in range(1000)]
    blank = [*lines[:500], "", *lines[500:]]
    bad = [*lines[:500], '{"text": "half a record', *lines[501:]]
    whole = gzip.compress("".join(f"{line}\n" for line in lines).encode())
    for name, content in (("blank", blank), ("bad", bad)):
        (work / name).mkdir()
        (work / name / "a.jsonl").write_text("\n".join(content) + "\n")
    (work / "cut").mkdir()
    (work / "cut" / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])


DAFT = """
import os, sys, time
os.environ["DO_NOT_TRACK"] = "true"; os.environ["DAFT_ANALYTICS_ENABLED"] = "0"
case, work = sys.argv[1:3]
if case == "duckdb":
    import duckdb
    base = duckdb.connect(config={"memory_limit": "1GB", "temp_directory": work + "/duckdb", "threads": 2})
    started = time.time()
    query = f"select count(*) from (select key, min(row) from '{work}/*.parquet' group by key)"
    rows = base.sql(query).fetchall()[0][0]
    print(f"{rows} keys in {time.time() - started:.1f} s")
    sys.exit()
import daft
from daft import col
if case == "killed":
    import signal
    marker = work + "/daft-killed"
    @daft.udf(return_dtype=daft.DataType.int64(), use_process=True, concurrency=2, batch_size=10)
    def length(texts):
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return [len(text) for text in texts.to_pylist()]
    table = daft.from_pydict({"text": [f"text {number}" for number in range(100)]})
    found = table.with_column("length", length(col("text"))).to_pydict()
    print(f"{len(found['length'])} rows")
elif case == "raises":
    for on_error in ("raise", "ignore"):
        @daft.func.batch(return_dtype=daft.DataType.int64(), batch_size=10, on_error=on_error)
        def length(texts):
            if "text 7" in texts.to_pylist():
                raise ValueError("cannot take text 7")
            return [len(text) for text in texts.to_pylist()]
        table = daft.from_pydict({"text": [f"text {number}" for number in range(50)]})
        try:
            found = table.with_column("length", length(col("text"))).to_pydict()["length"]
            print(f"on_error={on_error}: {found.count(None)} of {len(found)} rows null, no error named;", end=" ")
        except Exception as error:
            print(f"on_error={on_error}: the query fails ({type(error).__name__});", end=" ")
    print()
elif case in ("blank", "bad", "cut"):
    found = daft.read_json(f"{work}/{case}/*").to_pydict()
    print(f"{len(found['text'])} rows of 1000, without an error")
elif case == "group":
    started = time.time()
    found = daft.read_parquet(work + "/*.parquet").groupby("key").agg(col("row").min()).count_rows()
    print(f"{found} keys in {time.time() - started:.1f} s")
elif case == "minhash":
    import pyarrow.parquet as pq
    column = pq.read_table(work + "/texts.parquet")["text"].combine_chunks()
    def sign(texts):
        plain = daft.Series.from_arrow(texts).str.normalize(remove_punct=True, lowercase=True, white_space=True)
        plain.minhash(num_hashes=125, ngram_size=5, hash_function="xxhash3_64")
    sign(column[:10])
    started = time.process_time()
    sign(column)
    print(column.nbytes / 1e6 / (time.process_time() - started))
"""


def inside(case: str, work: Path, *arguments: str) -> None:
    """Our side of a case, in a process of its own; prints one line."""
    if case == "killed":
        from lmcraft.corpus.engine.local import Processes

        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        sys.path.insert(0, str(Path(__file__).parent))
        import engines

        with Processes(2) as engine:
            found = list(engine.map(engines.lengths, [(work, number) for number in range(10)]))
        print(f"{sum(map(len, found))} rows; the piece of work was done again by a new worker")
    elif case == "raises":
        print(raising())
    elif case in ("blank", "bad", "cut"):
        from lmcraft.corpus.readers.files import Fault, Reading, read_file

        kept = 0
        faults = []
        for path in (work / case).iterdir():
            for item in read_file(path, path.name, Reading()):
                if isinstance(item, Fault):
                    faults.append(f"{item.place}: {item.reason}")
                else:
                    kept += 1
        print(f"{kept} of 1000 documents; set aside: {'; '.join(faults) or 'nothing'}")
    elif case == "make-group":
        make_group(work, int(arguments[0]))
    elif case == "group":
        group(work)
    elif case == "make-minhash":
        make_texts(work, int(arguments[0]))
    elif case == "minhash":
        import pyarrow.parquet as pq

        from lmcraft.corpus.minhash import signatures

        column = pq.read_table(work / "texts.parquet")["text"].combine_chunks()
        signatures(column[:10], 5, 125)
        started = time.process_time()
        signatures(column, 5, 125)
        print(column.nbytes / 1e6 / (time.process_time() - started))


def lengths(work: Path, number: int) -> list[int]:
    """Ten rows of the case `killed`; whoever comes first dies."""
    marker = work / "lmcraft-killed"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [len(f"text {row}") for row in range(10 * number, 10 * number + 10)]


def raising() -> str:
    import numpy as np
    import pyarrow as pa

    from lmcraft.corpus import documents
    from lmcraft.corpus.curate import _judge, _Labelled
    from lmcraft.corpus.step import Drop, Judged, Known, Step
    from lmcraft.recipe.stage import StageConfig

    def length(batch: pa.RecordBatch, config: StageConfig, known: Known) -> Judged:
        if "text 7" in batch["text"].to_pylist():
            raise ValueError("cannot take text 7")
        return Judged(batch, (Drop("short", np.zeros(batch.num_rows, bool)),))

    rows: list[dict[str, Any]] = [
        {"id": str(number), "text": f"text {number}", "source": "made", "path": str(number)} for number in range(50)
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=documents.SCHEMA)
    item = _Labelled("length", Step("length", StageConfig, length), StageConfig())
    judged = list(_judge(item, batch, Known(), "set_aside"))
    errors = [row for each in judged for table in each.aside.values() for row in table.to_pylist()]
    through = sum(each.batch.num_rows for each in judged) - len(errors)
    return f"{through} of 50 rows through; {len(errors)} set aside: id {errors[0]['id']}, {errors[0]['error']}"


def make_group(work: Path, count: int) -> None:
    """Shards of a million rows with a well-mixed key each; some thirtieth of the keys come twice."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    for index, first in enumerate(range(0, count, GROUP_SHARD)):
        rows = np.arange(first, min(first + GROUP_SHARD, count), dtype=np.int64)
        numbers = np.where(rows % 30 == 0, rows // 2, rows).astype(np.uint64)
        key = numbers * np.uint64(0x9E3779B97F4A7C15)
        pq.write_table(pa.table({"key": key, "row": rows}), work / f"{index:05d}.parquet")


def group(work: Path) -> None:
    from lmcraft.corpus.engine.corpus import Corpus
    from lmcraft.corpus.engine.local import Processes
    from lmcraft.corpus.step import Shard

    sys.path.insert(0, str(Path(__file__).parent))
    import engines

    paths = sorted(work.glob("*.parquet"))
    shards = [Shard(index, path, index * GROUP_SHARD) for index, path in enumerate(paths)]
    started = time.time()
    with tempfile.TemporaryDirectory(dir=work) as scratch, Processes(2) as engine:
        corpus = Corpus(shards, len(shards) * GROUP_SHARD, {}, Path(scratch), engine)
        found = sum(map(int, corpus.group(engines.records_of, reduce=engines.keys_and_first, label="group")))
    print(f"{found} keys in {time.time() - started:.1f} s")


def records_of(shard: Any) -> Iterator[Any]:
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(shard.path)
    records = np.empty(table.num_rows, [("key", "<u8"), ("row", "<i8")])
    records["key"], records["row"] = table["key"].to_numpy(), table["row"].to_numpy()
    yield records


def keys_and_first(records: Any) -> Any:
    """How many keys there are; the least row of each is worked out as well, as the others do."""
    import numpy as np

    first = np.flatnonzero(np.append(True, records["key"][1:] != records["key"][:-1])[: len(records)])
    least = np.minimum.reduceat(records["row"], first) if len(first) else first
    return np.int64(len(least))


def make_texts(work: Path, count: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    words = np.array(["".join(random.choice(list("etaoinshrdlu"), random.integers(2, 10))) for _ in range(20_000)])
    ranks = np.minimum(random.zipf(1.3, (count, 400)), len(words)) - 1
    pq.write_table(pa.table({"text": [" ".join(row) for row in words[ranks].tolist()]}), work / "texts.parquet")


def _ours(work: Path, case: str, *arguments: str) -> list[str]:
    return [sys.executable, __file__, "--inside", case, str(work), *arguments]


def ours(work: Path, case: str, *arguments: str) -> None:
    subprocess.run(_ours(work, case, *arguments), check=True, env=_environment())


def _said(command: list[str]) -> tuple[str, int]:
    """Last line, and exit status; of a failure the last line of the errors."""
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, env=_environment(), check=False, timeout=4 * TRIES
        )
    except subprocess.TimeoutExpired:
        return f"not done after {4 * TRIES:.0f} s", 124
    lines = (ran.stdout.strip() or ran.stderr.strip() or "no word").splitlines()
    return lines[-1][:300].replace("|", "/"), ran.returncode


def _told(command: list[str]) -> str:
    said, status = _said(command)
    return f"{said} (exit status {status})" if status else said


def _limited(command: list[str]) -> str:
    """The same in a memory cgroup, with the most memory that was in use (pages of files in cache included)."""
    group_ = CGROUP / f"lmcraft-engines-{os.getpid()}"
    try:
        group_.mkdir()
    except OSError as error:
        return f"{_told(command)}; without a memory limit: {error.strerror}"
    try:
        (group_ / "memory.limit_in_bytes").write_text(str(LIMIT))
        enter = f'echo $$ > {group_}/cgroup.procs; exec "$@"'
        sampled = _Peak(group_)
        with sampled:
            told = _told(["sh", "-c", enter, "sh", *command])
        killed = "oom_kill 0" not in (group_ / "memory.oom_control").read_text()
        return f"{told}; peak {sampled.most / 1e9:.2f} GB without file cache{'; KILLED FOR MEMORY' if killed else ''}"
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group_.rmdir()
                break
            time.sleep(0.1)


class _Peak:
    """Samples the anonymous memory of a cgroup five times a second."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.most = folder, 0

    def __enter__(self) -> None:
        import threading

        self.over = threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _sample(self) -> None:
        while not self.over.wait(0.2):
            with contextlib.suppress(OSError):
                lines = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
                self.most = max(self.most, int(lines.get("total_rss", 0)))


def _version(python: str, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _environment() -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    return os.environ | one | {"DO_NOT_TRACK": "true"}


if __name__ == "__main__":
    main()
