import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datasets.corpus.layouts.separated_stems import Teacher
from datasets.errors import InputError, Unavailable
from models.inference import CONSISTENCY_MODES
from models.weights.model_identity import describe
from pipelines.inference import separate_songs
from pipelines.inference.separate_config import SeparateConfig
from pipelines.inference.separate_songs import SeparateResult, folder_name, run
from pipelines.inference.song_separation import PlannedSong, SongQueue, SongSeparator, separate_song
from pipelines.inference.stem_files import FULL_SCALE, file_name
from tests.datasets.audio.encoded import encoded

RATE = 8000
SOURCES = ("drums", "bass", "other", "vocals")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch

    from models.networks import catalog
    from models.weights import checkpoint

    torch.manual_seed(0)
    network = catalog.build("htdemucs-tiny", segment_s=1.0, sample_rate=RATE)
    return str(checkpoint.save(tmp_path_factory.mktemp("model") / "checkpoint", network))


def write_song(path: Path, *, seconds: float = 2.3, rate: int = RATE, channels: int = 2, level: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples_TC = np.random.default_rng(1).normal(0, level, (round(seconds * rate), channels)).astype(np.float32)
    soundfile.write(path, samples_TC, rate, subtype="FLOAT")
    return path


def separate(song: Path, model: str, out: Path, **options: object) -> SeparateResult:
    result = run(SeparateConfig(**options), [str(song)], model=model, out=str(out))  # type: ignore[arg-type]
    assert not result.failed, result.failed
    return result


def read(path: str) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def test_stems_written_in_blocks_are_those_of_the_song_separated_whole(tmp_path: Path, model: str) -> None:
    import torch

    from models.inference.separate import separate as separate_whole
    from models.weights.loading import load_model

    song = write_song(tmp_path / "song.wav", seconds=5.3)
    (done,) = separate(song, model, tmp_path / "out", format="float").songs
    whole_SCT = separate_whole(load_model(model), torch.from_numpy(read(str(song)))).numpy()
    stems_SCT = np.stack([read(done.files[source]) for source in SOURCES])
    np.testing.assert_allclose(stems_SCT, whole_SCT, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rate", "channels"), [(RATE, 2), (RATE, 1), (11025, 2), (44100, 1)])
def test_stems_have_the_rate_and_to_the_sample_the_length_of_their_song(
    tmp_path: Path, model: str, rate: int, channels: int
) -> None:
    song = write_song(tmp_path / "song.wav", seconds=1.2345, rate=rate, channels=channels)
    (done,) = separate(song, model, tmp_path / "out").songs
    for path in done.files.values():
        info = soundfile.info(path)
        assert (info.samplerate, info.frames, info.channels) == (rate, soundfile.info(song).frames, 2)


@pytest.mark.parametrize(
    ("format", "container", "subtype"),
    [
        ("wav16", "WAV", "PCM_16"),
        ("wav24", "WAV", "PCM_24"),
        ("float", "WAV", "FLOAT"),
        ("flac", "FLAC", "PCM_24"),
        ("mp3", "MP3", "MPEG_LAYER_III"),
    ],
)
def test_every_format_is_what_it_says(tmp_path: Path, model: str, format: str, container: str, subtype: str) -> None:
    (done,) = separate(write_song(tmp_path / "song.wav"), model, tmp_path / "out", format=format).songs
    info = soundfile.info(done.files["bass"])
    assert (info.format, info.subtype) == (container, subtype)
    assert Path(done.files["bass"]).stem == "bass"


def test_a_rate_that_mp3_does_not_have_becomes_the_next_that_it_has(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "song.wav", seconds=1, rate=96000)
    (done,) = separate(song, model, tmp_path / "out", format="mp3").songs
    assert (done.sample_rate, done.num_samples) == (48000, 48000)


def test_loud_stems_get_one_common_gain_and_float_keeps_them_as_they_are(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "loud.wav", level=30.0)
    (exact,) = separate(song, model, tmp_path / "float", format="float").songs
    (fixed,) = separate(song, model, tmp_path / "wav24", format="wav24").songs
    true_SCT = np.stack([read(exact.files[source]) for source in SOURCES])
    seen_SCT = np.stack([read(fixed.files[source]) for source in SOURCES])
    peak = np.abs(true_SCT).max()
    assert peak > 1
    assert exact.gain_db == 0
    assert fixed.gain_db == pytest.approx(20 * np.log10(FULL_SCALE / peak), abs=1e-4)
    np.testing.assert_allclose(seen_SCT, true_SCT * FULL_SCALE / peak, rtol=0, atol=2**-22)


def test_two_stems_are_a_source_and_the_sum_of_the_others(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "song.wav")
    (every,) = separate(song, model, tmp_path / "every", format="float").songs
    (two,) = separate(song, model, tmp_path / "two", format="float", two_stems="vocals").songs
    assert set(two.files) == {"vocals", "no_vocals"}
    others = sum(read(every.files[source]) for source in SOURCES if source != "vocals")
    np.testing.assert_allclose(read(two.files["no_vocals"]), others, rtol=0, atol=1e-6)


def test_the_stems_that_were_asked_for_are_written_alone_and_as_they_would_be_among_all(
    tmp_path: Path, model: str
) -> None:
    song = write_song(tmp_path / "song.wav")
    (every,) = separate(song, model, tmp_path / "out").songs
    before = {source: Path(every.files[source]).read_bytes() for source in SOURCES}
    (chosen,) = separate(song, model, tmp_path / "chosen", stems=("vocals", "drums")).songs
    assert list(chosen.files) == ["drums", "vocals"]
    assert {source: Path(path).read_bytes() for source, path in chosen.files.items()} == {
        source: before[source] for source in chosen.files
    }
    assert {path.name for path in Path(chosen.folder).glob("*.wav")} == {"drums.wav", "vocals.wav"}


def test_with_mixture_consistency_the_stems_sum_to_the_song(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "song.wav")
    away = {}
    for mode in CONSISTENCY_MODES:
        (done,) = separate(song, model, tmp_path / mode, format="float", mixture_consistency=mode).songs
        away[mode] = np.abs(sum(read(path) for path in done.files.values()) - read(str(song))).max()
    assert away["off"] > 1e-3
    assert max(away["residual"], away["mask"]) < 1e-6


def test_in_int8_the_stems_are_others_and_near(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "song.wav")
    exact, coarse = (
        [
            read(path)
            for path in separate(song, model, tmp_path / name, format="float", precision=name).songs[0].files.values()
        ]
        for name in ("float32", "int8")
    )
    assert 0 < np.linalg.norm(np.subtract(coarse, exact)) < 0.02 * np.linalg.norm(exact)


def test_the_same_command_gives_the_same_bytes(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "song.wav")
    written = []
    for out in ("a", "b"):
        (done,) = separate(song, model, tmp_path / out, shifts=1, format="float").songs
        written.append([Path(path).read_bytes() for path in done.files.values()])
    assert written[0] == written[1]


def test_finished_songs_are_found_again_until_something_changes(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "song.wav")
    assert not separate(song, model, tmp_path / "out").songs[0].reused
    (again,) = separate(song, model, tmp_path / "out").songs
    assert again.reused
    assert list(again.files) == ["drums", "bass", "other", "vocals"]  # in the model's order, as at first
    assert not separate(song, model, tmp_path / "out", overlap=0.5).songs[0].reused
    Path(again.files["bass"]).write_bytes(b"cut off")
    assert not separate(song, model, tmp_path / "out", overlap=0.5).songs[0].reused


def test_a_bag_of_the_same_name_separates_anew(tmp_path: Path) -> None:
    import torch

    from models.networks import catalog
    from models.weights.demucs import demucs_packages

    song, rms = write_song(tmp_path / "song.wav", seconds=1), []
    for day, seed in (("monday", 1), ("tuesday", 2)):
        torch.manual_seed(seed)
        members = [catalog.build("demucs-v3-tiny", segment_s=1.0, sample_rate=RATE) for _ in range(2)]
        bag = demucs_packages.export_bag(members, tmp_path / day, name="ft", form="safetensors")
        (done,) = separate(song, str(bag), tmp_path / "out", format="float").songs
        assert not done.reused
        rms.append(np.sqrt(np.mean(read(done.files["drums"]) ** 2)))
    assert rms[0] != pytest.approx(rms[1], rel=1e-3)
    assert separate(song, str(bag), tmp_path / "out", format="float").songs[0].reused


def test_a_folder_holds_its_stems_a_summary_and_nothing_half_written(tmp_path: Path, model: str) -> None:
    (done,) = separate(write_song(tmp_path / "song.wav"), model, tmp_path / "out").songs
    names = {path.name for path in Path(done.folder).iterdir()}
    assert names == {"drums.wav", "bass.wav", "other.wav", "vocals.wav", "separation.json"}
    assert json.loads((Path(done.folder) / "separation.json").read_text())["gain_db"] == 0


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path, model: str) -> None:
    left = tmp_path / "out" / "song"
    (left / ".partial-x").mkdir(parents=True)
    (left / ".partial-x" / "0.f32").write_bytes(bytes(100))
    (left / ".tmp-abc").touch()
    (done,) = separate(write_song(tmp_path / "song.wav"), model, tmp_path / "out").songs
    assert not done.reused
    assert not [path.name for path in left.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("theirs", ["vocals.wav", "separation.json"])
def test_true_stems_of_somebodys_are_not_replaced(tmp_path: Path, model: str, theirs: str) -> None:
    song = write_song(tmp_path / "song.wav")
    corpus = tmp_path / "corpus" / "song"
    corpus.mkdir(parents=True)
    for name in (theirs, "cover.jpg", ".tmp-upload", "drums.flac"):
        (corpus / name).write_bytes(b"precious")
    (corpus / ".partial-takes").mkdir()
    (corpus / ".partial-takes" / "one.wav").write_bytes(b"precious")
    before = {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    result = run(SeparateConfig(), [str(song)], model=model, out=str(tmp_path / "corpus"))
    assert not result.songs
    assert theirs in result.failed[0].reason
    assert "choose another --out" in result.failed[0].reason
    assert {path: path.read_bytes() for path in corpus.rglob("*") if path.is_file()} == before
    (corpus / theirs).unlink()
    assert separate(song, model, tmp_path / "corpus").songs  # beside what is theirs there is room
    assert all(path.read_bytes() == b"precious" for path in before if path.name != theirs)


def test_stems_that_somebody_worked_on_stay_and_ours_are_replaced(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "song.wav")
    (done,) = separate(song, model, tmp_path / "out").songs
    assert separate(song, model, tmp_path / "out", format="flac").songs
    (again,) = separate(song, model, tmp_path / "out", overlap=0.5).songs
    assert not again.reused
    drums = Path(done.files["drums"])
    samples, rate = soundfile.read(drums)
    for worked_on in (samples[::-1], samples[: len(samples) // 2]):  # of the same length, and trimmed
        soundfile.write(drums, worked_on, rate)
        before = drums.read_bytes()
        (failed,) = run(SeparateConfig(), [str(song)], model=model, out=str(tmp_path / "out")).failed
        assert "drums.wav" in failed.reason
        assert drums.read_bytes() == before


def test_stems_from_before_there_was_a_record_are_ours(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "song.wav")
    (done,) = separate(song, model, tmp_path / "out").songs
    summary = json.loads((Path(done.folder) / "separation.json").read_text())
    del summary["written"]
    (Path(done.folder) / "separation.json").write_text(json.dumps(summary))
    assert separate(song, model, tmp_path / "out", overlap=0.5).songs


def test_a_song_of_the_same_name_gets_a_folder_of_its_own_in_a_later_call_too(tmp_path: Path, model: str) -> None:
    first, second = write_song(tmp_path / "song.wav"), write_song(tmp_path / "song.flac.wav", seconds=1.1)
    second = second.rename(tmp_path / "song.flac")  # told by content
    elsewhere = write_song(tmp_path / "other" / "song.wav", seconds=1.3)
    folders = {}
    for song in (first, second, elsewhere):
        (done,) = separate(song, model, tmp_path / "out").songs
        folders[song] = Path(done.folder).name
    assert list(folders.values()) == ["song", "song (2)", "song (3)"]
    for song, folder in folders.items():
        (again,) = separate(song, model, tmp_path / "out").songs
        assert again.reused
        assert Path(again.folder).name == folder
        assert read(again.files["drums"]).shape[1] == read(str(song)).shape[1]
    write_song(first, seconds=1.7)  # changed in its place: its stems are replaced, those of others are not
    moved = second.rename(tmp_path / "other" / "song.flac")
    assert Path(separate(first, model, tmp_path / "out").songs[0].folder).name == "song"
    assert separate(moved, model, tmp_path / "out").songs[0].reused
    both = run(SeparateConfig(), [str(elsewhere), str(first)], model=model, out=str(tmp_path / "out"))
    assert [Path(song.folder).name for song in both.songs] == ["song (3)", "song"]
    assert all(song.reused for song in both.songs)


def test_surround_is_mixed_down_before_it_is_separated_and_said(tmp_path: Path, model: str) -> None:
    centre_T = write_song(tmp_path / "mono.wav", channels=1)
    encoded(
        tmp_path / "a.flac", "flac", "s16", rate=RATE, layout="5.1", samples_CT=_only_centre(read(str(centre_T))[0])
    )
    (done,) = separate(tmp_path / "a.flac", model, tmp_path / "out", format="float").songs
    assert done.notes == (
        "6 channels (FL FR FC LFE BL BR) mixed down to two after ITU-R BS.775, FC BL BR at -3 dB, LFE left out",
    )
    (again,) = separate(tmp_path / "a.flac", model, tmp_path / "out", format="float").songs
    assert again.reused
    assert again.notes == done.notes
    total_CT = sum(read(path) for path in done.files.values())
    assert np.square(total_CT).mean() > 0
    soundfile.write(tmp_path / "unsaid.wav", np.zeros((RATE, 6)), RATE)
    (failed,) = run(SeparateConfig(), [str(tmp_path / "unsaid.wav")], model=model, out=str(tmp_path / "out")).failed
    assert "has 6 channels, and it does not say which of them is which" in failed.reason


def _only_centre(signal_T: np.ndarray) -> np.ndarray:
    samples_CT = np.zeros((6, len(signal_T)), np.float32)
    samples_CT[2] = signal_T
    return samples_CT


def test_bad_songs_are_reported_and_the_others_go_on(tmp_path: Path, model: str) -> None:
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "empty.flac").touch()
    soundfile.write(tmp_path / "nan.wav", np.full((RATE, 2), np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2), np.float32), RATE)
    good = write_song(tmp_path / "good.wav")
    songs = ["text.wav", "empty.flac", "nan.wav", "none.wav", "missing.wav", "."]
    result = run(
        SeparateConfig(), [*(str(tmp_path / song) for song in songs), str(good)], model=model, out=str(tmp_path)
    )
    assert [Path(song.song).name for song in result.songs] == ["good.wav"]
    assert len(result.failed) == len(songs)
    reasons = " ".join(song.reason for song in result.failed)
    for words in ("zero bytes", "NaN", "no samples", "no such file", "a folder, not a song"):
        assert words in reasons
    assert str(tmp_path) not in reasons  # each stands beside its song


@pytest.mark.ray
def test_songs_separated_on_nodes_are_those_of_this_process_to_the_bit(
    ray_local: Any, tmp_path: Path, model: str
) -> None:
    songs = [str(write_song(tmp_path / f"{k}" / "song.wav", seconds=1 + 0.3 * k)) for k in range(4)]
    soundfile.write(tmp_path / "nan.wav", np.full((RATE, 2), np.nan, np.float32), RATE, subtype="FLOAT")
    songs[2:2] = [str(tmp_path / "nan.wav"), str(tmp_path / "missing.wav")]
    made: list[tuple[list[tuple[str, float, list[bytes]]], list[tuple[str, str]]]] = []
    for num_workers in (1, 2, 0):
        out = tmp_path / f"out {num_workers}"
        config = SeparateConfig(format="float", num_workers=num_workers)
        result = run(config, songs, model=model, out=str(out))
        stems = [
            (Path(song.folder).name, song.gain_db, [Path(path).read_bytes() for path in song.files.values()])
            for song in result.songs
        ]
        made.append((stems, [(song.song, song.reason) for song in result.failed]))
        again = run(SeparateConfig(format="float", num_workers=3 - num_workers), songs[:2], model=model, out=str(out))
        assert all(song.reused for song in again.songs)
    assert [name for name, _, _ in made[0][0]] == ["song", "song (2)", "song (3)", "song (4)"]
    assert [song for song, _ in made[0][1]] == songs[2:4]
    assert made[1] == made[0]
    assert made[2] == made[0]


def test_the_longest_songs_are_dealt_first_and_answered_in_the_order_given(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = [str(write_song(tmp_path / f"{length}.wav", seconds=length)) for length in (1.0, 1.5, 0.5)]
    dealt: list[str] = []

    def here(separator: SongSeparator, planned: Mapping[int, PlannedSong]) -> Iterator[tuple[int, Any]]:
        for place, song in planned.items():
            dealt.append(song.song)
            yield place, separate_song(separator, song)

    monkeypatch.setattr(separate_songs, "separate_on_nodes", here)
    result = run(SeparateConfig(num_workers=2), songs, model=model, out=str(tmp_path / "out"))
    assert dealt == [songs[1], songs[0], songs[2]]
    assert [song.song for song in result.songs] == songs


@pytest.mark.ray
def test_a_folder_that_a_worker_cannot_write_to_fails_its_song_alone(
    ray_local: Any, tmp_path: Path, model: str
) -> None:
    songs = [str(write_song(tmp_path / name)) for name in ("a.wav", "b.wav", "c.wav")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").write_text("in the way")
    result = run(SeparateConfig(num_workers=2), songs, model=model, out=str(tmp_path / "out"))
    assert [Path(song.song).name for song in result.songs] == ["a.wav", "c.wav"]
    alone = run(SeparateConfig(), songs, model=model, out=str(tmp_path / "out"))
    assert result.failed == alone.failed
    assert Path(result.failed[0].song).name == "b.wav"


def test_a_silent_song_gives_silent_finite_stems_of_its_length(tmp_path: Path, model: str) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros((1000, 2), np.float32), RATE)
    (done,) = separate(tmp_path / "silent.wav", model, tmp_path / "out").songs
    assert all(np.abs(read(path)).max() < 1e-6 and read(path).shape == (2, 1000) for path in done.files.values())


def test_names_are_safe_unique_and_never_paths(tmp_path: Path) -> None:
    names: list[str] = []
    for song in ("a/Song.wav", "b/song.flac", "c/Song.mp3", "d/../..wav", 'e/x:"\n*?.wav', "f/Ünïcode 漢字.wav"):
        names.append(folder_name(Path(song), "", tmp_path, names))
    assert names[:3] == ["Song", "song (2)", "Song (3)"]
    assert len({name.casefold() for name in names}) == len(names)
    assert not any("/" in name or "\n" in name or name.strip(".") == "" for name in names)
    assert names[-1] == "Ünïcode 漢字"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "ogg"}, "use one of wav16, wav24, float, flac, mp3"),
        ({"overlap": 1.0}, r"separate\.overlap must be in \[0, 1\)"),
        ({"shifts": -1}, "must be >= 0"),
        ({"two_stems": "kazoo"}, "this model has drums, bass, other, vocals"),
        ({"stems": ("drums", "kazoo")}, r"separate\.stems='kazoo': this model has drums, bass, other, vocals"),
        ({"stems": ("drums",), "two_stems": "bass"}, "give one of them"),
        ({"device": "abacus"}, "is not usable here"),
        ({"precision": "int4"}, "separate.precision must be one of float32, bfloat16, int8, got 'int4'"),
        (
            {"mixture_consistency": "sum"},
            "separate.mixture_consistency must be one of off, residual, mask, got 'sum'",
        ),
        ({"precision": "int8", "device": "meta"}, "precision=int8 must run on a CPU, got .*'meta'"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, model: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(SeparateConfig(**options), [str(tmp_path / "x.wav")], model=model, out=str(tmp_path))  # type: ignore[arg-type]


def test_a_model_that_does_not_load_and_an_output_that_cannot_be_written_are_refused(
    tmp_path: Path, model: str
) -> None:
    song = write_song(tmp_path / "song.wav")
    (tmp_path / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="truncated or no safetensors file"):
        run(SeparateConfig(), [str(song)], model=str(tmp_path / "weights.safetensors"), out=str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another --out"):
        run(SeparateConfig(), [str(song)], model=model, out=str(tmp_path / "file" / "out"))


def test_the_file_of_weights_alone_is_a_model(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "song.wav")
    (whole,) = separate(song, model, tmp_path / "a").songs
    (alone,) = separate(song, f"{model}/weights.safetensors", tmp_path / "b").songs
    assert Path(whole.files["bass"]).read_bytes() == Path(alone.files["bass"]).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process' own peak")
def test_memory_does_not_grow_with_the_song(tmp_path: Path, model: str) -> None:
    program = (
        "import pathlib, sys\n"
        "from pipelines.inference.separate_songs import SeparateConfig, run\n"
        "for song in sys.argv[3:]:\n"  # the longer one last: a peak only rises
        "    result = run(SeparateConfig(batch_size=1), [song], model=sys.argv[1], out=sys.argv[2])\n"
        "    assert not result.failed, result.failed\n"
        # Not ru_maxrss, which begins with the memory of the process that started this one.
        "    print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    songs = [str(write_song(tmp_path / f"{seconds}.wav", seconds=seconds)) for seconds in (70, 420)]  # over a block
    command = [sys.executable, "-c", program, model, str(tmp_path / "out"), *songs]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak_mib = [int(line) / 1024 for line in done.stdout.splitlines()]
    assert len(peak_mib) == 2
    # The longer song's mixture alone is 26 MiB, its four stems 103.
    assert peak_mib[1] - peak_mib[0] < 40


def test_files_are_called_as_the_template_says_whatever_songs_are_called(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "..{stem}: A & B.wav")
    (done,) = separate(song, model, tmp_path / "out", filename="{song} ({stem})", stems=("bass",)).songs
    (path,) = map(Path, done.files.values())
    assert path.parent.parent == tmp_path / "out"
    assert path.name.startswith(
        "{stem}_ A & B~"
    )  # dots at its beginning, and what not every file system takes, are gone
    assert " (bass)" in path.name
    again = separate(song, model, tmp_path / "out", filename="{song} ({stem})", stems=("bass",))
    assert again.songs[0].reused
    assert not separate(song, model, tmp_path / "out", stems=("bass",)).songs[0].reused


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{song}", "without {stem} all stems would be one file"), ("../{stem}", "it is a name, not a path"),
        ("{stem}/{song}", "it is a name, not a path"), ("{stem:>20}", "other fields and formats"),
        ("{stem.__class__}", "other fields and formats"), ("{track} {stem}", "other fields"), ("{stem", "expected '}'"),
        ("a\\{stem}", "it is a name"), ("{stem}.", "it is a name"),
    ],
)  # fmt: skip
def test_a_template_that_is_no_name_is_refused_before_anything_is_read(template: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        SeparateConfig(filename=template)


@pytest.mark.parametrize("title", ["歌" * 60, "a" * 200, f"{'b' * 107} . . . . ."])
def test_of_a_song_with_a_long_name_the_stem_stays_legible(title: str) -> None:
    config = SeparateConfig(filename="{song} ({stem})")
    name = file_name("bass", Path(f"{title}.wav"), config)
    assert name.startswith(title[:30])
    assert name.endswith(" (bass).wav")


class Lines:
    """A progress that keeps what is said of songs."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.ends: list[str] = []

    def start(self, name: str, total: float, unit: str) -> None:
        pass

    def advance(self, amount: float = 1.0) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self, summary: str) -> None:
        self.ends.append(summary)


def test_of_several_songs_it_says_which_one_how_fast_and_what_is_left(tmp_path: Path, model: str) -> None:
    songs = [str(write_song(tmp_path / f"{name}.wav")) for name in ("one", "two")]
    lines = Lines()
    result = run(SeparateConfig(), songs, model=model, out=str(tmp_path / "out"), progress=lines)
    assert len(result.songs) == 2
    assert lines.notes == ["1 of 2: one.wav", "2 of 2: two.wav"]
    assert re.search(
        r"one\.wav: 4 stems in .*, [\d.]+ s of song per second; 1 of 2 songs, about \d+ s left$", lines.ends[0]
    )
    assert re.search(r"two\.wav: .* s of song per second$", lines.ends[1])
    assert SongQueue(number=1, num_songs=3, seconds_after=120.0).left(4.0) == "; 1 of 3 songs, about 30 s left"


def test_a_song_that_is_gone_when_lengths_are_asked_for_keeps_no_other_waiting(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(song: str) -> None:
        raise Unavailable(f"{song} cannot be read: Stale file handle")

    monkeypatch.setattr(separate_songs, "probe", gone)
    songs = [str(write_song(tmp_path / f"{name}.wav")) for name in ("one", "two")]
    result = run(SeparateConfig(num_workers=1), songs, model=model, out=str(tmp_path / "out"))
    assert len(result.songs) == 2


def test_the_model_is_noted_beside_the_stems_and_again_where_more_is_known_of_it(tmp_path: Path, model: str) -> None:
    song = write_song(tmp_path / "song.wav")
    weights = describe(model).digest

    def noted() -> Any:
        return json.loads((tmp_path / "out" / "song" / "separation.json").read_text())["model"]

    separate(song, model, tmp_path / "out")
    expected = {"format_version": 1, "weights": [weights], "name": "checkpoint", "licenses": {}, "complete": False}
    assert noted() == expected
    known = Teacher(name="models:/big/1", licenses={"MIT": 2}, complete=True)
    again = run(SeparateConfig(), [str(song)], model=model, out=str(tmp_path / "out"), teacher=known)
    assert again.songs[0].reused
    assert noted() == {**expected, "name": "models:/big/1", "licenses": {"MIT": 2}, "complete": True}
    assert run(SeparateConfig(), [str(song)], model=model, out=str(tmp_path / "out")).songs[0].reused
    assert noted()["name"] == "models:/big/1"
