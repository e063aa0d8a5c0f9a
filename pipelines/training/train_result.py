"""What a finished training leaves: the best model out of its last checkpoint, and `result.json`, written last."""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets.errors import InputError
from datasets.store import storage
from datasets.store.atomic_json import write_json
from models.errors import ModelError
from pipelines.runs import remote_checkpoints, run_folder
from pipelines.runs.run_place import RunPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished training. `checkpoint` and `history` are addresses, in an object store where the store is in one."""

    checkpoint: str  # the folder of the best model, for `models.weights.loading.load_model`
    run_key: str
    model_digest: str  # SHA-256 of its weights
    history: str  # the loss curve, for `read_history`
    steps: int
    best_step: int
    best_weights: str  # "raw", or "ema-" and the decay of the average
    best_nsdr: float | None  # dB, mean over the valid split; None where it is empty
    stopped: str = ""  # why it stopped before its last step; empty where it did not
    interventions: tuple[str, ...] = ()  # what was done on the way, such as "step 800: rollback: the loss rose ..."
    seconds: float  # in training, this time and before interruptions not counted


def read_history(result: TrainResult) -> list[dict[str, float]]:
    """The loss curve: points with step, loss, loss_SOURCE, grad_norm, learning_rate.

    A point whose steps were all skipped has neither loss nor grad_norm. Points at a checkpoint also have
    valid_nsdr_WEIGHTS for each candidate, in dB, and the best of them as valid_nsdr; train_nsdr_WEIGHTS where no song
    was held out. `skipped` counts steps that were left out.
    """
    if storage.is_remote(result.history):
        return run_folder.merged([json.loads(line) for line in storage.read(result.history).splitlines()])
    return run_folder.merged(run_folder.Lines(Path(result.history)).read())


def conclude(place: RunPlace, *, seconds: float, stopped: str) -> TrainResult:
    """Copy the best model out of the last checkpoint; `result.json` comes last."""
    from models.weights import checkpoint
    from models.weights.loading import load_model

    folder = place.folder
    if place.address:
        remote_checkpoints.fetch_newest(folder, place.address)
    checkpoints = run_folder.find(folder)
    assert checkpoints.newest is not None
    target = folder / "model"
    try:
        checkpoint.require_replaceable(target)
    except ModelError as error:
        raise InputError(f"the trained model has no place: {error}; then run the same command again") from error
    temporary = Path(tempfile.mkdtemp(prefix=".model-", dir=folder))
    shutil.copytree(checkpoints.newest / run_folder.BEST, temporary, dirs_exist_ok=True)
    load_model(temporary)  # a damaged copy must not become a result
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    saved = checkpoint.read_config(target)
    events = run_folder.Lines(folder / run_folder.EVENTS).read()
    result = TrainResult(
        checkpoint=storage.join(place.kept, "model"),
        run_key=place.name,
        model_digest=saved["weights_sha256"],
        history=storage.join(place.kept, run_folder.HISTORY),
        steps=checkpoints.step,
        best_step=saved["extra"]["step"],
        best_weights=saved["extra"]["weights"],
        best_nsdr=saved["extra"]["nsdr"],
        stopped=stopped,
        interventions=tuple(f"step {event['step']}: {event['did']}: {event['why']}" for event in events),
        seconds=round(seconds, 3),
    )
    if place.address:
        run_folder.Lines(folder / run_folder.HISTORY).keep(lambda point: point["step"] <= checkpoints.step)
        for path in (*sorted(target.iterdir()), folder / run_folder.HISTORY):
            remote_checkpoints.send(path, storage.join(place.address, *path.relative_to(folder).parts))
    write_json(storage.join(place.kept, "result.json"), asdict(result))
    return result


def find_result(kept: str | Path) -> TrainResult | None:
    """The result of a finished run, by where it is kept; its addresses are there, wherever it was written."""
    try:
        content = json.loads(storage.read(storage.join(kept, "result.json")))
    except FileNotFoundError:
        return None
    here = {"checkpoint": storage.join(kept, "model"), "history": storage.join(kept, run_folder.HISTORY)}
    interventions = content.pop("troubles", None) or content.get("interventions", ())  # their name in 0.1.0
    return TrainResult(**(content | here | {"interventions": tuple(interventions)}))


def summary(result: TrainResult) -> str:
    score = "" if result.best_nsdr is None else f", valid nSDR {result.best_nsdr:.2f} dB"
    remarks = f"; stopped early: {result.stopped}" if result.stopped else ""
    remarks += f"; {result.interventions[-1]}" if result.interventions else ""
    return (
        f"{result.steps} steps in {result.seconds:.0f} s, best at {result.best_step} ({result.best_weights}){score}"
        f"{remarks}"
    )
