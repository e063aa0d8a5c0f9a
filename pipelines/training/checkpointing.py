"""The checkpoints of a training: what they hold, how they are written while it goes on, and how it resumes from one."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.store import storage
from pipelines.runs import example_estimates, run_folder
from pipelines.runs.run_place import RunPlace
from pipelines.runs.uploads import Uploads
from pipelines.training.train_config import Job

if TYPE_CHECKING:
    from torch import nn

    from models.learning.learner import Learner
    from models.weights.bit_packing import Packing


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """What the loop decides by, beside the weights; every worker has the same."""

    step: int  # steps done
    losses: Sequence[float]
    scores: Sequence[float]
    skipped_in_a_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BestWeights:
    """The best weights so far, as they will be stored, on the CPU."""

    model: "nn.Module"
    info: dict[str, Any]  # step, weights ("raw" or an average) and nSDR
    packing: "Packing | None"

    @classmethod
    def of(cls, learner: "Learner", network: "nn.Module", *, step: int, name: str, nsdr: float | None) -> "BestWeights":
        """A copy of the present weights, "raw", or of an average."""
        from models.weights.bit_packing import rounded

        averages = {average.name: average for average in learner.averages}
        model, packing = _on_cpu(network), learner.packing()
        state = model.state_dict()
        if name in averages:
            state |= _cpu_copy(averages[name].average)
        model.load_state_dict(state if packing is None else rounded(state, packing))
        return cls(model=model, info={"step": step, "weights": name, "nsdr": nsdr}, packing=packing)


def writer(job: Job, place: RunPlace) -> run_folder.Writer:
    """Writes checkpoints in the background, and brings each to where the run is kept, and to `backup_uri` if set."""
    from pipelines.runs import remote_checkpoints

    config, folder = job.config, place.folder
    backup = storage.join(storage.absolute(config.backup_uri), place.name) if config.backup_uri else ""
    addresses = [address for address in (place.address, backup) if address]

    def send(step: int) -> None:
        for address in addresses:
            remote_checkpoints.commit(folder, step, address, keep=config.keep_checkpoints)

    uploads = Uploads(send, required=bool(place.address)) if addresses else None
    return run_folder.Writer(folder, keep=config.keep_checkpoints, uploads=uploads, upload_wait_s=config.upload_wait_s)


def restart(place: RunPlace) -> tuple[run_folder.Found, str]:
    """For the first worker: what to go on from, whole in its folder, and the digest of its list where it has one.

    Whatever came after it is forgotten: points of the curve, examples, unfinished and damaged checkpoints.
    """
    from pipelines.runs import remote_checkpoints

    folder, digest, passed = place.folder, "", tuple[tuple[str, str], ...]()
    if place.address:
        fetched = remote_checkpoints.fetch_newest(folder, place.address)
        digest, passed = fetched.digest, fetched.passed
        run_folder.remove_others(folder, fetched.step)
        for name, _ in passed:
            remote_checkpoints.forget(place.address, name)
        remote_checkpoints.remove_leftovers(place.address)
    checkpoints = run_folder.find(folder)
    run_folder.tidy(folder, checkpoints)
    example_estimates.forget_after(folder, checkpoints.step)
    return replace(checkpoints, passed=tuple(f"{name}: {why}" for name, why in passed)), digest


def save(
    writer: run_folder.Writer, state: LoopState, *, network: "nn.Module", learner: "Learner", best: BestWeights
) -> str:
    """Begin to write a checkpoint of everything that matters; why an earlier one has no copy, empty where it has."""
    from models.weights import checkpoint

    model, learner_state = _on_cpu(network), _cpu_copy(learner.state())
    extra = {
        "step": state.step,
        "losses": list(state.losses),
        "scores": list(state.scores),
        "skipped_in_a_row": state.skipped_in_a_row,
    }
    best_info = dict(best.info)

    def fill(folder: Path) -> None:
        checkpoint.save(folder / run_folder.CURRENT, model, learner=learner_state, extra=extra)
        checkpoint.save(folder / run_folder.BEST, best.model, extra=best_info, packing=best.packing)

    writer.submit(state.step, fill)
    return writer.complaint


def restore(folder: Path, step: int, *, network: "nn.Module", learner: "Learner") -> tuple[LoopState, BestWeights]:
    """Load the checkpoint of a step into network and learner."""
    from models.weights import checkpoint
    from models.weights.loading import load_model
    from models.weights.state_dict import load_state

    current, best = (folder / run_folder.checkpoint_name(step) / name for name in (run_folder.CURRENT, run_folder.BEST))
    stored = load_model(current)
    load_state(network, stored.state_dict(), origin=str(current.parent))
    learner.load_state(checkpoint.load_learner(current))
    extra = checkpoint.read_config(current)["extra"]
    state = LoopState(
        step=step,
        losses=list(extra["losses"]),
        scores=list(extra["scores"]),
        skipped_in_a_row=int(extra["skipped_in_a_row"]),
    )
    return state, BestWeights(
        model=load_model(best),
        info=checkpoint.read_config(best)["extra"],
        packing=checkpoint.load_packing(best),
    )


def _on_cpu(network: "nn.Module") -> "nn.Module":
    """A copy on the CPU, without gradients; on the network's device nothing is made."""
    from torch import nn

    copies: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        copied = _cpu_copy(tensor)
        copies[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
    return copy.deepcopy(network, copies)


def _cpu_copy(value: Any) -> Any:
    """A copy, on the CPU, of a state of tensors and numbers, which training goes on to change."""
    import torch

    match value:
        case torch.Tensor():
            return value.detach().to("cpu", copy=True)
        case dict():
            return {key: _cpu_copy(item) for key, item in value.items()}
        case list() | tuple():
            return type(value)(_cpu_copy(item) for item in value)
    return value
