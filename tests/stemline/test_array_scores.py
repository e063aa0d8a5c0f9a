"""Scores of arrays are those of the measures themselves, by source."""

import numpy as np
import pytest
import torch

import stemline
from models.scores.metrics import nsdr, sdr_median, sdr_windows

RATE = 8000


def stems(seed: int) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(seed).standard_normal((2, 2, 2 * RATE)).astype(np.float32) * 0.1
    return {"drums": noise[0], "vocals": noise[1]}


def test_scores_are_those_of_the_measures_in_any_order_of_the_estimates() -> None:
    true, made = stems(0), {name: stem + 0.1 * stems(1)[name] for name, stem in stems(0).items()}
    scores = stemline.score(true, dict(reversed(made.items())), sample_rate=RATE, extra_metrics=["si_sir"])
    both = [torch.from_numpy(np.stack([given["drums"], given["vocals"]])) for given in (true, made)]
    assert [scores[name].nsdr for name in true] == pytest.approx(nsdr(*both).tolist())
    assert [scores[name].sdr for name in true] == pytest.approx(sdr_median(sdr_windows(*both, RATE)).tolist())
    assert scores["drums"].si_sir is not None
    assert scores["drums"].plugin_scores == {}
    tensors = {name: torch.from_numpy(stem) for name, stem in made.items()}
    assert stemline.score(true, tensors, sample_rate=RATE)["vocals"].nsdr == scores["vocals"].nsdr


def test_arrays_that_cannot_be_compared_are_named() -> None:
    true = stems(0)
    with pytest.raises(stemline.InputError, match="same sources, got drums, vocals and drums"):
        stemline.score(true, {"drums": true["drums"]}, sample_rate=RATE)
    with pytest.raises(stemline.InputError, match=r"estimates must have one shape, got \(2, 100\), \(2, 16000\)"):
        stemline.score(true, {**true, "drums": true["drums"][:, :100]}, sample_rate=RATE)
    with pytest.raises(stemline.InputError, match="shape"):
        stemline.score(true, {name: stem[:, :100] for name, stem in true.items()}, sample_rate=RATE)
    with pytest.raises(stemline.InputError, match="one by one"):
        stemline.score({"drums": true["drums"][None]}, {"drums": true["drums"][None]}, sample_rate=RATE)
    with pytest.raises(stemline.InputError, match=r"evaluate\.plugins: no metric 'envelop'"):
        stemline.score(true, true, sample_rate=RATE, plugins=["envelop"])
    with pytest.raises(stemline.InputError, match="extra_metrics must be names out of"):
        stemline.score(true, true, sample_rate=RATE, extra_metrics=["loudness"])
