"""Licences of files as SPDX expressions: by a file's own words, else by the nearest licence file above it.

Recognised by phrases that each licence alone has; what is not recognised is None, never a guess. Identifiers are those
of the SPDX licence list 3.27.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

HEAD_CHARACTERS = 4000
"""How far into a file its own notice is looked for."""

_NAMES = re.compile(r"(?:licen[cs]es?|copying|unlicen[cs]e|copyright)(?:[.\-_ ][\w.\-]*)?", re.IGNORECASE)
_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+()\- \t]+)")
_EXPRESSION = re.compile(r"\(*[A-Za-z0-9][A-Za-z0-9.+\-]*\)*(?: (?:AND|OR|WITH) \(*[A-Za-z0-9][A-Za-z0-9.+\-]*\)*)*")

_GNU = (
    ("AGPL-3.0", "gnu affero general public license", "version 3, 19 november 2007"),
    ("LGPL-3.0", "gnu lesser general public license", "version 3, 29 june 2007"),
    ("LGPL-2.1", "gnu lesser general public license", "version 2.1, february 1999"),
    ("LGPL-2.0", "gnu library general public license", "version 2, june 1991"),
    ("GPL-3.0", "gnu general public license", "version 3, 29 june 2007"),
    ("GPL-2.0", "gnu general public license", "version 2, june 1991"),
    ("GPL-1.0", "gnu general public license", "version 1, february 1989"),
)

_PHRASES = (
    ("Apache-2.0", ("apache license version 2.0, january 2004",)),
    ("MPL-2.0", ("mozilla public license version 2.0", "1.1. contributor")),
    ("MPL-1.1", ("mozilla public license version 1.1",)),
    ("EPL-2.0", ("eclipse public license - v 2.0",)),
    ("EPL-1.0", ("eclipse public license - v 1.0",)),
    ("EUPL-1.2", ("european union public licence", "v. 1.2")),
    ("BSL-1.0", ("boost software license - version 1.0",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-NC-SA-4.0", ("attribution-noncommercial-sharealike 4.0 international",)),
    ("CC-BY-NC-ND-4.0", ("attribution-noncommercial-noderivatives 4.0 international",)),
    ("CC-BY-NC-4.0", ("attribution-noncommercial 4.0 international",)),
    ("CC-BY-ND-4.0", ("attribution-noderivatives 4.0 international",)),
    ("CC-BY-SA-4.0", ("attribution-sharealike 4.0 international",)),
    ("CC-BY-4.0", ("attribution 4.0 international",)),
    ("CC-BY-SA-3.0", ("attribution-sharealike 3.0 unported",)),
    ("CC-BY-3.0", ("attribution 3.0 unported",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("Artistic-2.0", ("the artistic license 2.0",)),
    ("WTFPL", ("do what the fuck you want to public license",)),
    ("Zlib", ("altered source versions must be plainly marked as such", "as-is")),
)

_NOTICES = (
    ("Apache-2.0", ("licensed under the apache license, version 2.0",)),
    ("MPL-2.0", ("subject to the terms of the mozilla public license, v. 2.0",)),
    ("BSL-1.0", ("distributed under the boost software license, version 1.0",)),
    ("CC0-1.0", ("creativecommons.org/publicdomain/zero/1.0",)),
)


def licence_of_text(text: str) -> str | None:
    """The SPDX identifier of a licence text (the content of a LICENSE file), or None.

    The text of a GNU licence does not say whether later versions may be chosen: only a file's notice can, so the text
    alone gives `-only`. A file with several licences one after the other gives their AND, the stricter reading.
    """
    if tag := _tagged(text):
        return tag
    plain = _plain(text)
    found: list[str] = []
    # Only near the beginning: licences mention each other further down.
    for name, title, version in _GNU:
        at = plain.find(title)
        if 0 <= at < 300 and version in plain[at : at + 300]:
            found.append(f"{name}-only")
            break
    if not found or "apache license" in plain[:200]:
        found += [name for name, phrases in _PHRASES if all(phrase in plain for phrase in phrases)]
    found += _permissive(plain)
    if "PSF-2.0" in found:  # Python's file also holds its earlier licences and that of its documentation's examples
        return "PSF-2.0"
    return " AND ".join(dict.fromkeys(found)) or None


def licence_of_head(head: str) -> str | None:
    """What a file says of itself in its first lines: an SPDX tag, or one of the usual notices."""
    head = head[:HEAD_CHARACTERS]
    if tag := _tagged(head):
        return tag
    plain = _plain(head)
    for name, phrases in _NOTICES:
        if all(phrase in plain for phrase in phrases):
            return name
    if notice := _gnu_notice(plain):
        return notice
    permissive = _permissive(plain)
    return permissive[0] if len(permissive) == 1 else None


def names_a_licence(path: str) -> bool:
    """Whether a file of that name holds a licence, of its folder (LICENSE, COPYING.txt) or of one file (x.license)."""
    parsed = PurePosixPath(path)
    named = _NAMES.fullmatch(parsed.name) and parsed.suffix.lower() not in _CODE_NOT_LICENCE
    return bool(named) or path.endswith(".license")


class Licences:
    """Licences of the files of one tree. `paths` are all its files, `load` gives the bytes of one."""

    def __init__(self, paths: list[str], load: Callable[[str], bytes]) -> None:
        self.load = load
        self.files: dict[str, list[str]] = {}
        self.beside = {path.removesuffix(".license"): path for path in paths if path.endswith(".license")}
        for path in paths:
            if names_a_licence(path) and not path.endswith(".license"):
                self.files.setdefault(PurePosixPath(path).parent.as_posix(), []).append(path)
        self._of_folder: dict[str, str | None] = {}

    def of(self, path: str, head: str) -> str | None:
        """The licence of a file: its own tag or notice, a `.license` file beside it (REUSE), the nearest one above."""
        if own := licence_of_head(head):
            return own
        if path in self.beside and (tag := _tagged(_decoded(self.load(self.beside[path])))):
            return tag
        return self._above(PurePosixPath(path).parent.as_posix())

    def _above(self, folder: str) -> str | None:
        if folder not in self._of_folder:
            found = [licence_of_text(_decoded(self.load(path))) for path in sorted(self.files.get(folder, []))]
            names = list(dict.fromkeys(name for name in found if name))
            if {"GPL-3.0-only", "LGPL-3.0-only"} <= set(names):  # the LGPL is written as an addition to the GPL
                names.remove("GPL-3.0-only")
            if names:
                joined = " AND ".join(f"({name})" if " OR " in name and len(names) > 1 else name for name in names)
                self._of_folder[folder] = joined
            elif folder in (".", ""):
                self._of_folder[folder] = None
            else:
                self._of_folder[folder] = self._above(PurePosixPath(folder).parent.as_posix())
        return self._of_folder[folder]


_CODE_NOT_LICENCE = frozenset({".py", ".js", ".ts", ".go", ".rs", ".c", ".h", ".java", ".rb", ".sh", ".json", ".html"})


def _tagged(text: str) -> str | None:
    for match in _TAG.finditer(text):
        words = " ".join(match[1].split())
        found = _EXPRESSION.match(words)
        if found and found[0].count("(") == found[0].count(")"):
            return found[0].rstrip("-")
    return None


def _permissive(plain: str) -> list[str]:
    found = []
    if "permission is hereby granted, free of charge, to any person obtaining a copy" in plain:
        notice = "the above copyright notice and this permission notice" in plain
        if "except as contained in this notice, the name" in plain:
            found.append("X11")
        else:
            found.append("MIT" if notice else "MIT-0")
    if re.search(
        r"permission to use, copy, modify,? and(?:/or)? distribute this software for any purpose with or without fee",
        plain,
    ):
        found.append("ISC" if "provided that the above copyright notice" in plain else "0BSD")
    if "redistribution and use in source and binary forms" in plain:
        if "all advertising materials mentioning features" in plain:
            found.append("BSD-4-Clause")
        elif re.search(r"neither the names? of|the names? of .{0,120} may not be used to endorse", plain):
            found.append("BSD-3-Clause")
        else:
            found.append("BSD-2-Clause")
    return found


def _gnu_notice(plain: str) -> str | None:
    match = re.search(
        r"gnu (?:(affero|lesser|library) )?general public license.{0,120}?version (\d(?:\.\d)?)"
        r"|version (\d(?:\.\d)?) of the gnu (?:(affero|lesser|library) )?general public license",
        plain,
    )
    if match is None:
        return None
    kind, version = match[1] or match[4], match[2] or match[3]
    name = {None: "GPL", "affero": "AGPL", "lesser": "LGPL", "library": "LGPL"}[kind]
    version = version if "." in version else f"{version}.0"
    if f"{name}-{version}" not in {each for each, *_ in _GNU}:
        return None
    return f"{name}-{version}-{'or-later' if 'any later version' in plain else 'only'}"


def _plain(text: str) -> str:
    """Lower case, comment marks and line breaks gone, so that a notice reads the same in every language."""
    text = re.sub(r"^[ \t]*(?:#+|//+|/?\*+/?|;+|--+|<!--|%+|\.\.|rem\b|dnl\b)[ \t]?", " ", text, flags=re.M | re.I)
    return " ".join(text.lower().replace("“", '"').replace("”", '"').split())


def _decoded(content: bytes) -> str:
    return content[:100_000].decode("utf-8", "replace")
