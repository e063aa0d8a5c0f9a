"""Songs come back from chunk rows as they went in, and files that are no song are refused with a reason."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.audio import Samples, encode_flac
from datasets.chunks import SongHeader, check_row, song_rows, stems_of, track_rows
from datasets.dice import dice
from datasets.errors import AudioError, InputError
from datasets.schema import StemFile, Track, chunks_schema

RATE = 8000
SOURCES = ("drums", "bass")
HEADER = SongHeader(track_id="a/b", title="b", split="train", license="CC0", origin="corpus", sample_rate=RATE)


def _stems(num_samples: int, *, peak: float = 0.5) -> Samples:
    ints = dice(0, "stems").integers(-(1 << 15), 1 << 15, (2, 2, num_samples))
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


def test_a_changed_byte_does_not_match_the_checksum() -> None:
    (row,) = song_rows(_stems(4000), HEADER, sources=SOURCES)
    check_row(row, SOURCES)
    with pytest.raises(InputError, match="chunk 0 of 'a/b'"):
        check_row({**row, "bass": row["bass"][:-1] + b"\x00"}, SOURCES)


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
    assert _reason(_track(tmp_path, {"drums": (long_CT, RATE), "bass": (long_CT[:1], RATE)})) == "channel_mismatch"
    many_CT = np.repeat(long_CT, 3, axis=0)
    assert _reason(_track(tmp_path, {"drums": (many_CT, RATE), "bass": (many_CT, RATE)})) == "channel_mismatch"
    assert (
        _reason(_track(tmp_path, {"drums": (long_CT[:, :7000], RATE), "bass": (long_CT[:, :7000], RATE)}))
        == "too_short"
    )
    assert _reason(_track(tmp_path, {"drums": (long_CT[:, :0], RATE), "bass": (long_CT[:, :0], RATE)})) == "too_short"


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
