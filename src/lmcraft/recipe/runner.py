"""Runs a plan step by step: lock, skip what is done, run in a working folder, publish whole."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from lmcraft.recipe.plan import damaged_message, step_identity, step_sources
from lmcraft.recipe.schema import Recipe, Step
from lmcraft.recipe.stage import Followed, Progress, Runtime, Source, UserError, duration
from lmcraft.store.identity import hash_file, key_of
from lmcraft.store.store import Artifact, Store, is_disk_full

PACKAGES = ("lmcraft", "torch", "numpy", "tokenizers", "safetensors", "pyarrow", "transformers", "pydantic")


def run_steps(recipe: Recipe, store: Store, runtime: Runtime, steps: Sequence[Step]) -> dict[str, Artifact]:
    """Bring the given steps (in running order) up to date. Raises UserError on a user's mistake, with the step's name.

    What is finished stays finished whatever happens; the same call goes on where a killed one stopped.
    """
    sources: dict[str, list[Source]] = {}
    for step in steps:
        with _named(step, store):
            if step.stage.check is not None:
                step.stage.check(step.config, runtime)
            sources[step.name] = step_sources(step, runtime)
    with ExitStack() as held:
        with _named(steps[0], store):
            held.enter_context(store.in_use())
        return _run_in_order(recipe, store, runtime, steps, sources)


def _run_in_order(
    recipe: Recipe, store: Store, runtime: Runtime, steps: Sequence[Step], sources: dict[str, list[Source]]
) -> dict[str, Artifact]:
    artifacts: dict[str, Artifact] = {}
    checked: set[str] = set()
    for number, step in enumerate(steps, 1):
        with _named(step, store):
            identity = step_identity(step, artifacts, sources[step.name])
            key = key_of(identity)
            runtime.progress.note(f"[{number}/{len(steps)}] {step.name}")
            with store.lock(key, lambda: runtime.progress.note("  another run is making this step; waiting for it")):
                artifact = store.artifact(step.stage.name, key)
                if artifact is not None and (problems := artifact.damage(rehash=False)):
                    raise UserError(damaged_message(artifact, problems))
                if artifact is None:
                    _verify_inputs(step, artifacts, checked)
                    artifact = _build(store, runtime, step, identity, artifacts)
                    runtime.progress.note(
                        f"  {artifact.name} in {duration(artifact.manifest['provenance']['seconds'])}"
                    )
                else:
                    shutil.rmtree(store.work(key), ignore_errors=True)  # left by a kill just after publishing
                    runtime.progress.note(f"  {artifact.name} is up to date")
                store.set_ref(recipe.name, step.name, artifact)
            artifacts[step.name] = artifact
    return artifacts


def follow(recipe: Recipe, runtime: Runtime) -> None:
    """On every rank but the first: take part in the steps that it calls all ranks to, until it is done.

    What this rank's stages write goes nowhere, and it holds no locks; `runtime.scratch` is the first one's.
    """
    assert runtime.ranks is not None, "there is a first rank to follow"
    workers = max(1, runtime.workers // runtime.ranks.local_size)
    silent = replace(runtime, progress=Progress(), tensorboard=None, workers=workers)
    for order in runtime.ranks.calls():
        step = recipe.steps.get(order["step"])
        if step is None:
            raise UserError(
                f"rank {runtime.ranks.rank} has another recipe, without the step {order['step']}: start all ranks with "
                "the same command and files"
            )
        inputs = {
            name: [Path(path) for path in given] if isinstance(given, list) else Path(given)
            for name, given in order["inputs"].items()
        }
        try:
            runtime.ranks.agree("recipe", _as_told(step))
            with TemporaryDirectory(prefix="lmcraft-") as out, suppress(Followed), runtime.ranks.watched():
                step.stage.run(step.config, inputs, Path(out), replace(silent, scratch=Path(order["scratch"])))
        except UserError as error:
            raise UserError(f"step {step.name}, rank {runtime.ranks.rank}: {error}") from None


def _as_told(step: Step) -> dict[str, Any]:
    """What all ranks must have read in their recipes."""
    return {"stage": step.stage.name, "version": step.stage.version, "settings": step.config.identity()}


def build_again(
    store: Store, runtime: Runtime, step: Step, inputs: dict[str, Artifact], artifact: Artifact
) -> list[str]:
    """Run an artifact's step a second time in a scratch folder and name the files that came out otherwise."""
    folder = store.root / "work" / f"again-{artifact.key[:16]}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    _run_stage(step, runtime, folder, inputs)
    differing = []
    for name, entry in artifact.manifest["files"].items():
        path = folder / "out" / name
        if not entry.get("volatile") and (not path.is_file() or hash_file(path) != entry["sha256"]):
            differing.append(name)
    shutil.rmtree(folder)
    return differing


def _build(
    store: Store, runtime: Runtime, step: Step, identity: dict[str, Any], artifacts: dict[str, Artifact]
) -> Artifact:
    key = key_of(identity)
    work = store.work(key)
    work.mkdir(parents=True, exist_ok=True)
    attempts = work / "attempts"
    earlier = len(attempts.read_text().splitlines()) if attempts.exists() else 0
    with attempts.open("a", encoding="utf-8") as file:
        file.write(f"{_now()}\n")
    started, clock = _now(), time.monotonic()
    summary = _run_stage(step, runtime, work, {name: artifacts[name] for name in step.needs()})
    if changed := _changed(identity["sources"], step_sources(step, runtime)):
        shutil.rmtree(work, ignore_errors=True)
        raise UserError(f"source {changed!r} was changed while it was read; nothing was published, run again")
    manifest = {
        "kind": step.stage.output,
        "stage": step.stage.name,
        "version": step.stage.version,
        "key": key,
        "step": step.name,
        "config": identity["config"],
        "inputs": {
            name: _input_record(artifacts[reference])
            if isinstance(reference, str)
            else [_input_record(artifacts[each]) for each in reference]
            for name, reference in step.inputs.items()
        },
        "sources": identity["sources"],
        "summary": summary or {},
        "provenance": {
            "started": started,
            "finished": _now(),
            "seconds": round(time.monotonic() - clock, 3),
            "resumed": earlier,
            "machine": machine(),
            "packages": {name: found for name in PACKAGES if (found := _version(name))},
            "git": git_state(),
            "seed": getattr(step.config, "seed", None),
            "device": (summary or {}).get("device", runtime.device),
        },
        "ancestors": _ancestors(artifacts[name] for name in step.needs()),
    }
    artifact = store.publish(work / "out", manifest, step.stage.volatile)
    shutil.rmtree(work, ignore_errors=True)
    return artifact


def _run_stage(step: Step, runtime: Runtime, folder: Path, artifacts: dict[str, Artifact]) -> dict[str, Any] | None:
    out, scratch = folder / "out", folder / "scratch"
    out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    inputs: dict[str, Any] = {
        name: artifacts[reference].path if isinstance(reference, str) else [artifacts[each].path for each in reference]
        for name, reference in step.inputs.items()
    }
    if runtime.tensorboard is not None:
        runtime = replace(runtime, tensorboard=runtime.tensorboard / step.name)
    runtime = replace(runtime, scratch=scratch)
    if runtime.ranks is None or not step.stage.ranks:
        return step.stage.run(step.config, inputs, out, replace(runtime, ranks=None))
    paths = {
        name: [str(path.absolute()) for path in given] if isinstance(given, list) else str(given.absolute())
        for name, given in inputs.items()
    }
    runtime.ranks.call({"step": step.name, "inputs": paths, "scratch": str(scratch.absolute())})
    runtime.ranks.agree("recipe", _as_told(step))
    shared = replace(runtime, workers=max(1, runtime.workers // runtime.ranks.local_size))
    with runtime.ranks.watched():
        return step.stage.run(step.config, inputs, out, shared)


def _changed(before: list[dict[str, str]], after: list[Source]) -> str | None:
    pairs = ({(each["name"], each["sha256"]) for each in before}, {(each.name, each.sha256) for each in after})
    return min((name for name, _ in pairs[0] ^ pairs[1]), default=None)


def _verify_inputs(step: Step, artifacts: dict[str, Artifact], checked: set[str]) -> None:
    for name in step.needs():
        artifact = artifacts[name]
        if artifact.key not in checked:
            if problems := artifact.damage(rehash=True):
                raise UserError(damaged_message(artifact, problems))
            checked.add(artifact.key)


def _input_record(artifact: Artifact) -> dict[str, str]:
    return {name: artifact.manifest[name] for name in ("digest", "key", "stage", "step", "kind")}


def _ancestors(parents: Any) -> dict[str, Any]:
    ancestors: dict[str, Any] = {}
    for parent in parents:
        ancestors |= parent.manifest["ancestors"]
        ancestors[parent.key] = {name: value for name, value in parent.manifest.items() if name != "ancestors"}
    return dict(sorted(ancestors.items()))


class _named:
    """Puts the step's name before a user's mistake, and turns a full disk into one."""

    def __init__(self, step: Step, store: Store):
        self.step, self.store = step, store

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError):
            raise UserError(f"step {self.step.name}: {error}") from None
        if error is not None and is_disk_full(error):
            raise UserError(
                f"step {self.step.name}: the disk that holds {self.store.root} is full; free some space (`lmcraft gc` "
                "shows what can go) and give the same command again: what is finished is kept"
            ) from None
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"step {self.step.name}: {error.filename!r} cannot be used ({error.strerror}); give yourself the "
                "right to it, or name another folder"
            ) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> dict[str, Any]:
    """What kind of machine this is: no host name, no paths."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def git_state() -> dict[str, Any] | None:
    """Commit of lmcraft's own checkout and whether it had changes; None when installed from a package."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    try:
        commit, status = (
            subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "dirty": bool(status.strip())}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def command(*words: str) -> str:
    """A command line that the user can paste, with the program as it was called."""
    program = Path(sys.argv[0])
    return " ".join([str(program) if program.name.startswith("lmcraft") else "lmcraft", *words])
