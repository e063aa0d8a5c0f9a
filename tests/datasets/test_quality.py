"""Each rule has a toy song that earns exactly its reason, and one just inside it that does not."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.audio import Samples, decode
from datasets.dice import dice
from datasets.errors import InputError
from datasets.quality import Meter, Rules, Signature, find_duplicates, judge, measure, silent_sources

RATE = 8000
SOURCES = ("drums", "bass")


def _song(name: str = "song", *, duration_s: float = 10.0, level: float = 0.1) -> Samples:
    """Stems with energy where instruments have it: low-passed noise with a slow envelope."""
    rng = dice(0, name)
    num_samples = round(duration_s * RATE)
    noise = rng.standard_normal((2, 2, num_samples + 15))
    kernel = np.ones(16) / 4
    smooth = np.apply_along_axis(lambda row: np.convolve(row, kernel, "valid"), 2, noise)
    return (smooth * level * (1 + 0.5 * np.sin(np.arange(num_samples) / RATE))).astype(np.float32)


def _judge(stems_SCT: Samples, rules: Rules | None = None) -> tuple[bool, str, str]:
    rules = rules or Rules()
    measures = measure(stems_SCT, sources=SOURCES, sample_rate=RATE, silence_db=rules.silence_db)
    return judge(measures, rules, sources=SOURCES)


def _signature(stems_SCT: Samples) -> Signature:
    meter = Meter(sources=SOURCES[: stems_SCT.shape[0]], sample_rate=RATE)
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


@pytest.mark.parametrize("block", [1000, 8000, 12345, 240000])
def test_measures_do_not_depend_on_the_blocks_they_were_heard_in(block: int) -> None:
    stems_SCT = _song()
    meter = Meter(sources=SOURCES, sample_rate=RATE)
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
        assert _judge(stems_SCT, Rules(min_presence=0))[0]


@pytest.mark.parametrize(("level_db", "keep"), [(-39, True), (-41, False)])
def test_silence_begins_at_minus_forty_db(level_db: float, keep: bool) -> None:
    stems_SCT = _song()
    power = np.square(stems_SCT[0, :, :RATE]).mean()
    tone_T = 10 ** (level_db / 20) * np.sqrt(2) * np.sin(2 * np.pi * 100 * np.arange(stems_SCT.shape[2]) / RATE)
    stems_SCT[0] = tone_T
    assert power > 0
    assert _judge(stems_SCT)[0] is keep
    assert _judge(stems_SCT, Rules(silence_db=-60))[0]


def test_an_all_silent_song_and_an_empty_one_are_silent() -> None:
    assert _judge(np.zeros((2, 2, 3 * RATE), np.float32))[1] == "silent_source"
    assert _judge(np.zeros((2, 2, RATE // 2), np.float32))[1] == "silent_source"
    rules = Rules()
    measures = measure(np.zeros((2, 2, RATE), np.float32), sources=SOURCES, sample_rate=RATE)
    assert silent_sources(measures, rules, sources=SOURCES) == ["drums", "bass"]


def test_clipping_is_found_and_loudness_is_not_clipping() -> None:
    stems_SCT = _song()
    clipped_SCT = stems_SCT.copy()
    clipped_SCT[0] = np.clip(stems_SCT[0] * 20, -1, 1)
    kept, reason, detail = _judge(clipped_SCT)
    assert (kept, reason) == (False, "clipped")
    assert "drums" in detail
    assert _judge(clipped_SCT, Rules(max_clipped=1))[0]
    loud_SCT = stems_SCT / np.abs(stems_SCT).max()
    assert _judge(loud_SCT)[0]
    sine_SCT = np.broadcast_to(np.sin(2 * np.pi * 50 * np.arange(4 * RATE) / RATE), (2, 2, 4 * RATE)).astype(np.float32)
    assert _judge(sine_SCT)[0]


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
    noise = dice(0, "music").standard_normal((2, 10 * rate + 399))
    song_CT = np.apply_along_axis(lambda row: np.convolve(row, np.hanning(400) / 50, "valid"), 1, noise).astype(
        np.float32
    )
    song_CT *= 0.3 / np.abs(song_CT).max()
    soundfile.write(tmp_path / "song.mp3", song_CT.T, rate)
    copy_CT, _ = decode(tmp_path / "song.mp3")
    signatures = {}
    for name, samples_CT in (("a", song_CT), ("b", copy_CT), ("c", song_CT[:, ::-1])):
        meter = Meter(sources=("other",), sample_rate=rate)
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
        Rules(**bad)
