"""Log a run, register a version, promote it: the only MLflow code."""
