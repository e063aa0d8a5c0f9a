"""From the bytes of a file to samples."""

# Of decoding, resampling and downmixing: raise it when the same bytes give other samples (CONTRIBUTING.md).
VERSION = 2
