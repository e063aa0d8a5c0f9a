"""Networks that see a spectrogram alone: SCNet and both RoFormers, and the parts that they share."""
