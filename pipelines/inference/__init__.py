"""Stems of whole songs as files, and pages to compare them by ear."""
