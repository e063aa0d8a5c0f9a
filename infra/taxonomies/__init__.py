"""Taxonomies: which words in a file's name mean which source. Data, read by `datasets/corpus/taxonomy.py`."""
