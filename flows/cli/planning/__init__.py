"""Verbs to ask before a run."""
