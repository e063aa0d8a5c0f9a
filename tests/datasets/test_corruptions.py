"""What is planted is found by the rule for it and by no other, and the same seed plants the same fault."""

from collections.abc import Callable

import numpy as np
import pytest

from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.quality.measures import StemStatistics, WorstSegment
from datasets.quality.rules.quality_rules import SWITCHED_OFF, QualityRules
from datasets.quality.rules.violations import faults, judge
from datasets.schema import REASONS, SOURCES
from datasets.seeding import row_rng
from tests.datasets import corruptions

RATE = 44100


@pytest.fixture(scope="module")
def song_SCT() -> Samples:
    """A toy song of 8 s in which all four sources sound."""
    return perform(compose(3, "1", 8.0), RATE)


def _heard(stems_SCT: Samples, mixture_CT: Samples | None) -> tuple[dict[str, float], tuple[WorstSegment, ...]]:
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    meter.add(stems_SCT, mixture_CT)
    return meter.measures(), meter.worst()


def test_a_good_song_breaks_no_rule(song_SCT: Samples) -> None:
    measures, moments = _heard(song_SCT, song_SCT.sum(axis=0))
    assert faults(measures, QualityRules(), sources=SOURCES, moments=moments) == ()
    assert measures["residual_db"] < -60


@pytest.mark.parametrize("reason", sorted(corruptions.FAULTS))
def test_a_planted_fault_is_found_under_its_reason_and_told_with_its_stem(song_SCT: Samples, reason: str) -> None:
    planted = corruptions.FAULTS[reason](song_SCT, row_rng(1, reason), RATE)
    measures, moments = _heard(planted.stems_SCT, song_SCT.sum(axis=0))
    found = {fault.reason: fault for fault in faults(measures, QualityRules(), sources=SOURCES, moments=moments)}
    # Stems that were shifted or silenced do not sum to the mixture either.
    assert found.keys() - {"unlike_mixture"} == {reason}, found
    assert SOURCES[planted.places[0]] in found[reason].detail
    assert reason in REASONS
    assert judge(measures, QualityRules(), sources=SOURCES)[0] is False
    off = QualityRules(**SWITCHED_OFF["unlike_mixture"][-1], **SWITCHED_OFF[reason][0])
    assert judge(measures, off, sources=SOURCES) == (True, "", "")


def test_the_same_seed_plants_the_same_fault(song_SCT: Samples) -> None:
    for plant in corruptions.FAULTS.values():
        one, again, *others = (plant(song_SCT, row_rng(seed, "song"), RATE) for seed in (1, 1, 2, 3, 4))
        np.testing.assert_array_equal(one.stems_SCT, again.stems_SCT)
        assert one.places == again.places
        assert not all(np.array_equal(one.stems_SCT, other.stems_SCT) for other in others)


@pytest.mark.parametrize("shift_s", [-0.4, -0.006, 0.02, 0.9])
def test_a_shift_is_measured(song_SCT: Samples, shift_s: float) -> None:
    planted = corruptions.misalign(song_SCT, row_rng(2, "shift"), shift_s=shift_s, sample_rate=RATE)
    measures, _ = _heard(planted.stems_SCT, song_SCT.sum(axis=0))
    shifts = {source: measures[f"{source}_shift_ms"] for source in SOURCES if f"{source}_shift_ms" in measures}
    assert shifts.pop(SOURCES[planted.places[0]]) == pytest.approx(1000 * shift_s, abs=0.2)
    assert all(abs(shift) < 0.2 for shift in shifts.values())


@pytest.mark.parametrize("level_db", [-10.0, -20.0])
def test_the_level_of_bleed_is_measured(song_SCT: Samples, level_db: float) -> None:
    planted = corruptions.bleed(song_SCT, row_rng(0, "bleed"), level_db=level_db, kind="plain", sample_rate=RATE)
    measures, _ = _heard(planted.stems_SCT, None)
    into, onto = (SOURCES[place] for place in planted.places)
    assert measures[f"{into}_bleed_{onto}_db"] == pytest.approx(level_db, abs=2.0)
    assert f"{onto}_bleed_{into}_db" not in measures


def test_stems_of_another_song_are_unlike_the_mixture(song_SCT: Samples) -> None:
    other_SCT = perform(compose(3, "2", 8.0), RATE)
    measures, moments = _heard(song_SCT, other_SCT.sum(axis=0))
    found = {fault.reason for fault in faults(measures, QualityRules(), sources=SOURCES, moments=moments)}
    assert "unlike_mixture" in found
    assert any(moment.reason == "unlike_mixture" for moment in moments)


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_clipping_is_found_below_full_scale_too_with_its_seconds(song_SCT: Samples, gain: float) -> None:
    planted = corruptions.clip(song_SCT, row_rng(4, "clip"), share=0.01, gain=gain)
    measures, moments = _heard(planted.stems_SCT, None)
    source = SOURCES[planted.places[0]]
    assert measures[f"{source}_clipped"] == pytest.approx(0.01, rel=0.5)
    _, reason, detail = judge(measures, QualityRules(), sources=SOURCES, moments=moments)
    assert reason == "clipped"
    assert f"{source}: " in detail
    assert "worst at 0:0" in detail


@pytest.mark.parametrize(("codec", "kbps", "highest_hz"), [("mp3", 128, 17500), ("aac", 128, 18000)])
def test_a_lossy_copy_ends_where_its_codec_cut(song_SCT: Samples, codec: str, kbps: int, highest_hz: float) -> None:
    noise_CT = (0.05 * row_rng(0, "noise").standard_normal((2, 3 * RATE))).astype(np.float32)
    source_CT = song_SCT.sum(axis=0)[:, : 3 * RATE] + noise_CT
    lossy_CT = corruptions.transcode(source_CT, codec=codec, kbps=kbps, sample_rate=RATE)
    cutoffs = []
    for samples_CT in (source_CT, lossy_CT):
        meter = StemStatistics(sources=("other",), sample_rate=RATE)
        meter.add(samples_CT[None])
        cutoffs.append(meter.measures()["other_cutoff_hz"])
    assert cutoffs[0] == RATE / 2
    assert 14000 < cutoffs[1] < highest_hz
    rules = QualityRules(min_cutoff_hz=20000.0, min_presence=0.0)
    assert judge(meter.measures(), rules, sources=("other",))[1] == "lossy"


CHANGES: dict[str, Callable[[Samples], Samples]] = {
    "speed": lambda x: corruptions.change_speed(x, 1.03, sample_rate=RATE),
    "tempo": lambda x: corruptions.change_tempo(x, 1.03, sample_rate=RATE),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_a_faster_copy_is_shorter(song_SCT: Samples, change: str) -> None:
    faster_CT = CHANGES[change](song_SCT[0])
    assert faster_CT.shape[1] == pytest.approx(song_SCT.shape[2] / 1.03, rel=0.005)
