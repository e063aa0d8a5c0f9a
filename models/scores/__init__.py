"""SDR and its relatives, as museval and MDX define them."""
