"""The database that a store keeps for MLflow: addresses, where files are now, and what its columns hold."""
