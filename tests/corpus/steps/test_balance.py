"""A balance meets its shares within half a document a group, and its choice depends on ids alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import applied, table_of

from lmcraft.corpus.steps.allocation import allocate, even_shares, fixed_shares, temperature_shares
from lmcraft.corpus.steps.balance import BALANCE, Balance, report
from lmcraft.recipe.stage import UserError

SIZES = {"books": 60, "law": 500, "web": 2400}


def mixed(sizes: dict[str, int] = SIZES, languages: tuple[str, ...] = ("en", "fr", "fr")) -> pa.Table:
    draw = np.random.default_rng(7)
    sources = [name for name, count in sizes.items() for _ in range(count)]
    order = draw.permutation(len(sources))
    lengths = draw.integers(20, 400, len(sources))
    return table_of(
        ["é" * int(lengths[row]) for row in order],
        source=[sources[row] for row in order],
        language=[languages[row % len(languages)] for row in order],
        id=[f"document {row}" for row in order],
    )


def seen(rows: list[dict[str, Any]], column: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for row in rows:
        total[row[column]] += len(row["text"].encode()) * (row["repeats"] or 1)
    return dict(total)


def test_fixed_shares_are_met_within_half_a_document(tmp_path: Path) -> None:
    shares = {"books": 0.1, "law": 0.4, "web": 0.5}
    kept, removed, arrays = applied(BALANCE, tmp_path, [mixed()], method="shares", shares={"source": shares})
    sizes = seen(kept, "source")
    total = arrays["wanted"] @ np.ones(3) * sum(sizes.values())
    for name, share in shares.items():
        assert abs(sizes[name] - share * total) < 800 * 1.5  # the total itself moves by half a document a group
    assert {reason for reason, _ in removed} == {"balance: web"}
    told = report(arrays, Balance.model_validate({"method": "shares", "shares": {"source": shares}}))
    assert told["largest_error"] < 0.002
    assert {row["group"]: row["bytes_seen"] for row in told["groups"]} == sizes
    assert json.loads(json.dumps(told)) == told


def test_the_choice_does_not_depend_on_order_or_shards(tmp_path: Path) -> None:
    table = mixed()
    settings_: dict[str, Any] = {
        "method": "temperature",
        "temperature": 3.0,
        "by": ["source", "language"],
        "max_epochs": 2.5,
    }
    first, _, _ = applied(BALANCE, tmp_path / "a", [table], **settings_)
    turned = table.take(pa.array(np.random.default_rng(1).permutation(table.num_rows)))
    second, _, _ = applied(
        BALANCE, tmp_path / "b", [turned.slice(0, 7), turned.slice(7, 2000), turned.slice(2007)], **settings_
    )
    assert {row["id"]: row["repeats"] for row in first} == {row["id"]: row["repeats"] for row in second}


def test_less_is_a_part_of_more(tmp_path: Path) -> None:
    table = mixed()
    few, _, _ = applied(BALANCE, tmp_path / "few", [table], target=200_000)
    more, _, _ = applied(BALANCE, tmp_path / "more", [table], target=500_000)
    other, _, _ = applied(BALANCE, tmp_path / "other", [table], target=200_000, seed=1)
    ids = [{row["id"] for row in rows} for rows in (few, more, other)]
    assert ids[0] < ids[1]
    assert len(ids[0] & ids[2]) < 0.5 * len(ids[0])
    assert abs(sum(seen(few, "source").values()) - 200_000) < 3 * 800


def test_no_group_is_seen_more_often_than_allowed(tmp_path: Path) -> None:
    kept, _, arrays = applied(BALANCE, tmp_path, [mixed()], method="unimax", max_epochs={"books": 3.0, "*": 2.0})
    times = {row["source"]: max(r["repeats"] or 1 for r in kept if r["source"] == row["source"]) for row in kept}
    assert times == {"books": 3, "law": 2, "web": 1}
    epochs = arrays["bytes_after"] / arrays["bytes"]
    assert epochs[0] == 3.0  # the small ones at their limits, the large one with what is left
    assert epochs[1] == 2.0
    assert abs(int(arrays["bytes_after"].sum()) - int(arrays["bytes"].sum())) < 800


def test_repeats_of_an_earlier_balance_count_and_are_multiplied(tmp_path: Path) -> None:
    table = table_of(["a" * 10] * 40, source=["x"] * 20 + ["y"] * 20, repeats=[2] * 20 + [None] * 20)
    kept, _, arrays = applied(BALANCE, tmp_path, [table], method="shares", shares={"source": {"x": 0.5, "y": 0.5}})
    assert arrays["bytes"].tolist() == [400, 200]
    assert {(row["source"], row["repeats"]) for row in kept} <= {("x", 2), ("y", 1), ("y", 2), ("y", None)}
    assert abs(seen(kept, "source")["x"] - seen(kept, "source")["y"]) <= 20


def test_two_balances_together_repeat_no_more_often_than_allowed(tmp_path: Path) -> None:
    table = table_of(["a" * 10] * 40, source=["x"] * 40, repeats=[2] * 20 + [None] * 20)
    settings = {"method": "unimax", "max_epochs": 2, "target": 5000}
    kept, _, arrays = applied(BALANCE, tmp_path, [table], **settings)
    assert {row["repeats"] or 1 for row in kept} <= {1, 2}
    assert sum((row["repeats"] or 1) * 10 for row in kept) == arrays["bytes_after"][0] <= 2 * 400
    less, _, _ = applied(BALANCE, tmp_path / "less", [table], max_epochs=1)
    assert {row["repeats"] or 1 for row in less} == {1}


def test_caps_and_documents_as_the_unit(tmp_path: Path) -> None:
    kept, _, _ = applied(BALANCE, tmp_path, [mixed()], unit="documents", max_size={"web": 700, "*": 55}, max_epochs=1.0)
    assert Counter(row["source"] for row in kept) == {"books": 55, "law": 55, "web": 700}


def test_quality_bands_and_leading_mentions(tmp_path: Path) -> None:
    scores = [
        [("quality", 0.7)],
        [("quality", 0.69999)],
        [],
        [("m:g/a", 2.0), ("m:g/b", 1.0)],
        [("m:g/a", 1.0), ("m:g/b", 1.0)],
    ]
    table = table_of(["text"] * 5, scores=scores)
    _, _, arrays = applied(BALANCE, tmp_path, [table], by=["score:quality", "most:m:g"], bands={"quality": [0.3, 0.7]})
    assert arrays["groups"].tolist() == [
        "(none) / (even)",
        "(none) / (none)",
        "(none) / a",
        "0.3 to 0.7 / (none)",
        "0.7 and more / (none)",
    ]


def test_shares_of_two_dimensions_hold_for_both(tmp_path: Path) -> None:
    shares = {"source": {"books": 0.2, "law": 0.3, "web": 0.5}, "language": {"en": 0.6, "fr": 0.4}}
    kept, _, _ = applied(BALANCE, tmp_path, [mixed()], by=["source", "language"], method="shares", shares=shares)
    for column, named in shares.items():
        sizes = seen(kept, column)
        for name, share in named.items():
            assert sizes[name] / sum(sizes.values()) == pytest.approx(share, abs=0.01)


def test_a_mixture_found_by_proxies_is_read(tmp_path: Path) -> None:
    weights = {"books": 0.05, "law": 0.35, "web": 0.6}
    (tmp_path / "mixture.json").write_text(json.dumps({"by": ["source"], "weights": weights}))
    kept, _, _ = applied(
        BALANCE, tmp_path / "c", [mixed()], {"mixture": tmp_path}, method="mixture", when_short="shrink"
    )
    sizes = seen(kept, "source")
    assert {name: round(size / sum(sizes.values()), 2) for name, size in sizes.items()} == weights
    with pytest.raises(UserError, match="groups are by"):
        applied(BALANCE, tmp_path / "d", [mixed()], {"mixture": tmp_path}, method="mixture", by=["language"])


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"method": "shares", "shares": {"source": {"films": 1.0}}}, "no document has the source 'films'"),
        ({"method": "shares", "shares": {"source": {"law": 0.5, "web": 0.4}}}, "add up to 0.9"),
        ({"max_size": {"films": 5}}, "names the group 'films'"),
        ({"method": "mixture"}, "needs the stage input `mixture`"),
        ({"method": "unimax", "target": 10**9, "when_short": "stop"}, "the shares cannot be met"),
    ],
)
def test_what_cannot_be_is_a_sentence(tmp_path: Path, settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        applied(BALANCE, tmp_path, [mixed()], **settings_)


@pytest.mark.parametrize(
    "wrong",
    [
        {"by": ["colour"]},
        {"by": ["score:quality"]},
        {"method": "shares"},
        {"shares": {"source": {"a": 1.0}}},
        {"method": "shares", "shares": {"language": {"en": 1.0}}},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        BALANCE.config.model_validate(wrong)


def test_shares_that_no_mixture_has_are_refused() -> None:
    labels = ["a / en", "b / fr"]
    with pytest.raises(UserError, match="no mixture"):
        fixed_shares(
            np.array([5.0, 5.0]),
            labels,
            ["source", "language"],
            {"source": {"a": 0.9, "b": 0.1}, "language": {"en": 0.5, "fr": 0.5}},
        )


def test_unimax_of_the_paper() -> None:
    # Chung et al. 2023: even shares, each at most N epochs, what is left over goes to the larger ones evenly.
    sizes = np.array([10.0, 100.0, 1000.0, 10_000.0])
    given_ = allocate(even_shares(sizes), 2 * sizes, 4000.0, "fill")
    assert given_.tolist() == [20.0, 200.0, 1890.0, 1890.0]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=12),
    st.floats(1, 20),
    st.floats(0.1, 8),
    st.floats(0.01, 10),
)
def test_filling_reaches_the_total_or_every_limit(
    sizes: list[int], temperature: float, epochs: float, part: float
) -> None:
    size = np.array(sizes, float)
    shares = temperature_shares(size, temperature)
    total = part * size.sum()
    found = allocate(shares, epochs * size, total, "fill")
    assert (found <= epochs * size * (1 + 1e-9)).all()
    assert found.sum() == pytest.approx(min(total, epochs * size.sum()))
    free = found < epochs * size * (1 - 1e-9)
    if free.any():  # groups below their limit keep their proportion
        ratio = found[free] / shares[free]
        assert ratio.max() == pytest.approx(ratio.min())
