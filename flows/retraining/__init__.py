"""A retraining as it is carried out, what it is decided by, and the record of it."""
