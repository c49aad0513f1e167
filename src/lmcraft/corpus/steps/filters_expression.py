"""Rules as small expressions: `uppercase / letters > 0.5 and language == "en"`. Parsed here, never run as Python.

Names are signals (`lmcraft.corpus.signals.NAMES`) and columns of a document; there are numbers, strings, + - * / //
and %, comparisons, `in` a list of strings, `and`, `or`, `not`, and the functions of `FUNCTIONS`. What is not defined
for a document (a missing score, the word length of a text without spaces) is unknown, and a comparison with it is
neither true nor false. The right side of `and` and `or` is looked at only where the left leaves it open.
"""

from __future__ import annotations

import ast
import difflib
import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmcraft.corpus.signals import NAMES
from lmcraft.corpus.step import score

COLUMNS = ("language", "source", "format", "licence", "topic", "title", "path", "url")
FUNCTIONS = {
    "count": 'count("text"): how often a string stands in the text',
    "matches": 'matches("pattern"): whether a regular expression (RE2) is found in the text',
    "score": 'score("name"): what an earlier step measured',
    "abs": "abs(x)",
    "sqrt": "sqrt(x)",
    "log": "log(x), natural",
    "min": "min(x, y, …)",
    "max": "max(x, y, …)",
}
MOST_NODES = 500

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_DIVISION: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
}


class _Rows:
    """Some rows of a batch: what an expression is evaluated over."""

    def __init__(self, batch: pa.RecordBatch, signals: Mapping[str, np.ndarray], rows: np.ndarray | None = None):
        self.batch, self.signals = batch, signals
        self.rows = np.arange(batch.num_rows) if rows is None else rows

    def where(self, mask: np.ndarray) -> _Rows:
        return _Rows(self.batch, self.signals, self.rows[mask])

    def numbers(self, name: str) -> np.ndarray:
        return self.signals[name][self.rows]

    def strings(self, name: str) -> np.ndarray:
        return np.asarray(self.batch[name].take(pa.array(self.rows)).to_pylist(), object)

    def texts(self) -> pa.Array:
        everything = len(self.rows) == self.batch.num_rows
        return self.batch["text"] if everything else self.batch["text"].take(pa.array(self.rows))

    def scores(self, name: str) -> np.ndarray:
        return score(self.batch, name)[self.rows]


@dataclass(frozen=True)
class Expression:
    """A parsed expression. `signals`: those it names; `threshold`: the number that its value is compared with."""

    text: str
    signals: frozenset[str] = field(compare=False)
    threshold: float | None = field(compare=False)
    _tree: ast.expr = field(compare=False, repr=False)

    def values(self, batch: pa.RecordBatch, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Its value for each row (float64; true is 1, false 0, unknown NaN).

        Raises ZeroDivisionError or ValueError if a row divides by zero or takes the root or logarithm of a number that
        has none.
        """
        return np.asarray(_Evaluation(self.text).numbers(self._tree, _Rows(batch, signals)), np.float64)

    def judge(
        self, batch: pa.RecordBatch, signals: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None, float | None]:
        """Where it is true (bool, a row), and for a comparison with a number its left side and that number."""
        true = self.values(batch, signals) == 1
        if self.threshold is None:
            return true, None, None
        left = self._tree.left  # type: ignore[attr-defined]
        return true, _Evaluation(self.text).numbers(left, _Rows(batch, signals)), self.threshold


def parse(text: str, condition: bool = True) -> Expression:
    """Read an expression; a `condition` must be true or false. Raises ValueError with a sentence."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ValueError(f"{text!r} is not a rule ({reason}); write it as in uppercase / letters > 0.5") from error
    if sum(1 for _ in ast.walk(tree)) > MOST_NODES:
        raise ValueError(f"an expression has at most {MOST_NODES} parts: {text[:60]!r}…")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) > sys.float_info.max:
            raise ValueError(f"a number in {text[:60]!r}… is larger than any that can be counted with (1.8e308)")
    reader = _Reader(text)
    kind = reader.kind(tree)
    if condition and kind != "condition":
        raise ValueError(f"{text!r} is neither true nor false; compare it with something, as in ({text}) > 0.5")
    if not condition and kind == "string":
        raise ValueError(f"{text!r} is not a number")
    threshold = None
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1 and isinstance(tree.ops[0], tuple(_COMPARE)):
        threshold = _number(tree.comparators[0])
        if threshold is not None and reader.kind(tree.left) != "number":
            threshold = None
    return Expression(text, frozenset(reader.signals), threshold, tree)


def _number(node: ast.expr) -> float | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _number(node.operand)
        return None if value is None else -value
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return float(node.value)
    return None


class _Reader:
    """Tells of what kind each part of an expression is: number, string, strings or condition."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.signals: set[str] = set()

    def kind(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=bool()):
                return "condition"
            case ast.Constant(value=int() | float()):
                return "number"
            case ast.Constant(value=str()):
                return "string"
            case ast.List(elts=items) | ast.Tuple(elts=items) if items:
                for item in items:
                    self.want(item, "string")
                return "strings"
            case ast.Name(id=name):
                return self.name(name)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.want(operand, "condition")
                return "condition"
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                self.want(operand, "number")
                return "number"
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC or type(op) in _DIVISION:
                self.want(left, "number")
                self.want(right, "number")
                return "number"
            case ast.BoolOp(values=parts):
                for part in parts:
                    self.want(part, "condition")
                return "condition"
            case ast.Compare(left=left, ops=ops, comparators=others):
                self.compare([left, *others], ops)
                return "condition"
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self.call(name, arguments)
        source = ast.get_source_segment(self.text.strip(), node)
        raise ValueError(f"{source or type(node).__name__!r} has no place in a rule: {self.text!r}")

    def want(self, node: ast.expr, kind: str) -> None:
        found = self.kind(node)
        if found != kind:
            part = ast.get_source_segment(self.text.strip(), node)
            raise ValueError(f"{part!r} is a {found} where {self.text!r} needs a {kind}")

    def name(self, name: str) -> str:
        if name in COLUMNS:
            return "string"
        if name in NAMES:
            self.signals.add(name)
            return "number"
        near = difflib.get_close_matches(name, (*NAMES, *COLUMNS, *FUNCTIONS), 1, 0)
        raise ValueError(f"there is no signal {name!r}, as {self.text!r} has it; the nearest name is {near[0]!r}")

    def compare(self, sides: list[ast.expr], ops: list[ast.cmpop]) -> None:
        for left, op, right in zip(sides, ops, sides[1:], strict=False):
            kinds = (self.kind(left), self.kind(right))
            if isinstance(op, (ast.In, ast.NotIn)) and kinds == ("string", "strings"):
                continue
            if isinstance(op, (ast.Eq, ast.NotEq)) and kinds == ("string", "string"):
                continue
            if isinstance(op, tuple(_COMPARE)) and kinds == ("number", "number"):
                continue
            raise ValueError(f"a {kinds[0]} and a {kinds[1]} cannot be compared so: {self.text!r}")

    def call(self, name: str, arguments: list[ast.expr]) -> str:
        if name not in FUNCTIONS:
            near = difflib.get_close_matches(name, FUNCTIONS, 1, 0)
            raise ValueError(f"there is no function {name!r}, as {self.text!r} has it; the nearest is {near[0]!r}")
        if name in ("count", "matches", "score"):
            match arguments:
                case [ast.Constant(value=str(given))] if given:
                    if name == "matches":
                        _check_pattern(given)
                    return "condition" if name == "matches" else "number"
            raise ValueError(f"{name} wants one string in quotes, as in {FUNCTIONS[name].split(':')[0]}: {self.text!r}")
        if len(arguments) != 1 if name not in ("min", "max") else len(arguments) < 2:
            raise ValueError(f"wrong number of arguments: write {FUNCTIONS[name]}, not {self.text!r}")
        for argument in arguments:
            self.want(argument, "number")
        return "number"


def _check_pattern(pattern: str) -> None:
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{pattern!r} is not a regular expression (RE2): {error}") from error


class _Evaluation:
    """Values of a tree that `_Reader` found in order. Conditions are 1, 0 or NaN (unknown)."""

    def __init__(self, text: str) -> None:
        self.text = text

    def numbers(self, node: ast.expr, rows: _Rows) -> np.ndarray:
        match node:
            case ast.Constant(value=value):
                return np.full(len(rows.rows), float(value))  # type: ignore[arg-type]
            case ast.Name(id=name):
                return rows.numbers(name)
            case ast.UnaryOp(op=op, operand=operand):
                inner = self.numbers(operand, rows)
                return 1 - inner if isinstance(op, ast.Not) else -inner if isinstance(op, ast.USub) else inner
            case ast.BinOp(left=left, op=op, right=right):
                return self.arithmetic(op, self.numbers(left, rows), self.numbers(right, rows))
            case ast.BoolOp(op=op, values=parts):
                return self.boolean(isinstance(op, ast.And), parts, rows)
            case ast.Compare(left=left, ops=ops, comparators=others):
                result = np.ones(len(rows.rows))
                for one, how, other in zip([left, *others], ops, others, strict=False):
                    result = np.minimum(result, self.compare(one, how, other, rows))
                return result
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self.call(name, arguments, rows)
        raise AssertionError(ast.dump(node))

    def arithmetic(self, op: ast.operator, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        if type(op) in _ARITHMETIC:
            return np.asarray(_ARITHMETIC[type(op)](left, right))
        if (right == 0).any():
            raise ZeroDivisionError(f"division by zero in {self.text!r}")
        return np.asarray(_DIVISION[type(op)](left, right))

    def boolean(self, both: bool, parts: list[ast.expr], rows: _Rows) -> np.ndarray:
        settled = 0.0 if both else 1.0
        result = self.numbers(parts[0], rows)
        for part in parts[1:]:
            is_open = result != settled
            right = self.numbers(part, rows.where(is_open))
            left = result[is_open]
            # Unknown unless one side settles it.
            merged = np.where(right == settled, settled, np.where(np.isnan(left), left, right))
            result = result.copy()
            result[is_open] = merged
        return result

    def compare(self, left: ast.expr, how: ast.cmpop, right: ast.expr, rows: _Rows) -> np.ndarray:
        if isinstance(how, (ast.In, ast.NotIn)):
            wanted = {item.value for item in right.elts}  # type: ignore[attr-defined]
            inside = np.array([value in wanted for value in self.strings(left, rows)], np.float64)
            return inside if isinstance(how, ast.In) else 1 - inside
        if self.is_string(left):
            same = (self.strings(left, rows) == self.strings(right, rows)).astype(np.float64)
            return same if isinstance(how, ast.Eq) else 1 - same
        one, other = self.numbers(left, rows), self.numbers(right, rows)
        result = np.asarray(_COMPARE[type(how)](one, other), np.float64)
        result[np.isnan(one) | np.isnan(other)] = np.nan
        return result

    def is_string(self, node: ast.expr) -> bool:
        return (isinstance(node, ast.Name) and node.id in COLUMNS) or isinstance(getattr(node, "value", None), str)

    def strings(self, node: ast.expr, rows: _Rows) -> np.ndarray:
        if isinstance(node, ast.Name):
            return rows.strings(node.id)
        return np.full(len(rows.rows), node.value, object)  # type: ignore[attr-defined]

    def call(self, name: str, arguments: list[ast.expr], rows: _Rows) -> np.ndarray:
        if name in ("count", "matches", "score"):
            given = str(arguments[0].value)  # type: ignore[attr-defined]
            if name == "score":
                return rows.scores(given)
            found = (pc.count_substring if name == "count" else pc.match_substring_regex)(rows.texts(), given)
            return np.asarray(found.cast(pa.float64() if name == "count" else pa.int8()), np.float64)
        values = [self.numbers(argument, rows) for argument in arguments]
        if name in ("min", "max"):
            result = values[0]
            for value in values[1:]:
                result = (np.minimum if name == "min" else np.maximum)(result, value)
            return result
        if name == "abs":
            return np.abs(values[0])
        if (values[0] < 0).any() or (name == "log" and (values[0] == 0).any()):
            raise ValueError(f"{name} of a number that has none in {self.text!r}")
        return np.asarray(np.sqrt(values[0]) if name == "sqrt" else np.log(values[0]))
