"""Registrations, promotions and rollbacks are killed before each statement that writes to the database; then finished.

Part of `make drill-mlflow`. A process is forked for each kill, dies with `os._exit`, as of SIGKILL, before its k-th
INSERT, UPDATE or DELETE, and another one gives the same command. What MLflow then holds is what one gets that was never
killed: runs, parameters, metrics, tags, files, versions, aliases, the promotion log.
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines import registry
from pipelines.registry import Candidate, RegistryConfig
from tests.benchmarks.table import Row, figure
from tests.pipelines.registry.test_registration import CHUNKS, make_checkpoint

CONFIG = RegistryConfig()
KILLED = 137
Act = Callable[[str, list[Candidate]], object]


def _candidates(folder: Path) -> list[Candidate]:
    """Three trainings, whose checkpoints lie in the folder."""
    return [
        Candidate(
            run_key=f"run{seed}",
            checkpoint=str(folder / str(seed)),
            dataset=CHUNKS,
            config={"train": {"steps": 20}, "corpus": {"sources": ["drums", "bass"]}},
            history=[{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}],
            scores={"test/nsdr/drums": 5.5, "test/nsdr/mean": 5.0},
            lineage={"weights_digest": f"w{seed}", "protocol": "whole songs"},
            documents={"config.toml": "[train]\nsteps = 20\n"},
        )
        for seed in range(3)
    ]


def _make_checkpoints(folder: Path) -> None:
    for seed in range(3):
        make_checkpoint(folder / str(seed), seed=seed)


def _register(store: str, candidates: list[Candidate]) -> object:
    return registry.register(CONFIG, candidates[2], store=store)


def _promote(store: str, candidates: list[Candidate]) -> object:
    version = registry.register(CONFIG, candidates[2], store=store)
    kept = registry.decision_of(version, store=store) if version.alias else None
    decision = kept or {"promote": True, "reason": "better than 2", "champion_digest": "w1"}
    return registry.promote(version, decision, store=store, rules={"margin": 0.1})


def _rollback(store: str, candidates: list[Candidate]) -> object:
    return registry.rollback(CONFIG, store=store)


def _prepare(store: str, candidates: list[Candidate], *, promoted: int, registered: int) -> None:
    for place, candidate in enumerate(candidates[:registered]):
        version = registry.register(CONFIG, candidate, store=store)
        if place < promoted:
            registry.promote(version, {"promote": True, "reason": f"better than {place}"}, store=store)


# What is there before, and what is done.
ACTS: dict[str, tuple[dict[str, int], Act]] = {
    "registration": ({"promoted": 1, "registered": 2}, _register),
    "promotion": ({"promoted": 2, "registered": 3}, _promote),
    "rollback": ({"promoted": 3, "registered": 3}, _rollback),
}


def rows(folder: Path, *, every: int = 1) -> Iterator[Row]:
    """For each act how often it was killed, and how often the same command did not complete it."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    import mlflow.pyfunc  # noqa: F401  # seconds, which each of hundreds of children would take

    import models.networks.catalog  # noqa: F401

    for name, (before, act) in ACTS.items():
        kills, wrong = _drilled(folder / name, before, act, every=every)
        yield figure(f"kills in a {name}", kills, "", target=5 if every == 1 else 1, more=True)
        yield figure(f"{name}s that the same command did not complete", wrong, "", target=0)


def _drilled(folder: Path, before: dict[str, int], act: Act, *, every: int) -> tuple[int, int]:
    """Kills, and wrong ends, of one act."""
    folder.mkdir()
    store, saved, seen = folder / "store", folder / "saved", folder / "seen.json"
    candidates = _candidates(folder / "checkpoints")
    assert _in_a_child(lambda: _make_checkpoints(folder / "checkpoints")) == 0
    assert _in_a_child(lambda: _prepare(str(store), candidates, **before)) == 0
    store.rename(saved)

    def end_state() -> Any:
        assert _in_a_child(lambda: seen.write_text(json.dumps(_state(str(store)), sort_keys=True))) == 0
        return json.loads(seen.read_text())

    shutil.copytree(saved, store)
    assert _in_a_child(lambda: act(str(store), candidates)) == 0
    whole, kills, wrong, at = end_state(), 0, 0, 1
    while True:
        shutil.rmtree(store)
        shutil.copytree(saved, store)
        code = _in_a_child(lambda: act(str(store), candidates), dies_at=at)
        if code != KILLED:
            assert code == 0, code
            return kills, wrong
        kills += 1
        again = _in_a_child(lambda: act(str(store), candidates))
        if again != 0 or (state := end_state()) != whole:
            wrong += 1
            told = f"\n  is     {json.dumps(state)}\n  should {json.dumps(whole)}" if again == 0 else ""
            sys.stderr.write(f"{folder.name}, killed before statement {at}: exit {again}{told}\n")
        at += every


def _in_a_child(job: Callable[[], object], *, dies_at: int = 0) -> int:
    """The exit status of a forked process that does the job; it dies before its `dies_at`-th statement that writes."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if dies_at:
                _arm(dies_at)
            job()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _arm(at: int) -> None:
    from sqlalchemy import Engine, event

    count = 0

    def before(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal count
        if statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
            count += 1
            if count == at:
                os._exit(KILLED)

    event.listen(Engine, "before_cursor_execute", before)


def _state(store: str) -> Any:
    """Everything in MLflow that is ours, without times and without the ids that MLflow draws."""
    from mlflow import MlflowClient

    books = MlflowClient(tracking_uri=registry.address(store), registry_uri=registry.address(store))
    found = books.search_runs([one.experiment_id for one in books.search_experiments()])
    names = {run.info.run_id: run.data.tags.get("run_key") or f"{run.data.tags['evaluated']} scored" for run in found}

    def plain(text: str) -> str:
        for run_id, name in names.items():
            text = text.replace(run_id, name)
        try:
            told = json.loads(text)
        except ValueError:
            return text
        return (
            json.dumps({key: value for key, value in told.items() if key != "at"}) if isinstance(told, dict) else text
        )

    def files(run_id: str, path: str = "") -> list[str]:
        listed = books.list_artifacts(run_id, path)
        below = [name for one in listed if one.is_dir for name in files(run_id, one.path)]
        return sorted([one.path for one in listed if not one.is_dir] + below)

    def tags(told: dict[str, str]) -> dict[str, str]:
        return {key: plain(text) for key, text in told.items() if key == "mlflow.parentRunId" or "mlflow." not in key}

    runs = sorted(
        [
            names[run.info.run_id], run.info.status, run.data.params, run.data.metrics, tags(run.data.tags),
            files(run.info.run_id), len(books.get_metric_history(run.info.run_id, "train/loss")),
            [one.dataset.digest for one in run.inputs.dataset_inputs],
        ]
        for run in found
    )  # fmt: skip
    versions = sorted(
        [made.name, str(made.version), names[made.run_id], tags(made.tags)] for made in books.search_model_versions()
    )
    models = [
        [model.name, {alias: str(version) for alias, version in books.get_registered_model(model.name).aliases.items()}]
        for model in books.search_registered_models()
    ]
    return json.loads(json.dumps([runs, versions, models]))
