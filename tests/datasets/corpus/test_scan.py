"""Every song is found or refused by name, and no song ever stands on two sides."""

import hashlib
import os
import shutil
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from datasets.corpus.musdb18_metadata import stem_streams, validation_songs
from datasets.corpus.scan import Scan, distinct_names, is_listed, safe_name, scan
from datasets.corpus.splits import nothing_to_train_on
from datasets.errors import InputError
from datasets.schema import REASONS, SOURCES

DATA = Path(__file__).parents[3] / "../shared/data"


def _song(root: Path, name: str, files: tuple[str, ...] = tuple(f"{source}.wav" for source in SOURCES)) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_bytes(f"{name}/{file}".encode("utf-8", "surrogateescape"))
    return folder


def _splits(found: Scan) -> dict[str, str]:
    return {track.title: track.split for track in found.tracks}


def test_song_folders_are_found_with_or_without_split_folders(tmp_path: Path) -> None:
    for name in ("train/A - One", "valid/B - Two", "test/C - Three"):
        _song(tmp_path / "split", name)
    found = scan(tmp_path / "split")
    assert _splits(found) == {"A - One": "train", "B - Two": "valid", "C - Three": "test"}
    assert found.drawn_splits == ()
    for name in ("One", "Two", "Three"):
        _song(tmp_path / "flat", name)
    assert sorted(_splits(scan(tmp_path / "flat")).values()) == ["test", "train", "valid"]
    assert scan(tmp_path / "flat").drawn_splits == ("test", "valid")


def test_musdb_hq_moves_its_published_validation_songs_out_of_train(tmp_path: Path) -> None:
    files = (*(f"{source}.wav" for source in SOURCES), "mixture.wav", "accompaniment.wav", "linear_mixture.wav")
    for name in ("train/Meaxic - Take A Step", "train/Angela Thomas Wade - Milk Cow Blues", "test/AM Contra - Heart"):
        _song(tmp_path, name, files)
    found = scan(tmp_path)
    assert found.layout == "musdb18-hq"
    assert [track.split for track in found.tracks] == ["test", "train", "valid"]
    assert all(set(track.stems) == set(SOURCES) for track in found.tracks)


def test_stem_files_name_their_streams(tmp_path: Path) -> None:
    for name in ("train/A - One.stem.mp4", "test/B - Two.stem.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = scan(tmp_path)
    assert found.layout == "musdb18"
    assert [(track.track_id, track.split) for track in found.tracks] == [
        ("test/B - Two", "test"),
        ("train/A - One", "train"),
    ]
    assert {source: files[0].stream for source, files in found.tracks[0].stems.items()} == stem_streams()
    assert found.tracks[0].fingerprint != found.tracks[1].fingerprint
    guitar = scan(tmp_path, sources=("drums", "guitar"))
    assert [verdict.reason for verdict in guitar.rejected] == ["missing_stem"] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_musdb_lists_the_same_songs_streams_and_validation_split(tmp_path: Path) -> None:
    if not shutil.which("ffmpeg") or not (DATA / "musdb_stem_mp4").is_dir():
        pytest.skip("needs ffmpeg (musdb does not import without) and shared/data")
    import musdb

    database = musdb.DB(root=str(DATA / "musdb_stem_mp4"), subsets="train")
    found = scan(DATA / "musdb_stem_mp4")
    assert [track.name for track in database.tracks] == [track.title for track in found.tracks]
    assert {name: database.setup["stem_ids"][name] for name in SOURCES} == stem_streams()
    assert set(database.setup["validation_tracks"]) == validation_songs()


@pytest.mark.parametrize(
    ("corpus", "songs"),
    [("cc0_album", 7), ("lmms_demos", 7), ("musdb_stem_mp4", 2), ("real_small", 2), ("rendered_stems", 9)],
)
def test_every_shared_set_with_stems_is_found(corpus: str, songs: int) -> None:
    if not (DATA / corpus).is_dir():
        pytest.skip("shared/data is not here")
    found = scan(DATA / corpus)
    assert (len(found.tracks), found.rejected) == (songs, ())
    assert {"train", "test"} <= set(_splits(found).values())


def test_an_unusable_root_is_refused_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist; set corpus\.root"):
        scan(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not a folder"):
        scan(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is empty"):
        scan(tmp_path / "empty")


def test_a_folder_without_a_known_layout_is_told_which_were_looked_for(tmp_path: Path) -> None:
    _song(tmp_path, "Song", ("mixture.wav", "linear_mixture.wav"))
    with pytest.raises(InputError) as caught:
        scan(tmp_path)
    for word in ("MUSDB18:", "MUSDB18-HQ", "song folders", "drums, bass, other, vocals"):
        assert word in str(caught.value)


def test_missing_and_doubled_stems_are_rows_with_a_reason(tmp_path: Path) -> None:
    _song(tmp_path, "Good")
    _song(tmp_path, "No bass", ("drums.wav", "other.wav", "vocals.wav"))
    _song(tmp_path, "Two drums", ("drums.wav", "kick.flac", "bass.wav", "other.wav", "vocals.wav"))
    _song(tmp_path, "Nothing", ("notes.txt",))
    found = scan(tmp_path)
    assert [track.title for track in found.tracks] == ["Good"]
    assert [(v.title, v.reason, v.detail) for v in found.rejected] == [
        ("No bass", "missing_stem", "no file for bass"),
        ("Two drums", "ambiguous_stem", "drums.wav may be the sum of kick.flac, or a part beside"),
    ]
    assert all(verdict.reason in REASONS and not verdict.keep for verdict in found.rejected)
    assert len(scan(tmp_path, sources=("drums", "other", "vocals")).tracks) == 2


@pytest.mark.parametrize(
    "name", ["with space", "quo'te\"s", "línea", "новая 歌", "new\nline", "...dots", "..", "a%2e%2e", "-rf *", "tab\t"]
)
def test_odd_names_are_found_as_they_are(tmp_path: Path, name: str) -> None:
    _song(tmp_path, f"artist/{name}" if name != ".." else "artist/ ..")
    (track,) = scan(tmp_path).tracks
    assert track.track_id == unicodedata.normalize("NFC", f"artist/{name if name != '..' else ' ..'}")
    assert all(Path(files[0].path).is_file() for files in track.stems.values())


def test_spellings_of_one_name_do_not_share_an_id(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        _song(tmp_path, unicodedata.normalize(form, "Für Élise"))
    found = scan(tmp_path)
    assert len(found.tracks) == 1
    assert found.tracks[0].track_id == unicodedata.normalize("NFC", "Für Élise")
    assert [verdict.reason for verdict in found.rejected] == ["unsafe_name"]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    try:
        _song(tmp_path, os.fsdecode(b"bad \xff name"))
    except OSError:
        pytest.skip("this file system only takes Unicode names")
    _song(tmp_path, "Good")
    found = scan(tmp_path)
    assert [track.title for track in found.tracks] == ["Good"]
    assert [(v.title, v.reason) for v in found.rejected] == [("bad \\xff name", "unsafe_name")]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    _song(tmp_path / "elsewhere", "Song")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert [track.track_id for track in scan(tmp_path / "corpus").tracks] == ["linked/Song"]


def _sides(root: Path) -> dict[str, str]:
    return {track.track_id: track.split for track in scan(root).tracks}


def test_split_folders_of_links_are_believed(tmp_path: Path) -> None:
    for number in range(6):
        _song(tmp_path, f"all songs/Song {number}")
    for number, split in enumerate(("train", "train", "train", "Validation", "test")):
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / f"Number {number}").symlink_to(f"../all songs/Song {number}")
    (tmp_path / "train" / "the last one too").symlink_to(tmp_path / "test" / "Number 4")
    (tmp_path / "test" / "round").symlink_to(tmp_path)
    assert _sides(tmp_path) == {
        "Validation/Number 3": "valid", "all songs/Song 5": "train", "test/Number 4": "test", "train/Number 0": "train",
        "train/Number 1": "train", "train/Number 2": "train",
    }  # fmt: skip
    assert scan(tmp_path).drawn_splits == ()


def test_a_link_renames_no_song_and_moves_none(tmp_path: Path) -> None:
    for name in ("train/A - a", "train/B - b", "test/T - t", "valid/V - v"):
        _song(tmp_path, name)
    before = _sides(tmp_path)
    (tmp_path / "favourites").mkdir()
    for number, name in enumerate(before):
        (tmp_path / "favourites" / f"{number}").symlink_to(tmp_path / name)
    (tmp_path / "a first name").symlink_to(tmp_path / "valid" / "V - v")
    (tmp_path / "train" / "by files").mkdir()
    for source in SOURCES:  # links to files, instead of to their folder
        (tmp_path / "train" / "by files" / f"{source}.wav").symlink_to(tmp_path / "test" / "T - t" / f"{source}.wav")
    assert _sides(tmp_path) == before


def test_a_file_under_two_names_counts_once(tmp_path: Path) -> None:
    song = _song(tmp_path, "Song")
    (song / "Lead Vox.wav").symlink_to("vocals.wav")
    (track,) = scan(tmp_path).tracks
    assert [Path(file.path).name for file in track.stems["vocals"]] == ["vocals.wav"]


def test_a_store_inside_the_corpus_folder_is_not_part_of_it(tmp_path: Path) -> None:
    _song(tmp_path, "Song")
    for name in ("chunks", "manifests"):
        (tmp_path / "stemline-store" / name).mkdir(parents=True)
    _song(tmp_path / "stemline-store" / "separated", "Song")
    assert [track.track_id for track in scan(tmp_path).tracks] == ["Song"]


def test_fingerprints_follow_the_content_and_are_cached(tmp_path: Path) -> None:
    folder = _song(tmp_path / "c", "Song")
    cache = tmp_path / "cache" / "fingerprints.json"
    read: list[float] = []
    first = scan(tmp_path / "c", cache=cache, advance=read.append).tracks[0]
    assert len(read) == 4
    again = scan(tmp_path / "c", cache=cache, advance=read.append).tracks[0]
    assert (again.fingerprint, len(read)) == (first.fingerprint, 4)
    (folder / "bass.wav").write_bytes(b"something else of another size")
    assert scan(tmp_path / "c", cache=cache, advance=read.append).tracks[0].fingerprint != first.fingerprint
    assert len(read) == 5
    cache.write_text("{ damaged")
    scan(tmp_path / "c", cache=cache, advance=read.append)
    assert len(read) == 9


def test_safe_names_are_unique_files_on_any_system(tmp_path: Path) -> None:
    texts = [
        "plain song", "../../etc/passwd", "a/b", "a\\b", "", ".", "..", "new\nline", "con", "NUL.txt", "x" * 400, "é",
        unicodedata.normalize("NFD", "é"), "trailing. ", "quo\"te", "a:b", "歌" * 100, os.fsdecode(b"\xff"), "a_b",
    ]  # fmt: skip
    names = [safe_name(text) for text in texts]
    assert len({name.casefold() for name in names}) == len(texts)
    assert safe_name("plain song") == "plain song"
    assert all(name == safe_name(text) for name, text in zip(names, texts, strict=True))
    for name in names:
        (tmp_path / name).touch()
        assert not name.startswith(".")
        assert not set(name) & set('<>:"/\\|?*\n')
    assert len(list(tmp_path.iterdir())) == len(texts)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("x" * 120, "x" * 120), ("con", "_con~"), ("COM1.wav", "_COM1.wav~"), ("lpt9", "_lpt9~"), ("lpt", "lpt"),
        ("a:b", "a_b~"), ("a ", "a~"), ("x" * 121, "x" * 120 + "~"), ("\u6b4c" * 41, "\u6b4c" * 40 + "~"), ("..", ""),
    ],
)  # fmt: skip
def test_what_had_to_change_in_a_name_ends_with_a_digest_of_it(text: str, name: str) -> None:
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    assert safe_name(text) == (f"{name}{mark}" if name.endswith("~") or not name else name)


def test_equal_names_are_counted_also_where_only_case_differs() -> None:
    assert distinct_names(["a", "A", "a", "b", "a (2)"], taken=["B"]) == ["a", "A (2)", "a (3)", "b (2)", "a (2) (2)"]


def test_a_fingerprint_is_that_of_the_files_by_source_stream_and_side(tmp_path: Path) -> None:
    """Written out, since stores hold it: another one would make every song new."""
    folder = _song(tmp_path, "Song", ("drums.wav", "bass.wav", "Keys L.wav", "Keys R.wav", "vocals.wav"))
    (track,) = scan(tmp_path).tracks
    told = "".join(
        f"{source}\x1fNone{side}\x1f{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n"
        for source, name, side in (
            ("drums", "drums.wav", ""), ("bass", "bass.wav", ""), ("other", "Keys L.wav", "\x1fleft"),
            ("other", "Keys R.wav", "\x1fright"), ("vocals", "vocals.wav", ""),
        )
    )  # fmt: skip
    assert track.fingerprint == hashlib.sha256(told.encode()).hexdigest()
    assert is_listed(track, SOURCES)
    (folder / "vocals.wav").write_bytes(b"another voice")
    assert not is_listed(track, SOURCES)


def test_files_are_known_by_their_size_and_the_time_they_changed(tmp_path: Path) -> None:
    folder = _song(tmp_path / "c", "Song")
    cache, read = tmp_path / "fingerprints.json", []

    def scanned() -> Scan:
        return scan(tmp_path / "c", cache=cache, advance=read.append, license="CC0")

    (track,) = scanned().tracks
    assert track.license == "CC0"
    assert sorted(read) == sorted(path.stat().st_size for path in folder.iterdir())
    for files in track.stems.values():
        status = os.stat(files[0].path)
        assert (files[0].num_bytes, files[0].changed_ns) == (status.st_size, status.st_mtime_ns)
    text = (folder / "bass.wav").read_bytes()
    (folder / "bass.wav").write_bytes(text[::-1])  # as long as before, and a second later
    os.utime(folder / "bass.wav", ns=(0, files[0].changed_ns + 10**9))
    assert scanned().tracks[0].fingerprint != track.fingerprint
    assert len(read) == 5


@pytest.mark.parametrize(("changes", "listed"), [(2, True), (3, False)])
def test_a_file_that_is_being_written_is_read_three_times_and_then_left_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: int, listed: bool
) -> None:
    folder, left = _song(tmp_path, "Song"), [changes]
    real = hashlib.file_digest

    def digest(file: BinaryIO, name: str) -> Any:
        made = real(file, name)
        if file.name.endswith("bass.wav") and left[0]:
            left[0] -= 1
            with (folder / "bass.wav").open("ab") as more:
                more.write(b"more")
        return made

    monkeypatch.setattr(hashlib, "file_digest", digest)
    found = scan(tmp_path)
    assert [track.title for track in found.tracks] == (["Song"] if listed else [])
    assert [verdict.reason for verdict in found.rejected] == ([] if listed else ["unavailable"])


def test_a_file_of_the_same_size_and_time_is_not_read_again(tmp_path: Path) -> None:
    folder, cache = _song(tmp_path / "c", "Song"), tmp_path / "fingerprints.json"
    (before,) = scan(tmp_path / "c", cache=cache).tracks
    at_ns = os.stat(folder / "bass.wav").st_mtime_ns
    (folder / "bass.wav").write_bytes((folder / "bass.wav").read_bytes()[::-1])
    os.utime(folder / "bass.wav", ns=(0, at_ns))
    assert scan(tmp_path / "c", cache=cache).tracks[0].fingerprint == before.fingerprint
    assert scan(tmp_path / "c").tracks[0].fingerprint != before.fingerprint


def test_a_track_tells_size_and_time_of_what_was_read_not_of_what_came_later(tmp_path: Path) -> None:
    folder, read = _song(tmp_path, "Song"), []

    def replace_the_first(num_bytes: float) -> None:
        read.append(num_bytes)
        if len(read) == 4:
            (folder / "drums.wav").write_bytes(b"another file, and longer than the one before")

    size = os.stat(folder / "drums.wav").st_size
    (track,) = scan(tmp_path, advance=replace_the_first).tracks
    assert track.stems["drums"][0].num_bytes == size


def test_a_pipe_among_the_stems_is_not_waited_for(tmp_path: Path) -> None:
    folder = _song(tmp_path, "Song")
    (folder / "bass.wav").unlink()
    os.mkfifo(folder / "bass.wav")
    (track,) = scan(tmp_path).tracks
    assert track.fingerprint


def test_a_tenth_is_for_validation_and_a_fifth_for_tests_where_nothing_is_set(tmp_path: Path) -> None:
    for first in "ABCDEFGHIJ":
        for second in "klmnopqr":
            _song(tmp_path, f"Tune {first}{second}", ("drums.wav",))
    named = scan(tmp_path, sources=("drums",), split_seed=0, valid_fraction=0.1, test_fraction=0.2)
    assert _splits(scan(tmp_path, sources=("drums",))) == _splits(named)
    counts = Counter(_splits(named).values())
    assert [counts[side] for side in ("train", "valid", "test")] == pytest.approx([56, 8, 16], abs=6)


def test_the_layout_is_that_of_most_songs_and_files_outside_of_songs_are_counted(tmp_path: Path) -> None:
    for name in ("train/A", "train/B", "test/C"):
        _song(tmp_path / "mixed", name, (*(f"{source}.wav" for source in SOURCES), "mixture.wav"))
    plain = scan(tmp_path / "mixed").layout
    (tmp_path / "mixed" / "train" / "D.stem.mp4").write_bytes(b"D")
    assert scan(tmp_path / "mixed").layout == plain
    for name in "ab":
        (tmp_path / f"{name}.wav").write_bytes(b"a")
    shutil.rmtree(tmp_path / "mixed")
    with pytest.raises(InputError, match=r"2 audio files are directly in the corpus folder, such as a\.wav"):
        scan(tmp_path)


# --- what else is told -------------------------------------------------------------------------------------------


def test_a_track_tells_what_was_left_out_as_muted_or_lossy_and_nothing_of_other_files(tmp_path: Path) -> None:
    files = ("drums.wav", "bass.wav", "other.wav", "vocals.wav", "vocals.mp3", "vocals muted.wav", "mixture.wav")
    _song(tmp_path, "Song", files)
    (track,) = scan(tmp_path).tracks
    assert sorted(track.remarks) == [
        "vocals muted.wav is left out: muted, by its name",
        "vocals.mp3 is left out: a lossy copy of a file beside it",
    ]


def test_a_mixture_is_known_by_its_content_and_one_that_is_gone_by_nothing(tmp_path: Path) -> None:
    folder = _song(tmp_path, "Song", (*(f"{source}.wav" for source in SOURCES), "mixture.wav"))
    (mixture,) = scan(tmp_path).tracks[0].mixture
    data, status = (folder / "mixture.wav").read_bytes(), os.stat(folder / "mixture.wav")
    assert (mixture.content, mixture.num_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert mixture.changed_ns == status.st_mtime_ns
    read: list[float] = []

    def take_away(num_bytes: float) -> None:
        read.append(num_bytes)
        if len(read) == 4:  # all stems
            (folder / "mixture.wav").unlink()

    (track,) = scan(tmp_path, advance=take_away).tracks
    assert len(read) == 4
    assert track.mixture[0].content == "unread:0:0"


def test_a_folder_is_remarked_on_as_a_whole(tmp_path: Path) -> None:
    for word in ("Dawn", "Dusk", "Noon"):
        _song(tmp_path, f"test/{word}")
    assert scan(tmp_path).remarks == (nothing_to_train_on([f"test/{word}" for word in ("Dawn", "Dusk", "Noon")]),)
    shutil.move(tmp_path / "test", tmp_path / "songs")
    assert scan(tmp_path).remarks == ()
    (tmp_path / "loose.wav").write_bytes(b"x")
    (tmp_path / "notes.csv").write_text("when,who\n1,2\n")
    not_used, loose = scan(tmp_path).remarks
    assert not_used.startswith("notes.csv is not used: ")
    where = "directly in the corpus folder, such as loose.wav: give each song a folder of its own"
    assert loose == f"1 audio file is {where}"
    (tmp_path / "more.wav").write_bytes(b"y")
    assert scan(tmp_path).remarks[1] == f"2 audio files are {where}"


def test_a_draw_that_misses_what_was_asked_for_is_remarked_on(tmp_path: Path) -> None:
    for artist in ("Ann", "Bob", "Cid"):
        for number in range(6):
            _song(tmp_path, f"{artist} - Song {number}", ("drums.wav",))
    remarks = scan(tmp_path, sources=("drums",), valid_fraction=0.05, test_fraction=0.05).remarks
    assert [remark.split(":")[0] for remark in remarks] == ["valid", "test"]
    assert all("33% of the songs, 5% asked for; groups stay together" in remark for remark in remarks)


def test_of_folders_without_stems_the_first_three_are_told(tmp_path: Path) -> None:
    for letter in "ABCDE":
        _song(tmp_path, f"Song {letter}", ("mixture.wav",))
    with pytest.raises(InputError) as caught:
        scan(tmp_path)
    assert [letter for letter in "ABCDE" if f"Song {letter} holds" in str(caught.value)] == ["A", "B", "C"]


def test_a_cache_is_written_where_something_was_read_and_left_alone_where_nothing_was(tmp_path: Path) -> None:
    _song(tmp_path / "c", "Song")
    cache = tmp_path / "fingerprints.json"
    scan(tmp_path / "c", cache=cache)
    os.utime(cache, ns=(0, 0))
    scan(tmp_path / "c", cache=cache)
    assert os.stat(cache).st_mtime_ns == 0
    _song(tmp_path / "c", "Another")
    scan(tmp_path / "c", cache=cache)
    assert os.stat(cache).st_mtime_ns > 0
