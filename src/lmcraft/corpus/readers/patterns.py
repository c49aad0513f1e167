"""Patterns of file names."""

from __future__ import annotations

import re


def glob_regex(pattern: str) -> str:
    """`**/*.{txt,md}` -> a regular expression for relative paths with forward slashes.

    Braces without a comma inside are letters as any other, and there are none within braces.
    """
    found = ""
    for part in re.split(r"(\{[^{},]*,[^{}]*\})", pattern):
        if part.startswith("{") and "," in part and part.endswith("}"):
            found += f"(?:{'|'.join(map(_regex, part[1:-1].split(',')))})"
        else:
            found += _regex(part)
    return found


def _regex(pattern: str) -> str:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern))
