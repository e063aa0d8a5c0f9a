"""The settings that would keep more are named with how many songs each keeps, copies among them left out."""

from pathlib import Path

import numpy as np

from datasets.corpus.synthetic import compose, perform
from datasets.quality.measures import StemStatistics
from datasets.quality.verdict_overrides import Override, Overrides
from datasets.schema import SOURCES
from datasets.shards.manifests import Song
from pipelines.preparation import corpus_rules, relaxed_rules
from pipelines.preparation.curate_config import CurateConfig
from pipelines.preparation.signal_stats import SongStats
from pipelines.preparation.song_rules import JudgedSong, judged
from tests.contracts.song_lab import on_path

RATE = 22050
NOBODY = Overrides(songs={}, digest="")
ABOUT = {"sources": SOURCES, "drawn": [], "split_rule": {}}


def _judged(name: str, seed: int, *faults: str, config: CurateConfig) -> JudgedSong:
    stems_SCT = perform(compose(seed, "relaxed", 5.0), RATE)
    mixture_CT = stems_SCT.sum(axis=0)
    if "silent" in faults:
        stems_SCT[3] = 0
    if "clipped" in faults:
        stems_SCT[0] = np.clip(stems_SCT[0] * 60, -1, 1)
    if "quiet" in faults:
        stems_SCT[2] *= 0.4
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    meter.add(stems_SCT, mixture_CT if "quiet" in faults else None)
    stats = SongStats(
        measures=meter.measures(),
        moments=meter.worst(),
        signature=meter.signature(),
        stem_signatures=meter.stem_signatures(),
    )
    song = Song(
        track_id=name, title=name, split="train", sample_rate=RATE, channels=2, num_samples=stems_SCT.shape[2],
        chunk_samples=RATE, first_row=0, num_chunks=5, path="",
    )  # fmt: skip
    return judged(song, stats, config, SOURCES)


def test_each_setting_is_named_with_the_songs_that_it_alone_keeps() -> None:
    config = CurateConfig()
    songs = [
        _judged("good", 31, config=config),
        _judged("silent", 32, "silent", config=config),
        _judged("silent too", 33, "silent", config=config),
        _judged("silent, the same again", 33, "silent", config=config),  # is a copy then
        _judged("silent and clipped", 34, "silent", "clipped", config=config),  # takes two settings
        _judged("clipped", 35, "clipped", config=config),
        _judged("quiet", 36, "quiet", config=config),
        _judged("good again", 31, config=config),
        _judged("silent and out of tune", 37, "silent", config=config),
    ]
    by_hand = Overrides(songs={"silent and out of tune": Override(keep=False, why="out of tune")}, digest="x")
    decided = corpus_rules.verdicts_on(config, songs, by_hand, ABOUT)
    kept = {verdict.track_id for verdict in decided.verdicts if verdict.keep}
    assert kept == {"good"}
    found = dict(decided.would_keep)
    assert found == {
        "curate.min_presence=0": 2,
        "curate.max_clipped=1": 1,
        "curate.max_gain_db=1000": 1,
        "curate.min_similarity=2": 1,
    }
    assert relaxed_rules.in_words(found)[0] == "curate.min_presence=0 keeps 2 more"
    # And what is said is so.
    for settings, more in found.items():
        name, value = settings.removeprefix("curate.").split("=")
        relaxed = CurateConfig(**{name: float(value)})
        again = [_rejudged(song, relaxed) for song in songs]
        verdicts = corpus_rules.verdicts_on(relaxed, again, by_hand, ABOUT).verdicts
        assert sum(verdict.keep for verdict in verdicts) == len(kept) + more, settings


def _rejudged(item: JudgedSong, config: CurateConfig) -> JudgedSong:
    stats = SongStats(
        measures=item.measures, moments=(), signature=item.signature, stem_signatures=item.stem_signatures
    )
    return judged(item.song, stats, config, SOURCES)


def test_songs_that_a_plug_in_would_drop_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "lab_relaxed.py").write_text("def rule(song, m): return 'no' if song.track_id == 'both' else None\n")
    with on_path(tmp_path):
        config = CurateConfig(plugins=("lab_relaxed:rule",))
        songs = [_judged(name, seed, "silent", config=config) for name, seed in (("one", 32), ("both", 33))]
        assert corpus_rules.verdicts_on(config, songs, NOBODY, ABOUT).would_keep == {"curate.min_presence=0": 1}


def test_nothing_is_said_where_every_song_is_kept() -> None:
    config = CurateConfig()
    songs = [_judged("good", 31, config=config), _judged("fine", 38, config=config)]
    assert corpus_rules.verdicts_on(config, songs, NOBODY, ABOUT).would_keep == {}
