"""A client of MLflow. The import of MLflow is most of the time of a command that only reads a store."""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient


def new_client(uri: str) -> "MlflowClient":
    """A client of the tracking server or database at an address, for runs and registered models alike."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is first imported
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # where a verb's result goes
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # our own bars are drawn elsewhere
    with _fast_first_import("mlflow"):
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it tells of every table, and of errors it raises too
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)  # the first of a database imports much more


@contextmanager
def _fast_first_import(package: str) -> Iterator[None]:
    """Inside, if the package was not imported yet, no garbage is collected; what is alive at the end is never searched.

    A large package makes some 400,000 objects that stay. Searching them for garbage again and again, once more at the
    exit, takes as long as a third of all that a short command does.
    """
    if package in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
