"""Keys and passwords in text and code: by the forms that their makers publish, and by what they are assigned to."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

_FORMS = {
    # what must be in the text at all -> the form
    "AKIA": r"AKIA[A-Z2-7]{16}",  # Amazon Web Services
    "ASIA": r"ASIA[A-Z2-7]{16}",
    "ghp_": r"ghp_[A-Za-z0-9]{36,251}",  # GitHub
    "gho_": r"gho_[A-Za-z0-9]{36,251}",
    "ghu_": r"ghu_[A-Za-z0-9]{36,251}",
    "ghs_": r"ghs_[A-Za-z0-9]{36,251}",
    "ghr_": r"ghr_[A-Za-z0-9]{36,251}",
    "github_pat_": r"github_pat_[A-Za-z0-9_]{22,255}",
    "glpat-": r"glpat-[\w-]{20,64}",  # GitLab
    "xox": r"xox[abeoprs]-[A-Za-z0-9-]{10,250}",  # Slack
    "hooks.slack.com": r"https://hooks\.slack\.com/services/T\w+/B\w+/\w{20,}",
    "AIza": r"AIza[\w-]{35}",  # Google
    "ya29.": r"ya29\.[\w-]{20,}",
    "_live_": r"[prs]k_live_[A-Za-z0-9]{16,247}",  # Stripe
    "_test_": r"[prs]k_test_[A-Za-z0-9]{16,247}",
    "sk-": r"sk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{32,200}",  # OpenAI, Anthropic
    "hf_": r"hf_[A-Za-z]{34}",  # Hugging Face
    "npm_": r"npm_[A-Za-z0-9]{36}",
    "pypi-": r"pypi-AgE[\w-]{50,}",
    "SG.": r"SG\.[\w-]{22}\.[\w-]{43}",  # SendGrid
    "eyJ": r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{16,}",  # JSON Web Token (RFC 7519)
}
_COMPILED = {begin: re.compile(rf"(?<![\w/+-])(?:{form})(?![\w-])") for begin, form in _FORMS.items()}
_OF_KEY = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
_PRIVATE_KEY = re.compile(rf"-----BEGIN {_OF_KEY}(?:[^-]|-(?!-{{4}}))*(?:-----END {_OF_KEY})?")
_IN_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{1,15}://[^\s:/@]{1,64}:([^\s:/@]{3,128})@[\w.-]+")
_ASSIGNED = re.compile(
    r"(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key|auth[_-]?key|private[_-]?key|credential)s?"
    r"[A-Za-z0-9_]{0,16}[\"'\]]{0,2}\s{0,4}(?::=|=>|=|:)\s{0,4}(?:[\"']([^\"'\s]{8,200})[\"']|([A-Za-z0-9+/_=.~-]{16,200})(?![\w(\[]))",
    re.IGNORECASE,
)
_PASSWORD = re.compile(
    r"(?:password|passwd|passphrase|passcode|kennwort|passwort|contraseña|pwd)[\"']?[ \t]{0,4}[:=][ \t]{0,4}[\"']?"
    r"([A-Za-z0-9!@#^&*+~_-]{6,64})(?![\w.(\[/:$%{}<>=-])",
    re.IGNORECASE,
)
_NO_PASSWORD = re.compile(
    r"(?:sha|md|base|utf-?|u?int|float|oauth|argon|pbkdf|bcrypt|pass(?:word|wd)?|pwd|arg|param|str|string|text|field|value|var"
    r"|user|test|input|key|none|null|true|false)[-_]?\d*\w?|\d+[-_]?[a-z]{1,10}|\w*_\w*|[a-z]+(?:-[a-z0-9]+)+",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(
    r"example|sample|dummy|placeholder|changeme|your|xxxx|\*{3}|\.{3}|<|\$|\{|%|^https?:|\\|^[a-z]+(?:[._-][a-z]+)+$|^[A-Z_]+$|/.*/",
    re.IGNORECASE,
)


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    """Spans of secrets. What assigns one (`password = "`) and the rest of an address stay."""
    for begin, form in _COMPILED.items():
        if begin in text:
            yield from (match.span() for match in form.finditer(text))
    if "PRIVATE KEY" in text:
        yield from (match.span() for match in _PRIVATE_KEY.finditer(text))
    if "://" in text:
        yield from (match.span(1) for match in _IN_ADDRESS.finditer(text) if not _NO_SECRET.search(match[1]))
    if "=" in text or ":" in text:
        for match in _ASSIGNED.finditer(text):
            group = 1 if match[1] else 2
            if _looks_random(match[group], quoted=group == 1):
                yield match.span(group)
        lower = text.lower()
        if any(word in lower for word in ("pass", "pwd", "kennwort", "contrase")):
            for match in _PASSWORD.finditer(text):
                if _looks_like_a_password(match[1]):
                    yield match.span(1)


def _looks_like_a_password(value: str) -> bool:
    """Letters and digits mixed, and neither a placeholder nor a name or a number with its unit."""
    mixed = any(sign.isdigit() for sign in value) and any(sign.isalpha() for sign in value)
    return mixed and not _NO_SECRET.search(value) and not _NO_PASSWORD.fullmatch(value)


def _looks_random(value: str, quoted: bool) -> bool:
    """Letters and digits (in a bare word: many of both), no pattern of a placeholder, and few signs that repeat."""
    digits = sum(sign.isdigit() for sign in value)
    letters = sum(sign.isalpha() for sign in value)
    if not letters or digits < (1 if quoted else 3) or _NO_SECRET.search(value):
        return False
    counts = Counter(value)
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return entropy >= (2.75 if len(value) < 16 else 3.25)
