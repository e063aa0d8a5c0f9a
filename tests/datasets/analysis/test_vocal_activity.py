import numpy as np
import pytest
from numpy.typing import NDArray

from datasets.analysis.vocal_activity import singing_spans

SAMPLE_RATE = 8000
SPANS = ((1.0, 2.5), (4.0, 4.8), (6.5, 9.0))


def sung(
    spans: tuple[tuple[float, float], ...], *, seconds: float = 10.0, noise_db: float = -200.0
) -> NDArray[np.float32]:
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    on = sum(((t >= start) & (t < stop)).astype(float) for start, stop in spans)
    noise = np.random.default_rng(0).standard_normal(t.size) * 10.0 ** (noise_db / 20.0)
    return (0.2 * np.sin(2 * np.pi * 220.0 * t) * on + noise).astype(np.float32)


@pytest.mark.parametrize("noise_db", [-200.0, -55.0])
def test_spans_are_where_somebody_sings(noise_db: float) -> None:
    assert np.array(singing_spans(sung(SPANS, noise_db=noise_db), SAMPLE_RATE)) == pytest.approx(
        np.array(SPANS), abs=0.06
    )


def test_spans_do_not_depend_on_the_level() -> None:
    assert singing_spans(0.02 * sung(SPANS), SAMPLE_RATE) == singing_spans(sung(SPANS), SAMPLE_RATE)


def test_a_breath_does_not_end_a_span_and_a_click_is_none() -> None:
    found = singing_spans(sung(((1.0, 2.0), (2.2, 3.0), (6.0, 6.05))), SAMPLE_RATE)
    assert np.array(found) == pytest.approx(np.array(((1.0, 3.0),)), abs=0.06)


def test_a_quieter_voice_counts_by_the_range() -> None:
    voice_T = sung(((1.0, 3.0),)) + np.float32(0.01) * sung(((5.0, 7.0),))  # 40 dB below
    assert len(singing_spans(voice_T, SAMPLE_RATE)) == 1
    assert len(singing_spans(voice_T, SAMPLE_RATE, range_db=45.0)) == 2


@pytest.mark.parametrize("samples", [0, 10, 20000])
def test_silence_has_no_singing(samples: int) -> None:
    assert singing_spans(np.zeros(samples, np.float32), SAMPLE_RATE) == ()
