import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import uvicorn

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
from tiny import save_tiny

from lmcraft.inference import Engine
from lmcraft.inference.batch import Batch
from lmcraft.serving.api import create_app
from lmcraft.serving.scheduler import Scheduler
from lmcraft.serving.server import allowed_hosts, listen


@dataclass
class Served:
    url: str
    engine: Engine
    scheduler: Scheduler


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def engine(model_directory: Path) -> Engine:
    return Engine.load(model_directory, device="cpu", dtype="float32")


@contextmanager
def _serve(engine: Engine, **options: object) -> Iterator[Served]:
    listener = listen("127.0.0.1", 0)
    app = create_app(engine, "tiny", hosts=allowed_hosts("127.0.0.1", "127.0.0.1", []), **options)  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", engine, app.state.scheduler)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def served(engine: Engine) -> Iterator[Served]:
    with _serve(engine, slots=4) as served:
        yield served


@pytest.fixture(scope="session")
def serve() -> Callable:
    return _serve


@pytest.fixture(scope="session")
def wait_until() -> Callable:
    return until


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 tokens a second, so that there is something to see and to stop."""
    step = Batch.step

    def slow(self: Batch) -> list:
        time.sleep(0.05)
        return step(self)

    monkeypatch.setattr(Batch, "step", slow)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The network is tiny: on a busy machine a second thread costs more than it gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
