"""Artifacts: manifests, digests, atomic publishing, lineage, verification and garbage collection."""

from lmcraft.store.store import Artifact, Store

__all__ = ["Artifact", "Store"]
