"""Verbs for operation."""
