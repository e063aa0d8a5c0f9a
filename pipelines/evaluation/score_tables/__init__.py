"""What is read from a table of scores, song by song."""
