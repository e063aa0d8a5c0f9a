"""Defects of single stems are found without a mixture, and music that only looks like them is let through."""

from functools import cache

import numpy as np
import pytest

from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.quality.measures import StemStatistics
from datasets.quality.rules.quality_rules import SWITCHED_OFF, QualityRules, in_toml
from datasets.quality.rules.violations import faults
from datasets.quality.stem_defects.dropouts import DropoutCounter
from datasets.quality.stem_defects.hum import HumMeter
from datasets.quality.stem_defects.one_sided import one_sided
from datasets.schema import REASONS, SOURCES
from datasets.seeding import row_rng
from tests.datasets import corruptions

RATE = 44100
FOUND_WITHOUT_A_MIXTURE = ("dropouts", "coarse", "one_sided", "noise", "clicks")


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


def test_coarse_drums_are_found_where_only_their_peaks_are_loud() -> None:
    """Drums that peak at 0.2 are at -33 dBFS in the mean."""
    stems_SCT = _song().copy()
    drums_CT = stems_SCT[0] / np.abs(stems_SCT[0]).max() * 0.2
    stems_SCT[0] = np.rint(drums_CT * 128) / 128
    assert _faults(stems_SCT)["coarse"] == "drums: its samples have 8 bits"


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


@pytest.mark.parametrize("sound", ["pulses of a chip", "a wall of distortion", "cymbals", "a kick that begins at once"])
def test_sounds_that_look_like_a_defect_are_let_through(sound: str) -> None:
    time_T = np.arange(_song().shape[2]) / RATE
    rng = row_rng(3, sound)
    if sound == "pulses of a chip":
        pulse_T = 0.15 * np.sign(np.sin(2 * np.pi * 330 * time_T)) + 0.075 * np.sign(np.sin(2 * np.pi * 220 * time_T))
        sounds_CT = np.stack([pulse_T, pulse_T])
    elif sound == "a wall of distortion":
        chord_T = sum(np.sin(2 * np.pi * hertz * time_T + rng.uniform(0, 6)) for hertz in (82.4, 123.5, 164.8))
        sounds_CT = np.stack([0.3 * np.tanh(20 * chord_T + rng.standard_normal(len(time_T)))] * 2)
    elif sound.startswith("a kick"):
        kick_T = 0.8 * np.cos(2 * np.pi * 55 * (time_T % 0.25)) * np.exp(-7 * (time_T % 0.25))
        sounds_CT = np.stack([kick_T, kick_T])
    else:
        beat_T = np.exp(-6 * (time_T % 0.25))
        sounds_CT = 0.1 * beat_T * rng.standard_normal((2, len(time_T)))
    assert not _faults(_with_other(sounds_CT.astype(np.float32))).keys() & {*FOUND_WITHOUT_A_MIXTURE}


@cache
def _long_song() -> Samples:
    stems_SCT = perform(compose(2025, "hum", 10.0), RATE)
    stems_SCT.flags.writeable = False
    return stems_SCT


@pytest.mark.parametrize("hertz", [49.95, 60.05])
@pytest.mark.parametrize("place", [1, 3])
def test_hum_is_found_with_its_frequency_and_where_it_is_heard(hertz: float, place: int) -> None:
    stems_SCT = _long_song().copy()
    time_T = np.arange(stems_SCT.shape[2]) / RATE
    hum_T = sum(np.sin(2 * np.pi * hertz * number * time_T + number) / number for number in range(1, 9))
    stems_SCT[place] += 0.2 * hum_T * np.sqrt(np.square(stems_SCT[place]).mean() / np.square(hum_T).mean())
    assert "hum" not in _faults(_long_song())
    found = _faults(stems_SCT)
    assert found.keys() == {"hum"}
    assert found["hum"].startswith(f"{SOURCES[place]}: hum of {hertz:.0f} Hz at -1")
    assert ", worst at 0:0" in found["hum"]


@pytest.mark.parametrize(
    ("hertz", "num_overtones", "drone"), [(61.7, 7, False), (49.0, 7, False), (50.0, 1, True), (60.0, 7, True)]
)
def test_low_notes_are_no_hum(hertz: float, num_overtones: int, drone: bool) -> None:
    time_T = np.arange(_long_song().shape[2]) / RATE
    numbers = range(1, num_overtones + 1)
    note_T = sum(0.2 / number * np.sin(2 * np.pi * hertz * number * time_T) for number in numbers)
    if not drone:
        note_T = note_T * np.exp(-3 * (time_T % 0.5)) * (time_T % 4 < 3)
    stems_SCT = _long_song().copy()
    stems_SCT[1] = note_T
    assert "hum" not in _faults(stems_SCT)


def test_a_rest_of_digital_silence_does_not_hide_hum_and_a_short_stem_cannot_tell() -> None:
    meter = HumMeter(8000)
    time_T = np.arange(8000) / 8000
    hum_T = sum(0.01 * np.sin(2 * np.pi * 60 * number * time_T) for number in (1, 2, 3, 5))
    rng = row_rng(5, "hum")
    for second in range(20):
        sound_T = 0.2 * rng.standard_normal(8000) if second % 2 else 0.0
        silence_T = np.zeros(8000)
        gated_T = silence_T if second >= 14 else hum_T + sound_T
        brief_T = silence_T if second >= 7 else hum_T
        meter.add(np.stack([gated_T, brief_T, silence_T]).astype(np.float32))
    assert meter.hum(0) is not None
    assert (meter.hum(1), meter.hum(2)) == (None, None)
    assert [meter.num_audible_s(place) for place in range(3)] == [14, 7, 0]


@pytest.mark.parametrize("channels", [(0, 1), (1,)])
@pytest.mark.parametrize("lengths", [(8820,), (441, 44100 // 2), (44100,)])
def test_a_dropout_over_the_end_of_a_second_counts_once(channels: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    """Whatever the blocks that a stem comes in; silence of a second is a rest."""
    sound_CT = (0.1 * row_rng(6, "sound").standard_normal((2, 5 * RATE))).astype(np.float32)
    for second, length in enumerate(lengths, start=1):
        for channel in channels:
            sound_CT[channel, second * RATE - 200 : second * RATE - 200 + length] = 0
    counter = DropoutCounter(1, RATE)
    counts = [int(counter.add(sound_CT[None, :, start : start + RATE])[0]) for start in range(0, 5 * RATE, RATE)]
    assert sum(counts) == sum(length < RATE // 2 + 1 for length in lengths)
    shifted = DropoutCounter(1, RATE)
    sounds = [sound_CT[None, :, :1000], *(sound_CT[None, :, at : at + RATE] for at in range(1000, 5 * RATE, RATE))]
    assert sum(int(shifted.add(sound_SCT)[0]) for sound_SCT in sounds) == sum(counts)


def test_clicks_in_silence_are_no_dropouts() -> None:
    stems_SCT = _song().copy()
    stems_SCT[3, :, : 3 * RATE] = 0
    stems_SCT[3, :, 1000 : 3 * RATE : RATE // 5] = 0.3
    found = _faults(stems_SCT)
    assert "dropouts" not in found
    assert found["clicks"].startswith("vocals: ")


@pytest.mark.parametrize("fades", [False, True])
def test_a_channel_of_a_wide_stem_that_ends_without_fading_is_dead(fades: bool) -> None:
    """Two takes to the left and to the right; one of them may end before the other does."""
    wide_CT = 0.2 * row_rng(21, "wide").standard_normal((2, 6 * RATE)).astype(np.float32)
    stop = 3 * RATE + 1234
    if fades:
        wide_CT[1, stop - RATE : stop] *= np.linspace(1, 0, RATE) ** 2
    wide_CT[1, stop:] = 0
    counter = DropoutCounter(1, RATE)
    for second in range(6):
        counter.add(wide_CT[None, :, second * RATE : (second + 1) * RATE])
    assert counter.one_channel_cut(1).tolist() == [not fades]
    power_NSC = np.array([[[0.04, 0.04]]] * 3 + [[[0.04, 0.0]]] * 3)
    shares = [float(one_sided(power_NSC, np.zeros((6, 1)), np.array([cut]))[0]) for cut in (True, False)]
    assert shares == [0.5, 0.0]


def test_hum_is_heard_under_a_bass_that_never_rests() -> None:
    rng, seconds, rate = row_rng(22, "bass"), 16, 11025
    time_T = np.arange(seconds * rate) / rate
    hertz_T = np.repeat(rng.choice([41.2, 46.2, 55.0, 65.4, 73.4, 82.4], 2 * seconds), rate // 2 + 1)[: time_T.size]
    phase_T = 2 * np.pi * np.cumsum(hertz_T) / rate
    bass_T = sum(np.sin(number * phase_T) / number for number in range(1, 12))
    hum_T = sum(np.sin(2 * np.pi * 50 * number * time_T) for number in range(1, 7))
    found = []
    for level in (0.05, 0.0):
        meter = HumMeter(rate)
        for part in (bass_T + level * hum_T).astype(np.float32).reshape(seconds, rate):
            meter.add(part[None])
        found.append(meter.hum(0))
    assert found[1] is None
    assert found[0] is not None
    assert found[0][0] == 50


def test_every_reason_of_a_rule_has_settings_that_switch_it_off() -> None:
    assert SWITCHED_OFF.keys() <= REASONS.keys()
    assert {"clipped", "unlike_mixture", "hum", *FOUND_WITHOUT_A_MIXTURE} <= SWITCHED_OFF.keys()
    for reason in FOUND_WITHOUT_A_MIXTURE:
        (settings,) = SWITCHED_OFF[reason]
        planted = corruptions.FAULTS[reason](_song(), row_rng(13, reason), RATE).stems_SCT
        meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
        meter.add(planted)
        relaxed = QualityRules(**settings)
        assert reason not in {fault.reason for fault in faults(meter.measures(), relaxed, sources=SOURCES)}
    assert in_toml({"max_gain_db": 1000, "model": ""}) == 'curate.max_gain_db=1000 curate.model=""'
