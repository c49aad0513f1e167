"""Files of numbers mapped into memory for writing, with their room on the disk taken at once.

Without that a file is full of holes, and the disk that fills up while one of them is written to ends the process by a
signal (SIGBUS), without a word, instead of raising an error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np


def new_npy(path: Path, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A new `.npy` file of zeros. Raises OSError when the disk has no room for it."""
    array = np.lib.format.open_memmap(path, "w+", np.dtype(kind), shape)
    _take_room(path)
    return np.asarray(array)


def open_numbers(path: Path, kind: Any, size: int) -> np.ndarray:
    """A file of so many numbers and nothing else; a new one is made of zeros where there is none."""
    if not size:
        return np.empty(0, kind)
    if path.exists():
        return np.asarray(np.memmap(path, kind, "r+", shape=(size,)))
    array = np.memmap(path, kind, "w+", shape=(size,))
    _take_room(path)
    return np.asarray(array)


def _take_room(path: Path) -> None:
    if not hasattr(os, "posix_fallocate"):  # macOS and Windows have no such call
        return
    with path.open("r+b") as file:
        if size := os.fstat(file.fileno()).st_size:
            os.posix_fallocate(file.fileno(), 0, size)
