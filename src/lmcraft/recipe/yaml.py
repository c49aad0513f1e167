"""YAML with places: every value keeps the line it came from, so that a mistake can be shown where it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lmcraft.recipe.stage import UserError

Place = tuple[str | int, ...]
"""Where a value stands in a document: keys and list indices from the top."""


CORE_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `no` is a word, not false; 1e-3 is a number, not a word; no dates, no merging."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+0123456789."]),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    try:
        return loader.construct_yaml_int(node)
    except ValueError:  # Python reads no more than 4,300 digits
        raise yaml.constructor.ConstructorError(
            None, None, f"a number of {len(node.value):,} digits is too long", node.start_mark
        ) from None


_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def parse_value(text: str) -> Any:
    """One value as it would be written in a recipe: `3`, `1e-3`, `[en, fr]`, `{kind: folder, path: texts}`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{_shown(text)} is not a YAML value: {_sentence(error)}") from None
    except RecursionError:
        raise UserError(f"{_shown(text)} is nested too deeply for a recipe") from None


def parse_file(path: Path) -> tuple[Any, dict[Place, int]]:
    """The document's value and the line (from 1) of everything in it. Raises UserError on what is not a recipe file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no recipe at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error})") from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise UserError(f"{path} is empty; a recipe needs `name:` and `steps:`")
        places: dict[Place, int] = {}
        _collect_places(path, node, (), places, set())
        return loader.construct_document(node), places
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{path}:{line}: the character U+{ord(text[error.position]):04X} has no place in YAML"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{at}: not valid YAML: {_sentence(error)}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for a recipe") from None


def _collect_places(path: Path, node: yaml.Node, place: Place, places: dict[Place, int], above: set[int]) -> None:
    places[place] = node.start_mark.line + 1
    if node.tag not in CORE_TAGS:
        raise UserError(f"{path}:{node.start_mark.line + 1}: the YAML tag {node.tag!r} has no place in a recipe")
    if id(node) in above:
        raise UserError(f"{path}:{node.start_mark.line + 1}: an alias that contains itself")
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise UserError(f"{path}:{line}: keys must be plain words; put quotes around numbers")
            if key.value in seen:
                raise UserError(f"{path}:{line}: {key.value!r} stands twice; keep one")
            seen.add(key.value)
            _collect_places(path, value, (*place, key.value), places, above)
            places[(*place, key.value)] = line
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _collect_places(path, value, (*place, i), places, above)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _sentence(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error)
    return " ".join(str(problem).split())
