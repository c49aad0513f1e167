"""Repair mends what is broken and leaves right text as it is, in every language."""

from __future__ import annotations

import pytest

from lmcraft.corpus.steps.repair import repaired


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("schÃ¶n", "schön"),
        ("cafe\u0301", "café"),
        ("bell\x07 and\x00 nul", "bell and nul"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("it’s Â£5 â€” cheap", "it’s £5 — cheap"),
        ("salt &amp; pepper", "salt & pepper"),
    ],
)
def test_broken_text_is_mended(broken: str, mended: str) -> None:
    assert repaired(broken) == mended


@pytest.mark.parametrize(
    "text",
    [
        "L’œuvre « complète » coûte 1\u202f000 € — déjà.",
        "¿Cómo está «él»? —Muy bien, señor… 25 % de descuento.",
        "ÀÉÈÙ Ça, Ñandú, Ångström, Łódź, Þórr, ſs",
        "全角！「引用」、ｶﾀｶﾅ",
        "नमस्ते مرحبا שלום Привет γειά",
        "A tag: <b>bold &amp; wide</b>",
        "tab\tand\nnewline",
    ],
)
def test_right_text_is_left_alone(text: str) -> None:
    assert repaired(text) == text
    assert repaired(repaired(text)) == text
