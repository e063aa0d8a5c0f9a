"""What a mixture says against single stems, in songs and with defects that no threshold was set with."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from datasets.audio.audio_types import Samples
from datasets.audio.resampling import resample
from datasets.corpus.synthetic import compose, perform
from datasets.quality.measures import StemStatistics
from datasets.quality.rules.quality_rules import QualityRules
from datasets.quality.rules.violations import RuleViolation, faults
from datasets.schema import SOURCES
from datasets.seeding import row_rng
from tests.datasets import corruptions

RATE = 16000
WITH_MIXTURE = ("unlike_mixture", "misaligned")


@cache
def _song(seed: int = 404, duration_s: float = 6.3) -> Samples:
    stems_SCT = perform(compose(seed, "witness", duration_s), RATE)
    stems_SCT.flags.writeable = False
    return stems_SCT


def _measured(stems_SCT: Samples, mixture_CT: Samples) -> tuple[dict[str, float], list[RuleViolation]]:
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    for start in range(0, stems_SCT.shape[2], 30011):  # blocks are no seconds
        meter.add(stems_SCT[:, :, start : start + 30011], mixture_CT[:, start : start + 30011])
    measures = meter.measures()
    found = faults(measures, QualityRules(), sources=SOURCES, moments=meter.worst())
    return measures, [fault for fault in found if fault.reason in WITH_MIXTURE]


def _only_fault(stems_SCT: Samples, mixture_CT: Samples) -> RuleViolation:
    _, found = _measured(stems_SCT, mixture_CT)
    assert len(found) == 1, found
    return found[0]


def _changed(place: int, change: Callable[[Samples], Samples], *, seed: int = 404) -> Samples:
    stems_SCT = _song(seed).copy()
    stems_SCT[place] = change(stems_SCT[place].copy())
    return stems_SCT


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    ("gain_db", "words"), [(-17, "17.0 dB too quiet"), (4, "4.0 dB too loud"), (-3, "3.0 dB too quiet")]
)
def test_a_stem_at_another_level_is_named_with_its_level(place: int, gain_db: float, words: str) -> None:
    fault = _only_fault(_changed(place, lambda stem: stem * np.float32(10 ** (gain_db / 20))), _song().sum(axis=0))
    assert (fault.reason, fault.source) == ("unlike_mixture", SOURCES[place])
    assert fault.detail.startswith(f"{SOURCES[place]}: {words} against the mixture, worst at 0:0")


@pytest.mark.parametrize("place", range(4))
def test_a_stem_upside_down_or_of_another_song_or_at_another_rate_is_named(place: int) -> None:
    mixture_CT = _song().sum(axis=0)
    level = float(np.sqrt(np.square(_song()[place]).mean()))

    def of_another_song(_: Samples) -> Samples:
        other_CT = _song(405)[place]
        return np.asarray(other_CT * np.float32(level / np.sqrt(np.square(other_CT).mean())))

    def at_another_rate(stem_CT: Samples) -> Samples:
        fast_CT = resample(stem_CT, source_rate=48000, target_rate=44100)
        return np.pad(fast_CT, ((0, 0), (0, stem_CT.shape[1] - fast_CT.shape[1])))

    cases = {"upside down": np.negative, "holds nothing of it": of_another_song, "nothing of it": at_another_rate}
    for words, change in cases.items():
        fault = _only_fault(_changed(place, change), mixture_CT)
        assert fault.source == SOURCES[place]
        assert words in fault.detail


@pytest.mark.parametrize("source", ["drums", "other"])
def test_channels_that_are_silent_exchanged_or_softer_are_named(source: str) -> None:
    place, mixture_CT = SOURCES.index(source), _song().sum(axis=0)

    def scaled(left: float, right: float) -> Callable[[Samples], Samples]:
        return lambda stem: stem * np.array([[left], [right]], np.float32)

    cases: dict[str, Callable[[Samples], Samples]] = {
        "its right channel is silent, and the mixture has it": scaled(1, 0),
        "its left channel is silent, and the mixture has it": scaled(0, 1),
        "left and right are exchanged": lambda stem: stem[::-1],
        "its left channel is 8.0 dB too quiet": scaled(10**-0.4, 1),
    }
    for words, change in cases.items():
        fault = _only_fault(_changed(place, change), mixture_CT)
        assert fault.source == source
        assert words in fault.detail


@pytest.mark.parametrize(
    ("source", "start_s", "stop_s"), [("vocals", 3.6, 6.3), ("drums", 0.0, 2.2), ("other", 2.0, 3.5)]
)
def test_an_export_that_lacks_a_part_is_named_with_its_time(source: str, start_s: float, stop_s: float) -> None:
    def cut(stem_CT: Samples) -> Samples:
        stem_CT[:, round(start_s * RATE) : round(stop_s * RATE)] = 0
        return stem_CT

    fault = _only_fault(_changed(SOURCES.index(source), cut), _song().sum(axis=0))
    assert fault.source == source
    missing_s = float(fault.detail.split(": ")[1].split(" s of it are missing")[0])
    assert missing_s == pytest.approx(stop_s - start_s, abs=0.8)  # it pauses by itself, too
    worst = fault.detail.split("worst at ")[1]
    assert worst.startswith(f"0:0{int(start_s)}") or int(worst[2:4]) in range(int(start_s), int(stop_s) + 1)


@pytest.mark.parametrize("channels", [(0, 1), (0,)])
def test_dropouts_of_50_ms_are_found_in_one_channel_too(channels: tuple[int, ...]) -> None:
    def drop(stem_CT: Samples) -> Samples:
        for start_s in (0.91, 2.33, 3.07, 4.85):
            for channel in channels:
                stem_CT[channel, round(start_s * RATE) : round((start_s + 0.05) * RATE)] = 0
        return stem_CT

    fault = _only_fault(_changed(SOURCES.index("other"), drop), _song().sum(axis=0))
    assert fault.source == "other"
    assert "s of it are missing that the mixture has" in fault.detail


def test_a_part_at_another_level_is_found_with_its_time() -> None:
    def fade(stem_CT: Samples) -> Samples:
        stem_CT[:, 2 * RATE : 4 * RATE] *= 0.35
        return stem_CT

    fault = _only_fault(_changed(SOURCES.index("vocals"), fade), _song().sum(axis=0))
    assert "vocals: 9.0 dB too quiet against the mixture, for 2 s, worst at 0:02-0:04" in fault.detail


def test_two_stems_that_are_wrong_are_both_named() -> None:
    stems_SCT = _song().copy()
    stems_SCT[0] *= -1
    stems_SCT[3] *= 0.25
    _, found = _measured(stems_SCT, _song().sum(axis=0))
    assert [fault.source for fault in found] == ["drums", "vocals"]
    assert "12.0 dB too quiet" in found[1].detail


def test_a_dead_channel_is_named_though_its_stem_has_a_hole_and_another_is_wrong() -> None:
    stems_SCT = _song().copy()
    stems_SCT[0, 0] = 0
    stems_SCT[0, 1, 3 * RATE : 3 * RATE + RATE // 4] = 0
    stems_SCT[3] *= 0.25
    _, found = _measured(stems_SCT, _song().sum(axis=0))
    assert [fault.source for fault in found] == ["drums", "vocals"]


def _equalized(mixture_CT: Samples, bass_db: float, treble_db: float) -> Samples:
    from scipy.signal import butter, sosfilt

    low_CT = sosfilt(butter(1, 250, fs=RATE, output="sos"), mixture_CT)
    high_CT = sosfilt(butter(1, 2500, "high", fs=RATE, output="sos"), mixture_CT)
    return (mixture_CT + (10 ** (bass_db / 20) - 1) * low_CT + (10 ** (treble_db / 20) - 1) * high_CT).astype(
        np.float32
    )


MASTERS: dict[str, Callable[[Samples], Samples]] = {
    "as it is": lambda mixture: mixture,
    "quieter and upside down": lambda mixture: mixture * np.float32(-0.2),
    "16 bits": lambda mixture: np.rint(mixture * 32767) / np.float32(32768),
    "limited": lambda mixture: corruptions.limit(mixture, RATE, down_db=6.0),
    "equalized": lambda mixture: _equalized(mixture, 5.0, -4.0),
    "brighter": lambda mixture: _equalized(mixture, -5.0, 5.0),
    "wider": lambda mixture: corruptions.widen(mixture, share=0.6),
    "all of it": lambda mixture: corruptions.limit(
        corruptions.widen(_equalized(mixture, 4.0, 3.0), share=0.6), RATE, down_db=6.0
    ),
    "mono": lambda mixture: np.repeat(mixture.mean(axis=0, keepdims=True), 2, axis=0),
    "mp3": lambda mixture: corruptions.transcode(mixture, codec="mp3", kbps=64, sample_rate=RATE),
    "another master": lambda mixture: corruptions.remaster(mixture, row_rng(8, "master"), sample_rate=RATE),
}


@pytest.mark.parametrize("seed", [404, 1701])
@pytest.mark.parametrize("name", MASTERS)
def test_a_mastered_mixture_speaks_against_no_stem(name: str, seed: int) -> None:
    stems_SCT = _song(seed)
    _, found = _measured(stems_SCT, MASTERS[name](stems_SCT.sum(axis=0)))
    assert found == []


@pytest.mark.parametrize("late", [1, 37, 480, 9000, 15000, -37, -9000])
def test_a_mixture_late_as_a_whole_is_compared_in_its_place(late: int) -> None:
    stems_SCT = _song()
    mixture_CT = np.zeros_like(stems_SCT[0])
    length = mixture_CT.shape[1] - abs(late)
    mixture_CT[:, max(0, late) : max(0, late) + length] = stems_SCT.sum(axis=0)[
        :, max(0, -late) : max(0, -late) + length
    ]
    measures, found = _measured(stems_SCT, mixture_CT)
    assert found == []
    assert measures["residual_db"] < -100
    assert measures["drums_shift_ms"] == 0
    wrong_SCT = stems_SCT.copy()
    wrong_SCT[2] *= 0.5
    assert _only_fault(wrong_SCT, mixture_CT).detail.startswith("other: 6.0 dB too quiet")


def test_half_a_sample_late_is_no_fault() -> None:
    stems_SCT = _song()
    twice_CT = resample(stems_SCT.sum(axis=0), source_rate=RATE, target_rate=2 * RATE)
    late_CT = resample(np.pad(twice_CT, ((0, 0), (13, 0))), source_rate=2 * RATE, target_rate=RATE)
    assert _measured(stems_SCT, late_CT[:, : stems_SCT.shape[2]])[1] == []


def test_one_stem_late_is_misaligned_and_nothing_else_is_said_of_it() -> None:
    fault = _only_fault(_changed(0, lambda stem: np.roll(stem, 3000, axis=-1)), _song().sum(axis=0))
    assert (fault.reason, fault.source) == ("misaligned", "drums")


def test_another_songs_mixture_is_unlike_and_a_second_of_one_is_too_little_to_say() -> None:
    _, found = _measured(_song(), _song(405).sum(axis=0))
    assert found
    assert "unlike_mixture" in {fault.reason for fault in found}
    short_SCT = _song()[:, :, : RATE + 4000]
    measures, found = _measured(short_SCT * np.float32(1), short_SCT.sum(axis=0) - 1.5 * short_SCT[1])
    assert measures["compared_s"] < 2
    assert found == []


def test_hard_panned_stems_with_their_silent_channels_are_fine() -> None:
    panned_SCT = _song().copy()
    panned_SCT[0, 1] = panned_SCT[1, 1] = panned_SCT[2, 0] = 0
    _, found = _measured(panned_SCT, panned_SCT.sum(axis=0))
    assert found == []


def test_one_channel_is_enough() -> None:
    mono_SCT = _song()[:, :1].copy()
    mixture_CT = mono_SCT.sum(axis=0)
    assert _measured(mono_SCT, mixture_CT)[1] == []
    mono_SCT[3] *= 2
    assert "vocals: 6.0 dB too loud" in _only_fault(mono_SCT, mixture_CT).detail
