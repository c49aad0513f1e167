from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import save_tiny

from lmcraft.inference import Engine


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def engine(model_directory: Path) -> Engine:
    return Engine.load(model_directory, device="cpu", dtype="float32")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The network is tiny: on a busy machine a second thread costs more than it gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
