"""The demo's own judgement: over the mixture by 3 dB, and better than silence."""

import pytest

from flows.demo import _complaint
from pipelines.evaluate import ScoreSummary, SourceScore


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
    complaint = _complaint(summary)
    assert (complaint == "") == (word == "")
    assert word in complaint
