"""Songs in Parquet: chunks, shards, manifests and their versions."""
