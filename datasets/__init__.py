"""What is known about one song, in NumPy and Arrow; read `schema.py` first."""
