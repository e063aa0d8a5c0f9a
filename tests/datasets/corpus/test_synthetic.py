import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datasets.corpus.synthetic import compose, perform, read_truth, write_corpus
from datasets.corpus.synthetic.composition import SCALES
from datasets.corpus.synthetic.voice import _melody
from datasets.errors import InputError
from datasets.schema import REASONS, SOURCES

SAMPLE_RATE = 8000


def write(folder: Path, **changes: object) -> None:
    options = {"num_songs": 3, "seed": 7, "duration_s": 3.0, "sample_rate": SAMPLE_RATE} | changes
    write_corpus(folder, **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_another_seed_gives_other_songs(tmp_path: Path) -> None:
    write(tmp_path / "a", defects=False)
    write(tmp_path / "b", defects=False, seed=8)
    assert not set(contents(tmp_path / "a").values()) & set(contents(tmp_path / "b").values())


def test_a_corpus_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "a")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    write(tmp_path / "a")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before


def test_an_older_corpus_is_replaced_and_no_temporary_folder_stays(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "a", num_songs=1, defects=False)
    assert len(read_truth(tmp_path / "a").songs) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_with_somebody_elses_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(InputError, match="not a synthetic corpus"):
        write(tmp_path)
    assert (tmp_path / "diary.txt").exists()


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "from before files were listed"])
@pytest.mark.parametrize("name", ["train/My Song/drums.flac", "notes.txt"])
def test_an_older_corpus_that_holds_a_song_of_somebodys_stays(tmp_path: Path, name: str, listed: bool) -> None:
    write(tmp_path / "a", defects=False)
    if not listed:
        told = json.loads((tmp_path / "a" / "truth.json").read_text())
        del told["files"]
        (tmp_path / "a" / "truth.json").write_text(json.dumps(told))
    (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "a" / name).write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"not a synthetic corpus as it was written .{name}"):
        write(tmp_path / "a", num_songs=1, defects=False)
    assert contents(tmp_path) == before
    (tmp_path / "a" / name).unlink()
    write(tmp_path / "a", num_songs=1, defects=False)
    assert len(read_truth(tmp_path / "a").songs) == 1


def test_a_toy_song_that_somebody_changed_stays(tmp_path: Path) -> None:
    write(tmp_path / "a", defects=False)
    changed = tmp_path / "a" / read_truth(tmp_path / "a").songs[0].folder / "bass.flac"
    changed.write_bytes(b"another take")
    with pytest.raises(InputError, match=r"bass\.flac"):
        write(tmp_path / "a", num_songs=1, defects=False)
    assert changed.read_bytes() == b"another take"


@pytest.mark.parametrize("changes", [{"num_songs": 0}, {"duration_s": 0.1}, {"splits": {"train": 1}}])
def test_impossible_corpora_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        write(tmp_path / "a", **changes)


def test_every_defect_carries_a_known_reason_and_good_songs_stand_in_all_splits(tmp_path: Path) -> None:
    write(tmp_path)
    truth = read_truth(tmp_path)
    assert {song.split for song in truth.good} == {"train", "valid", "test"}
    assert all(song.reason in REASONS for song in truth.bad)
    assert len({song.folder for song in truth.songs}) == len(truth.songs) == 3 + 12
    assert all((tmp_path / song.folder).is_dir() for song in truth.songs)


def test_an_empty_mapping_of_splits_puts_songs_straight_under_the_folder(tmp_path: Path) -> None:
    write(tmp_path, splits={}, defects=False)
    assert all((tmp_path / song.title / "drums.flac").is_file() for song in read_truth(tmp_path).songs)


def spoilt(folder: Path, name: str) -> Path:
    (song,) = (song for song in read_truth(folder).bad if song.defect == name)
    return folder / song.folder


CHECKS: dict[str, Callable[[Path], bool]] = {
    "silent vocals": lambda song: not soundfile.read(song / "vocals.flac")[0].any(),
    "missing stem": lambda song: not list(song.glob("bass.*")),
    "truncated file": lambda song: (song / "drums.wav").stat().st_size < 3.0 * SAMPLE_RATE * 4,
    "length mismatch": lambda song: soundfile.info(song / "other.flac").frames == 9.0 * SAMPLE_RATE,
    "rate mismatch": lambda song: soundfile.info(song / "bass.flac").samplerate == SAMPLE_RATE // 2,
    "old version": lambda song: (song / "bass_OLD.flac").is_file() and (song / "bass.flac").is_file(),
    "not a number": lambda song: bool(np.isnan(soundfile.read(song / "vocals.wav")[0]).any()),
    "text as audio": lambda song: (song / "other.wav").read_bytes().startswith(b"This was"),
    "zero bytes": lambda song: (song / "vocals.flac").stat().st_size == 0,
    "clipped": lambda song: float(np.mean(np.abs(soundfile.read(song / "drums.flac")[0]) > 0.999)) > 0.02,
    "too short": lambda song: soundfile.info(song / "drums.flac").duration < 0.5,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder)
    return folder


@pytest.mark.parametrize("name", CHECKS)
def test_each_defect_is_really_there(corpus: Path, name: str) -> None:
    assert CHECKS[name](spoilt(corpus, name))


def test_the_duplicate_has_the_bytes_of_a_good_song(corpus: Path) -> None:
    original = corpus / read_truth(corpus).good[0].folder
    assert contents(spoilt(corpus, "exact duplicate")) == contents(original)


@pytest.mark.parametrize("song_id", ["01", "02", "03", "04"])
def test_every_source_sounds_and_nothing_clips(song_id: str) -> None:
    stems_SCT = perform(compose(3, song_id, 6.0), SAMPLE_RATE)
    assert stems_SCT.shape == (len(SOURCES), 2, 6 * SAMPLE_RATE)
    assert np.abs(stems_SCT).max() < 1.0
    assert np.abs(stems_SCT.sum(axis=0)).max() < 1.0
    seconds_SCT = stems_SCT.reshape(len(SOURCES), 2, 6, SAMPLE_RATE)
    levels_db = 10.0 * np.log10(np.square(seconds_SCT).mean(axis=(1, 3)) + 1e-12)
    assert ((levels_db > -40.0).mean(axis=1) >= 0.5).all()
    overall_db = 10.0 * np.log10(np.square(stems_SCT).mean(axis=(1, 2)))
    assert np.ptp(overall_db) < 8.0


# Mean share of the octaves from these frequencies on in eight real singers and ten real drum stems, in dB.
REAL_OCTAVES_HZ = (250, 500, 1000, 2000, 4000, 8000)
REAL_SHARES_DB = {
    "vocals": (-7.7, -4.1, -9.4, -15.1, -19.7, -25.7),
    "drums": (-14.1, -15.0, -15.8, -16.1, -15.2, -19.0),
}


@pytest.mark.parametrize("source", REAL_SHARES_DB)
def test_singers_and_drums_have_the_tone_of_real_ones(source: str) -> None:
    rate, shares = 44100, []
    for song_id in ("01", "02", "03", "04", "05", "06"):
        stem_CT = perform(compose(3, song_id, 6.0), rate)[SOURCES.index(source)]
        power_F = np.square(np.abs(np.fft.rfft(stem_CT))).sum(axis=0)
        hertz_F = np.fft.rfftfreq(stem_CT.shape[1], 1 / rate)
        octaves = [power_F[(hertz_F >= low) & (hertz_F < 2 * low)].sum() for low in REAL_OCTAVES_HZ]
        shares.append(10 * np.log10(np.array(octaves) / power_F.sum()))
    assert np.mean(shares, axis=0) == pytest.approx(REAL_SHARES_DB[source], abs=6.5)


@pytest.mark.parametrize("song_id", ["01", "02", "03"])
def test_the_singer_keeps_to_the_key(song_id: str) -> None:
    score = compose(3, song_id, 6.0)
    notes = _melody(score, score.rng("vocals"))
    assert {int(note.midi - score.tonic) % 12 for note in notes} <= set(SCALES[score.mode])


def test_drums_sound_on_the_beats_that_truth_names() -> None:
    score = compose(3, "01", 6.0)
    drums_T = np.abs(perform(score, SAMPLE_RATE)[0]).max(axis=0)
    downbeats = [round(time * SAMPLE_RATE) for time in score.downbeats_s[1:]]
    before = np.mean([drums_T[at - 200 : at - 40].max() for at in downbeats])
    after = np.mean([drums_T[at : at + 160].max() for at in downbeats])
    assert after > 3.0 * before
