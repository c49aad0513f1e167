"""Small pictures as inline SVG: line charts and the graph of a lineage. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[Point]


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    x_format: Callable[[float], str] = "{:g}".format,
    y_format: Callable[[float], str] = "{:g}".format,
    y_from_zero: bool = False,
    size: tuple[int, int] = (380, 230),
) -> Markup:
    """Lines over a common axis. Points beyond a few hundred a line are averaged in bins; non-finite ones are left out
    (and a line breaks there), so that a chart of a run that went wrong can still be drawn."""
    drawn = [Line(line.name, _thin([p for p in line.points if math.isfinite(p[0])])) for line in lines]
    values = [p for line in drawn for p in line.points if math.isfinite(p[1])]
    if not values:
        return Markup("")
    width, height = size
    left, right, top, bottom = 46.0, 12.0, 10.0, 34.0
    x_ticks = ticks(min(p[0] for p in values), max(p[0] for p in values), 5)
    y_low = 0.0 if y_from_zero else min(p[1] for p in values)
    y_ticks = ticks(y_low, max(p[1] for p in values), 5)
    x0, x1 = min(p[0] for p in values), max(p[0] for p in values)
    x1 = x1 if x1 > x0 else x0 + 1
    y0, y1 = min(y_low, y_ticks[0]), max(y_ticks[-1], *(p[1] for p in values))

    def x(value: float) -> float:
        return left + (value - x0) / (x1 - x0) * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom)

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{left:g}" x2="{width - right:g}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{left - 6:g}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(y_format(tick))}</text>')
    for tick in x_ticks:
        if x0 <= tick <= x1:
            anchor = "end" if x(tick) > width - 24 else "middle"
            label = escape(x_format(tick))
            parts.append(f'<text x="{x(tick):.1f}" y="{height - bottom + 15:g}" text-anchor="{anchor}">{label}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text class="axis" x="{middle:.1f}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for number, line in enumerate(drawn):
        for piece in _finite_pieces(line.points):
            if len(piece) == 1:
                parts.append(
                    f'<circle class="dot s{number % 6}" cx="{x(piece[0][0]):.1f}" cy="{y(piece[0][1]):.1f}" r="3"/>'
                )
                continue
            path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in piece)
            parts.append(f'<polyline class="line s{number % 6}" points="{path}"/>')
        if len(line.points) <= 30:
            for px, py in line.points:
                if math.isfinite(py):
                    parts.append(f'<circle class="dot s{number % 6}" cx="{x(px):.1f}" cy="{y(py):.1f}" r="2.4"/>')
    parts.append("</svg>")
    return Markup("".join(parts))


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that enclose low..high, about so many."""
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-300):  # more digits than a label shows
        margin = 0.5 * abs(high) if abs(high) > 1e-9 else 0.5
        low, high = low - margin, high + margin
    raw = (high - low) / about
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


@dataclass(frozen=True)
class Node:
    """A box of the graph: two lines of text, a class for its colour, and the nodes it is made from."""

    title: str
    detail: str
    style: str
    parents: Sequence[str]


BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, BEND = 132.0, 42.0, 18.0, 34.0, 14.0


def graph(nodes: Mapping[str, Node]) -> Markup:
    """A layered drawing, what is made from what downwards (Sugiyama's method: layers, order by means, straighten)."""
    if not nodes:
        return Markup("")
    layer = _layers(nodes)
    rows: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
    for name in nodes:
        rows[layer[name]].append(name)
    above: dict[str, list[str]] = {name: [] for name in nodes}
    chains: list[list[str]] = []
    for name, node in nodes.items():
        for parent in dict.fromkeys(p for p in node.parents if p in nodes):
            chain = [parent]
            for level in range(layer[parent] + 1, layer[name]):
                bend = f"\0{parent}\0{name}\0{level}"
                rows[level].append(bend)
                above[bend] = [chain[-1]]
                chain.append(bend)
            above[name].append(chain[-1])
            chains.append([*chain, name])
    x = _place(rows, above)
    shift = min(x[name] - _half(name) for row in rows for name in row) - 1
    width = max(x[name] + _half(name) for row in rows for name in row) - shift + 1
    height = len(rows) * (BOX_HEIGHT + GAP_Y) - GAP_Y + 2
    parts = [
        f'<svg class="graph" viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img" '
        'aria-label="what was made from what">'
    ]

    level_of = {name: level for level, row in enumerate(rows) for name in row}

    def top(name: str) -> float:
        return 1 + level_of[name] * (BOX_HEIGHT + GAP_Y)

    for chain in chains:
        parts.append(
            f'<path class="edge" d="{_curve([(x[n] - shift, top(n), n.startswith(chr(0))) for n in chain])}"/>'
        )
    for name, node in nodes.items():
        cx, y = x[name] - shift, top(name)
        box = f'x="{cx - BOX_WIDTH / 2:.1f}" y="{y:.1f}" width="{BOX_WIDTH:g}" height="{BOX_HEIGHT:g}" rx="7"'
        title, detail = escape(_cut(node.title, 16)), escape(_cut(node.detail, 22))
        parts += [
            f'<g class="node {escape(node.style)}"><rect {box}/>',
            f'<text class="name" x="{cx:.1f}" y="{y + 18:.1f}">{title}</text>',
            f'<text class="detail" x="{cx:.1f}" y="{y + 33:.1f}">{detail}</text></g>',
        ]
    parts.append("</svg>")
    return Markup("".join(parts))


def _layers(nodes: Mapping[str, Node]) -> dict[str, int]:
    """Longest path from the top; then everything moves down as far as its children let it, to keep edges short."""
    layer: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in layer:
            parents = [p for p in nodes[name].parents if p in nodes]
            layer[name] = 1 + max((depth(parent) for parent in parents), default=-1)
        return layer[name]

    for name in nodes:
        depth(name)
    for name in sorted(nodes, key=lambda name: -layer[name]):
        children = [layer[child] for child, node in nodes.items() if name in node.parents]
        if children:
            layer[name] = min(children) - 1
    return layer


def _place(rows: list[list[str]], above: Mapping[str, list[str]]) -> dict[str, float]:
    """Middle of every node and bend: ordered by the mean of their neighbours, then drawn towards it."""
    below: dict[str, list[str]] = {name: [] for row in rows for name in row}
    for name, parents in above.items():
        for parent in parents:
            below[parent].append(name)
    x: dict[str, float] = {}
    for row in rows:
        _spread(row, x, {})
    for sweep in range(24):
        down = sweep % 2 == 0
        for row in rows if down else rows[::-1]:
            wanted = {}
            for name in row:
                neighbours = (above[name] if down else below[name]) or [*above[name], *below[name]]
                wanted[name] = sum(x[n] for n in neighbours) / len(neighbours) if neighbours else x[name]
            if sweep < 12:
                row.sort(key=lambda name: wanted[name])
            _spread(row, x, wanted)
    return x


def _spread(row: list[str], x: dict[str, float], wanted: Mapping[str, float]) -> None:
    """Give every node of a row its wanted place as nearly as the boxes allow, in the row's order."""
    places: list[float] = []
    for i, name in enumerate(row):
        least = places[-1] + _half(row[i - 1]) + GAP_X + _half(name) if places else -math.inf
        places.append(max(least, wanted.get(name, least if places else 0.0)))
    excess = sum(place - wanted.get(name, 0.0) for name, place in zip(row, places, strict=True)) / max(len(row), 1)
    for name, place in zip(row, places, strict=True):
        x[name] = place - excess


def _half(name: str) -> float:
    return (BEND if name.startswith("\0") else BOX_WIDTH) / 2


def _curve(points: Sequence[tuple[float, float, bool]]) -> str:
    """From the bottom of the first box to the top of the last, straight down through bends."""
    path = f"M{points[0][0]:.1f},{points[0][1] + BOX_HEIGHT:.1f}"
    x0, y0 = points[0][0], points[0][1] + BOX_HEIGHT
    for x1, y1, bend in points[1:]:
        middle = (y0 + y1) / 2
        path += f"C{x0:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y1:.1f}"
        x0, y0 = x1, y1
        if bend:
            y0 += BOX_HEIGHT
            path += f"L{x0:.1f},{y0:.1f}"
    return path


def _thin(points: Sequence[Point], most: int = 240) -> list[Point]:
    if len(points) <= most:
        return list(points)
    thinned = []
    for i in range(most):
        part = points[i * len(points) // most : (i + 1) * len(points) // most]
        thinned.append((sum(p[0] for p in part) / len(part), sum(p[1] for p in part) / len(part)))
    return thinned


def _finite_pieces(points: Sequence[Point]) -> list[list[Point]]:
    pieces: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            pieces[-1].append(point)
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
