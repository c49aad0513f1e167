"""Tokens + network -> model: one loop, objectives, optimizers, loader and checkpoints."""
