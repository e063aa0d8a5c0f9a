"""`stemline demo`: toy songs of known tempo, key and defects, the whole road, and a real song at its end."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flows.config import RunConfig
from flows.road import prepared
from flows.screen import Screen

NUM_SONGS = 12
SONG_S = 12.0
SEED = 0
MIN_GAIN_DB = 3.0  # over the unprocessed mixture on held-out toy songs; less means that something is broken


def run(config: RunConfig, *, verb: str, screen: Screen, debug: bool = False) -> dict[str, Any]:
    """The exit code is 1 if the model does not beat the mixture by `MIN_GAIN_DB`."""
    with prepared(config, verb=verb, screen=screen, debug=debug):
        from datasets.synthetic import write_corpus
        from flows.full_run import full_run
        from flows.tables import demo_tables
        from pipelines.audition import shipped_song

        if not config.corpus.root:
            screen.start("compose", 0, "")
            folder = Path(config.store.root) / "demo-songs"
            truth = write_corpus(folder, num_songs=NUM_SONGS, seed=SEED, duration_s=SONG_S)
            screen.finish(f"{len(truth.good)} toy songs of {SONG_S:g} s, and {len(truth.bad)} broken ones")
            config = replace(config, corpus=replace(config.corpus, root=str(folder)))
        made = full_run(config, shipped_song())
        assert made.model.candidate is not None
        gain_db = made.model.candidate.summary.overall.improvement
        shown = demo_tables(made, store=config.store.root)
        if not gain_db >= MIN_GAIN_DB:
            screen.say(f"The demo failed: {gain_db:+.2f} dB over the mixture; {MIN_GAIN_DB:+.2f} dB are expected.")
        return {**asdict(made), "gain_db": gain_db, "exit_code": int(not gain_db >= MIN_GAIN_DB), "shown": shown}
