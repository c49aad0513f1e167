"""A recipe: named steps, each a stage with settings and references to other steps, checked before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmcraft.recipe.stage import GRID_INTENSITY, GRID_SOURCE, WATTS_PER_CORE, Input, Stage, StageConfig, UserError
from lmcraft.recipe.yaml import Place, parse_file, parse_value
from lmcraft.store.store import is_name


class ParallelConfig(BaseModel):
    """How the processes that `torchrun` starts share the work; what is left of them after these three shard weights,
    gradients and optimizer (FSDP). Their product must divide the number of processes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    replicate: int = Field(default=1, gt=0, description="copies of the sharded model (HSDP): as many as machines")
    context: int = Field(default=1, gt=0, description="processes that share a row's tokens, for long contexts")
    tensor: int = Field(default=1, gt=0, description="processes that share each matrix, with sequence parallelism")
    timeout: float = Field(default=600.0, gt=0, description="seconds until a process that does not answer is given up")


class RuntimeConfig(BaseModel):
    """Where and how a recipe runs. Nothing in here changes what an artifact is."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    store: str | None = Field(None, description="folder of the artifacts; default: LMCRAFT_STORE, else `store`")
    cache: str | None = Field(None, description="folder for downloads; default: the platform's cache folder")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    workers: int | None = Field(None, gt=0, description="threads and worker processes; default: the machine's cores")
    compile: str = Field("auto", pattern="^(auto|on|off)$", description="torch.compile: auto needs a C++ compiler")
    engine: str = Field(
        "local",
        pattern="^(local|ray)$",
        description="what curation runs on: processes of this machine, or Ray (RAY_ADDRESS names a cluster)",
    )
    parallel: ParallelConfig = Field(ParallelConfig(), description="how several processes (torchrun) train one model")
    tensorboard: bool = Field(False, description="also write TensorBoard event files to <store>/tensorboard")
    watts_per_core: float = Field(
        WATTS_PER_CORE, gt=0, description="assumed power of a busy core, where energy cannot be measured"
    )
    grid_intensity: float = Field(
        GRID_INTENSITY, ge=0, description=f"gCO2e per kWh of the electricity here; default: {GRID_SOURCE}"
    )


@dataclass(frozen=True)
class Step:
    """One use of a stage: its settings and the steps each of its inputs refers to."""

    name: str
    stage: Stage
    config: StageConfig
    inputs: Mapping[str, str | list[str]]

    def needs(self) -> list[str]:
        """Names of the steps it refers to, in the order written."""
        flat: list[str] = []
        for reference in self.inputs.values():
            flat.extend([reference] if isinstance(reference, str) else reference)
        return flat


@dataclass(frozen=True)
class Recipe:
    """Steps in an order in which they can run."""

    name: str
    description: str
    steps: Mapping[str, Step]
    runtime: RuntimeConfig

    def until(self, name: str) -> list[Step]:
        """The step and everything it stands on, in running order."""
        if name not in self.steps:
            raise UserError(f"--until {name}: no such step{_nearest(name, self.steps)}")
        wanted, open_ = set(), [name]
        while open_:
            step = open_.pop()
            if step not in wanted:
                wanted.add(step)
                open_.extend(self.steps[step].needs())
        return [step for step in self.steps.values() if step.name in wanted]


TOP_KEYS = ("name", "description", "runtime", "steps")


def load_recipe(path: Path, stages: Mapping[str, Stage], overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file; `overrides` are `step.key=value` (or `runtime.key=value`), values in YAML.

    Raises UserError: one sentence with file, line and, for a misspelling, the nearest right word.
    """
    document, places = parse_file(path)
    reader = _Reader(path, places)
    if not isinstance(document, dict):
        raise reader.error((), "a recipe is a mapping with `name:` and `steps:`")
    for override in overrides:
        reader.apply(document, override)
    return reader.recipe(document, stages)


class _Reader:
    def __init__(self, path: Path, places: dict[Place, int]):
        self.path, self.places = path, places
        self.overridden: dict[Place, str] = {}

    def error(self, place: Place, message: str) -> UserError:
        for changed, override in self.overridden.items():
            shared = min(len(place), len(changed))
            if place[:shared] == changed[:shared] and shared >= (3 if place[:1] == ("steps",) else 2):
                return UserError(f"--set {override}: {message}")
        line = next((self.places[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self.places), 1)
        where = ".".join(str(part) for part in (place[1:] if place[:1] == ("steps",) else place))
        return UserError(f"{self.path}:{line}: {where + ': ' if where else ''}{message}")

    def apply(self, document: dict[str, Any], override: str) -> None:
        target, separator, text = override.partition("=")
        names = target.strip().split(".")
        if not separator or len(names) < 2 or not all(names):
            raise UserError(f"--set {override}: write it as step.key=value")
        place: Place = ("runtime", *names[1:]) if names[0] == "runtime" else ("steps", *names)
        if names[0] == "runtime":
            document.setdefault("runtime", {})
        steps = document.get("steps")
        if place[0] == "steps" and (not isinstance(steps, dict) or names[0] not in steps):
            raise UserError(f"--set {override}: no step {names[0]!r}{_nearest(names[0], steps or {})}")
        holder: Any = document
        walked: list[str | int] = []
        for name in place[:-1]:
            holder, at = _descend(holder, name, override)
            walked.append(at)
        last: Any = place[-1]
        value = parse_value(text)
        if isinstance(holder, list):
            if not str(last).isdigit() or int(last) >= len(holder):
                raise UserError(f"--set {override}: the list has entries 0 to {len(holder) - 1}, not {last!r}")
            holder[int(last)] = value
            last = int(last)
        elif isinstance(holder, dict):
            holder[last] = value
        else:
            raise UserError(f"--set {override}: {'.'.join(names[:-1])} is a single value and has no {last!r}")
        self.overridden[(*walked, last)] = override

    def recipe(self, document: dict[str, Any], stages: Mapping[str, Stage]) -> Recipe:
        for key in document:
            if key not in TOP_KEYS:
                raise self.error((key,), f"unknown key{_nearest(key, TOP_KEYS)}")
        name = document.get("name", self.path.stem)
        if not isinstance(name, str) or not is_name(name):
            raise self.error(("name",), "a recipe's name is letters, digits, '-', '_' and '.', at most 64")
        description = document.get("description", "")
        if not isinstance(description, str):
            raise self.error(("description",), "must be text")
        runtime = self._validate(RuntimeConfig, document.get("runtime") or {}, ("runtime",))
        raw = document.get("steps")
        if not isinstance(raw, dict) or not raw:
            raise self.error(("steps",), "a recipe needs at least one step under `steps:`")
        steps = {str(key): self._step(str(key), value, stages, raw) for key, value in raw.items()}
        for step in steps.values():
            self._check_references(step, steps)
        return Recipe(name, description, {n: steps[n] for n in self._order(steps)}, runtime)

    def _step(self, name: str, raw: Any, stages: Mapping[str, Stage], steps: Mapping[str, Any]) -> Step:
        place: Place = ("steps", name)
        if not is_name(name) or name == "runtime" or "." in name:
            raise self.error(place, "a step's name is letters, digits, '-' and '_', at most 64, and not 'runtime'")
        if not isinstance(raw, dict) or not isinstance(raw.get("stage"), str):
            raise self.error(place, f"a step needs `stage:`, one of {', '.join(stages)}")
        if raw["stage"] not in stages:
            raise self.error((*place, "stage"), f"no stage {raw['stage']!r}{_nearest(raw['stage'], stages)}")
        stage = stages[raw["stage"]]
        known = [*stage.inputs, *stage.config.model_fields]
        for key in raw:
            if key != "stage" and key not in known:
                raise self.error((*place, key), f"unknown setting{_nearest(key, known)}")
        inputs: dict[str, str | list[str]] = {}
        for key, wanted in stage.inputs.items():
            if key in raw and raw[key] is not None:
                inputs[key] = self._reference((*place, key), raw[key], wanted, steps)
            elif wanted.required:
                kinds = " or ".join(wanted.kinds) or "any"
                raise self.error(place, f"stage {stage.name} needs `{key}:`, the name of a step that gives {kinds}")
        settings = {key: value for key, value in raw.items() if key != "stage" and key not in stage.inputs}
        config = self._validate(stage.config, settings, place)
        return Step(name, stage, config, inputs)

    def _reference(self, place: Place, value: Any, wanted: Input, steps: Mapping[str, Any]) -> str | list[str]:
        if wanted.many and isinstance(value, str):
            value = [value]
        names = value if wanted.many else [value]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise self.error(place, f"must be {'a list of step names' if wanted.many else 'the name of a step'}")
        for name in names:
            if name not in steps:
                raise self.error(place, f"refers to {name!r}, which is no step{_nearest(name, steps)}")
        return list(names) if wanted.many else names[0]

    def _check_references(self, step: Step, steps: Mapping[str, Step]) -> None:
        for key, reference in step.inputs.items():
            kinds = step.stage.inputs[key].kinds
            for name in [reference] if isinstance(reference, str) else reference:
                given = steps[name].stage.output
                if kinds and given not in kinds:
                    raise self.error(
                        ("steps", step.name, key), f"takes {' or '.join(kinds)}, but step {name!r} gives {given}"
                    )

    def _order(self, steps: Mapping[str, Step]) -> list[str]:
        ordered: list[str] = []
        state: dict[str, int] = {}

        def visit(name: str, path: list[str]) -> None:
            if state.get(name) == 2:
                return
            if state.get(name) == 1:
                cycle = [*path[path.index(name) :], name]
                raise self.error(("steps", name), f"the steps go in a circle: {' -> '.join(cycle)}")
            state[name] = 1
            for needed in steps[name].needs():
                visit(needed, [*path, name])
            state[name] = 2
            ordered.append(name)

        for name in steps:
            visit(name, [])
        return ordered

    def _validate(self, model: type[Any], raw: Any, place: Place) -> Any:
        if not isinstance(raw, dict):
            raise self.error(place, "must be a mapping of settings")
        try:
            return model.model_validate_json(json.dumps(raw))
        except ValidationError as invalid:
            first = min(invalid.errors(), key=lambda error: error["type"] != "extra_forbidden")
            at: Place = _real_place(raw, first["loc"])
            if first["type"] == "extra_forbidden":
                message = f"unknown setting{_nearest(str(at[-1]), _siblings(model, at[:-1]))}"
            elif first["type"] == "literal_error":
                message = f"{first['msg'].lower()}{_nearest(str(first['input']), _quoted(first['msg']))}"
            else:
                message = first["msg"].removeprefix("Value error, ").lower()
                if first["type"] not in ("missing", "value_error"):
                    message += f", not {json.dumps(first['input'], ensure_ascii=False, default=str)[:80]}"
            raise self.error((*place, *at), message) from None


def _descend(holder: Any, name: str | int, override: str) -> tuple[Any, str | int]:
    if isinstance(holder, list) and str(name).isdigit() and int(name) < len(holder):
        return holder[int(name)], int(name)
    if isinstance(holder, dict):
        if holder.get(name) is None:
            holder[name] = {}
        return holder[name], name
    raise UserError(f"--set {override}: there is no {name!r} to set something in")


def _real_place(raw: Any, loc: tuple[str | int, ...]) -> Place:
    """pydantic's location without the union tags it inserts, so that it can be found in the file."""
    place: list[str | int] = []
    for i, part in enumerate(loc):
        last = i == len(loc) - 1
        inside = (isinstance(raw, dict) and part in raw) or (
            isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        )
        if inside:
            place.append(part)
            raw = raw[part]
        elif last:
            place.append(part)
    return tuple(place)


def _siblings(model: type[BaseModel], place: Place) -> list[str]:
    """Names of the settings that could stand at this place: walks the JSON schema, so that unions are seen."""
    schema = model.model_json_schema()
    found: list[Mapping[str, Any]] = [schema]
    for part in place:
        found = [inner for node in found for inner in _children(schema, node, part)]
    names: dict[str, None] = {}
    for node in found:
        for variant in _variants(schema, node):
            names.update(dict.fromkeys(variant.get("properties", {})))
    return list(names)


def _variants(schema: Mapping[str, Any], node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "$ref" in node:
        return _variants(schema, schema["$defs"][node["$ref"].rsplit("/", 1)[1]])
    inner = [*node.get("anyOf", []), *node.get("oneOf", [])]
    return [node] + [variant for each in inner for variant in _variants(schema, each)]


def _children(schema: Mapping[str, Any], node: Mapping[str, Any], part: str | int) -> list[Mapping[str, Any]]:
    children = []
    for variant in _variants(schema, node):
        if isinstance(part, int):
            child = variant.get("items")
        else:
            child = variant.get("properties", {}).get(part) or variant.get("additionalProperties")
        if isinstance(child, Mapping):
            children.append(child)
    return children


def _quoted(message: str) -> list[str]:
    return message.split("'")[1::2]


def _nearest(word: Any, words: Any) -> str:
    word = str(word)
    words = [str(each) for each in words]
    near = get_close_matches(word, words, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(words)}" if words else ""
