"""Every collective of a training, by Gloo between two processes whose tensors are on pretended cards, as NCCL asks."""

import ast
import multiprocessing
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from models.learner_config import AugmentConfig
from pipelines.runs import run_folder
from pipelines.runs.run_place import RunPlace
from pipelines.training import resource_estimate, train, train_loop, train_result
from pipelines.training.train_config import Job
from tests.pipelines.songs import SOURCES, write_songs
from tests.pipelines.training.test_train import CONFIG, MODEL
from tests.pretended_card import CUDA, card

SONGS = {"a": "train", "b": "train", "c": "valid", "d": "valid"}
TWO_STEPS = replace(
    CONFIG,
    steps=2,
    checkpoint_every=1,
    valid_s=0.3,
    micro_batch=1,
    learner=replace(CONFIG.learner, augment=AugmentConfig(shift_s=0.05, remix_group=1)),
)


class CardSession:
    """One of two workers, on a card of its own; what tells of the last step kills both the first time."""

    world_size = 2
    device = CUDA

    def __init__(self, rank: int, place: RunPlace) -> None:
        self.rank, self.place, self.folder = rank, place, place.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lives = 2

    def prepare(self, model: nn.Module) -> nn.Module:
        """As `ray.train.torch.prepare_model` does."""
        return DistributedDataParallel(model.to(CUDA), device_ids=[CUDA], output_device=CUDA)

    def report_progress(self, step: int, text: str) -> None:
        if step == TWO_STEPS.steps and self.lives == 2:
            self.lives -= 1
            raise KeyboardInterrupt

    def report_metrics(self, metrics: Mapping[str, float]) -> None:
        return


def take_part(rank: int, job: Job, place: RunPlace, meeting: Path) -> Counter[str]:
    """Train as one of two, be killed, and resume; the collectives by the line of ours that asked for them."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(seconds=300)
    )
    session = CardSession(rank, place)
    # The count of operations runs on the meta device, which is the card's here.
    with mock.patch.object(resource_estimate, "price", return_value=(SimpleNamespace(step_flop=2e12), 0.25)):
        try:
            with card() as traffic:
                with suppress(KeyboardInterrupt):
                    train_loop.train(job, session)
                assert train_loop.train(job, session) == {"step": 2, "stopped": ""}
        finally:
            distributed.destroy_process_group()
    return traffic.collectives


def asked_for() -> set[str]:
    """Folder, file and line of every collective that the product calls by name."""
    lines = set()
    for path in [*Path("models").rglob("*.py"), *Path("pipelines").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("torch.distributed.", "distributed.")):
                lines.add(f"{'/'.join(path.parts[-2:])}:{node.lineno}")
    return lines


@pytest.mark.slow
def test_two_workers_exchange_what_is_on_their_cards_and_learn_what_one_does(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    chunks = write_songs(tmp_path, SONGS)
    alone = train.run(TWO_STEPS, MODEL, [(chunks, 1.0)], sources=SOURCES, store=str(tmp_path / "alone"))
    job = Job(
        config=replace(TWO_STEPS, num_workers=2), model=MODEL, sources=SOURCES, chunks=((chunks, 1.0),), keep=None
    )
    place = RunPlace(store=str(tmp_path / "both"), name="run")
    other = multiprocessing.get_context("spawn").Process(target=take_part, args=(1, job, place, tmp_path / "meeting"))
    other.start()
    try:
        collectives = take_part(0, job, place, tmp_path / "meeting")
        other.join(60)
        assert other.exitcode == 0
    finally:
        other.kill()
    for ours, theirs in zip(
        run_folder.merged(run_folder.Lines(place.folder / run_folder.HISTORY).read()),
        train_result.read_history(alone),
        strict=True,
    ):
        assert ours == pytest.approx(theirs, rel=2e-3)
    by_name = asked_for()
    assert len(by_name) == 3  # the step to resume from, sums of losses, sums of validation
    called = {entry.split()[1]: entry.split()[0] for entry in collectives}
    assert by_name <= called.keys()
    # What data-parallel training adds: the first worker's weights to all, and gradients, once for both parts of a step.
    added = {(where.split(":")[0], kind) for where, kind in called.items() if where not in by_name}
    assert ("training/test_collectives.py", "broadcast_") in added
    assert ("learning/learner.py", "allreduce_") in added
    of_gradients = [count for entry, count in collectives.items() if entry.startswith("allreduce_ learning/learner.py")]
    assert sum(of_gradients) == 3, collectives


def _all_gather(values: torch.Tensor) -> None:
    distributed.all_gather([torch.empty_like(values)], values)


def _data_parallel(values: torch.Tensor) -> None:
    layer = nn.Linear(2, 2)
    DistributedDataParallel(layer.to(values.device))


PLANTED = {
    "all_reduce": distributed.all_reduce,
    "broadcast": lambda values: distributed.broadcast(values, 0),
    "all_gather": _all_gather,
    "data-parallel": _data_parallel,
    "objects": lambda values: distributed.broadcast_object_list([1], 0, device=values.device),
}


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
def test_a_tensor_of_the_cpu_in_a_collective_is_refused(planted: Callable[[torch.Tensor], Any], tmp_path: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with card():
            planted(torch.ones(2, device="cuda"))
            with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
                planted(torch.ones(2))
    finally:
        distributed.destroy_process_group()
