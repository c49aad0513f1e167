"""What a run would do and why: every step is done, to be built, or waits to see what the steps above it give."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmcraft.recipe.schema import Recipe, RuntimeConfig, Step
from lmcraft.recipe.stage import Progress, Runtime, Source, UserError, default_cache, duration
from lmcraft.store.identity import differences, identity_of, key_of, short
from lmcraft.store.store import REMOVALS, Artifact, Store


@dataclass(frozen=True)
class PlannedStep:
    """`artifact` when the step is done; `identity` as soon as its inputs are known; `reason` in words."""

    step: Step
    reason: str
    artifact: Artifact | None = None
    identity: dict[str, Any] | None = None
    seconds: float | None = None

    @property
    def state(self) -> str:
        if self.artifact is not None:
            return "done"
        return "run" if self.identity is not None else "wait"


def make_runtime(config: RuntimeConfig, progress: Progress) -> Runtime:
    """The runtime section with its defaults filled in for this machine."""
    runtime = Runtime(device=config.device, compile=config.compile, engine=config.engine, progress=progress)
    runtime.cache = Path(config.cache) if config.cache else default_cache()
    runtime.workers = config.workers or runtime.workers
    runtime.removals = store_folder(config) / REMOVALS
    runtime.watts_per_core, runtime.grid_intensity = config.watts_per_core, config.grid_intensity
    if config.tensorboard:
        runtime.tensorboard = store_folder(config) / "tensorboard"
    return runtime


def store_folder(config: RuntimeConfig) -> Path:
    """Folder of the store: the recipe's (or --set's), else `LMCRAFT_STORE`, else `store`."""
    return Path(config.store or os.environ.get("LMCRAFT_STORE", "store"))


def make_plan(recipe: Recipe, store: Store, runtime: Runtime, steps: Sequence[Step]) -> list[PlannedStep]:
    """Plan the given steps (in running order) without running any. Raises UserError on a bad external source."""
    planned: dict[str, PlannedStep] = {}
    planning = replace(runtime, planning=True)
    times = _times(store)
    for step in steps:
        waits = [name for name in step.needs() if planned[name].artifact is None]
        if waits:
            reason = f"waits for {', '.join(waits)}; skipped if what they give is what was there before"
            planned[step.name] = PlannedStep(step, reason, seconds=_expected(step, runtime, times))
            continue
        artifacts = {name: planned[name].artifact for name in step.needs()}
        identity = step_identity(step, artifacts, step_sources(step, planning))
        artifact = store.artifact(step.stage.name, key_of(identity))
        if artifact is not None and (problems := artifact.damage(rehash=False)):
            raise UserError(damaged_message(artifact, problems))
        if artifact is not None:
            planned[step.name] = PlannedStep(step, "up to date", artifact, identity)
        else:
            reason = _reason(recipe, store, step, identity)
            planned[step.name] = PlannedStep(step, reason, None, identity, _expected(step, runtime, times))
    return list(planned.values())


def step_sources(step: Step, runtime: Runtime) -> list[Source]:
    """What the step reads from outside the store, hashed as it is now."""
    return step.stage.sources(step.config, runtime) if step.stage.sources else []


def step_identity(step: Step, artifacts: Mapping[str, Artifact | None], sources: list[Source]) -> dict[str, Any]:
    """The identity of a step whose inputs exist."""

    def digest(name: str) -> str:
        artifact = artifacts[name]
        assert artifact is not None
        return artifact.digest

    inputs = {
        key: digest(reference) if isinstance(reference, str) else [digest(name) for name in reference]
        for key, reference in step.inputs.items()
    }
    return identity_of(step.stage.name, step.stage.version, step.config.identity(), inputs, sources)


def damaged_message(artifact: Artifact, problems: list[str]) -> str:
    return (
        f"artifact {artifact.name} is damaged: {problems[0]}; "
        "`lmcraft verify --repair` sets it aside and the next run builds it again"
    )


def _reason(recipe: Recipe, store: Store, step: Step, identity: dict[str, Any]) -> str:
    if (store.work(key_of(identity)) / "out").exists():
        return "was interrupted; goes on where it stopped"
    last = store.refs().get(f"{recipe.name}/{step.name}")
    if last is None:
        return "never built"
    try:
        before = store.artifact(last["stage"], last["key"])
    except UserError:
        before = None
    if before is None:
        return "its artifact is gone from the store"
    changed = list(differences(before.identity, identity))
    if not changed:
        return "its artifact was set aside"
    shown = "; ".join(f"{field} {short(old, 30)} -> {short(new, 30)}" for field, old, new in changed[:3])
    return f"stale because {shown}" + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _times(store: Store) -> dict[str, tuple[dict[str, Any], float]]:
    """Stage name -> (config, seconds) of its newest uninterrupted artifact in this store."""
    times = {}
    for artifact in store.artifacts():
        provenance = artifact.manifest["provenance"]
        if not provenance["resumed"]:
            times[artifact.manifest["stage"]] = (artifact.identity["config"], provenance["seconds"])
    return times


def _expected(step: Step, runtime: Runtime, times: dict[str, tuple[dict[str, Any], float]]) -> float | None:
    last = times.get(step.stage.name)
    if last and last[0] == step.config.identity():
        return last[1]
    if step.stage.estimate is not None:
        estimated = step.stage.estimate(step.config, runtime)
        if estimated is not None:
            return estimated
    return last[1] if last else None


def print_plan(recipe: Recipe, plan: Sequence[PlannedStep], runtime: Runtime) -> str:
    """The plan as text: a line a step."""
    width = max(len(planned.step.name) for planned in plan)
    lines = [f"recipe {recipe.name}: {len(plan)} steps"]
    total = 0.0
    for planned in plan:
        extra = ""
        if planned.state != "done" and planned.seconds is not None:
            total += planned.seconds
            extra = f" · about {duration(planned.seconds)}"
        what = planned.artifact.name if planned.artifact else planned.reason
        lines.append(f"  {planned.state:4}  {planned.step.name:{width}}  {what}{extra}")
    todo = sum(planned.state != "done" for planned in plan)
    if not todo:
        lines.append("nothing to do: everything is up to date")
    elif total:
        lines.append(f"{todo} to do; about {duration(total)} of it can be foretold on this machine")
    return "\n".join(lines)
