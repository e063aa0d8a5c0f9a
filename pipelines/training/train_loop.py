"""The loop every training worker runs: everything that decides on the weights, and nothing of where it runs.

The global batch of step k is rows 0 to batch_size - 1; each worker takes a consecutive share. Rows and their
augmentation are pure functions of (seed, step, row), so the number of workers changes who computes and nothing else.
`workers.py` starts it, on Ray or in its own process; `batches.py` reads batches, `loss_curve.py` writes the curve,
`validate.py` scores candidate weights, `divergence_recovery.py` decides what to do when it goes wrong, and
`checkpointing.py` keeps what another start needs.
"""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from pipelines.runs import example_estimates, remote_checkpoints, run_folder
from pipelines.training import checkpointing, divergence_recovery, validate
from pipelines.training.batches import Feed
from pipelines.training.checkpointing import BestWeights, LoopState
from pipelines.training.divergence_recovery import RecoveryDecision
from pipelines.training.loss_curve import LossCurve, Utilization
from pipelines.training.train_config import Job, Session, build_model

if TYPE_CHECKING:
    from models.learning.learner import StepMetrics


def train(job: Job, session: Session) -> dict[str, Any]:
    """Train to the last step, from the last whole checkpoint if there is one; says where it stopped and why."""
    while True:
        loop = _Loop(job, session)
        with loop.writer:
            decision = loop.run()
        if decision.do != "rollback":
            return {"step": loop.step, "stopped": decision.why}
        if loop.rollbacks >= job.config.recovery.max_rollbacks:
            return {"diverged": loop.step, "why": decision.why}
        loop.record("rollback", decision.why)
        del loop  # before the next takes a device's memory


class _Loop:
    """One worker's training from the newest checkpoint on, until it ends or is to be taken back."""

    def __init__(self, job: Job, session: Session) -> None:
        import torch

        from models import mixed_precision
        from models.learning.activation_checkpointing import recompute_activations
        from models.learning.learner import Learner
        from models.networks.bag import interface

        config = job.config
        mixed_precision.set_tf32(config.tf32)
        torch.manual_seed(config.seed)  # the same first weights on every worker
        self.job, self.config, self.session = job, config, session
        self.network = build_model(job)
        if config.activation_checkpointing:
            recompute_activations(self.network)
        self.interface = interface(self.network)
        self.learner = Learner(
            session.prepare(self.network),
            config.learner,
            device=session.device,
            sample_rate=self.interface.sample_rate,
            total_steps=config.steps,
            seed=config.seed,
            rows_at_once=config.micro_batch,
            normalized=True,  # by the feed, which knows the whole songs
            compile_mode=config.compile,
        )
        self.rows = config.rows_of(session.rank, session.world_size)
        self.rows_weight = len(self.rows) * session.world_size / config.batch_size
        self.curve = LossCurve(job, session, sources=self.interface.sources, rows_weight=self.rows_weight)
        if session.device.type == "cuda" and session.rank == 0:
            self.curve.utilization = Utilization.of(job, self.interface)
        self.events = run_folder.Lines(session.folder / run_folder.EVENTS)
        self.writer = checkpointing.writer(job, session.place)
        self.curve.uploads_waited_s = 0.0 if self.writer.uploads else None
        self.step = 0  # steps done
        self.rollbacks = 0
        self.skipped_in_a_row = 0
        self.scores: list[float] = []
        self.best: BestWeights | None = None

    def run(self) -> RecoveryDecision:
        """Train until the last step or a decision."""
        import torch

        from models.host_to_device import uploaded_ahead

        config, session = self.config, self.session
        self._restore()
        if self.scores and (decision := divergence_recovery.after_score(config.recovery, self.scores)).do == "stop":
            return decision
        feed = self._open_feed()
        self.curve.start_clock(feed)
        for step, batch_BSCT in uploaded_ahead(feed, session.device):
            # Dropout draws from torch's global generator: seeded by step, a resumed run drops what it would have.
            torch.manual_seed(config.seed * 1_000_003 + step * session.world_size + session.rank)
            self.learner.rate_factor = divergence_recovery.rate_factor(
                config.recovery, rollbacks=self.rollbacks, scores=self.scores
            )
            try:
                metrics = self.learner.step(batch_BSCT, step=step, rows=self.rows, share=self.rows_weight)
            except torch.OutOfMemoryError as error:
                raise self._too_many_rows(error) from error
            if self.learner.compile_failure and step == feed.start:
                self.record("trains without the compiler", self.learner.compile_failure)
            decision = self._after_step(metrics)
            if decision.do == "go" and (self.step % config.checkpoint_every == 0 or self.step == config.steps):
                decision = self._commit()
            if decision.do != "go":
                return decision
        return divergence_recovery.GO

    def _too_many_rows(self, error: Exception) -> InputError:
        """What to do about a GPU that ran out of memory: trying the same again would not help."""
        import psutil
        import torch

        from pipelines.training.resource_estimate import GIB, fewer_rows

        on_gpu = self.session.device.type == "cuda" and torch.cuda.is_available()
        memory_bytes = torch.cuda.mem_get_info(self.session.device)[1] if on_gpu else psutil.virtual_memory().total
        rows = fewer_rows(
            self.config, self.job.model, sources=self.interface.sources, sample_rate=self.interface.sample_rate,
            channels=self.interface.audio_channels, memory_gib=memory_bytes / GIB, num_rows=len(self.rows),
        )  # fmt: skip
        remedy = f"use train.micro_batch={rows}" if rows else "use a smaller model.options.segment_s"
        return InputError(
            f"step {self.step + 1} ran out of GPU memory with train.micro_batch={self.config.micro_batch} of "
            f"{len(self.rows)} rows a worker ({str(error).splitlines()[0]}); {remedy}, or "
            "train.activation_checkpointing=true"
        )

    def _open_feed(self) -> Feed:
        interface = self.interface
        return Feed(
            self.job,
            sources=interface.sources,
            num_samples=self.config.learner.augment.input_samples(interface.segment_samples, interface.sample_rate),
            rows=self.rows,
            start=self.step,
            normalize=interface.normalize == "track",
        )

    def record(self, what: str, why: str) -> None:
        """Write down an intervention, and report it."""
        if self.session.rank == 0:
            self.events.append({"step": self.step, "did": what, "why": why})
            if what == "rollback" and self.session.place.address:  # whatever goes on must know of it
                remote_checkpoints.put_events(self.session.folder, self.session.place.address)
            self.session.report_progress(self.step, f"{what}: {why}")

    # --- resuming -------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Resume from the newest whole checkpoint, which the first worker finds for all."""
        place, digest = self.session.place, ""
        if self.session.rank == 0:
            newest, digest = checkpointing.restart(place)
            self.step = newest.step
            for why in (*newest.passed, *(f"{path.name}: {why}" for path, why in newest.damaged)):
                self.record("passed over a damaged checkpoint", why)
            self.rollbacks = sum(event["did"] == "rollback" for event in self.events.read())
        self.step, self.rollbacks, *parts = self._from_first_worker(self.step, self.rollbacks, *_numbers(digest))
        if not self.step:
            return
        if place.address and self.session.rank:
            remote_checkpoints.fetch(place.folder, place.address, self.step, _digest(parts))
        folder = place.folder
        state, self.best = checkpointing.restore(folder, self.step, network=self.network, learner=self.learner)
        self.curve.losses, self.scores = list(state.losses), list(state.scores)
        self.skipped_in_a_row = state.skipped_in_a_row

    def _from_first_worker(self, *numbers: int) -> list[int]:
        import torch
        import torch.distributed

        values = torch.tensor(numbers, device=self.session.device)
        if self.session.world_size > 1:
            torch.distributed.broadcast(values, 0)
        return [int(value) for value in values.tolist()]

    # --- steps and checkpoints ------------------------------------------------------------------------------

    def _after_step(self, metrics: "StepMetrics") -> RecoveryDecision:
        """Count a step; every `log_every` of them become a point of the loss curve."""
        self.step += 1
        enough_for_a_point = self.curve.add(metrics)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if metrics.skipped else 0
        decision = divergence_recovery.after_steps(self.config.recovery, skipped_in_a_row=self.skipped_in_a_row)
        return self._write_point() if decision.do == "go" and enough_for_a_point else decision

    def _write_point(self) -> RecoveryDecision:
        if not self.curve.write_point(self.step):
            return divergence_recovery.GO
        return divergence_recovery.after_point(self.config.recovery, self.curve.losses)

    def _commit(self) -> RecoveryDecision:
        """Validate, decide, and begin to write a checkpoint of everything that matters."""
        if (decision := self._write_point()).do != "go":
            return decision
        began_s = time.monotonic()
        decision = self._validate()
        self.curve.leave_out(time.monotonic() - began_s)
        if decision.do != "rollback" and self.session.rank == 0:
            self._save()
        return decision

    def _save(self) -> None:
        assert self.best is not None
        state = LoopState(
            step=self.step, losses=self.curve.losses, scores=self.scores, skipped_in_a_row=self.skipped_in_a_row
        )
        complaint = checkpointing.save(self.writer, state, network=self.network, learner=self.learner, best=self.best)
        if self.writer.uploads:
            self.curve.uploads_waited_s = self.writer.waited_s
        if complaint:
            self.record("went on without a copy of a checkpoint", complaint)

    def _validate(self) -> RecoveryDecision:
        """Score the present weights and their averages, and remember the best so far.

        If the validation split is empty, the best of this checkpoint is remembered, whatever was before: it is scored
        on songs that it was trained with. Without any songs to score it is the present weights.
        """
        selection = validate.select_songs(self.job)
        if not selection.excerpts:
            self._remember("raw", None)
            return divergence_recovery.GO
        example_s = self.config.example_s if selection.held_out else 0.0
        candidates = validate.score_candidates(self.learner, selection.excerpts, self.session, example_s=example_s)
        scores = {name: candidate.nsdr for name, candidate in candidates.items()}
        name = max(scores, key=lambda key: scores[key] if math.isfinite(scores[key]) else -math.inf)
        split = "valid" if selection.held_out else "train"
        point = {f"{split}_nsdr_{key}": score for key, score in scores.items()} | {f"{split}_nsdr": scores[name]}
        self.curve.write({"step": self.step, **point})
        self.session.report_progress(self.step, f"{split} nSDR {scores[name]:.2f} dB")
        self.scores.append(scores[name])
        decision = divergence_recovery.after_score(self.config.recovery, self.scores)
        better = self.best is None or not selection.held_out or scores[name] > self.best.info["nsdr"]
        if decision.do != "rollback" and better:
            self._remember(name, scores[name] if selection.held_out else None)
            example = candidates[name].example
            if example is not None and example_estimates.due(self.session.folder, self.step):
                example_estimates.write(self.session.folder, self.step, example)
        return decision

    def _remember(self, name: str, nsdr: float | None) -> None:
        self.best = BestWeights.of(self.learner, self.network, step=self.step, name=name, nsdr=nsdr)


def _numbers(digest: str) -> list[int]:
    """A digest as workers send it to each other, in signed numbers of 64 bits."""
    data = bytes.fromhex(digest) or bytes(32)
    return [int.from_bytes(data[place : place + 8], "big", signed=True) for place in range(0, 32, 8)]


def _digest(numbers: Sequence[int]) -> str:
    return b"".join(number.to_bytes(8, "big", signed=True) for number in numbers).hex()
