"""Google Cloud Storage on loopback as a process of its own, for clients that hold Python's lock while they wait.

`python store_process.py FOLDER FAULTS` serves the files of a folder as the bucket `texts` and prints its address.
FAULTS is JSON: name of an object -> what its contents are answered with, a status or "hang"; the bucket's own name ->
the same for lists.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from loopback import Handler, hang, serving
from stores import gcs

Faults = dict[str, int | str]
BUCKET = "texts"


@contextmanager
def store_process(folder: Path, faults: Faults | None = None) -> Iterator[str]:
    """The address of a running store."""
    command = [sys.executable, __file__, str(folder), json.dumps(faults or {})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main(folder: str, faults: Faults) -> None:
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }
    sound = gcs(BUCKET, files)

    def answer(handler: Handler) -> None:
        fault = faults.get(_asked_for(handler.path))
        if fault == "hang":
            hang(handler)
        elif fault is not None:
            body = {"error": {"code": fault, "message": "so it is set"}}
            handler.answer(int(fault), {"Content-Type": "application/json"}, json.dumps(body).encode())
        else:
            sound(handler)

    with serving() as site:
        site.fallback = answer
        print(site.url, flush=True)
        sys.stdin.read()  # ends with the process that started this one


def _asked_for(target: str) -> str | None:
    """The object whose contents a request is for, or the bucket that it lists."""
    parts = urlsplit(target)
    path = unquote(parts.path)
    if path.endswith(f"/b/{BUCKET}/o"):
        return BUCKET
    if path.startswith(f"/{BUCKET}/"):
        return path.removeprefix(f"/{BUCKET}/")
    return path.partition("/o/")[2] if "alt=media" in parts.query else None


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
