"""What is in a folder of songs: which file is which source of which song, and on which side of the split."""
