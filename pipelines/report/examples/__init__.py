"""Examples in the report: what augmentation does to a song, and automixes with their parts."""
