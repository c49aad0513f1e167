"""Files that are whole under their final name or not there at all, however the process ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a temporary file beside `path`, sync it to the disk and give it its final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """UTF-8, newlines as given."""
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, keys in the order given, text unescaped."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_array(file: IO[bytes], array: NDArray[Any]) -> None:
    """An array in C order as `.npy`, the bytes that `numpy.save` writes; that loses the reason when a disk is full."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(np.ascontiguousarray(array).data)
