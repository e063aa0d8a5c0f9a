"""Many songs on many machines: each file is one job on Ray; read `preparation/ingest/dataset_version.py` first.

Ray reads these variables once, when it is first imported, so they are set here and nowhere else.
"""

import os

# A driver under `uv run` would make every worker rebuild the environment in a copy of this folder.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Workers at nice 15 starve on a shared laptop, and Ray then starts still more of them.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_worker_register_timeout_seconds", "300")
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
# A token is meant to be shown; without this Ray keeps it to itself when it asks another cluster.
if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
