import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from lmcraft.recipe.stage import UserError
from lmcraft.serving.server import add_arguments, allowed_hosts, listen, main, model_name

PROGRAM = (
    "import argparse, sys; from pathlib import Path; from lmcraft.serving.server import add_arguments, main\n"
    "parser = argparse.ArgumentParser(); parser.add_argument('model', type=Path); add_arguments(parser)\n"
    "sys.exit(main(parser.parse_args()))"
)


def _arguments(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    add_arguments(parser)
    return parser.parse_args(options)


def test_a_port_in_use_is_named_with_the_way_out_before_the_model_is_read() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} on 127.0.0.1 is in use .* --port (\d+)") as caught:
            main(_arguments("/nowhere", "--port", str(port)))
        free = int(re.search(r"--port (\d+)$", str(caught.value)).group(1))
        listen("127.0.0.1", free).close()


def test_addresses_that_cannot_be_listened_on() -> None:
    with pytest.raises(UserError, match="ports are 0 to 65535"):
        listen("127.0.0.1", 70000)
    with pytest.raises(UserError, match="not an address of this machine"):
        listen("no such host", 0)
    with pytest.raises(UserError, match="--host and --port"):
        listen("192.0.2.1", 0)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r'pip install "lmcraft\[serve\]"'):
        main(_arguments("/nowhere"))


def test_bad_models_and_devices(tmp_path: Path, model_directory: Path) -> None:
    with pytest.raises(UserError, match="not a model directory"):
        main(_arguments(str(tmp_path), "--port", "0"))
    with pytest.raises(UserError, match="device 'tpu9'"):
        main(_arguments(str(model_directory), "--port", "0", "--device", "tpu9"))
    with pytest.raises(UserError, match="--parallel is 0"):
        main(_arguments(str(model_directory), "--parallel", "0"))


def test_allowed_hosts() -> None:
    assert allowed_hosts("127.0.0.1", "localhost", []) == {"localhost", "127.0.0.1", "::1"}
    assert "box" in allowed_hosts("127.0.0.1", "127.0.0.1", ["Box"])
    assert allowed_hosts("0.0.0.0", "0.0.0.0", []) is None
    assert "box" in allowed_hosts("0.0.0.0", "0.0.0.0", ["box"])


def test_the_model_is_named_after_its_step(tmp_path: Path) -> None:
    directory = tmp_path / "abc123"
    directory.mkdir()
    assert model_name(directory) == "abc123"
    (directory / "manifest.json").write_text(json.dumps({"step": "sft"}))
    assert model_name(directory) == "sft"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_process_serves_until_ctrl_c(model_directory: Path, host: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(model_directory), "--port", "0", "--host", host, "--name", "small"]
    environment = {name: value for name, value in os.environ.items() if name != "LMCRAFT_API_KEY"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout.readline() == "small on cpu in float32\n"
            port = re.search(r":(\d+)/ ", process.stdout.readline()).group(1)
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/chat/completions",
                json={"model": "small", "messages": [{"role": "user", "content": "Paris"}], "max_tokens": 3},
                timeout=60,
            )
            assert answer.status_code == 200, answer.text
        finally:
            process.send_signal(signal.SIGINT)
            warning = process.communicate(timeout=30)[1]
    assert process.returncode == 0
    assert ("--api-key" in warning) == (host == "0.0.0.0") and "Traceback" not in warning


def test_the_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _arguments("--help")
    assert "curl" in capsys.readouterr().out
