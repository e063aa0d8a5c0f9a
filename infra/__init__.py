"""Presets and cluster files, read by the other rooms as data; there is no logic here."""
