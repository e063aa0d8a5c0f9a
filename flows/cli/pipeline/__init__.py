"""Verbs of the pipeline."""
