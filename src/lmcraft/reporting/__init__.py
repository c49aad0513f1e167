"""Lineage -> pages: the run report, and exported models with their cards."""
