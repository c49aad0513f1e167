"""The steps that a recipe may name under `curate`. A new step is a module like `rules.py` and a name in `STEPS`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BeforeValidator, Discriminator, Tag, create_model

from lmcraft.corpus.step import Step
from lmcraft.corpus.steps.balance import BALANCE
from lmcraft.corpus.steps.boilerplate import BOILERPLATE
from lmcraft.corpus.steps.counterfactual import COUNTERFACTUAL
from lmcraft.corpus.steps.decontaminate import DECONTAMINATE
from lmcraft.corpus.steps.demographics import DEMOGRAPHICS
from lmcraft.corpus.steps.exact import EXACT
from lmcraft.corpus.steps.extract import EXTRACT
from lmcraft.corpus.steps.filters import FILTER
from lmcraft.corpus.steps.language import LANGUAGE
from lmcraft.corpus.steps.licences import LICENCES
from lmcraft.corpus.steps.mask import MASK
from lmcraft.corpus.steps.near import NEAR
from lmcraft.corpus.steps.passages import PASSAGES
from lmcraft.corpus.steps.perplexity import PERPLEXITY
from lmcraft.corpus.steps.quality import QUALITY, TOPIC
from lmcraft.corpus.steps.repair import REPAIR
from lmcraft.corpus.steps.rules import LENGTH
from lmcraft.corpus.steps.screens import SCREENS
from lmcraft.corpus.steps.segment import SEGMENT
from lmcraft.corpus.steps.topics import TOPICS
from lmcraft.recipe.stage import StageConfig

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        EXTRACT,
        SEGMENT,
        REPAIR,
        BOILERPLATE,
        MASK,
        LANGUAGE,
        LENGTH,
        FILTER,
        LICENCES,
        SCREENS,
        QUALITY,
        TOPIC,
        PERPLEXITY,
        EXACT,
        NEAR,
        PASSAGES,
        DECONTAMINATE,
        DEMOGRAPHICS,
        TOPICS,
        COUNTERFACTUAL,
        BALANCE,
    )
}

DEFAULT = ("extract", "repair", "mask", "language", "length", "exact", "near")


def default_steps() -> list[StageConfig]:
    """The steps of a `curate` that names none, each with its defaults."""
    return [_MODELS[name].model_validate({name: {}}) for name in DEFAULT if name in STEPS]


def step_and_config(chosen: StageConfig) -> tuple[Step, StageConfig]:
    """The step that an entry of `steps:` names, and its settings."""
    name = next(iter(type(chosen).model_fields))
    return STEPS[name], getattr(chosen, name)


def _tag(value: Any) -> str | None:
    """`{near: {...}}` and the model made from it are both told apart by the one name in them."""
    names = list(value) if isinstance(value, dict) else list(getattr(type(value), "model_fields", ()))
    return names[0] if len(names) == 1 else None


def _named(value: Any) -> Any:
    """Refuses what names no step, or names it without `: {}`, with the way to write it."""
    if isinstance(value, str):
        near = _nearest(value)
        raise ValueError(f"write `- {near or value}: {{}}`: a step is a name with its settings" + _listed(near))
    if isinstance(value, dict) and len(value) == 1 and (name := next(iter(value))) not in STEPS:
        near = _nearest(str(name))
        raise ValueError(f"there is no step {name!r}" + (f"; did you mean {near!r}?" if near else _listed(near)))
    if isinstance(value, dict) and len(value) == 1 and value[name] is None:
        raise ValueError(f"write `- {name}: {{}}` for the step {name!r} with its defaults")
    return value


def _nearest(name: str) -> str | None:
    return next(iter(difflib.get_close_matches(name, STEPS, 1, 0.5)), None)


def _listed(near: str | None) -> str:
    return "" if near else f"; there is {', '.join(STEPS)}"


# A model for each step with one field of its name, so that a recipe reads `- near: {agree: 0.6}` and a step added
# later changes neither the schema nor the identity of the steps that exist.
_MODELS: dict[str, type[StageConfig]] = {
    name: create_model(f"{name.capitalize()}Step", __base__=StageConfig, **{name: (step.config, ...)})  # type: ignore[call-overload]
    for name, step in STEPS.items()
}

if TYPE_CHECKING:
    StepChoice = StageConfig
else:
    StepChoice = Annotated[
        Union[tuple(Annotated[model, Tag(name)] for name, model in _MODELS.items())],  # noqa: UP007
        Discriminator(
            _tag,
            custom_error_type="step",
            custom_error_message=f"a step is one of {', '.join(STEPS)}, written as `- name: {{settings}}`",
        ),
        BeforeValidator(_named),
    ]
