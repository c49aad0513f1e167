"""Patterns of file names."""

from __future__ import annotations

import re


def glob_regex(pattern: str) -> str:
    """`**/*.txt` -> a regular expression for relative paths with forward slashes."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern))
