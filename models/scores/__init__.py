"""SDR and its relatives, as museval and MDX define them."""

# Of the scores: raise it when the same sources and estimates get others.
VERSION = 1
