"""A training's folder, its examples, and its backup elsewhere."""
