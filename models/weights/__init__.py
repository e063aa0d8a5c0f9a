"""Checkpoints, published packages and bags: one answer to what a model is."""
