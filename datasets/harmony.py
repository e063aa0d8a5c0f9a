"""Chroma, key, and how many semitones lie between two tracks; read `mixplan.py` next."""

PITCHES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
