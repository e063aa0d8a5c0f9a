"""What a song must be like to be kept; read `quality_rules.py` first."""
