"""Which songs' stems go together, and how they are rendered into a new mix."""
