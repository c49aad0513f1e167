"""`lmcraft verify`: re-hash artifacts, derive their metrics again, and on request run a step a second time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lmcraft.recipe.stage import ConsoleProgress, Stage, UserError, count
from lmcraft.store.store import Artifact, Store, read_artifact


def verify(
    store: Store, stages: Mapping[str, Stage], names: list[str], repair: bool, rebuild: bool, recipe: Path | None
) -> int:
    """Print a line an artifact. Returns 0 when all is well, 1 when something is damaged or came out otherwise."""
    bad = 0
    paths = [store.path_of(name) for name in names] or sorted(store.artifacts_folder.glob("*-*"))
    if not paths:
        print(f"the store {store.root} is empty: nothing to verify")
    for path in paths:
        try:
            artifact = read_artifact(path)
            problems = artifact.damage(rehash=True)
        except UserError as error:
            artifact, problems = Artifact(path, {}), [str(error)]
        if not problems:
            problems = _metrics(artifact, stages)
        if not problems and rebuild:
            problems = _rebuild(store, stages, artifact, recipe)
        for problem in problems:
            print(f"DAMAGED  {path.name}: {problem}")
        if problems:
            bad += 1
            if repair:
                moved = store.set_aside(artifact)
                print(f"         set aside in {moved.relative_to(store.root)}; the next run builds it again")
        else:
            print(f"ok       {path.name}  {len(artifact.manifest['files'])} files, {count(artifact.bytes())}B")
    if bad and not repair:
        print(f"{bad} damaged; `lmcraft verify --repair` sets them aside, then `lmcraft run` builds them again")
    return 1 if bad else 0


def _metrics(artifact: Artifact, stages: Mapping[str, Stage]) -> list[str]:
    stage = stages.get(artifact.manifest["stage"])
    if stage is None or stage.rederive is None:
        return []
    compared = stage.rederive(artifact.path)
    wrong = [
        f"metric {name} is {stored} in results.json but {derived} from its items"
        for name, stored, derived in compared
        if not _equal(stored, derived)
    ]
    if not wrong:
        print(f"         {artifact.path.name}: {len(compared)} metrics derived again from their items, all equal")
    return wrong


def _equal(stored: object, derived: object) -> bool:
    if isinstance(stored, float) and isinstance(derived, (int, float)):
        return abs(stored - derived) <= 1e-9 * max(1.0, abs(stored))
    return stored == derived


def _rebuild(store: Store, stages: Mapping[str, Stage], artifact: Artifact, recipe_file: Path | None) -> list[str]:
    from lmcraft.recipe.plan import make_runtime
    from lmcraft.recipe.runner import build_again
    from lmcraft.recipe.schema import load_recipe

    step_name = artifact.manifest["step"]
    if recipe_file is None:
        raise UserError("--rebuild needs --recipe FILE: the recipe that made the artifact")
    recipe = load_recipe(recipe_file, stages)
    if step_name not in recipe.steps:
        raise UserError(f"recipe {recipe_file} has no step {step_name!r}, which made {artifact.name}")
    step = recipe.steps[step_name]
    if step.config.identity() != artifact.manifest["config"]:
        raise UserError(
            f"step {step_name!r} of {recipe_file} has other settings than {artifact.name}; see `lmcraft why`"
        )
    inputs: dict[str, Artifact] = {}
    for name, reference in step.inputs.items():
        given = artifact.manifest["inputs"][name]
        pairs = (
            zip([reference], [given], strict=True) if isinstance(reference, str) else zip(reference, given, strict=True)
        )
        for needed, record in pairs:
            found = store.artifact(record["stage"], record["key"])
            if found is None:
                raise UserError(
                    f"input {record['step']} of {artifact.name} is gone from the store: nothing to rebuild from"
                )
            inputs[needed] = found
    runtime = make_runtime(recipe.runtime, ConsoleProgress())
    return [f"{name} came out otherwise when rebuilt" for name in build_again(store, runtime, step, inputs, artifact)]
