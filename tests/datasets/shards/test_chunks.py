"""Songs come back from chunk rows as they went in, and files that are no song are refused with a reason."""

import io
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.audio.audio_types import Integers, Samples
from datasets.audio.writers import encode_flac
from datasets.errors import AudioError
from datasets.schema import StemFile, Track, chunks_schema
from datasets.seeding import row_rng
from datasets.shards.chunks import SongHeader, decode_track, song_rows, stems_of, track_rows
from tests.datasets.audio.encoded import encoded

RATE = 8000
SOURCES = ("drums", "bass")
HEADER = SongHeader(track_id="a/b", title="b", split="train", license="CC0", origin="corpus", sample_rate=RATE)


def _stems(num_samples: int, *, peak: float = 0.5) -> Samples:
    ints = row_rng(0, "stems").integers(-(1 << 15), 1 << 15, (2, 2, num_samples))
    return (ints / (1 << 15) * peak).astype(np.float32)


def _track(folder: Path, stems: Mapping[str, tuple[Samples, int]], subtype: str = "FLOAT") -> Track:
    files = {}
    for source, (samples_CT, rate) in stems.items():
        path = folder / f"{source}.wav"
        soundfile.write(path, samples_CT.T, rate, subtype=subtype)
        files[source] = (StemFile(path=str(path)),)
    return Track(
        track_id="a/b",
        title="b",
        group="b",
        split="train",
        license="CC0",
        layout="folders",
        stems=files,
        fingerprint="f",
    )


def _reason(track: Track) -> str:
    with pytest.raises(AudioError) as caught:
        track_rows(track, sources=SOURCES, sample_rate=RATE, chunk_s=1)
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("peak", [0.5, 1.0, 3.7])
def test_rows_hold_the_song_exactly_even_beyond_full_scale(peak: float) -> None:
    stems_SCT = _stems(20000, peak=peak)
    rows = song_rows(stems_SCT, HEADER, sources=SOURCES, chunk_s=1)
    assert [row["num_samples"] for row in rows] == [8000, 8000, 4000]
    assert [row["start_samples"] for row in rows] == [0, 8000, 16000]
    assert {row["scale"] for row in rows} == {4.0 if peak > 2 else 1.0}
    back_SCT = np.concatenate([stems_of(row, SOURCES) for row in rows], axis=2)
    np.testing.assert_allclose(back_SCT, stems_SCT, atol=rows[0]["scale"] * 2**-24, rtol=0)
    assert set(rows[0]) == set(chunks_schema(SOURCES).names)
    np.testing.assert_array_equal(stems_of(rows[1], SOURCES, start=10, num_samples=5), back_SCT[:, :, 8010:8015])
    assert stems_of(rows[2], SOURCES, start=3990, num_samples=99).shape == (2, 2, 10)
    assert stems_of(rows[2], SOURCES, start=5000).shape == (2, 2, 0)


def test_surround_stems_are_stored_as_what_they_are_mixed_down_to(tmp_path: Path) -> None:
    """Whether the others are stereo or not: nothing is turned down, so they stay in balance."""
    ints = row_rng(0, "surround").integers(-3000, 3000, (6, RATE))
    six_CT = (ints / (1 << 15)).astype(np.float32)
    encoded(tmp_path / "six.flac", "flac", "s16", rate=RATE, layout="5.1", samples_CT=six_CT)
    encoded(tmp_path / "two.flac", "flac", "s16", rate=RATE, samples_CT=six_CT[:2])
    files = {
        source: (StemFile(path=str(tmp_path / f"{name}.flac")),)
        for source, name in zip(SOURCES, ("six", "two"), strict=True)
    }
    track = replace(_track(tmp_path, {}), stems=files)
    decoded = decode_track(track, sources=SOURCES, sample_rate=RATE)
    (row,) = decoded.rows
    assert decoded.remarks == (
        f"{tmp_path}/six.flac: 6 channels (FL FR FC LFE BL BR) mixed down to two after ITU-R BS.775, "
        "FC BL BR at -3 dB, LFE left out",
    )
    half = np.float32(0.5**0.5)
    both_CT = six_CT[:2] + half * six_CT[2] + half * six_CT[4:]
    np.testing.assert_allclose(stems_of(row, SOURCES)[0], both_CT, atol=2**-15)
    np.testing.assert_array_equal(stems_of(row, SOURCES)[1], six_CT[:2])
    soundfile.write(tmp_path / "unsaid.wav", six_CT.T, RATE)
    unsaid = replace(track, stems={**files, "drums": (StemFile(path=str(tmp_path / "unsaid.wav")),)})
    assert _reason(unsaid) == "channel_mismatch"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_stem_beyond_full_scale_on_one_side_alone_is_not_clipped(sign: int) -> None:
    stems_SCT = _stems(9000)
    stems_SCT[1, :, 4000:4100] = sign * np.float32(1.75)
    assert sign * stems_SCT.min() > -1.0 or sign * stems_SCT.max() < 1.0
    rows = song_rows(stems_SCT, HEADER, sources=SOURCES, bits=16)
    assert (rows[0]["scale"], rows[0]["bits"], rows[0]["bass_peak"]) == (2.0, 24, 1.75)
    np.testing.assert_allclose(stems_of(rows[0], SOURCES), stems_SCT, atol=2**-23)


def test_every_stem_has_its_checksum() -> None:
    (row,) = song_rows(_stems(4000), HEADER, sources=SOURCES)
    assert [row[f"{source}_crc32"] for source in SOURCES] == [zlib.crc32(row[source]) for source in SOURCES]


def test_levels_are_those_of_the_samples_second_by_second() -> None:
    loud, quiet, silent = 10 ** (-20 / 20), 10 ** (-50 / 20), 0.0
    levels = np.repeat(np.array([loud, quiet, silent, loud], np.float32), [RATE, RATE, RATE, RATE // 2])
    stems_SCT = np.stack([np.stack([levels, -levels]), np.zeros((2, len(levels)), np.float32)])
    (row,) = song_rows(stems_SCT, HEADER, sources=SOURCES)
    power = (1.5 * loud**2 + quiet**2) / 3.5
    assert row["drums_rms_db"] == pytest.approx(10 * np.log10(power), abs=1e-3)
    assert row["drums_activity"] == pytest.approx(1.5 / 3.5)
    assert row["drums_peak"] == pytest.approx(loud)
    assert (row["bass_rms_db"], row["bass_activity"], row["bass_peak"]) == (-120.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("subtype", "bits", "stored"),
    [
        ("PCM_16", "source", 16),
        ("PCM_24", "source", 24),
        ("FLOAT", "source", 24),
        ("PCM_16", 24, 24),
        ("FLOAT", 16, 16),
    ],
)
def test_the_depth_is_that_of_the_files_unless_asked_for(
    tmp_path: Path, subtype: str, bits: int | str, stored: int
) -> None:
    stems_SCT = _stems(9000)
    track = _track(tmp_path, {source: (stems_SCT[k], RATE) for k, source in enumerate(SOURCES)}, subtype)
    (row,) = track_rows(track, sources=SOURCES, sample_rate=RATE, bits=bits)
    assert row["bits"] == stored
    assert {soundfile.info(io.BytesIO(row[source])).subtype for source in SOURCES} == {f"PCM_{stored}"}


def test_a_file_of_16_bits_comes_back_bit_for_bit_at_half_the_size(tmp_path: Path) -> None:
    ints_SCT = row_rng(0, "ints").integers(-(1 << 15), 1 << 15, (2, 2, 20000)).astype(np.int16)
    stems_SCT = ints_SCT / np.float32(1 << 15)
    track = _track(tmp_path, {source: (stems_SCT[k], RATE) for k, source in enumerate(SOURCES)}, "PCM_16")
    rows = track_rows(track, sources=SOURCES, sample_rate=RATE, chunk_s=1)
    back_SCT = np.concatenate([stems_of(row, SOURCES) for row in rows], axis=2)
    np.testing.assert_array_equal(back_SCT * (1 << 15), ints_SCT)
    deep = track_rows(track, sources=SOURCES, sample_rate=RATE, chunk_s=1, bits=24)
    assert len(deep[0]["drums"]) > len(rows[0]["drums"])


def test_a_resampled_file_of_16_bits_is_rounded_to_16(tmp_path: Path) -> None:
    track = _track(tmp_path, {source: (_stems(22050)[k], 11025) for k, source in enumerate(SOURCES)}, "PCM_16")
    (row,), (deep,) = (track_rows(track, sources=SOURCES, sample_rate=RATE, bits=bits) for bits in ("source", 24))
    assert (row["bits"], deep["bits"]) == (16, 24)
    np.testing.assert_allclose(stems_of(row, SOURCES), stems_of(deep, SOURCES), atol=2**-16 + 2**-24)


def test_one_deep_file_makes_the_whole_song_deep(tmp_path: Path) -> None:
    stems_SCT = _stems(9000)
    track = _track(tmp_path, {source: (stems_SCT[k], RATE) for k, source in enumerate(SOURCES)}, "PCM_16")
    soundfile.write(tmp_path / "bass.wav", stems_SCT[1].T, RATE, subtype="PCM_24")
    assert track_rows(track, sources=SOURCES, sample_rate=RATE)[0]["bits"] == 24


def test_a_sum_of_16_bit_files_beyond_full_scale_keeps_every_bit(tmp_path: Path) -> None:
    stems_SCT = _stems(9000, peak=1.0)
    track = _track(tmp_path, {source: (stems_SCT[k], RATE) for k, source in enumerate(SOURCES)}, "PCM_16")
    both = {"drums": tuple(file for files in track.stems.values() for file in files)}
    (row,) = track_rows(replace(track, stems=both), sources=("drums",), sample_rate=RATE)
    assert (row["bits"], row["scale"]) == (24, 2.0)
    np.testing.assert_array_equal(stems_of(row, ("drums",))[0], stems_SCT.sum(axis=0))


def test_files_give_the_rows_of_their_samples(tmp_path: Path) -> None:
    stems_SCT = _stems(20000)
    track = _track(tmp_path, {source: (stems_SCT[k], RATE) for k, source in enumerate(SOURCES)})
    rows = track_rows(track, sources=SOURCES, sample_rate=RATE, chunk_s=1)
    assert rows == song_rows(stems_SCT, HEADER, sources=SOURCES, chunk_s=1)


def test_mono_songs_become_stereo_and_other_rates_are_resampled(tmp_path: Path) -> None:
    mono_CT = _stems(22050)[0, :1]
    rows = track_rows(
        _track(tmp_path, {source: (mono_CT, 11025) for source in SOURCES}), sources=SOURCES, sample_rate=RATE
    )
    assert [(row["channels"], row["num_samples"]) for row in rows] == [(2, 16000)]
    stem_CT = stems_of(rows[0], SOURCES)[0]
    np.testing.assert_array_equal(stem_CT[0], stem_CT[1])


def test_files_of_one_source_are_summed(tmp_path: Path) -> None:
    stems_SCT = _stems(9000, peak=0.4)
    track = _track(tmp_path, {source: (stems_SCT[k], RATE) for k, source in enumerate(SOURCES)})
    both = tuple(file for files in track.stems.values() for file in files)
    joined = Track(
        track_id="a/b", title="b", group="b", split="train", license="CC0", layout="folders",
        stems={"drums": both}, fingerprint="f",
    )  # fmt: skip
    (row,) = track_rows(joined, sources=("drums",), sample_rate=RATE)
    np.testing.assert_allclose(stems_of(row, ("drums",))[0], stems_SCT.sum(axis=0), atol=2**-23)


def test_stems_that_do_not_fit_together_are_refused_with_their_reason(tmp_path: Path) -> None:
    long_CT, short_CT = _stems(20000)[0], _stems(19000)[0]
    assert _reason(_track(tmp_path, {"drums": (long_CT, RATE), "bass": (short_CT, RATE)})) == "length_mismatch"
    assert _reason(_track(tmp_path, {"drums": (long_CT[:, :16000], RATE), "bass": (long_CT[:, :8000], RATE)})) == (
        "length_mismatch"
    )
    assert _reason(_track(tmp_path, {"drums": (long_CT, RATE), "bass": (long_CT, 11025)})) == "rate_mismatch"
    many_CT = np.repeat(long_CT, 3, axis=0)
    assert _reason(_track(tmp_path, {"drums": (many_CT, RATE), "bass": (many_CT, RATE)})) == "channel_mismatch"
    assert (
        _reason(_track(tmp_path, {"drums": (long_CT[:, :7000], RATE), "bass": (long_CT[:, :7000], RATE)}))
        == "too_short"
    )
    assert _reason(_track(tmp_path, {"drums": (long_CT[:, :0], RATE), "bass": (long_CT[:, :0], RATE)})) == "too_short"


@pytest.mark.parametrize("missing", [1, 100, 700, 8000])
def test_one_rule_fills_ends_and_spreads_mono_whatever_files_are_called(tmp_path: Path, missing: int) -> None:
    long_CT, short_CT = _stems(20000)[0], _stems(20000)[1][:, : 20000 - missing]
    track = _track(tmp_path, {"drums": (long_CT, RATE), "bass": (short_CT[:1], RATE)})
    (row,) = track_rows(replace(track, pad_s=1.0), sources=SOURCES, sample_rate=RATE)
    drums_CT, bass_CT = stems_of(row, SOURCES)
    np.testing.assert_allclose(drums_CT, long_CT, atol=2**-23)
    np.testing.assert_allclose(bass_CT[:, :-missing], np.repeat(short_CT[:1], 2, axis=0), atol=2**-23)
    assert not bass_CT[:, -missing:].any()
    with pytest.raises(AudioError, match=r"a larger corpus\.pad_s fills short ones with silence") as caught:
        track_rows(replace(track, pad_s=(missing - 1) / RATE), sources=SOURCES, sample_rate=RATE)
    assert caught.value.reason == "length_mismatch"


@pytest.mark.parametrize(("short", "long", "guess"), [
    (18375, 20000, "the lengths are as 44100 to 48000: a file of 44100 Hz may say 48000 Hz"),
    (13333, 20000, "the lengths are as 32000 to 48000"), (18500, 20000, ""), (19000, 20000, ""),
])  # fmt: skip
def test_lengths_that_are_as_two_sample_rates_are_told(tmp_path: Path, short: int, long: int, guess: str) -> None:
    for names in (("drums", "bass"), ("bass", "drums")):
        stems = {names[0]: (_stems(long)[0], RATE), names[1]: (_stems(long)[1][:, :short], RATE)}
        with pytest.raises(AudioError, match="these end more than") as caught:
            track_rows(_track(tmp_path, stems), sources=SOURCES, sample_rate=RATE, chunk_s=1)
        assert guess in str(caught.value)
        assert ("the lengths are as" in str(caught.value)) == bool(guess)


def test_a_file_without_samples_is_not_filled_with_silence(tmp_path: Path) -> None:
    track = _track(tmp_path, {"drums": (_stems(8000)[0], RATE), "bass": (_stems(8000)[1][:, :0], RATE)})
    with pytest.raises(AudioError, match=r"no samples at all in bass\.wav") as caught:
        track_rows(replace(track, pad_s=5.0), sources=SOURCES, sample_rate=RATE)
    assert caught.value.reason == "length_mismatch"


def test_a_broken_stem_is_the_songs_reason(tmp_path: Path) -> None:
    good_CT = _stems(20000)[0]
    bad_CT = good_CT.copy()
    bad_CT[0, 15000] = np.nan
    assert _reason(_track(tmp_path, {"drums": (good_CT, RATE), "bass": (bad_CT, RATE)})) == "not_finite"
    track = _track(tmp_path, {"drums": (good_CT, RATE), "bass": (good_CT, RATE)})
    whole = (tmp_path / "bass.wav").read_bytes()
    for content, reason in ((whole[:9000], "undecodable"), (b"", "empty_file"), (b"text" * 99, "undecodable")):
        (tmp_path / "bass.wav").write_bytes(content)
        assert _reason(track) == reason


def test_flac_of_rows_does_not_depend_on_when_or_how_often_it_is_made() -> None:
    samples_CT = _stems(5000)[0]
    assert encode_flac(samples_CT, sample_rate=RATE) == encode_flac(samples_CT.copy(), sample_rate=RATE)


def _raw(folder: Path, files: Mapping[str, Samples], sides: Mapping[str, str], pad_s: float = 1.0) -> Track:
    """A track of raw files, all of them drums."""
    for name, samples_CT in files.items():
        soundfile.write(folder / f"{name}.wav", samples_CT.T, RATE, subtype="FLOAT")
    drums = tuple(StemFile(path=str(folder / f"{name}.wav"), side=sides.get(name)) for name in files)
    return Track(
        track_id="a", title="a", group="a", split="train", license="", layout="multitrack", stems={"drums": drums},
        fingerprint="f", pad_s=pad_s,
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2])
def test_mono_files_of_two_sides_make_the_stereo_file_they_were(tmp_path: Path, channels: int) -> None:
    pair_CT = _stems(20000, peak=0.3)[0]
    files = {"oh l": pair_CT[:1], "oh r": pair_CT[1:]}
    track = _raw(tmp_path, files, {"oh l": "left", "oh r": "right"})
    whole = _raw(tmp_path, {"oh": pair_CT}, {})
    asked = {"sources": ("drums",), "sample_rate": RATE, "channels": channels, "chunk_s": 1}
    joined, stereo = ([stems_of(row, ("drums",)) for row in track_rows(item, **asked)] for item in (track, whole))  # type: ignore[arg-type]
    for one, other in zip(joined, stereo, strict=True):
        np.testing.assert_allclose(one, other, atol=2**-23)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize(("channels", "expected"), [(1, [0.25]), (2, [0.0, 0.5])])
@pytest.mark.parametrize("seconds", [1.5, 2.0])
def test_half_of_a_pair_that_stands_alone_keeps_its_level(
    tmp_path: Path, subtype: str, channels: int, expected: list[float], seconds: float
) -> None:
    """What a file holds as integers must not be taken for floats once a gain has touched it."""
    soundfile.write(tmp_path / "gtr r.wav", np.full(round(seconds * RATE), 0.5), RATE, subtype=subtype)
    stems = {"drums": (StemFile(path=str(tmp_path / "gtr r.wav"), side="right"),)}
    track = replace(_raw(tmp_path, {}, {}), stems=stems)
    rows = track_rows(track, sources=("drums",), sample_rate=RATE, channels=channels, chunk_s=1)
    assert {row["scale"] for row in rows} == {1.0}
    for row in rows:
        np.testing.assert_allclose(stems_of(row, ("drums",))[0].T, [expected] * row["num_samples"], atol=2**-15)


def test_a_song_that_one_channel_would_silence_is_refused_by_name(tmp_path: Path) -> None:
    antiphase_CT = _stems(20000, peak=0.3)[0][:1] * np.array([[1], [-1]], np.float32)
    track = _raw(tmp_path, {"kit": antiphase_CT}, {})
    (row,) = track_rows(track, sources=("drums",), sample_rate=RATE, channels=2)
    np.testing.assert_allclose(stems_of(row, ("drums",))[0], antiphase_CT, atol=2**-22)
    with pytest.raises(AudioError, match=r"kit\.wav: its two channels cancel each other in mono") as caught:
        track_rows(track, sources=("drums",), sample_rate=RATE, channels=1)
    assert caught.value.reason == "inverted"


@pytest.mark.parametrize("rate", [RATE, 11025])
@pytest.mark.parametrize("share", [-1.0, -0.9, -0.2, 0.5])
def test_a_pair_of_files_that_one_channel_would_silence_is_judged_as_the_file_it_was(
    tmp_path: Path, share: float, rate: int
) -> None:
    """Whether the two sides are two files, or four, or one of stereo, and whatever else sounds beside them."""
    lead_CT, beside_CT = _stems(20000, peak=0.2)[:, :1]
    low_CT = beside_CT * np.float32(0.3)
    pair = {"oh l": lead_CT, "oh r": np.float32(share) * lead_CT}
    crossed = {"a l": lead_CT, "b l": low_CT, "c r": np.float32(share) * (lead_CT + low_CT)}
    beside = {**pair, "kick": 2 * beside_CT, "gtr l": beside_CT, "gtr r": 0.7 * beside_CT}
    whole = {"oh": np.concatenate([lead_CT, np.float32(share) * lead_CT])}
    for files in (pair, crossed, beside, whole):
        sides = {name: {"l": "left", "r": "right"}[name[-1]] for name in files if name[-2] == " "}
        track = _raw(tmp_path, files, sides)
        asked = {"sources": ("drums",), "sample_rate": rate, "chunk_s": 0.5}
        assert track_rows(track, channels=2, **asked)  # type: ignore[arg-type]
        if share > -0.5:
            assert track_rows(track, channels=1, **asked)  # type: ignore[arg-type]
            continue
        with pytest.raises(AudioError, match=r"\.wav: (the two sides|its two channels) cancel each other") as caught:
            track_rows(track, channels=1, **asked)  # type: ignore[arg-type]
        assert caught.value.reason == "inverted"
        assert next(iter(files)) in str(caught.value)


def test_files_of_one_side_alone_and_pairs_of_two_sources_cancel_nothing(tmp_path: Path) -> None:
    lead_CT = _stems(20000, peak=0.3)[0][:1]
    one = _raw(tmp_path, {"oh l": lead_CT, "room l": -lead_CT / 2}, {"oh l": "left", "room l": "left"})
    assert track_rows(one, sources=("drums",), sample_rate=RATE, channels=1)
    two = _raw(tmp_path, {"oh l": lead_CT, "di r": -lead_CT}, {"oh l": "left", "di r": "right"})
    drums, bass = two.stems["drums"]
    two = replace(two, stems={"drums": (drums,), "bass": (bass,)})
    assert track_rows(two, sources=SOURCES, sample_rate=RATE, channels=1)


def test_integers_are_no_array() -> None:
    integers = Integers(np.full((1, 4), -(1 << 14), np.int16))
    assert (integers.shape, integers.floats().tolist()) == ((1, 4), [[-0.5] * 4])
    for wrong in (np.zeros((1, 4), np.int32), np.zeros((1, 4), np.float32), np.zeros(4, np.int16)):
        with pytest.raises(ValueError, match="16-bit samples must be int16"):
            Integers(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        integers * np.float32(0.5)  # type: ignore[operator]
    with pytest.raises(AssertionError):
        encode_flac(np.zeros((1, 4), np.int16), sample_rate=RATE)  # type: ignore[arg-type]


def test_a_mono_file_beside_stereo_stands_in_the_middle_and_a_stereo_file_ignores_its_side(tmp_path: Path) -> None:
    stereo_CT, mono_CT = _stems(9000, peak=0.3)[0], _stems(9000, peak=0.2)[1, :1]
    track = _raw(tmp_path, {"gtr l": stereo_CT, "kick": mono_CT}, {"gtr l": "left"})
    (row,) = track_rows(track, sources=("drums",), sample_rate=RATE)
    np.testing.assert_allclose(stems_of(row, ("drums",))[0], stereo_CT + mono_CT, atol=2**-23)


def test_raw_files_that_end_early_are_filled_with_silence_up_to_a_limit(tmp_path: Path) -> None:
    stems_SCT = _stems(20000, peak=0.3)
    track = _raw(tmp_path, {"long": stems_SCT[0], "short": stems_SCT[1][:, :15000]}, {}, pad_s=0.625)
    rows = track_rows(track, sources=("drums",), sample_rate=RATE, chunk_s=1)
    padded_CT = stems_SCT[0].copy()
    padded_CT[:, :15000] += stems_SCT[1][:, :15000]
    back_CT = np.concatenate([stems_of(row, ("drums",))[0] for row in rows], axis=1)
    np.testing.assert_allclose(back_CT, padded_CT, atol=2**-23)
    late = _raw(tmp_path, {"long": stems_SCT[0], "short": stems_SCT[1][:, :14999]}, {}, pad_s=0.625)
    with pytest.raises(AudioError, match=r"more than corpus\.pad_s=0\.625 earlier: short\.wav: 1\.87 s"):
        track_rows(late, sources=("drums",), sample_rate=RATE, chunk_s=1)


@pytest.mark.parametrize("num_samples", [0, 1, RATE // 2])
def test_without_a_shortest_length_a_song_needs_a_sample(tmp_path: Path, num_samples: int) -> None:
    track = _track(tmp_path, dict.fromkeys(SOURCES, (np.full((2, num_samples), 0.25, np.float32), RATE)))
    if num_samples:
        (row,) = track_rows(track, sources=SOURCES, sample_rate=RATE, min_song_s=0.0)
        assert row["num_samples"] == num_samples
    else:
        with pytest.raises(AudioError, match="no samples at all") as refused:
            track_rows(track, sources=SOURCES, sample_rate=RATE, min_song_s=0.0)
        assert refused.value.reason == "too_short"


def test_a_song_is_cut_every_30_s_where_nothing_else_is_asked_for(tmp_path: Path) -> None:
    header = replace(HEADER, sample_rate=1000)
    rows = song_rows(np.full((2, 2, 61_000), 0.25, np.float32), header, sources=SOURCES)
    assert [row["num_samples"] for row in rows] == [30_000, 30_000, 1000]
    assert {(row["bits"], row["origin"], row["license"], row["split"]) for row in rows} == {
        (24, "corpus", "CC0", "train")
    }
    assert [row["index"] for row in rows] == [0, 1, 2]


@pytest.mark.parametrize(("num_samples", "long_enough"), [(RATE, True), (RATE - 1, False)])
def test_the_shortest_song_has_a_second(tmp_path: Path, num_samples: int, long_enough: bool) -> None:
    track = _track(tmp_path, dict.fromkeys(SOURCES, (np.full((2, num_samples), 0.25, np.float32), RATE)))
    if long_enough:
        assert len(track_rows(track, sources=SOURCES, sample_rate=RATE)) == 1
        return
    with pytest.raises(AudioError, match=r"1\.00 s; .*1\.0 s"):
        track_rows(track, sources=SOURCES, sample_rate=RATE)


@pytest.mark.parametrize("kind", ["floats", "integers"])
@pytest.mark.parametrize(("level_db", "active"), [(-39.0, 1.0), (-41.0, 0.0)])
def test_a_second_is_active_above_40_db_under_full_scale(
    tmp_path: Path, kind: str, level_db: float, active: float
) -> None:
    square_T = np.resize(np.array([1.0, -1.0], np.float32), 2 * RATE) * np.float32(10 ** (level_db / 20))
    subtype = "PCM_16" if kind == "integers" else "FLOAT"
    track = _track(tmp_path, dict.fromkeys(SOURCES, (np.stack([square_T, square_T]), RATE)), subtype)
    (row,) = track_rows(track, sources=SOURCES, sample_rate=RATE)
    assert row["bits"] == (16 if kind == "integers" else 24)
    assert row["drums_activity"] == active
    assert row["drums_rms_db"] == pytest.approx(level_db, abs=0.02)
    assert row["drums_peak"] == pytest.approx(10 ** (level_db / 20), abs=2**-15)


def test_what_is_all_but_silent_has_120_db_under_full_scale_as_silence_has() -> None:
    (row,) = song_rows(np.full((2, 2, RATE), 1e-7, np.float32), HEADER, sources=SOURCES)
    assert row["drums_rms_db"] == -120.0
    assert row["scale"] == 1.0
