"""Beats, downbeats, harmony and singing of a song."""
