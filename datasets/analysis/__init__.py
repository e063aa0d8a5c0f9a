"""Beats, downbeats, harmony and singing of a song."""

# Of profiles: raise it when the same stems give another profile (CONTRIBUTING.md).
VERSION = 7
