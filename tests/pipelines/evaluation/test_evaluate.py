"""Scores of held-out songs: right per song, summed up right, never computed twice."""

import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.errors import InputError
from datasets.schema import Score, ShardSet
from datasets.shards.arrow_tables import read_objects
from datasets.shards.manifests import read_songs
from datasets.shards.shards import read_track
from models.inference.separate import separate
from models.networks.catalog import build
from models.scores import bsseval
from models.scores.metrics import nsdr
from models.weights import checkpoint
from models.weights.bit_packing import uniform_packing
from pipelines.evaluation import evaluate, scoring_job, song_scoring
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.scoring_job import score_estimates, score_track
from pipelines.evaluation.summary import summarize
from pipelines.runtime.progress import NullProgress
from tests.pipelines.songs import RATE, SOURCES, write_songs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import museval

CONFIG = EvaluateConfig(num_workers=1)


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_songs(tmp_path_factory.mktemp("songs"), {"a": "train", "b": "test", "c": "test", "d": "test"})


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = {"sources": SOURCES, "sample_rate": RATE, "segment_s": 0.5, "nfft": 512, "depth": 2}
    return build("htdemucs-tiny", **options).eval()


def score(track_id: str, source: str, value: float, *, sdr: float | None = 1.0) -> Score:
    return Score(
        track_id=track_id, title=track_id, source=source, protocol="p", nsdr=value, sdr=sdr, mixture_nsdr=-5.0,
        mixture_sdr=sdr,
    )  # fmt: skip


def test_a_song_gets_a_score_per_source_and_the_mixture_s_beside_it(chunks: ShardSet, model: torch.nn.Module) -> None:
    scores, seconds = score_track(CONFIG, model, chunks, track_id="b", title="B")
    assert seconds > 0
    stems_SCT = torch.from_numpy(read_track(chunks, "b", sources=SOURCES))
    mixture_CT = stems_SCT.sum(dim=0)
    assert [row.source for row in scores] == list(SOURCES)
    assert [row.nsdr for row in scores] == pytest.approx(nsdr(stems_SCT, separate(model, mixture_CT)).tolist())
    assert [row.mixture_nsdr for row in scores] == pytest.approx(
        nsdr(stems_SCT, mixture_CT.expand_as(stems_SCT)).tolist()
    )
    assert all(row.sdr is not None and row.protocol == CONFIG.protocol for row in scores)
    assert all(row.mixture_nsdr < row.ceiling_nsdr and row.mixture_sdr < row.ceiling_sdr for row in scores)  # type: ignore[operator]


def test_a_limit_scores_the_start_and_is_another_protocol(chunks: ShardSet, model: torch.nn.Module) -> None:
    limited = replace(CONFIG, max_song_s=1.0)
    assert (
        score_track(limited, model, chunks, track_id="b", title="B")[0]
        != score_track(CONFIG, model, chunks, track_id="b", title="B")[0]
    )
    assert "first 1 s" in limited.protocol
    assert replace(CONFIG, num_workers=7, batch_size=3).protocol == CONFIG.protocol


def test_both_scorers_say_the_same_of_all_four_scores(chunks: ShardSet, model: torch.nn.Module) -> None:
    asked = replace(CONFIG, full_bss_eval=True)
    by_scorer = {
        scorer: score_track(replace(asked, scorer=scorer), model, chunks, track_id="b", title="B")[0]
        for scorer in ("stemline", "museval")
    }
    for given, expected in zip(*by_scorer.values(), strict=True):
        for name in ("sdr", "isr", "sir", "sar"):
            assert getattr(given, name) == pytest.approx(getattr(expected, name), abs=1e-3)
        assert given.solver in ("levinson", "refined", "lu")
        assert not expected.solver
    protocols = {scores[0].protocol for scores in by_scorer.values()} | {CONFIG.protocol}
    assert len(protocols) == 3
    assert [row.sir for row in score_track(CONFIG, model, chunks, track_id="b", title="B")[0]] == [None] * 2


@pytest.mark.parametrize("scorer", ["stemline", "museval"])
def test_silence_has_no_ratios_in_windows_and_a_finite_nsdr(chunks: ShardSet, scorer: str) -> None:
    silence = np.zeros((len(SOURCES), 2, 3 * RATE), np.float32)
    asked = replace(CONFIG, full_bss_eval=True, scorer=scorer)
    about: dict[str, Any] = {"track_id": "b", "title": "B", "sources": SOURCES, "sample_rate": RATE, "seconds": 1.0}
    scores = score_estimates(asked, chunks, silence, **about).scores
    assert [(row.sdr, row.isr, row.sir, row.sar) for row in scores] == [(None,) * 4] * 2
    assert [row.nsdr for row in scores] == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (np.full((2, 2, 3 * RATE), np.nan, np.float32), "B: the model's estimate of drums, bass holds NaN"),
        (
            np.zeros((2, 2, 3 * RATE - 1), np.float32),
            r"B: a model must return as many samples .* shape \(2, 2, 23999\), stems",
        ),
    ],
)
def test_estimates_that_cannot_be_scored_are_named(chunks: ShardSet, made: np.ndarray, words: str) -> None:
    about: dict[str, Any] = {"track_id": "b", "title": "B", "sources": SOURCES, "sample_rate": RATE, "seconds": 1.0}
    with pytest.raises(InputError, match=words):
        score_estimates(CONFIG, chunks, made, **about)


def test_one_song_is_a_test_set_and_flagged_songs_count_only_where_rounding_does_not() -> None:
    rows = [replace(score("a", "drums", 2.0), isr=9.0, sir=8.0, sar=7.0, solver="levinson")]
    alone = summarize(rows, "m", "d")
    assert (alone.overall.nsdr, alone.overall.sdr, alone.overall.sir) == (2.0, 1.0, 8.0)
    flagged = replace(score("b", "drums", 4.0, sdr=3.0), isr=-60.0, sir=-40.0, sar=0.0, solver="lu")
    both = summarize([*rows, flagged], "m", "d")
    assert (both.overall.nsdr, both.overall.sdr, both.overall.sir) == (3.0, 2.0, 8.0)
    assert both.solvers == {"levinson": 1, "lu": 1}
    assert song_scoring.ILL_CONDITIONED == bsseval.ILL_CONDITIONED


def test_nsdr_is_averaged_over_songs_and_sdr_takes_the_median() -> None:
    rows = [score(track, "drums", value, sdr=value) for track, value in (("a", 1.0), ("b", 2.0), ("c", 6.0))]
    rows += [score(track, "bass", 0.0, sdr=None) for track in "abc"]
    summary = summarize(rows, "m", "d")
    assert summary.sources["drums"].nsdr == 3.0
    assert summary.sources["drums"].sdr == 2.0
    assert summary.sources["bass"].sdr is None
    assert summary.overall.nsdr == 1.5
    assert summary.overall.sdr == 2.0
    assert summary.overall.improvement == 6.5
    assert tuple(summary.songs) == ("a", "b", "c")


def test_scores_of_two_protocols_are_not_summed_up() -> None:
    with pytest.raises(InputError, match="2 protocols"):
        summarize([score("a", "drums", 1.0), replace(score("b", "drums", 1.0), protocol="q")], "m", "d")


def test_the_longest_songs_are_scored_first(chunks: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dealt: list[str] = []

    def note(config: EvaluateConfig, checkpoint: str, chunks: ShardSet, items: Any, store: str) -> list[str]:
        dealt.extend(item["track_id"] for item in items)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "separate_and_score", note)
    monkeypatch.setattr(evaluate, "connect", lambda store: nullcontext())
    songs = {song.track_id: song for song in read_songs(chunks)}
    keyed = {name: replace(songs[name], num_samples=length) for name, length in (("b", 2), ("c", 1), ("d", 3))}
    with pytest.raises(KeyboardInterrupt):
        evaluate._results(CONFIG, "model", "digest", chunks, keyed, str(tmp_path), None)
    assert dealt == ["d", "b", "c"]


def test_packed_weights_need_the_memory_of_the_network_they_fill(
    chunks: ShardSet, model: torch.nn.Module, tmp_path: Path
) -> None:
    plain = checkpoint.save(tmp_path / "plain", model)
    packed = checkpoint.save(tmp_path / "packed", model, packing=uniform_packing(model, 2, min_mib=0.001))
    songs = read_songs(chunks)
    needed = scoring_job._needed_bytes(CONFIG, str(plain), songs)
    assert scoring_job._needed_bytes(CONFIG, str(packed), songs) == needed
    assert needed[0] > 2**30 + 2 * sum(value.nbytes for value in model.state_dict().values())


def test_an_empty_split_is_named(chunks: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the valid split is empty: none of 4 songs .*corpus\.valid_fraction"):
        evaluate.run(EvaluateConfig(split="valid"), "nowhere", chunks, store=str(tmp_path))
    with pytest.raises(InputError, match=r"evaluate\.split must be one of .*, got 'dev'"):
        EvaluateConfig(split="dev")


class Impatient(NullProgress):
    """Pulls the plug after so many songs, and counts those it heard of."""

    def __init__(self, songs: int) -> None:
        self.left, self.noted = songs, 0

    def note(self, text: str) -> None:
        self.noted += 1
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_was_and_workers_change_no_score(
    ray_local: Any, chunks: ShardSet, model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(checkpoint.save(tmp_path / "model", model))
    asked = replace(CONFIG, full_bss_eval=True, museval_json=str(tmp_path / "museval"))
    killed = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(asked, folder, chunks, store=str(killed), progress=Impatient(1))
    done = {path.name: path.stat().st_mtime_ns for path in (killed / "scored").iterdir()}
    assert done
    assert not (killed / "manifests").exists()

    heard = Impatient(99)
    first = evaluate.run(asked, folder, chunks, store=str(killed), progress=heard)
    assert heard.noted == 3 - len(done)
    assert {path.name: path.stat().st_mtime_ns for path in (killed / "scored").iterdir()}.items() >= done.items()

    fresh = evaluate.run(replace(asked, num_workers=2), folder, chunks, store=str(tmp_path / "fresh"))
    assert fresh.scores.digest == first.scores.digest
    assert tuple(first.summary.songs) == ("b", "c", "d")
    assert first.summary.size_bytes == (Path(folder) / "weights.safetensors").stat().st_size
    assert first.summary.real_time_factor is not None
    assert first.summary.real_time_factor > 0
    expected = [row for name in "bcd" for row in score_track(asked, model, chunks, track_id=name, title=name)[0]]
    for given, wanted in zip(read_objects(first.scores, Score), expected, strict=True):
        assert (given.track_id, given.source, given.protocol) == (wanted.track_id, wanted.source, wanted.protocol)
        assert given.nsdr == pytest.approx(wanted.nsdr, abs=1e-3)
    # museval reads what was written, and sums it up alike.
    store = museval.EvalStore()
    store.add_eval_dir(tmp_path / "museval")
    theirs = store.agg_frames_tracks_scores()
    for source, row in first.summary.sources.items():
        assert theirs[source, "SDR"] == pytest.approx(row.sdr, abs=1e-4)
    monkeypatch.delattr(evaluate, "separate_and_score")
    assert evaluate.run(asked, folder, chunks, store=str(killed)) == first
