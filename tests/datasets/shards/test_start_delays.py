"""A lossy file that does not say how late it begins is put in place where the song tells, else called uncertain."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datasets.audio.audio_types import Samples
from datasets.audio.decoding import decode
from datasets.schema import StemFile, Track
from datasets.seeding import row_rng
from datasets.shards import start_delays
from datasets.shards.chunks import DecodedTrack, decode_track, stems_of
from tests.datasets.audio.encoded import encoded

RATE = 44100
SOURCES = ("drums", "bass")
KINDS = [
    ("a.mp3", "libmp3lame", "s16p", {"write_xing": "0"}, 1105), ("a.wav", "libmp3lame", "s16p", {}, 1105),
    ("b.mp4", "libmp3lame", "s16p", {}, 1105), ("a.mp2", "mp2", "s16", {}, 481), ("a.aac", "aac", "fltp", {}, 1024),
    ("a.mp4", "aac", "fltp", {"movflags": "+frag_keyframe+empty_moov+default_base_moof"}, 1024),
    ("a.ac3", "ac3", "fltp", {}, 256), ("b.wav", "ac3", "fltp", {}, 256), ("a.wma", "wmav2", "fltp", {}, -2048),
]  # fmt: skip


def _noise(name: str, seconds: float = 4.0, *, rate: int = RATE) -> Samples:
    """Noise with more of it in low frequencies and none in the highest, as music has."""
    noise_CT = row_rng(0, name).standard_normal((2, round(seconds * rate)))
    spectrum_CF = np.fft.rfft(noise_CT)
    hz_F = np.fft.rfftfreq(noise_CT.shape[1], 1 / rate)
    noise_CT = np.fft.irfft(spectrum_CF / (1 + hz_F / 500) * (hz_F < 14000), noise_CT.shape[1])
    return (0.1 * noise_CT / noise_CT.std()).astype(np.float32)


def _track(folder: Path, drums: str, bass: str, *mixture: str) -> Track:
    drums_file, bass_file, *others = (StemFile(path=str(folder / name)) for name in (drums, bass, *mixture))
    return Track(
        track_id="song", title="song", group="song", split="train", license="", layout="folders", fingerprint="",
        stems={"drums": (drums_file,), "bass": (bass_file,)}, pad_s=1.0, mixture=tuple(others),
    )  # fmt: skip


def _stored(
    folder: Path, name: str, *, bass_CT: Samples, mixture_CT: Samples | None = None, rate: int = RATE, to: int = RATE
) -> tuple[DecodedTrack, Samples]:
    """The song of a coded file `name` as its drums, a WAV file as its bass and perhaps a mixture; and its drums."""
    soundfile.write(folder / "bass.wav", bass_CT.T, rate, subtype="FLOAT")
    mixture = ["mixture.wav"] if mixture_CT is not None else []
    if mixture_CT is not None:
        soundfile.write(folder / "mixture.wav", mixture_CT.T, rate, subtype="FLOAT")
    decoded = decode_track(_track(folder, name, "bass.wav", *mixture), sources=SOURCES, sample_rate=to, chunk_s=30)
    return decoded, stems_of(decoded.rows[0], SOURCES)[0]


def _late(found_CT: Samples, true_CT: Samples) -> int:
    size = found_CT.shape[1] + true_CT.shape[1]
    found_T = np.fft.irfft(np.fft.rfft(found_CT[0], size) * np.fft.rfft(true_CT[0], size).conj(), size)
    late = int(found_T.argmax())
    return late if late < size // 2 else late - size


def test_a_mixture_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    decode_as_ever = start_delays.decode_blocks

    def decode_and_note(path: str, **options: Any) -> Iterator[Samples]:
        read.append(Path(path).name)
        return decode_as_ever(path, **options)

    monkeypatch.setattr(start_delays, "decode_blocks", decode_and_note)
    name, codec, kind, options, delay = KINDS[0]
    drums_CT, bass_CT = _noise("drums"), 2 * _noise("bass")
    encoded(tmp_path / name, codec, kind, options=options, samples_CT=drums_CT)
    decoded, _ = _stored(tmp_path, name, bass_CT=bass_CT, mixture_CT=drums_CT + bass_CT)
    assert f"began {delay} samples late" in decoded.remarks[0]
    assert sorted(read) == sorted([name, "bass.wav", "mixture.wav"])


@pytest.mark.parametrize(("name", "codec", "kind", "options", "delay"), KINDS)
def test_the_usual_delay_is_taken_off_where_the_mixture_confirms_it(
    tmp_path: Path, name: str, codec: str, kind: str, options: dict[str, str], delay: int
) -> None:
    drums_CT, bass_CT = _noise("drums"), 2 * _noise("bass")
    encoded(tmp_path / name, codec, kind, options=options, samples_CT=drums_CT)
    assert _late(decode(tmp_path / name)[0], drums_CT) == delay
    decoded, found_CT = _stored(tmp_path, name, bass_CT=bass_CT, mixture_CT=drums_CT + bass_CT)
    assert _late(found_CT, drums_CT) == 0
    done = (
        f"began {delay} samples late by its codec's delay, which the mixture confirmed: taken off"
        if delay > 0
        else f"began {-delay} samples early, which the mixture confirmed: silence is put before it"
    )
    assert decoded.remarks == (f"{tmp_path / name} {done}",)
    inner = slice(5000, drums_CT.shape[1] - 5000)
    left_CT = found_CT[:, inner] - drums_CT[:, inner]
    assert np.square(left_CT).mean() < 0.1 * np.square(drums_CT).mean()


@pytest.mark.parametrize(("name", "codec", "kind", "options", "delay"), KINDS)
def test_what_nothing_confirms_stays_as_it_is_and_is_called_uncertain(
    tmp_path: Path, name: str, codec: str, kind: str, options: dict[str, str], delay: int
) -> None:
    drums_CT, bass_CT = _noise("drums"), _noise("bass")
    encoded(tmp_path / name, codec, kind, options=options, samples_CT=drums_CT)
    decoded, found_CT = _stored(tmp_path, name, bass_CT=bass_CT)
    assert _late(found_CT, drums_CT) == delay
    usual = f"which is {abs(delay)} samples as a rule"
    said = f"start uncertain: {tmp_path / name} does not say its codec's delay, {usual}"
    assert decoded.remarks == (said,)
    _, elsewhere_CT = _stored(tmp_path, name, bass_CT=bass_CT, mixture_CT=_noise("another song"))
    np.testing.assert_array_equal(elsewhere_CT, found_CT)


@pytest.mark.parametrize(
    ("name", "codec", "kind", "options"),
    [
        ("a.mp3", "libmp3lame", "s16p", {}), ("a.mka", "aac", "fltp", {}), ("b.mka", "libmp3lame", "s16p", {}),
        ("a.flac", "flac", "s16", {}), ("a.m4a", "alac", "s16p", {}), ("b.wav", "pcm_s16le", "s16", {}),
    ],
)  # fmt: skip
def test_of_files_that_say_their_start_nothing_is_taken_off(
    tmp_path: Path, name: str, codec: str, kind: str, options: dict[str, str]
) -> None:
    drums_CT = _noise("drums")
    encoded(tmp_path / name, codec, kind, options=options, samples_CT=drums_CT)
    decoded, found_CT = _stored(tmp_path, name, bass_CT=_noise("bass"))
    assert (decoded.remarks, _late(found_CT, drums_CT)) == ((), 0)


def _mp3(path: Path, samples_CT: Samples, *, rate: int = RATE) -> Path:
    encoded(path, "libmp3lame", "s16p", rate=rate, options={"write_xing": "0"}, samples_CT=samples_CT)
    return path


def test_bleed_in_another_stem_confirms_as_well(tmp_path: Path) -> None:
    drums_CT = _noise("drums")
    _mp3(tmp_path / "a.mp3", drums_CT)
    decoded, found_CT = _stored(tmp_path, "a.mp3", bass_CT=_noise("bass") + 0.3 * drums_CT)
    assert "which the other stems confirmed: taken off" in decoded.remarks[0]
    assert _late(found_CT, drums_CT) == 0


def test_a_file_that_is_in_place_for_all_that_it_does_not_say_is_left_alone(tmp_path: Path) -> None:
    _mp3(tmp_path / "a.mp3", _noise("drums"))
    late_CT = decode(tmp_path / "a.mp3")[0]
    bass_CT = _noise("bass", late_CT.shape[1] / RATE)
    decoded, found_CT = _stored(tmp_path, "a.mp3", bass_CT=bass_CT, mixture_CT=late_CT + bass_CT)
    assert decoded.remarks == ()
    np.testing.assert_allclose(found_CT, late_CT, atol=2**-15)


@pytest.mark.parametrize("late", [-700, 300])
def test_a_mixture_that_is_late_or_early_as_a_whole_confirms_by_how_much_files_differ(
    tmp_path: Path, late: int
) -> None:
    drums_CT, bass_CT = _noise("drums"), _noise("bass")
    _mp3(tmp_path / "a.mp3", drums_CT)
    mixture_CT = np.roll(drums_CT + bass_CT, late, axis=1)
    decoded, found_CT = _stored(tmp_path, "a.mp3", bass_CT=bass_CT, mixture_CT=mixture_CT)
    assert "began 1105 samples late" in decoded.remarks[0]
    assert _late(found_CT, drums_CT) == 0


def test_a_delay_that_is_not_the_codecs_is_told_and_left(tmp_path: Path) -> None:
    drums_CT, bass_CT = _noise("drums"), _noise("bass")
    _mp3(tmp_path / "a.mp3", np.roll(drums_CT, 600, axis=1))
    decoded, found_CT = _stored(tmp_path, "a.mp3", bass_CT=bass_CT, mixture_CT=drums_CT + bass_CT)
    (remark,) = decoded.remarks
    assert remark.startswith("start uncertain: ")
    assert remark.endswith("1105 samples as a rule; the mixture had it 1705 samples earlier")
    assert _late(found_CT, drums_CT) == 1705


def test_a_mixture_that_cannot_be_read_confirms_nothing_and_refuses_nothing(tmp_path: Path) -> None:
    drums_CT, bass_CT = _noise("drums"), _noise("bass")
    _mp3(tmp_path / "a.mp3", drums_CT)
    _stored(tmp_path, "a.mp3", bass_CT=bass_CT, mixture_CT=bass_CT)
    (tmp_path / "mixture.wav").write_bytes((tmp_path / "mixture.wav").read_bytes()[:50000])
    track = _track(tmp_path, "a.mp3", "bass.wav", "mixture.wav")
    assert "start uncertain" in decode_track(track, sources=SOURCES, sample_rate=RATE).remarks[0]


def test_the_delay_is_counted_at_the_files_own_rate(tmp_path: Path) -> None:
    drums_CT, bass_CT = _noise("drums", rate=48000), _noise("bass", rate=48000)
    _mp3(tmp_path / "a.mp3", drums_CT, rate=48000)
    decoded, found_CT = _stored(tmp_path, "a.mp3", bass_CT=bass_CT, mixture_CT=drums_CT + bass_CT, rate=48000, to=24000)
    assert "began 1105 samples late" in decoded.remarks[0]
    inner = slice(2000, drums_CT.shape[1] // 2 - 2000)
    assert _late(found_CT[:, inner], drums_CT[:, ::2][:, inner]) == 0


def test_files_of_one_delay_are_late_together_whatever_the_mixture_says(tmp_path: Path) -> None:
    drums_CT, bass_CT = _noise("drums"), _noise("bass")
    _mp3(tmp_path / "a.mp3", drums_CT)
    _mp3(tmp_path / "b.mp3", bass_CT)
    soundfile.write(tmp_path / "mixture.wav", (drums_CT + bass_CT).T, RATE)
    decoded = decode_track(_track(tmp_path, "a.mp3", "b.mp3", "mixture.wav"), sources=SOURCES, sample_rate=RATE)
    assert decoded.remarks == ()
    assert _late(stems_of(decoded.rows[0], SOURCES)[0], drums_CT) == 1105


def test_files_of_two_delays_are_each_put_in_place_by_the_mixture(tmp_path: Path) -> None:
    drums_CT, bass_CT = _noise("drums"), _noise("bass")
    _mp3(tmp_path / "a.mp3", drums_CT)
    encoded(tmp_path / "b.aac", "aac", samples_CT=bass_CT)
    soundfile.write(tmp_path / "mixture.wav", (drums_CT + bass_CT).T, RATE)
    track = _track(tmp_path, "a.mp3", "b.aac", "mixture.wav")
    decoded = decode_track(track, sources=SOURCES, sample_rate=RATE)
    stems_SCT = stems_of(decoded.rows[0], SOURCES)
    assert (_late(stems_SCT[0], drums_CT), _late(stems_SCT[1], bass_CT)) == (0, 0)
    assert len(decoded.remarks) == 2
