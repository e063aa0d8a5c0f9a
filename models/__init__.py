"""What happens to a batch, in torch; read `htdemucs.py` first. Imports here are relative, so the folder can travel."""
