"""A document stays exactly when its licence, read as an SPDX expression, is permitted."""

from __future__ import annotations

from typing import Any

import pytest
from corpora import batch_of

from lmcraft.corpus.step import Known
from lmcraft.corpus.steps.licences import LICENCES, Licences, permitted


@pytest.mark.parametrize(
    ("licence", "allow", "deny", "expected"),
    [
        ("MIT", ["MIT"], [], True),
        ("mit", ["MIT"], [], True),
        ("MIT", ["Apache-2.0"], [], False),
        ("CC-BY-SA-4.0", ["CC-BY-*"], [], True),
        ("CC BY-SA 4.0", ["CC-BY-*"], [], True),
        ("CC-BY-NC-4.0", ["CC-BY-*"], ["*-NC-*"], False),
        ("GPL-3.0-only OR MIT", ["MIT"], [], True),
        ("GPL-3.0-only AND MIT", ["MIT"], [], False),
        ("GPL-3.0-only OR MIT", None, ["GPL-*"], True),
        ("GPL-3.0-only AND MIT", None, ["GPL-*"], False),
        ("(GPL-2.0-only OR BSD-3-Clause) AND MIT", ["BSD-*", "MIT"], [], True),
        ("(GPL-2.0-only OR BSD-3-Clause) AND Zlib", ["BSD-*", "MIT"], [], False),
        ("MIT AND GPL-2.0-only OR BSD-3-Clause", ["BSD-*"], [], True),  # AND binds closer
        ("mit or gpl-2.0-only and zlib", ["MIT"], [], True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only"], [], True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only WITH Classpath-exception-2.0"], [], True),
        ("GPL-2.0-only", ["GPL-2.0-only WITH Classpath-exception-2.0"], [], False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", None, ["GPL-2.0-only"], False),
        ("GPL-2.0+", ["GPL-2.0+"], [], True),
        ("LicenseRef-own[1]", ["LicenseRef-own[1]"], [], True),
        ("Public domain, see README", ["public-domain*"], [], True),
        ("MIT OR", ["MIT"], [], False),
        ("MIT OR", ["MIT*"], [], True),  # no expression: compared as one name
        ("(MIT", ["MIT"], [], False),
        ("MIT Apache-2.0", ["MIT"], [], False),
        ("OR", ["MIT"], [], False),
        ("(" * 3000 + "MIT" + ")" * 3000, ["MIT"], [], False),  # beyond any real one; must not break the run
    ],
)
def test_an_expression_is_permitted_when_its_sides_are(
    licence: str, allow: list[str] | None, deny: list[str], expected: bool
) -> None:
    assert permitted(licence, None if allow is None else tuple(allow), tuple(deny)) is expected


@pytest.mark.parametrize(("unknown", "kept"), [("keep", [0, 2, 3, 4]), ("remove", [0])])
def test_what_states_no_licence_is_counted_as_unknown_not_as_refused(unknown: str, kept: list[int]) -> None:
    batch = batch_of(["a", "b", "c", "d", "e"], licence=["MIT", "AGPL-3.0-only", None, "NOASSERTION", " "])
    settings: dict[str, Any] = {"deny": ["AGPL-*"], "unknown": unknown}
    judged = LICENCES.judge(batch, Licences.model_validate(settings), Known())
    gone = {row for drop in judged.drops for row in drop.rows.nonzero()[0]}
    assert [row for row in range(5) if row not in gone] == kept
    assert judged.drops[0].rows.tolist() == [False, True, False, False, False]
