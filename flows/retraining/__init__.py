"""When a model is trained again, and the record of it."""
