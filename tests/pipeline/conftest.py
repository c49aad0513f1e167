"""The corpus room's helpers (made documents, a web server on loopback) for tests of its whole runs."""

from __future__ import annotations

import sys
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1] / "corpus"
sys.path[:0] = [path for path in (str(CORPUS), str(CORPUS / "sources")) if path not in sys.path]
