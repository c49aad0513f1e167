"""Charts show every finite point inside the frame; graphs put what is made from something below it."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.reporting.charts import Line, Node, graph, line_chart, ticks


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_ticks_enclose_the_range_and_are_few(low, width):
    high = low + width
    marks = ticks(low, high, 5)
    assert 2 <= len(marks) <= 9
    assert marks == sorted(set(marks))
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert marks[0] <= low + slack and marks[-1] >= high - slack


@given(st.lists(st.tuples(st.floats(0, 1e7), st.floats(-50, 50) | st.just(math.nan)), max_size=400))
def test_a_line_chart_is_well_formed_and_stays_in_its_frame(points):
    points.sort(key=lambda point: point[0])
    picture = str(line_chart([Line("loss", points)], title='<loss> & "more"', x_label="<x>"))
    if not any(math.isfinite(y) for _, y in points):
        assert picture in ("",) or ElementTree.fromstring(picture) is not None
        return
    root = ElementTree.fromstring(picture)
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(e.get("points", "") for e in root.iter())):
        assert 0 <= float(x) <= width and 0 <= float(y) <= height
    assert root.attrib["aria-label"] == '<loss> & "more"'


def boxes(picture):
    root = ElementTree.fromstring(str(picture))
    found = {}
    for group in root.iter("g"):
        rect, name = group.find("rect"), group.find("text").text
        found[name] = tuple(float(rect.get(side)) for side in ("x", "y", "width", "height"))
    return found, [float(n) for n in root.get("viewBox").split()[2:]]


@given(st.lists(st.sets(st.integers(0, 14), max_size=4), min_size=1, max_size=15))
def test_graphs_draw_parents_above_and_boxes_apart(parents):
    nodes = {str(i): Node(str(i), "", "model", [str(p) for p in ps if p < i]) for i, ps in enumerate(parents)}
    found, (width, height) = boxes(graph(nodes))
    assert set(found) == set(nodes)
    for name, node in nodes.items():
        x, y, w, h = found[name]
        assert x >= 0 and x + w <= width + 1 and y >= 0 and y + h <= height + 1
        assert all(found[parent][1] + found[parent][3] < y for parent in node.parents)
        for other, (ox, oy, ow, _) in found.items():
            assert other == name or oy != y or ox + ow <= x + 0.2 or x + w <= ox + 0.2


def test_no_nodes_no_picture():
    assert graph({}) == ""


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_line_can_be_drawn(value):
    assert "polyline" in line_chart([Line("a", [(0, value), (1, value)])], title="a", x_label="x")
