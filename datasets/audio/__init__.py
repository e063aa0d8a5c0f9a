"""From the bytes of a file to samples."""
