"""Scores that are asked for: computed then and only then, summed up over the songs that count, part of the protocol."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from datasets.errors import InputError
from datasets.schema import SCORES, Score
from models.scores.log_wmse import log_wmse
from models.scores.mel_scores import aura_mrstft, bleedless_fullness
from models.scores.scale_invariant import scale_invariant
from pipelines.evaluation import extra_metrics
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.song_scoring import score_song
from pipelines.evaluation.summary import extra_scores, summarize
from pipelines.report.score_section import _extra_rows

RATE, SOURCES = 8000, ("drums", "bass", "other")
ALL = tuple(extra_metrics.LABELS)
OPTIONAL = [name for name in ALL if name != "si_sdr"]


def signals(seed: int, *, bass: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    stems_SCT = 0.1 * torch.randn((3, 2, 2 * RATE), generator=generator)
    stems_SCT[1] *= bass / 0.1
    noise_SCT = 0.02 * torch.randn(stems_SCT.shape, generator=generator)
    return stems_SCT, 0.8 * stems_SCT + 0.1 * stems_SCT.sum(dim=0) + noise_SCT


def scored(
    config: EvaluateConfig, name: str, *, seed: int = 0, bass: float = 0.1, muted: bool = False
) -> tuple[Score, ...]:
    stems_SCT, estimates_SCT = signals(seed, bass=bass)
    estimates_SCT[1] *= 0 if muted else 1
    return score_song(
        config.measures, stems_SCT, estimates_SCT, sources=SOURCES, sample_rate=RATE, track_id=name, title=name,
        seconds=1.0,
    ).scores  # fmt: skip


def test_each_is_a_column_and_nothing_else_changes() -> None:
    plain, asked = scored(EvaluateConfig(), "a"), scored(EvaluateConfig(extra_metrics=ALL), "a")
    stems_SCT, estimates_SCT = signals(0)
    ratios = scale_invariant(stems_SCT, estimates_SCT)
    bleedless_S, fullness_S = bleedless_fullness(stems_SCT, estimates_SCT, RATE)
    expected = {
        "si_sir": ratios.sir_S,
        "si_sar": ratios.sar_S,
        "log_wmse": log_wmse(stems_SCT, estimates_SCT, stems_SCT.sum(dim=0), RATE),
        "aura_mrstft": aura_mrstft(stems_SCT, estimates_SCT, RATE),
        "bleedless": bleedless_S,
        "fullness": fullness_S,
    }
    assert [*expected] == OPTIONAL
    for name, score_S in expected.items():
        assert [getattr(row, name) for row in asked] == score_S.tolist()
        assert [getattr(row, name) for row in plain] == [None] * 3
    without = dict.fromkeys(OPTIONAL, None)
    assert [replace(row, **without, protocol="") for row in asked] == [replace(row, protocol="") for row in plain]
    assert {*ALL} <= {*SCORES.names}


@pytest.mark.parametrize("name", ALL)
def test_one_alone_can_be_asked_for(name: str) -> None:
    for row in scored(EvaluateConfig(extra_metrics=(name,)), "a"):
        assert [column for column in OPTIONAL if getattr(row, column) is not None] == [name] * (name != "si_sdr")


def test_a_silent_stem_has_none_and_counts_in_no_mean() -> None:
    config = EvaluateConfig(extra_metrics=ALL)
    songs = [scored(config, "a"), scored(config, "b", seed=1, bass=0.0)]
    silent = songs[1][1]
    assert [getattr(silent, name) for name in ALL] == [None] * len(ALL)
    assert silent.leakage_db is not None
    summary = summarize([score for song in songs for score in song], "m", "d")
    for name in ALL:
        assert getattr(summary.sources["bass"], name) == getattr(songs[0][1], name)
        drums = [getattr(song[0], name) for song in songs]
        assert getattr(summary.sources["drums"], name) == pytest.approx(sum(drums) / 2)
        means = [getattr(score, name) for score in summary.sources.values()]
        assert extra_scores(summary)["mean"][name] == pytest.approx(sum(means) / 3)
    assert summary.sources["bass"].num_songs == 1


def test_a_muted_estimate_has_no_ratio_and_is_not_counted_in_that_mean() -> None:
    config = EvaluateConfig(extra_metrics=ALL)
    songs = [scored(config, "a"), scored(config, "b", seed=1, muted=True)]
    rows = [score for song in songs for score in song]
    assert songs[1][1].si_sdr is None
    assert songs[1][1].nsdr == 0.0
    bass = summarize(rows, "m", "d").sources["bass"]
    assert (bass.num_songs, bass.num_extra_songs["si_sdr"], bass.num_extra_songs["log_wmse"]) == (2, 1, 2)
    assert bass.si_sdr == songs[0][1].si_sdr
    (shown,) = (row for row in _extra_rows(rows) if row[0] == "bass")
    assert shown[:2] == ["bass", "2 of 2"]
    assert shown[2] == f"{songs[0][1].si_sdr:.2f} (1)"
    assert "(" not in shown[2 + ALL.index("log_wmse")]


def test_the_protocol_says_which_whatever_the_order_and_nothing_by_default() -> None:
    default = EvaluateConfig()
    assert "also" not in default.protocol
    assert extra_metrics.of_protocol(default.protocol) == ()
    for scorer in ("stemline", "museval"):
        asked = [
            EvaluateConfig(scorer=scorer, extra_metrics=names)
            for names in (("fullness", "si_sar"), ("si_sar", "fullness", "si_sar"))
        ]
        assert len({config.protocol for config in asked}) == 1
        assert extra_metrics.of_protocol(asked[0].protocol) == ("si_sar", "fullness")
    protocols = {EvaluateConfig(extra_metrics=(name,)).protocol for name in ALL} | {default.protocol}
    assert len(protocols) == len(ALL) + 1
    assert extra_scores(summarize(scored(default, "a"), "m", "d"))["mean"] == {}


def test_a_name_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"evaluate\.extra_metrics must be names out of si_sdr, .*, got 'sisar'"):
        EvaluateConfig(extra_metrics=("si_sar", "sisar"))
