"""When and in what order: Prefect flows and the command line; read `full_run.py` first."""
