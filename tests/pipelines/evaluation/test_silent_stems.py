"""A stem that is silent over a whole song counts nowhere but as leakage, however loud a model is there."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from datasets.schema import Score
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.gate import GateConfig, GateDecision, compare, decide
from pipelines.evaluation.song_scoring import score_song
from pipelines.evaluation.summary import ScoreSummary, summarize

RATE, SOURCES = 8000, ("drums", "bass", "other")


def noise(seed: int, level: float) -> Tensor:
    return level * torch.randn((2, 3 * RATE), generator=torch.Generator().manual_seed(seed))


def song(name: str, bass: Tensor, leak: Tensor, *, error: float = 0.05, seed: int = 0) -> list[Score]:
    """Scores of a song with drums and other, -20 dBFS each, which the model finds with some error, and a bass."""
    drums, other = noise(seed, 0.1), noise(seed + 100, 0.1)
    estimates = [drums + noise(9, error), bass + leak, other + noise(8, error)]
    result = score_song(
        EvaluateConfig().measures, torch.stack([drums, bass, other]), torch.stack(estimates),
        sources=SOURCES, sample_rate=RATE, track_id=name, title=name, seconds=1.0,
    )  # fmt: skip
    return list(result.scores)


def summed(songs: Sequence[Sequence[Score]], model: str = "m") -> ScoreSummary:
    return summarize([score for one in songs for score in one], model, "d")


@pytest.mark.parametrize("leak_db", [-80.0, -60.0, -40.0])
@pytest.mark.parametrize("floor_db", [-math.inf, -70.0])
def test_its_ratios_are_unknown_and_what_is_there_is_leakage_relative_to_the_mixture(
    leak_db: float, floor_db: float
) -> None:
    drums, bass, _ = song("a", noise(1, 10 ** (floor_db / 20)), noise(2, 10 ** (leak_db / 20)))
    ratios = ("nsdr", "sdr", "si_sdr", "mixture_nsdr", "mixture_sdr", "ceiling_nsdr", "ceiling_sdr")
    assert [getattr(bass, name) for name in ratios] == [None] * len(ratios)
    level_db = 10 * math.log10(10 ** (leak_db / 10) + 10 ** (floor_db / 10))
    assert bass.leakage_db == pytest.approx(level_db + 17, abs=0.2)  # drums and other are at -17 dBFS
    assert drums.nsdr == pytest.approx(6.02, abs=0.2)
    assert drums.leakage_db is None


def test_means_are_over_the_songs_in_which_a_source_sounds_and_say_how_many_those_are() -> None:
    sounding = song("a", noise(1, 0.1), noise(2, 0.01), seed=5)
    quiet = summed([sounding, song("b", noise(1, 0.0), noise(2, 1e-4))])
    loud = summed([sounding, song("b", noise(1, 0.0), noise(2, 0.1))])
    for summary in (quiet, loud):
        assert summary.sources["bass"].nsdr == sounding[1].nsdr
        assert {name: score.num_songs for name, score in summary.sources.items()} == {"drums": 2, "bass": 1, "other": 2}
        assert summary.sources["drums"].num_sdr_songs == 1  # as in museval, no window of a song with a silent stem
        assert summary.overall.num_songs == 2
        assert summary.songs["b"].nsdr.keys() == {"drums", "other"}
    assert quiet.overall.nsdr == loud.overall.nsdr
    assert (quiet.sources["bass"].leakage_db, loud.sources["bass"].leakage_db) == pytest.approx((-63, -3), abs=0.2)
    assert loud.overall.leakage_db == loud.sources["bass"].leakage_db
    nowhere = summed([song("b", noise(1, 0.0), noise(2, 0.1))])
    assert (nowhere.sources["bass"].nsdr, nowhere.sources["bass"].num_songs) == (None, 0)
    assert nowhere.overall.nsdr is not None
    assert nowhere.overall.nsdr > 5


def judged(leak_db: float, *, with_bass: int, num_songs: int = 8) -> GateDecision:
    """A candidate that is 6 dB better on drums, and leaks into the bass of songs that have none."""

    def model(name: str, error: float, leak: float) -> ScoreSummary:
        songs = [
            song(f"{place}", noise(1, 0.1 if place < with_bass else 0.0), noise(2, leak), error=error, seed=place)
            for place in range(num_songs)
        ]
        return summed(songs, name)

    candidate, champion = model("candidate", 0.02, 10 ** (leak_db / 20)), model("champion", 0.04, 1e-3)
    return decide(candidate, champion, GateConfig(seed_noise_db=0.0))


def test_the_gate_compares_pairs_that_sound_and_leakage_by_a_rule_of_its_own() -> None:
    for leak_db, rules in ((-60.0, []), (-50.0, ["leakage_tolerance_db"])):
        decision = judged(leak_db, with_bass=0)
        assert [check.rule for check in decision.checks if not check.met] == rules
        assert decision.gain is not None
        assert decision.gain.mean == pytest.approx(6.02, abs=0.1)
        assert decision.source_gains.keys() == {"drums", "other"}
    assert "Where bass is silent it leaks up to -33" in decision.reason
    assert "dB relative to the mixture (in " in decision.reason
    few = judged(-60.0, with_bass=1)
    assert few.source_gains["bass"].num_songs == 1
    (check,) = (check for check in few.checks if check.rule == "source_tolerance, bass")
    assert "over the 1 of 8 songs in which it sounds; the limit is" in check.message
    assert check.met == (few.source_gains["bass"].mean >= -GateConfig().source_tolerance)  # no bound: the mean decides


def test_a_song_in_which_nothing_sounds_is_in_no_number() -> None:
    whole = summed([song(f"{place}", noise(1, 0.1), noise(2, 0.01), seed=place) for place in range(3)])
    silence = {name: replace(one, nsdr={}, mixture_nsdr={}) for name, one in whole.songs.items() if name == "1"}
    pairs = compare(replace(whole, songs={**whole.songs, **silence}), whole, GateConfig())
    assert pairs.songs.keys() == {"0", "2"}
    assert pairs.gain.num_songs == 2
