"""Model -> evaluation: likelihood and exact-answer tasks, each number with its interval and what it must beat."""

from lmcraft.evaluation.metrics import Rederived, metrics, rederive
from lmcraft.evaluation.subjects import Answer, Subject

__all__ = ["Answer", "Rederived", "Subject", "metrics", "rederive"]
