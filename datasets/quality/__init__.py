"""What is measured of a song's stems, and what they sound like."""
