"""Each rule has a toy song that earns exactly its reason, and one just inside it that does not."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.audio.audio_types import Samples
from datasets.audio.decoding import decode
from datasets.errors import InputError
from datasets.quality.bandwidth import cutoff_hz
from datasets.quality.fingerprint import Signature, find_duplicates
from datasets.quality.loudness import k_weighting
from datasets.quality.measures import StemStatistics, WorstSegment, measure
from datasets.quality.rules.quality_rules import QualityRules
from datasets.quality.rules.violations import faults, judge, silent_sources
from datasets.quality.stem_classifier import likeliest
from datasets.quality.stem_defects.clipping import flat_share
from datasets.seeding import row_rng

RATE = 8000
SOURCES = ("drums", "bass")


def _song(name: str = "song", *, duration_s: float = 10.0, level: float = 0.1) -> Samples:
    """Stems with energy where instruments have it: low-passed noise with a slow envelope."""
    rng = row_rng(0, name)
    num_samples = round(duration_s * RATE)
    noise = rng.standard_normal((2, 2, num_samples + 15))
    kernel = np.ones(16) / 4
    smooth = np.apply_along_axis(lambda row: np.convolve(row, kernel, "valid"), 2, noise)
    return (smooth * level * (1 + 0.5 * np.sin(np.arange(num_samples) / RATE))).astype(np.float32)


def _judge(stems_SCT: Samples, rules: QualityRules | None = None) -> tuple[bool, str, str]:
    rules = rules or QualityRules()
    measures = measure(stems_SCT, sources=SOURCES, sample_rate=RATE, silence_db=rules.silence_db)
    return judge(measures, rules, sources=SOURCES)


def _signature(stems_SCT: Samples) -> Signature:
    meter = StemStatistics(sources=SOURCES[: stems_SCT.shape[0]], sample_rate=RATE)
    meter.add(stems_SCT)
    return meter.signature()


def test_measures_of_a_known_signal_are_what_they_should_be() -> None:
    stems_SCT = np.zeros((2, 2, 4 * RATE), np.float32)
    stems_SCT[0, :, : 3 * RATE] = 0.1 * np.sqrt(2) * np.sin(2 * np.pi * 100 * np.arange(3 * RATE) / RATE)
    measures = measure(stems_SCT, sources=SOURCES, sample_rate=RATE)
    assert measures["duration_s"] == 4.0
    assert measures["drums_presence"] == 0.75
    assert measures["bass_presence"] == 0.0
    assert measures["drums_rms_db"] == pytest.approx(-20 + 10 * np.log10(0.75), abs=0.01)
    assert measures["bass_rms_db"] == -120.0
    assert measures["drums_peak"] == pytest.approx(0.1414, abs=1e-3)
    assert measures["drums_correlation"] == pytest.approx(1.0)
    assert measures["drums_offset"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("block_s", [10.0, 1.0, 0.37])
def test_the_last_partial_second_counts_by_its_length(block_s: float) -> None:
    """Two and a half seconds: drums clipped, off zero and loud in the last half second alone; a bass silent there."""
    rng = np.random.default_rng(4)
    stems_SCT = (0.1 * rng.standard_normal((2, 2, 5 * RATE // 2))).astype(np.float32)
    tail = slice(2 * RATE, None)
    stems_SCT[0, :, tail] = np.clip(40 * stems_SCT[0, :, tail], -1, 1) * 0.5 + 0.25
    stems_SCT[1, :, tail] = 0.0
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    for start in range(0, stems_SCT.shape[2], round(block_s * RATE)):
        meter.add(stems_SCT[:, :, start : start + round(block_s * RATE)])
    measures = meter.measures()
    assert measures["bass_presence"] == pytest.approx(2 / 2.5)
    assert measures["drums_peak"] == 0.75
    assert measures["drums_rms_db"] == pytest.approx(10 * np.log10(np.square(stems_SCT[0]).mean()), abs=1e-4)
    assert measures["bass_rms_db"] == pytest.approx(10 * np.log10(np.square(stems_SCT[1]).mean()), abs=1e-4)
    assert measures["drums_offset"] == pytest.approx(np.abs(stems_SCT[0].mean(axis=1)).max(), abs=1e-6)
    assert measures["drums_clipped"] == pytest.approx(flat_share(stems_SCT[0, :, tail]) / 5, rel=1e-6)
    assert measures["drums_clipped"] > 0.02
    clipped = [moment for moment in meter.worst() if moment.reason == "clipped"]
    assert [(moment.source, moment.start_s, moment.stop_s) for moment in clipped] == [("drums", 2.0, 2.5)]
    whole, cut = (_signature(part_SCT)[0] for part_SCT in (stems_SCT, stems_SCT[:, :, : 2 * RATE]))
    assert whole > cut  # the fingerprint hears the end too


def test_a_mixture_is_compared_to_its_last_sample() -> None:
    stems_SCT = (0.1 * np.random.default_rng(5).standard_normal((2, 2, 5 * RATE // 2))).astype(np.float32)
    mixture_CT = stems_SCT.sum(axis=0)
    mixture_CT[:, 2 * RATE :] = 0.3 * np.random.default_rng(6).standard_normal((2, RATE // 2))
    measures, moments = [], []
    for stop in (2 * RATE, 5 * RATE // 2):
        meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
        meter.add(stems_SCT[:, :, :stop], mixture_CT[:, :stop])
        measures.append(meter.measures()["residual_db"])
        moments.append([moment for moment in meter.worst() if moment.reason == "unlike_mixture"])
    assert measures[0] < -60 < -10 < measures[1]
    assert [(moment.start_s, moment.stop_s) for moment in moments[1]] == [(2.0, 2.5)]


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_a_sine_of_997_hz_in_one_channel_has_the_loudness_of_the_standard(rate: int) -> None:
    stems_SCT = np.zeros((1, 2, 5 * rate), np.float32)
    stems_SCT[0, 0] = np.sin(2 * np.pi * 997 * np.arange(5 * rate) / rate)
    measures = measure(stems_SCT, sources=("other",), sample_rate=rate)
    for name in ("lufs", "other_lufs", "other_short_lufs"):
        assert measures[name] == pytest.approx(-3.01, abs=0.05)  # BS.1770-4, at full scale


def test_k_weighting_at_48_khz_is_that_of_the_standard() -> None:
    head, high_pass = k_weighting(48000)
    np.testing.assert_allclose(head[:3], [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-8)
    np.testing.assert_allclose(head[4:], [-1.69065929318241, 0.73248077421585], atol=1e-8)
    np.testing.assert_allclose(high_pass[4:], [-1.99004745483398, 0.99007225036621], atol=1e-8)


def test_pauses_do_not_count_for_loudness() -> None:
    """The gates: ten seconds of a tone are as loud with as many of near silence behind them."""
    tone = np.zeros((1, 2, 20 * RATE), np.float32)
    tone[:, :, : 10 * RATE] = 0.1 * np.sin(2 * np.pi * 997 * np.arange(10 * RATE) / RATE)
    tone[:, :, 10 * RATE :] = 1e-3 * row_rng(0, "hiss").standard_normal(10 * RATE)
    with_pause = measure(tone, sources=("other",), sample_rate=RATE)["lufs"]
    assert with_pause == pytest.approx(-20.0, abs=0.2)  # both channels
    assert measure(tone[:, :, : 10 * RATE], sources=("other",), sample_rate=RATE)["lufs"] == pytest.approx(
        with_pause, abs=0.15
    )


def test_an_offset_and_inverted_channels_are_found() -> None:
    stems_SCT = _song()
    off_SCT = stems_SCT.copy()
    off_SCT[0] += 0.05
    assert _judge(off_SCT)[1] == "offset"
    assert _judge(off_SCT, QualityRules(max_offset=1))[0]
    inverted_SCT = stems_SCT.copy()
    inverted_SCT[1, 1] = -inverted_SCT[1, 0]
    kept, reason, detail = _judge(inverted_SCT)
    assert (kept, reason) == (False, "inverted")
    assert "bass" in detail
    assert _judge(inverted_SCT, QualityRules(min_correlation=-1))[0]


def test_the_worst_seconds_are_told_in_order() -> None:
    stems_SCT = _song()
    loud_T = np.clip(stems_SCT[0, 0] * 20, -0.8, 0.8)
    stems_SCT[0, :, 3 * RATE : 5 * RATE] = loud_T[3 * RATE : 5 * RATE]
    stems_SCT[0, :, 7 * RATE : 7 * RATE + RATE // 4] = loud_T[7 * RATE : 7 * RATE + RATE // 4]
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    meter.add(stems_SCT)
    moments = [moment for moment in meter.worst() if moment.reason == "clipped"]
    assert [(moment.start_s, moment.stop_s) for moment in moments] == [(3.0, 5.0), (7.0, 8.0)]
    assert {moment.source for moment in moments} == {"drums"}
    assert moments[0].value > moments[1].value > 0
    found = faults(meter.measures(), QualityRules(), sources=SOURCES, moments=meter.worst())
    assert found[0].detail.endswith("worst at 0:03-0:05, 0:07-0:08")


def test_a_fault_between_two_stems_tells_its_own_seconds_only() -> None:
    moments = [
        WorstSegment(reason="bleed", source="bass", other=other, start_s=start_s, stop_s=start_s + 1, value=1.0)
        for other, start_s in (("drums", 2.0), ("vocals", 5.0))
    ]
    measures = measure(_song(), sources=SOURCES, sample_rate=RATE) | {"bass_bleed_drums_db": -10.0}
    (fault,) = faults(measures, QualityRules(), sources=SOURCES, moments=moments)
    assert (fault.source, fault.other, fault.worst(moments)) == ("bass", "drums", moments[:1])
    assert fault.detail == "bass: drums is heard in it at -10 dB, worst at 0:02-0:03"


def test_a_square_wave_below_the_loudest_note_is_not_clipping() -> None:
    stems_SCT = _song()
    time = np.arange(stems_SCT.shape[2]) / RATE
    stems_SCT[1] = np.where(
        time < 8, 0.2 * np.sign(np.sin(2 * np.pi * 110 * time)), 0.5 * np.sin(2 * np.pi * 110 * time)
    )
    assert _judge(stems_SCT)[0]


def test_mono_stems_can_be_measured() -> None:
    measures = measure(_song()[:, :1], sources=SOURCES, sample_rate=RATE)
    assert measures["drums_correlation"] == pytest.approx(1.0)
    assert measures["lufs"] > -60


def test_a_spectrum_that_ends_like_a_wall_is_told_from_one_that_fades() -> None:
    bins, rate = 1024, 44100
    hertz = np.arange(bins + 1) * rate / 2 / bins
    fading = 10.0 ** (2 - 5 * hertz / 20000)
    assert cutoff_hz(fading, rate) == rate / 2
    walled = np.where(hertz < 16000, fading, 1e-9)
    assert cutoff_hz(walled, rate) == pytest.approx(16000, abs=200)
    assert cutoff_hz(np.where(hertz < 300, 1.0, 1e-12), rate) == rate / 2  # a bass has no treble to cut
    assert cutoff_hz(np.zeros(bins + 1), rate) == rate / 2


def test_names_are_handed_out_anew_only_among_stems_that_were_heard() -> None:
    sure, unsure = {"drums": -0.1, "bass": -5.0}, {"drums": -0.1, "bass": -4.0}
    measures = {f"drums_as_{label}": odds for label, odds in sure.items()}
    assert likeliest(measures, SOURCES) == ({"drums": "drums"}, 0.0)
    measures |= {f"bass_as_{label}": odds for label, odds in unsure.items()}
    assert likeliest(measures, SOURCES)[1] == 0.0  # both like drums: no other way of naming them is likelier
    measures |= {"drums_as_drums": -5.0, "drums_as_bass": -0.1}
    given, odds = likeliest(measures, SOURCES)
    assert given == {"drums": "bass", "bass": "drums"}
    assert odds == pytest.approx(-0.2 + 9.0)


@pytest.mark.parametrize("block", [1000, 8000, 12345, 240000])
def test_measures_do_not_depend_on_the_blocks_they_were_heard_in(block: int) -> None:
    stems_SCT = _song()
    meter = StemStatistics(sources=SOURCES, sample_rate=RATE)
    for start in range(0, stems_SCT.shape[2], block):
        meter.add(stems_SCT[:, :, start : start + block])
    assert meter.measures() == pytest.approx(measure(stems_SCT, sources=SOURCES, sample_rate=RATE))
    np.testing.assert_array_equal(meter.signature(), _signature(stems_SCT))


def test_a_good_song_is_kept() -> None:
    assert _judge(_song()) == (True, "", "")


@pytest.mark.parametrize(("seconds", "keep"), [(3, True), (2, False)])
def test_a_source_must_sound_in_thirty_percent_of_seconds(seconds: int, keep: bool) -> None:
    stems_SCT = _song()
    stems_SCT[1, :, seconds * RATE :] = 0
    kept, reason, detail = _judge(stems_SCT)
    assert (kept, reason) == (keep, "" if keep else "silent_source")
    if not keep:
        assert "bass in 20%" in detail
        assert "drums" not in detail
        assert _judge(stems_SCT, QualityRules(min_presence=0))[0]


@pytest.mark.parametrize(("level_db", "keep"), [(-39, True), (-41, False)])
def test_silence_begins_at_minus_forty_db(level_db: float, keep: bool) -> None:
    stems_SCT = _song()
    power = np.square(stems_SCT[0, :, :RATE]).mean()
    tone_T = 10 ** (level_db / 20) * np.sqrt(2) * np.sin(2 * np.pi * 100 * np.arange(stems_SCT.shape[2]) / RATE)
    stems_SCT[0] = tone_T
    assert power > 0
    assert _judge(stems_SCT)[0] is keep
    assert _judge(stems_SCT, QualityRules(silence_db=-60))[0]


def test_an_all_silent_song_and_an_empty_one_are_silent() -> None:
    assert _judge(np.zeros((2, 2, 3 * RATE), np.float32))[1] == "silent_source"
    assert _judge(np.zeros((2, 2, RATE // 2), np.float32))[1] == "silent_source"
    rules = QualityRules()
    measures = measure(np.zeros((2, 2, RATE), np.float32), sources=SOURCES, sample_rate=RATE)
    assert silent_sources(measures, rules, sources=SOURCES) == ["drums", "bass"]


def test_clipping_is_found_and_loudness_is_not_clipping() -> None:
    stems_SCT = _song()
    clipped_SCT = stems_SCT.copy()
    clipped_SCT[0] = np.clip(stems_SCT[0] * 20, -1, 1)
    kept, reason, detail = _judge(clipped_SCT)
    assert (kept, reason) == (False, "clipped")
    assert "drums" in detail
    assert _judge(clipped_SCT, QualityRules(max_clipped=1))[0]
    loud_SCT = stems_SCT / np.abs(stems_SCT).max()
    assert _judge(loud_SCT)[0]
    sine_SCT = np.broadcast_to(np.sin(2 * np.pi * 50 * np.arange(4 * RATE) / RATE), (2, 2, 4 * RATE)).astype(np.float32)
    assert _judge(sine_SCT)[0]


@pytest.mark.parametrize(("gain", "kept"), [(8.0, True), (127.0, False), (32768.0, False), (8388608.0, False)])
def test_integers_taken_for_floats_are_too_loud_to_be_kept(gain: float, kept: bool) -> None:
    stems_SCT = _song()
    stems_SCT[1] *= np.float32(gain) / np.abs(stems_SCT[1]).max()
    verdict = _judge(stems_SCT, QualityRules(max_offset=1))
    assert verdict[:2] == (kept, "" if kept else "too_loud")
    assert kept or verdict[2] == f"bass: its highest sample is {20 * np.log10(gain):.0f} dB beyond full scale"
    assert _judge(stems_SCT, QualityRules(max_offset=1, max_peak_db=1000))[1] != "too_loud"


def test_copies_are_found_and_the_first_name_stays() -> None:
    one, other = _song("one"), _song("other")
    signatures = {
        "c copy": _signature(one),
        "a": _signature(one),
        "b": _signature(other),
        "d quieter": _signature(one * np.float32(0.25)),
        "e longer": _signature(np.concatenate([other, np.zeros((2, 2, RATE // 2), np.float32)], axis=2)),
        "f half": _signature(one[:, :, : 5 * RATE]),
    }
    found = find_duplicates(signatures, min_similarity=0.9)
    assert found == {"c copy": "a", "d quieter": "a", "e longer": "b", "f half": "a"}
    assert find_duplicates(signatures, min_similarity=2) == {}


def test_a_lossy_copy_is_found(tmp_path: Path) -> None:
    rate = 44100
    noise = row_rng(0, "music").standard_normal((2, 10 * rate + 399))
    song_CT = np.apply_along_axis(lambda row: np.convolve(row, np.hanning(400) / 50, "valid"), 1, noise).astype(
        np.float32
    )
    song_CT *= 0.3 / np.abs(song_CT).max()
    soundfile.write(tmp_path / "song.mp3", song_CT.T, rate)
    copy_CT, _ = decode(tmp_path / "song.mp3")
    signatures = {}
    for name, samples_CT in (("a", song_CT), ("b", copy_CT), ("c", song_CT[:, ::-1])):
        meter = StemStatistics(sources=("other",), sample_rate=rate)
        meter.add(np.ascontiguousarray(samples_CT)[None])
        signatures[name] = meter.signature()
    assert find_duplicates(signatures, min_similarity=0.9) == {"b": "a"}


def test_silence_is_no_duplicate_of_silence() -> None:
    silent = _signature(np.zeros((2, 2, 10 * RATE), np.float32))
    assert find_duplicates({"a": silent, "b": silent, "c": silent[:0]}, min_similarity=0.9) == {}


def test_unrelated_songs_of_equal_length_are_not_duplicates() -> None:
    signatures = {f"song {k:02d}": _signature(_song(f"song {k}", duration_s=4)) for k in range(30)}
    assert find_duplicates(signatures, min_similarity=0.75) == {}


@pytest.mark.parametrize(
    "bad",
    [
        {"min_presence": 1.5},
        {"max_clipped": -0.1},
        {"silence_db": 3.0},
        {"min_similarity": 0.0},
        {"max_offset": -1.0},
        {"min_correlation": -2.0},
    ],
)
def test_rules_that_make_no_sense_are_refused_by_their_key(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"curate\.{next(iter(bad))}"):
        QualityRules(**bad)
