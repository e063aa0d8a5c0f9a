"""The demo's own judgement: over the mixture by 3 dB, and better than silence."""

import pytest

from datasets.schema import Score
from flows.cli.pipeline.demo import _failure
from flows.cli.result_tables import _real_cells
from pipelines.evaluation.summary import ScoreSummary, SourceScore


@pytest.mark.parametrize(
    ("nsdr", "mixture", "word"),
    [
        (1.0, -4.0, ""),
        (0.5, -2.0, "over the mixture"),
        (-0.1, -5.0, "silence"),
        (float("nan"), -5.0, "over the mixture"),
    ],
)
def test_a_model_must_beat_the_mixture_and_silence(nsdr: float, mixture: float, word: str) -> None:
    score = SourceScore(nsdr=nsdr, mixture_nsdr=mixture, sdr=None, mixture_sdr=None)
    summary = ScoreSummary(
        model_digest="", dataset_digest="", protocol="", songs={}, sources={"drums": score}, overall=score
    )
    complaint = _failure(summary)
    assert (complaint == "") == (word == "")
    assert word in complaint


def test_the_real_song_s_cells_are_floor_model_gain_and_ceiling() -> None:
    def score(source: str, nsdr: float, ceiling: float | None) -> Score:
        return Score(
            track_id="a", title="a", source=source, protocol="", nsdr=nsdr, sdr=None, mixture_nsdr=-1.0,
            mixture_sdr=None, ceiling_nsdr=ceiling,
        )  # fmt: skip

    real = {"drums": score("drums", 2.0, 9.0), "bass": score("bass", 4.0, None)}
    assert _real_cells("drums", real) == ["-1.00", "2.00", "+3.00", "9.00"]
    assert _real_cells("mean", real) == ["-1.00", "3.00", "+4.00", "9.00"]
    assert _real_cells("vocals", real) == ["–"] * 4
