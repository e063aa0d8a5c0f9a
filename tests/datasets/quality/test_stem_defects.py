"""Defects of single stems are found without a mixture, and music that only looks like them is let through."""

from functools import cache

import numpy as np
import pytest

from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.quality.measures import StemStatistics
from datasets.quality.rules.quality_rules import SWITCHED_OFF, QualityRules, in_toml
from datasets.quality.rules.violations import faults
from datasets.schema import REASONS, SOURCES
from datasets.seeding import row_rng
from tests.datasets import corruptions

RATE = 44100
FOUND_WITHOUT_A_MIXTURE = ("dropouts", "coarse", "one_sided", "noise")


@cache
def _song() -> Samples:
    stems_SCT = perform(compose(2024, "defects", 6.0), RATE)
    stems_SCT.flags.writeable = False
    return stems_SCT


def _faults(stems_SCT: Samples) -> dict[str, str]:
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    meter.add(stems_SCT)
    found = faults(meter.measures(), QualityRules(), sources=SOURCES, moments=meter.worst())
    return {fault.reason: fault.detail for fault in found}


def test_a_good_song_has_none_of_them() -> None:
    assert _faults(_song()) == {}


@pytest.mark.parametrize("reason", FOUND_WITHOUT_A_MIXTURE)
@pytest.mark.parametrize("turn", range(2))
def test_each_defect_is_found_and_no_other(reason: str, turn: int) -> None:
    planted = corruptions.FAULTS[reason](_song(), row_rng(12, reason, turn), RATE)
    found = _faults(planted.stems_SCT)
    assert found.keys() & {*FOUND_WITHOUT_A_MIXTURE} == {reason}
    assert found[reason].startswith(f"{SOURCES[planted.places[0]]}: ")


def test_one_rest_that_is_cut_hard_is_let_through() -> None:
    stems_SCT = _song().copy()
    stems_SCT[2, :, 2 * RATE : 2 * RATE + 2000] = 0
    assert "dropouts" not in _faults(stems_SCT)


def _with_other(other_CT: Samples) -> Samples:
    stems_SCT = _song().copy()
    stems_SCT[2] = other_CT[:, : stems_SCT.shape[2]]
    return stems_SCT


def test_hard_panned_stereo_is_let_through() -> None:
    panned_SCT = _song().copy()
    panned_SCT[0, 1] = panned_SCT[1, 1] = panned_SCT[3, 0] = 0
    assert _faults(panned_SCT) == {}
    # A stem of two parts on two sides, one of which rests for a while.
    parts_CT = np.stack([_song()[2, 0], _song()[3, 1]])
    parts_CT[1, : 2 * RATE] = 0
    assert "one_sided" not in _faults(_with_other(parts_CT))


@pytest.mark.parametrize("sound", ["pulses of a chip", "a wall of distortion", "cymbals"])
def test_sounds_that_look_like_a_defect_are_let_through(sound: str) -> None:
    time_T = np.arange(_song().shape[2]) / RATE
    rng = row_rng(3, sound)
    if sound == "pulses of a chip":
        pulse_T = 0.15 * np.sign(np.sin(2 * np.pi * 330 * time_T)) + 0.075 * np.sign(np.sin(2 * np.pi * 220 * time_T))
        sounds_CT = np.stack([pulse_T, pulse_T])
    elif sound == "a wall of distortion":
        chord_T = sum(np.sin(2 * np.pi * hertz * time_T + rng.uniform(0, 6)) for hertz in (82.4, 123.5, 164.8))
        sounds_CT = np.stack([0.3 * np.tanh(20 * chord_T + rng.standard_normal(len(time_T)))] * 2)
    else:
        beat_T = np.exp(-6 * (time_T % 0.25))
        sounds_CT = 0.1 * beat_T * rng.standard_normal((2, len(time_T)))
    assert not _faults(_with_other(sounds_CT.astype(np.float32))).keys() & {*FOUND_WITHOUT_A_MIXTURE}


def test_every_reason_of_a_rule_has_settings_that_switch_it_off() -> None:
    assert SWITCHED_OFF.keys() <= REASONS.keys()
    assert {"clipped", "unlike_mixture", *FOUND_WITHOUT_A_MIXTURE} <= SWITCHED_OFF.keys()
    for reason in FOUND_WITHOUT_A_MIXTURE:
        (settings,) = SWITCHED_OFF[reason]
        planted = corruptions.FAULTS[reason](_song(), row_rng(13, reason), RATE).stems_SCT
        meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
        meter.add(planted)
        relaxed = QualityRules(**settings)
        assert reason not in {fault.reason for fault in faults(meter.measures(), relaxed, sources=SOURCES)}
    assert in_toml({"max_gain_db": 1000, "model": ""}) == 'curate.max_gain_db=1000 curate.model=""'
