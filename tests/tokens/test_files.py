"""Files are written whole, and as other programs expect them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from lmcraft.tokens.files import write_array, write_whole


@pytest.mark.parametrize("array", [np.arange(7, dtype=np.uint16), np.zeros(0, np.int64), np.arange(6.0).reshape(2, 3)])
def test_arrays_are_the_bytes_that_numpy_writes(array: np.ndarray) -> None:
    ours, theirs = io.BytesIO(), io.BytesIO()
    write_array(ours, array)
    np.save(theirs, array, allow_pickle=False)
    assert ours.getvalue() == theirs.getvalue()


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail(file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        write_whole(path, fail)
    assert path.read_bytes() == b"before"
