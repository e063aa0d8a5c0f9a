"""`stemline demo`: the whole pipeline on synthetic songs, and a real song separated at its end."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets.store import storage
from datasets.store.scratch import hold, scratch
from flows.cli.options import NO_OPTIONS, Options, Overrides
from flows.cli.session import prepared, run_verb
from flows.config import RunConfig
from flows.console.progress_display import Screen
from pipelines.evaluation.summary import ScoreSummary
from pipelines.runs.remote_checkpoints import send

SONGS = "demo-songs"
NUM_SONGS = 48  # of which a twelfth each is for validation and for the test
SONG_S = 12.0
SEED = 0
MIN_GAIN_DB = 3.0  # over the unprocessed mixture on held-out toy songs; less means that something is broken


def demo(*overrides: Overrides, options: Options = NO_OPTIONS) -> int:
    """The whole pipeline with synthetic songs, and a real one separated at the end; minutes on a laptop.

    Example: `stemline demo store.root=/tmp/demo`
    """
    return run_verb(
        overrides,
        options,
        lambda config, screen: run(config, verb="demo", screen=screen, debug=options.debug),
        preset="demo",
    )


def run(config: RunConfig, *, verb: str, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """The result of the run; the exit code is 1 unless the model beats the mixture by `MIN_GAIN_DB`, and silence."""
    with prepared(config, verb=verb, screen=screen, debug=debug):
        from datasets.corpus.synthetic import write_corpus
        from flows.cli.result_tables import demo_tables
        from flows.full_run import full_run
        from pipelines.inference.example_song import shipped_song

        if not config.corpus.root:
            screen.start("compose", 0, "")
            folder = hold(scratch(config.store.root) / SONGS)
            truth = write_corpus(folder, num_songs=NUM_SONGS, seed=SEED, duration_s=SONG_S, splits=splits())
            screen.finish(f"{len(truth.good)} toy songs of {SONG_S:g} s, and {len(truth.bad)} broken ones")
            root = _bring(folder, config.store.root)
            config = replace(config, corpus=replace(config.corpus, root=root))
        result = full_run(config, shipped_song())
        assert result.model.candidate is not None
        gain_db = result.model.candidate.summary.overall.improvement
        failure = _failure(result.model.candidate.summary)
        if failure:
            screen.say(f"The demo failed: {failure}")
        output = demo_tables(result, store=config.store.root)
        return {**asdict(result), "gain_db": gain_db, "exit_code": int(bool(failure)), "console_output": output}


def splits() -> dict[str, int]:
    """How many of the toy songs stand on each side: most are there to learn from."""
    held_out = max(1, NUM_SONGS // 12)
    return {"train": NUM_SONGS - 2 * held_out, "valid": held_out, "test": held_out}


def _bring(folder: Path, store: str) -> str:
    """Where every machine finds the songs: in a store in an object store a copy; those that are there stay as they are.

    A song in an object store is known by its size and its time of change.
    """
    root = storage.join(store, SONGS)
    there = storage.files_below(root) if storage.is_remote(store) else {}
    for inside, stamp in storage.files_below(str(folder)).items() if storage.is_remote(store) else ():
        if inside not in there or there[inside].size != stamp.size:
            send(folder / inside, storage.join(root, *inside.split("/")))
    return root


def _failure(summary: ScoreSummary) -> str:
    """Why the model is not good enough; empty if it is. Silence scores 0 dB, which is far above the mixture."""
    overall = summary.overall
    if overall.nsdr is None or overall.improvement is None:
        return "no stem sounds in any of the held-out songs."
    if not overall.improvement >= MIN_GAIN_DB:
        return f"{overall.improvement:+.2f} dB over the mixture, where {MIN_GAIN_DB:+.2f} dB are expected."
    if not overall.nsdr > 0:
        return f"a mean nSDR of {overall.nsdr:+.2f} dB; silence would score 0 dB."
    return ""
