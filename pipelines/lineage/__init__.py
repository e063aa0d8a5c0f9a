"""What a model was trained on, all the way back, and how a song is taken out again."""
