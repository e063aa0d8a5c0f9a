"""What the mixture that came with a song says of its stems; read `mixture_fit.py` first."""
