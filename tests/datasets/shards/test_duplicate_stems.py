"""A stem is never added to itself: equal files are used once, versions are refused by both names, takes are summed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.audio.audio_types import Samples
from datasets.corpus.scan import scan
from datasets.errors import AudioError
from datasets.schema import SOURCES
from datasets.seeding import row_rng
from datasets.shards.chunks import decode_track, stems_of
from tests.datasets.audio.encoded import encoded

RATE = 8000


def _noise(name: str, seconds: float = 2.0, *, channels: int = 2) -> Samples:
    """Noise that swells and falls, with more of it in low frequencies, as music has."""
    num_samples = round(seconds * RATE)
    noise_CT = row_rng(0, name).standard_normal((channels, num_samples))
    low_CT = np.zeros_like(noise_CT)
    for start in range(1, num_samples):
        low_CT[:, start] = 0.8 * low_CT[:, start - 1] + noise_CT[:, start]
    swell_T = 0.6 + 0.4 * np.sin(np.arange(num_samples) / RATE * 5)
    return (0.06 * low_CT * swell_T).astype(np.float32)


def _song(root: Path, files: Mapping[str, Samples], *, subtype: str = "FLOAT") -> None:
    rest = {f"{source}.wav": _noise(source) for source in SOURCES if source != "vocals"}
    for name, samples_CT in {**rest, **files}.items():
        path = root / "S" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "PCM_24" if path.suffix == ".flac" and subtype == "FLOAT" else subtype
        soundfile.write(path, samples_CT.T, RATE, subtype=kind)


def _vocals(root: Path) -> tuple[Samples, tuple[str, ...]]:
    """The stored vocals, and what was said of them."""
    (track,) = scan(root).tracks
    decoded = decode_track(track, sources=SOURCES, sample_rate=RATE, chunk_s=1)
    rows = [stems_of(row, SOURCES)[3] for row in decoded.rows]
    return np.concatenate(rows, axis=1), decoded.remarks


@pytest.mark.parametrize(
    "name", ["vocals copy.wav", "vocals 2.wav", "Lead Vox.wav", "vocals v2.wav", "old/vocals.wav", "Vox dbl.wav"]
)
def test_files_of_equal_samples_are_used_once_whatever_they_are_called_and_it_is_said(
    tmp_path: Path, name: str
) -> None:
    lead_CT = _noise("lead")
    _song(tmp_path, {"vocals.wav": lead_CT, name: lead_CT})
    vocals_CT, remarks = _vocals(tmp_path)
    np.testing.assert_allclose(vocals_CT, lead_CT, atol=2**-22)
    shorter, longer = sorted((f"{tmp_path}/S/{name}", f"{tmp_path}/S/vocals.wav"), key=lambda path: (len(path), path))
    assert remarks == (f"{longer} holds the same audio as {shorter}, which is used once",)


def test_equal_samples_in_other_bytes_are_equal(tmp_path: Path) -> None:
    lead_CT = (row_rng(0, "lead").integers(-9000, 9000, (1, 16000)) / 32768).astype(np.float32)
    _song(tmp_path, {"vocals.wav": lead_CT, "vocals.flac": lead_CT, "vocals 2.wav": np.repeat(lead_CT, 2, axis=0)})
    vocals_CT, remarks = _vocals(tmp_path)
    np.testing.assert_array_equal(vocals_CT, np.repeat(lead_CT, 2, axis=0))
    assert "vocals.flac" in remarks[0]
    assert "vocals 2.wav" in remarks[0]


def test_takes_doubles_sides_and_microphones_are_summed_as_ever(tmp_path: Path) -> None:
    lead_CT, double_CT = _noise("lead"), _noise("double")
    room_CT = 0.5 * lead_CT + 0.05 * _noise("room")
    pan_CT = _noise("pan", channels=1)
    files = {
        "Vocals 1.wav": lead_CT, "Vocals 2.wav": double_CT, "Vox Close.wav": lead_CT * 0.9, "Vox Far.wav": room_CT,
        "BGV L.wav": pan_CT, "BGV R.wav": pan_CT,
    }  # fmt: skip
    _song(tmp_path, files)
    vocals_CT, remarks = _vocals(tmp_path)
    assert remarks == ()
    np.testing.assert_allclose(vocals_CT, lead_CT * 1.9 + double_CT + room_CT + pan_CT, atol=2**-18)


def test_silent_files_are_no_copies(tmp_path: Path) -> None:
    _song(
        tmp_path, {"vocals.wav": _noise("lead"), "Vox 2.wav": np.zeros((2, 16000)), "Vox 3.wav": np.zeros((2, 16000))}
    )
    assert _vocals(tmp_path)[1] == ()


def test_two_versions_that_are_both_silent_are_no_different_audio(tmp_path: Path) -> None:
    silence_CT = np.zeros((2, 16000), np.float32)
    _song(tmp_path, {"vocals.wav": silence_CT, "vocals copy.wav": silence_CT})
    vocals_CT, remarks = _vocals(tmp_path)
    assert not vocals_CT.any()
    assert remarks == ()
    soundfile.write(tmp_path / "S/vocals.wav", _noise("lead").T, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="are two versions"):
        _vocals(tmp_path)


def _filtered(samples_CT: Samples, share: float) -> Samples:
    """With a shelf of low frequencies."""
    low_CT = np.zeros_like(samples_CT)
    for at in range(1, samples_CT.shape[1]):
        low_CT[:, at] = 0.9 * low_CT[:, at - 1] + 0.1 * samples_CT[:, at]
    return samples_CT + share * low_CT


@pytest.mark.parametrize("name", ["vocals (1).wav", "vocals_OLD.wav", "v2/vocals.wav", "vocals 48k.wav"])
def test_versions_by_name_that_hold_different_audio_are_refused_with_both_names_and_the_cure(
    tmp_path: Path, name: str
) -> None:
    _song(tmp_path, {"vocals.wav": _noise("lead"), name: _noise("other take")})
    with pytest.raises(AudioError) as caught:
        _vocals(tmp_path)
    assert caught.value.reason == "ambiguous_stem"
    for words in (
        f"S/{name} and ",
        "S/vocals.wav are two versions of one vocals stem",
        "[apart] in the file that corpus",
    ):
        assert words in str(caught.value)


def test_versions_of_two_rates_are_refused_as_versions(tmp_path: Path) -> None:
    lead_CT = _noise("lead")
    _song(tmp_path, {"48k/vocals.wav": lead_CT, "44k/vocals.wav": lead_CT})
    soundfile.write(tmp_path / "S/44k/vocals.wav", lead_CT.T[::2], RATE // 2)
    with pytest.raises(AudioError, match=r"44k/vocals\.wav are two versions|48k/vocals\.wav are two versions"):
        _vocals(tmp_path)


@pytest.mark.parametrize("change", ["gain", "polarity", "16 bit", "equalizer", "late by a few samples"])
def test_one_performance_under_two_numbers_is_refused_with_both_names(tmp_path: Path, change: str) -> None:
    lead_CT = _noise("lead", 3)
    changed_CT = {
        "gain": lead_CT * 0.4,
        "polarity": -lead_CT,
        "16 bit": (np.round(lead_CT * 32768) / 32768 * 0.999).astype(np.float32),
        "equalizer": _filtered(lead_CT, 1.5),
        "late by a few samples": np.roll(lead_CT, 20, axis=1),
    }[change]
    _song(tmp_path, {"Vocals 1.wav": lead_CT, "Vocals 2.wav": changed_CT})
    with pytest.raises(AudioError, match=r"Vocals 1\.wav and .*Vocals 2\.wav hold the same performance") as caught:
        _vocals(tmp_path)
    assert caught.value.reason == "ambiguous_stem"


def test_a_published_dataset_is_taken_at_its_word(tmp_path: Path) -> None:
    lead_CT = _noise("lead")
    _song(tmp_path, {"Vocals 1.wav": lead_CT, "Vocals 2.wav": lead_CT * 0.5})
    (track,) = scan(tmp_path).tracks
    stated = replace(track, layout="moisesdb")
    decoded = decode_track(stated, sources=SOURCES, sample_rate=RATE)
    np.testing.assert_allclose(stems_of(decoded.rows[0], SOURCES)[3], lead_CT * 1.5, atol=2**-20)


def test_microphones_that_a_list_names_belong_beside_each_other_as_in_a_folder(tmp_path: Path) -> None:
    lead_CT = _noise("lead")
    _song(tmp_path, {"Vox Close.wav": lead_CT, "Vox Far.wav": 0.5 * lead_CT})
    rest = [f"S,{source},S/{source}.wav" for source in SOURCES if source != "vocals"]

    def listed(first: str, second: str) -> None:
        rows = ["song,instrum,path", *rest, f"S,vocals,S/{first}", f"S,vocals,S/{second}"]
        (tmp_path / "songs.csv").write_text("\n".join(rows))

    listed("Vox Close.wav", "Vox Far.wav")
    vocals_CT, remarks = _vocals(tmp_path)
    assert remarks == ()
    np.testing.assert_allclose(vocals_CT, 1.5 * lead_CT, atol=2**-18)
    (tmp_path / "S/Vox Far.wav").rename(tmp_path / "S/Vox Zwei.wav")
    listed("Vox Close.wav", "Vox Zwei.wav")
    assert _vocals(tmp_path)[1] == ()  # one of them is told apart
    (tmp_path / "S/Vox Close.wav").rename(tmp_path / "S/Vox Eins.wav")
    listed("Vox Eins.wav", "Vox Zwei.wav")
    with pytest.raises(AudioError, match="hold the same performance"):
        _vocals(tmp_path)


def test_whether_a_file_is_lossy_is_told_by_its_codec_and_the_lossless_one_of_a_name_is_used(tmp_path: Path) -> None:
    lead_CT = (row_rng(0, "lead").integers(-9000, 9000, (2, 16000)) / 32768).astype(np.float32)
    _song(tmp_path, {"drums.wav": _noise("drums")})
    encoded(tmp_path / "S/vocals.m4a", "alac", "s16p", rate=RATE, samples_CT=lead_CT)
    (track,) = scan(tmp_path).tracks
    assert decode_track(track, sources=SOURCES, sample_rate=RATE).lossless
    soundfile.write(tmp_path / "S/vocals.mp3", lead_CT.T, RATE)
    (track,) = scan(tmp_path).tracks
    decoded = decode_track(track, sources=SOURCES, sample_rate=RATE)
    np.testing.assert_array_equal(stems_of(decoded.rows[0], SOURCES)[3], lead_CT)
    left_out = f"{tmp_path}/S/vocals.mp3 is left out: a lossy copy of {tmp_path}/S/vocals.m4a"
    assert (decoded.lossless, decoded.remarks) == (True, (left_out,))
    (tmp_path / "S/vocals.m4a").unlink()
    (track,) = scan(tmp_path).tracks
    assert not decode_track(track, sources=SOURCES, sample_rate=RATE).lossless
    encoded(tmp_path / "S/vocals.m4a", "aac", rate=RATE, samples_CT=lead_CT)
    (track,) = scan(tmp_path).tracks
    with pytest.raises(AudioError, match="are two versions"):
        decode_track(track, sources=SOURCES, sample_rate=RATE)


def test_what_files_were_is_noted(tmp_path: Path) -> None:
    _song(tmp_path, {"vocals.wav": _noise("lead")}, subtype="PCM_16")
    (track,) = scan(tmp_path).tracks
    decoded = decode_track(track, sources=SOURCES, sample_rate=16000)
    assert (decoded.bits, decoded.sample_rate, decoded.remarks) == (16, RATE, ())
