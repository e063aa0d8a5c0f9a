"""Log a run, register a version, promote it, fetch it back: the only MLflow code.

Without MLFLOW_TRACKING_URI everything lies in the store: `mlflow.db` (SQLite) and `mlartifacts/`. There are three
records, and none of them is ever overwritten: a training is one MLflow run and, with its checkpoint, one version of
each model name it is registered under; an evaluation is a run nested in it; a decision is a document of the version.
Read `registration.py` first, then `run_logging.py` for the first two records, `promotion/decision_records.py` for the
third, `promotion/promotion_log.py` and `promotion/champions.py` for how a version becomes the champion, and
`bundle.py` for what a version is made of.
"""

from pipelines.registry.connection import RegistryConfig, address
from pipelines.registry.find_or_create import CHAMPION, check, open_run
from pipelines.registry.promotion.champions import champion, history, promote, promote_by_name, rollback, rolled_back
from pipelines.registry.promotion.decision_records import Note
from pipelines.registry.promotion.promotion_log import Promotion
from pipelines.registry.promotion.seed_scores import scores_by_recipe
from pipelines.registry.registration import attach, register, set_description
from pipelines.registry.run_logging import Candidate, DatasetUse, Evaluation, flatten, requirements
from pipelines.registry.version_lineage import (
    Lineage,
    VersionFiles,
    decision_of,
    decisions_of,
    files_of,
    lineage,
    read_songs,
    versions,
)
from pipelines.registry.version_lookup import ModelVersion, digest_of, fetch, resolve

__all__ = [
    "CHAMPION",
    "Candidate",
    "DatasetUse",
    "Evaluation",
    "Lineage",
    "ModelVersion",
    "Note",
    "Promotion",
    "RegistryConfig",
    "VersionFiles",
    "address",
    "attach",
    "champion",
    "check",
    "decision_of",
    "decisions_of",
    "digest_of",
    "fetch",
    "files_of",
    "flatten",
    "history",
    "lineage",
    "open_run",
    "promote",
    "promote_by_name",
    "read_songs",
    "register",
    "requirements",
    "resolve",
    "rollback",
    "rolled_back",
    "scores_by_recipe",
    "set_description",
    "versions",
]
