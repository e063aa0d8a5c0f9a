"""The steps of the command line from Python: the same settings, the same stores, the same results."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from flows import config as run_settings
from flows.config import RunConfig

if TYPE_CHECKING:
    from flows.gate_decision import Trained
    from pipelines.evaluation.gate import Pairs
    from pipelines.evaluation.summary import ScoreSummary
    from pipelines.training.resource_estimate import Plan
    from pipelines.training.train_result import TrainResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models on the same held-out songs: what `compare` gives.

    Example:

        comparison = stemline.compare(config, "runs/KEY/model", "models:/stemline@champion")
        comparison.pairs.gain.mean, comparison.pairs.gain.low
    """

    first: "ScoreSummary"  # scores by source, over the sources, and song by song
    second: "ScoreSummary"  # the same
    pairs: "Pairs"  # of the first over the second in dB nSDR, with confidence bounds, by song and by source


def configure(preset: str | None = None, settings: Mapping[str, Any] | None = None) -> RunConfig:
    """The settings of a run: a preset (a name, or a TOML file), with some settings changed by their dotted names.

    Without a preset those of the last run in the store that `store.root` names, else of the preset `smoke`. Files and
    folders become absolute.

    Example:

        config = stemline.configure("smoke", {"corpus.root": "songs", "train.steps": 20})

    Raises:
        InputError: There is no such preset or setting, or a value has the wrong type or range.
    """
    from flows.cli.options import PRESET

    overrides = [_override(name, value) for name, value in (settings or {}).items()]
    config = run_settings.load(PRESET if preset is None else preset, overrides)
    return (run_settings.of_last_run(config.store, overrides) if preset is None else None) or config


def _override(name: str, value: Any) -> str:
    given = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    try:
        return run_settings.override(name, given)
    except TypeError:
        raise InputError(f"{name} must be text, a number, true or false, a list or a table, got {value!r}") from None


def plan(config: RunConfig, *, gpu: str = "", memory_gib: float = 0.0, mfu: float = 0.0) -> "Plan":
    """What a training will take: parameters, memory, time and cost, on a GPU of this name or on this machine.

    `gpu` is one of h100, h200, a100-80, a100-40, l4, rtx4090 and v100-32; `memory_gib` of it and `mfu`, the share of
    its peak rate that you have measured, replace what is assumed. Nothing is run.

    Example:

        planned = stemline.plan(stemline.configure("htdemucs-one-gpu"), gpu="l4")
        print(planned.fits, planned.hours, planned.advice)

    Raises:
        InputError: There is no such GPU, or the network cannot be built.
    """
    from flows.cli.planning import plan as planning

    hardware = planning.Hardware(gpu=gpu, memory_gib=memory_gib, mfu=mfu)
    return planning.plan_of(config, hardware, corpus_h=planning.corpus_hours(config))


def train(config: RunConfig, *, progress: bool = True) -> "TrainResult":
    """Train a model on the songs of `corpus.root`: every step up to `stemline train`; finished ones are found.

    The answer has the folder of the model in `checkpoint`, for `load_model`. An interrupted call goes on from its
    last checkpoint when it is made again. `progress` writes a line for each step to stderr. Prefect keeps its records
    in the first store that a process uses.

    Example:

        result = stemline.train(config)
        model = stemline.load_model(result.checkpoint)

    Raises:
        InputError: Something in the settings or the songs has to be mended; the message says what.
    """
    return _run_model(config, verb="train", progress=progress).trained


def compare(config: RunConfig, first: str, second: str, *, progress: bool = True) -> Comparison:
    """Scores of two models, by any reference, on the same held-out songs; songs that one learned from are left out.

    Example:

        comparison = stemline.compare(config, "models:/stemline/4", "models:/stemline@champion")
        print(comparison.pairs.gain.mean, comparison.pairs.gain.low)

    Raises:
        InputError: There is no such model, or the two cannot be compared.
    """
    from flows.cli.models import compare as verb

    verb.require_models(config, first, second)
    with _prepared(config, verb="compare", progress=progress):
        scores_a, scores_b, pairs, _ = verb.score_both(config, first, second)
    return Comparison(first=scores_a, second=scores_b, pairs=pairs)


def promote(config: RunConfig, *, progress: bool = True) -> "Trained":
    """Train, score and register a model, and make it the champion if the gate lets it pass.

    The answer has the gate's `decision`, with its reason, and the registered `version`.

    Example:

        result = stemline.promote(config)
        print(result.decision.promote, result.decision.reason)

    Raises:
        InputError: Something in the settings or the songs has to be mended; the message says what.
    """
    return _run_model(config, verb="promote", progress=progress)


def _run_model(config: RunConfig, *, verb: str, progress: bool) -> "Trained":
    with _prepared(config, verb=verb, progress=progress):
        run_settings.keep_as_last_run(config)
        from flows.build_corpus import build_corpus
        from flows.train_model import train_model

        return train_model(config, build_corpus(config), until=verb)


@contextmanager
def _prepared(config: RunConfig, *, verb: str, progress: bool) -> Iterator[None]:
    """As a verb of the command line runs: the store locked, Prefect and Ray ready, and errors of Ray unwrapped."""
    from rich.console import Console

    from datasets.store import scratch
    from flows.cli.session import prepared
    from flows.console.error_messages import explain
    from flows.console.progress_display import Screen
    from flows.console.sanitized_console import Terminal

    scratch.use(config.store.scratch, limit_gb=config.store.scratch_gb)
    try:
        with (
            Screen(Terminal(stderr=True) if progress else Console(quiet=True)) as screen,
            prepared(config, verb=verb, screen=screen, debug=False),
        ):
            yield
    except Exception as error:
        failure = explain(error)
        if failure.exit_code != 2 or isinstance(error, InputError):
            raise
        raise InputError(failure.message) from error
