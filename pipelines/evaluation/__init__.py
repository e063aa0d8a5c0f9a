"""Scores of held-out songs, and the gate that judges by them."""
