"""What kind of file one is, by its content, and whether it is whole and alone; `recognize.py` asks the others."""
