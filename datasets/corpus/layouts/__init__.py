"""The layouts that a corpus folder may have; `find.py` goes through them."""
