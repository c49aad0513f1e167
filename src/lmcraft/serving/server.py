"""`lmcraft serve`: the address, the model, the server process."""

from __future__ import annotations

import argparse
import contextlib
import errno
import ipaddress
import json
import os
import socket
import sys
from pathlib import Path

from lmcraft.inference.devices import add_device_arguments, settle_threads
from lmcraft.inference.engine import Engine
from lmcraft.recipe.stage import UserError

EXAMPLES = """\
examples:
  lmcraft serve MODEL                    then open http://127.0.0.1:8000
  lmcraft serve MODEL --port 8001 --name my-model
  LMCRAFT_API_KEY=... lmcraft serve MODEL --host 0.0.0.0

  curl http://127.0.0.1:8000/v1/chat/completions -H "Content-Type: application/json" \\
    -d '{"model": "my-model", "messages": [{"role": "user", "content": "What is Paris?"}]}'"""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="%(default)s; 0 takes a free one")
    parser.add_argument("--name", help="the model's name in the API (default: its step, or its directory)")
    parser.add_argument("--parallel", type=int, default=8, help="generations computed together (%(default)s)")
    parser.add_argument("--api-key", help="ask clients for this key (default: $LMCRAFT_API_KEY, else none)")
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="further name of this server; repeatable"
    )
    parser.add_argument("--log-requests", action="store_true", help="print a line for each request")
    add_device_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """`lmcraft serve`; `arguments.model` is the model's directory. Ends with Ctrl-C."""
    try:
        import uvicorn

        from lmcraft.serving.api import create_app
    except ImportError as error:
        raise UserError(f'the server needs {error.name}; install it with: pip install "lmcraft[serve]"') from None
    if arguments.parallel < 1:
        raise UserError(f"--parallel is {arguments.parallel}; it must be at least 1")
    api_key = arguments.api_key or os.environ.get("LMCRAFT_API_KEY") or None
    listener = listen(arguments.host, arguments.port)  # before the model is loaded: a port in use shows at once
    with listener:
        host, port = listener.getsockname()[:2]
        if not _is_loopback(host):
            _warn(host, api_key, arguments.allowed_host)
        hosts = allowed_hosts(host, arguments.host, arguments.allowed_host)
        engine = Engine.load(arguments.model, arguments.device, arguments.dtype)
        settle_threads(engine.device, engine.model.config.parameters())
        name = arguments.name or model_name(Path(arguments.model))
        app = create_app(engine, name, arguments.parallel, hosts, api_key)
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(f"{name} on {engine.device} in {str(engine.dtype).removeprefix('torch.')}")
        print(f"chat page {address}/   API {address}/v1   (Ctrl-C stops)", flush=True)
        config = uvicorn.Config(
            app,
            log_level="info" if arguments.log_requests else "warning",
            access_log=arguments.log_requests,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError when the port is in use, or the address is not of this machine."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}; ports are 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror:
        raise UserError(f"--host {host!r} is not an address of this machine; leave it out for 127.0.0.1") from None
    listener = socket.socket(family, kind, protocol)
    if sys.platform != "win32":  # there it would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} on {host} is in use by another program; stop that, or choose another port, "
                f"for example --port {_free_port(family, str(address[0]))}"
            ) from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} needs administrator rights; choose one above 1023 with --port") from None
        raise UserError(f"cannot listen on {host} port {port} ({error.strerror}); see --host and --port") from None
    return listener


def allowed_hosts(host: str, asked: str, further: list[str]) -> frozenset[str] | None:
    """Names accepted in the Host header; None for any, when the server is open to the network under unknown names."""
    named = frozenset(name.lower() for name in further)
    if _is_loopback(host):
        return LOOPBACK | {host, asked.lower()} | named
    return LOOPBACK | {host, asked.lower()} | named if named else None


def model_name(directory: Path) -> str:
    """The step that made the model, as its manifest says, else the directory's name."""
    try:
        step = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        step = None
    return step if isinstance(step, str) and step else directory.resolve().name


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _warn(host: str, api_key: str | None, allowed: list[str]) -> None:
    advice = []
    if api_key is None:
        advice.append("set --api-key, or anybody who reaches this machine can use the model")
    if not allowed:
        advice.append("name the server with --allowed-host, so that web pages cannot pose as it")
    text = f"warning: listening on {host}, open to the network, without encryption"
    print("; ".join([text, *advice]), file=sys.stderr)


def _free_port(family: int, host: str) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
