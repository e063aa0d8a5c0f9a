"""Verbs about the store."""
