"""Each layout is found by its names alone, and what cannot be a song says why."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datasets.audio.decoding import decode
from datasets.corpus.file_listing import list_folder
from datasets.corpus.layouts.found_song import FoundSong, LayoutRules
from datasets.corpus.scan import scan, survey
from datasets.errors import InputError
from datasets.schema import REASONS, SOURCES
from datasets.seeding import row_rng
from datasets.shards.chunks import stems_of, track_rows
from datasets.store import storage

RATE = 8000
STORES = ("train/store", "kept")
DATA = Path(__file__).parents[3] / "../shared/data"


def _touch(root: Path, paths: Iterable[str]) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode("utf-8", "surrogateescape"))
    return root


def _songs(root: Path, sources: tuple[str, ...] = SOURCES, **rules: Any) -> dict[str, FoundSong]:
    songs = {song.name: song for song in survey(root, sources=sources, rules=LayoutRules(**rules)).songs}
    assert all(not song.reason or song.reason in REASONS for song in songs.values())
    return songs


def _files(song: FoundSong) -> dict[str, list[str]]:
    return {source: [Path(file.path).name for file in files] for source, files in song.files.items()}


# --- producers' folders -------------------------------------------------------------------------------------


def test_a_producers_folder_is_summed_per_source(tmp_path: Path) -> None:
    names = ["vocals2", "LdVox_dbl", "sub", "OH L", "OH R", "Kick", "fx", "Gtr L", "Mix v2", "Drum Bus"]
    _touch(tmp_path, [f"Artist - Song/{name}.wav" for name in names] + ["Artist - Song/notes.txt"])
    (song,) = _songs(tmp_path).values()
    assert (song.layout, song.reason) == ("multitrack", "")
    assert _files(song) == {
        "drums": ["Kick.wav", "OH L.wav", "OH R.wav"],
        "bass": ["sub.wav"],
        "other": ["Gtr L.wav", "fx.wav"],
        "vocals": ["LdVox_dbl.wav", "vocals2.wav"],
    }
    assert [file.side for file in song.files["drums"]] == [None, "left", "right"]


def test_unknown_names_refuse_a_song_or_are_left_out_by_word(tmp_path: Path) -> None:
    _touch(tmp_path / "songs", [f"S/{name}.wav" for name in ("Kick", "Bass", "Gtr", "Vox", "Zorp")])
    (song,) = _songs(tmp_path / "songs").values()
    assert song.reason == "unknown_stem"
    assert song.detail.startswith("Zorp.wav: no word of the name is in the taxonomy; list a word of the name under")
    (song,) = _songs(tmp_path / "songs", unknown="leave_out").values()
    assert (song.reason, sum(len(files) for files in song.files.values())) == ("", 4)
    own = tmp_path / "own.toml"
    own.write_text('extends = "default"\n[ignore]\nwords = ["zorp"]\n')
    assert _songs(tmp_path / "songs", taxonomy=str(own))["S"].reason == ""


def test_an_ambiguous_name_refuses_the_song_with_its_meanings(tmp_path: Path) -> None:
    _touch(tmp_path, [f"S/{name}.wav" for name in ("808", "Hats", "Pad", "Sub", "Vox")])
    song = _songs(tmp_path)["S"]
    assert (song.reason, song.detail) == ("ambiguous_stem", "808.wav may be bass or kick")
    assert _songs(tmp_path, ("vocals", "accompaniment"))["S"].reason == ""


def test_folders_inside_a_song_belong_to_it_but_songs_called_like_sounds_stay_songs(tmp_path: Path) -> None:
    nested = ["Drums/Kick.wav", "Drums/01.wav", "Bass.wav", "Vocals/Lead.wav", "Keys & Synths/Pad.wav", "Mix/Title.wav"]
    stems = [f"Stems/{source}.wav" for source in SOURCES]
    _touch(tmp_path, [f"Ada/One/{path}" for path in nested] + [f"Ada/Two/{path}" for path in stems])
    _touch(tmp_path, [f"Ben/{title}/{source}.wav" for title in ("Acid", "Bells", "Harbour") for source in SOURCES])
    songs = _songs(tmp_path)
    assert set(songs) == {"Ada/One", "Ada/Two", "Ben/Acid", "Ben/Bells", "Ben/Harbour"}
    assert not any(song.reason for song in songs.values())
    assert _files(songs["Ada/One"])["vocals"] == ["Lead.wav"]


@pytest.mark.parametrize("titles", [("Intro", "Outro"), ("Piano", "Strings"), ("Acid", "Bells"), ("Part 1", "Part 2")])
@pytest.mark.parametrize("beside", [[], ["Album/Full Album Mix.wav"]])
def test_songs_of_an_album_that_are_called_like_parts_or_sounds_are_songs(
    tmp_path: Path, titles: tuple[str, str], beside: list[str]
) -> None:
    _touch(tmp_path, [f"Album/{title}/{source}.wav" for title in titles for source in SOURCES] + beside)
    songs = _songs(tmp_path)
    assert [name for name, song in songs.items() if not song.reason] == [f"Album/{title}" for title in titles]


@pytest.mark.parametrize("folders", [("Stems 24bit", "Stems 16bit"), ("v1", "v2"), ("44k", "48k"), ("", "Backup")])
def test_folders_of_versions_are_one_song_whose_files_are_versions(tmp_path: Path, folders: tuple[str, str]) -> None:
    _touch(tmp_path, [f"Album/One/{folder}/{source}.wav" for folder in folders for source in SOURCES])
    (song,) = _songs(tmp_path).values()
    assert (song.name, song.reason) == ("Album/One", "")
    assert sorted(source for source, _, _ in song.versions) == sorted(SOURCES)


def test_a_delivery_in_two_formats_has_one_title_and_stands_on_one_side(tmp_path: Path) -> None:
    for song in "ABCDEFGH":
        _touch(tmp_path, [f"Ann - {song}/{kind}/{source}.wav" for kind in ("WAV", "MP3 320") for source in SOURCES])
        _touch(tmp_path, [f"Bob - {song} ({kind})/{source}.wav" for kind in ("WAV", "MP3") for source in SOURCES])
    seen = survey(tmp_path, valid_fraction=0.3, test_fraction=0.3)
    assert {song.title for song in seen.songs if song.name.startswith("Ann - A/")} == {"Ann - A"}
    for song in "ABCDEFGH":
        assert len({seen.sides[f"Ann - {song}/{kind}"] for kind in ("WAV", "MP3 320")}) == 1
        assert len({seen.sides[f"Bob - {song} ({kind})"] for kind in ("WAV", "MP3")}) == 1


def test_more_stems_than_asked_for_go_where_the_tree_puts_them(tmp_path: Path) -> None:
    _touch(tmp_path, [f"S/{source}.wav" for source in (*SOURCES, "guitar", "piano")])
    assert _files(_songs(tmp_path)["S"])["other"] == ["guitar.wav", "other.wav", "piano.wav"]
    assert set(_songs(tmp_path, (*SOURCES, "guitar", "piano"))["S"].files) == {*SOURCES, "guitar", "piano"}
    two = _songs(tmp_path, ("vocals", "accompaniment"))["S"]
    assert len(two.files["accompaniment"]) == 5
    assert _songs(tmp_path, ("vocals", "drums"))["S"].reason == ""  # the rest is left out
    coarse = _songs(tmp_path, ("kick", "vocals"))["S"]
    assert (coarse.reason, coarse.detail) == ("missing_stem", "no file for kick; drums.wav holds kick in one")


def test_a_song_of_raw_files_is_stored_as_their_sum(tmp_path: Path) -> None:
    noise = row_rng(0, "raw").uniform(-0.1, 0.1, (6, 12000)).astype(np.float32)
    files = {
        "Kick": noise[0], "OH L": noise[1], "OH R": noise[2], "sub": noise[3], "Pad": noise[4:6],
        "Vox": noise[0][:9000],
    }  # fmt: skip
    (tmp_path / "Song").mkdir()
    for name, samples in files.items():
        soundfile.write(tmp_path / f"Song/{name}.wav", samples.T, RATE, subtype="FLOAT")
    (track,) = scan(tmp_path, rules=LayoutRules(pad_s=0.5)).tracks
    (row,) = track_rows(track, sources=SOURCES, sample_rate=RATE)
    drums_CT, bass_CT, other_CT, vocals_CT = stems_of(row, SOURCES)
    np.testing.assert_allclose(drums_CT, noise[0] + noise[1:3], atol=2**-15)
    np.testing.assert_allclose(bass_CT, np.stack([noise[3]] * 2), atol=2**-15)
    np.testing.assert_allclose(other_CT, noise[4:6], atol=2**-15)
    np.testing.assert_allclose(vocals_CT[:, :9000], np.stack([noise[0][:9000]] * 2), atol=2**-15)
    assert not vocals_CT[:, 9000:].any()


def test_a_real_song_taken_apart_into_raw_files_is_stored_as_it_was(tmp_path: Path) -> None:
    if not (DATA / "cc0_album").is_dir():
        pytest.skip("shared/data is not here")
    track = scan(DATA / "cc0_album").tracks[0]
    stems = {source: decode(files[0].path) for source, files in track.stems.items()}
    (drums, rate), (bass, _), (other, _), (vocals, _) = (stems[source] for source in SOURCES)
    raw = {
        "OH L": drums[:1], "OH R": drums[1:], "Bass DI": bass * 0.25, "sub": bass * 0.75, "E-Gtr": other * 0.25,
        "Pad": other * 0.75, "vocals2": vocals, "Mix v2": drums + bass + other + vocals,
    }  # fmt: skip
    (tmp_path / "Song").mkdir()
    for name, samples_CT in raw.items():
        soundfile.write(tmp_path / f"Song/{name}.wav", samples_CT.T, rate, subtype="FLOAT")
    (taken_apart,) = scan(tmp_path).tracks
    for before, after in zip(
        track_rows(track, sources=SOURCES, sample_rate=rate),
        track_rows(taken_apart, sources=SOURCES, sample_rate=rate),
        strict=True,
    ):
        np.testing.assert_array_equal(stems_of(before, SOURCES), stems_of(after, SOURCES))


def test_how_a_file_is_used_changes_the_fingerprint(tmp_path: Path) -> None:
    _touch(tmp_path, [f"S/{name}.wav" for name in ("Kick", "Bass", "Pad", "Vox", "Clap L")])
    before = scan(tmp_path).tracks[0].fingerprint
    (tmp_path / "S/Clap L.wav").rename(tmp_path / "S/Clap R.wav")
    assert scan(tmp_path).tracks[0].fingerprint != before


# --- MUSDB18 and MoisesDB -------------------------------------------------------------------------------------


def test_stem_files_give_any_set_of_sources_above_their_four(tmp_path: Path) -> None:
    _touch(tmp_path, ["train/A - One.stem.mp4"])
    (song,) = _songs(tmp_path, ("vocals", "accompaniment")).values()
    assert {source: [file.stream for file in files] for source, files in song.files.items()} == {
        "vocals": [4], "accompaniment": [1, 2, 3],
    }  # fmt: skip
    assert [file.stream for file in song.mixture] == [0]


def test_the_mixture_beside_the_stems_is_known(tmp_path: Path) -> None:
    _touch(tmp_path, [f"train/S/{name}.wav" for name in (*SOURCES, "mixture", "linear_mixture")])
    (track,) = scan(tmp_path).tracks
    assert (track.layout, track.pad_s) == ("musdb18-hq", 5.0)
    assert [Path(file.path).name for file in track.mixture] == ["mixture.wav"]


def _moises(root: Path, uuid: str, stems: Mapping[str, list[str]], **about: str) -> None:
    listed = [
        {"stemName": stem, "tracks": [{"id": track, "extension": "wav", "trackType": "x"} for track in tracks]}
        for stem, tracks in stems.items()
    ]
    _touch(
        root,
        [f"moisesdb_v0.1/{uuid}/{stem}/{track}.wav" for stem in stems for track in stems[stem] if "." not in track],
    )
    (root / f"moisesdb_v0.1/{uuid}").mkdir(parents=True, exist_ok=True)
    (root / f"moisesdb_v0.1/{uuid}/data.json").write_text(json.dumps({"stems": listed, **about}))


def test_moisesdb_is_read_from_its_data_files(tmp_path: Path) -> None:
    four = {"vocals": ["v1", "v2"], "bass": ["b"], "drums": ["d"]}
    _moises(
        tmp_path, "u-1", {**four, "guitar": ["g"], "percussion": ["p"], "other_keys": ["k"]}, artist="Ada", song="One"
    )
    _moises(tmp_path, "u-2", four, artist="Ben", song="Two")
    _moises(tmp_path, "u-3", {**four, "theremin": ["t"]}, artist="Cleo", song="Three")
    _moises(tmp_path, "u-4", {**four, "guitar": ["../../../secret"]}, artist="Dov", song="Four")
    songs = {song.title: song for song in _songs(tmp_path).values()}
    assert {title: song.reason for title, song in songs.items()} == {
        "Ada - One": "", "Ben - Two": "missing_stem", "Cleo - Three": "unknown_stem", "Dov - Four": "unsafe_name",
    }  # fmt: skip
    one = songs["Ada - One"]
    assert (one.name, one.layout) == ("moisesdb_v0.1/u-1", "moisesdb")
    assert _files(one) == {
        "drums": ["d.wav"], "bass": ["b.wav"], "other": ["g.wav", "k.wav", "p.wav"], "vocals": ["v1.wav", "v2.wav"],
    }  # fmt: skip
    six = _songs(tmp_path, (*SOURCES, "guitar"))["moisesdb_v0.1/u-1"]
    assert _files(six)["guitar"] == ["g.wav"]
    sides = survey(tmp_path).sides
    assert sides["moisesdb_v0.1/u-1"][1] == "ada"  # one artist's songs stay on one side


def test_a_moisesdb_title_that_is_no_text_is_written_out(tmp_path: Path) -> None:
    _moises(tmp_path, "u", {source: [source[0]] for source in SOURCES}, artist="Ada\ud800", song="One")
    assert [song.title for song in _songs(tmp_path).values()] == ["Ada\\ud800 - One"]


def test_another_programs_data_file_is_no_moisesdb(tmp_path: Path) -> None:
    _touch(tmp_path, [f"S/{source}.wav" for source in SOURCES])
    for text in ("{ damaged", "[" * 100_000, "[]", '{"stems": 3}', '{"other": 1}'):
        (tmp_path / "S/data.json").write_text(text)
        assert _songs(tmp_path)["S"].layout == "folders"


# --- one folder per stem, and CSV -----------------------------------------------------------------------------


def test_files_of_one_name_in_stem_folders_are_one_song(tmp_path: Path) -> None:
    _touch(tmp_path, [f"train/{source}/Song {k}.wav" for source in SOURCES for k in (1, 2)])
    _touch(tmp_path, ["train/vocals/vocals_9.wav", "train/mixture/Song 1.wav", "train/Guitars/Song 2.wav"])
    songs = _songs(tmp_path)
    assert {name: song.reason for name, song in songs.items()} == {
        "train/Song 1": "", "train/Song 2": "ambiguous_stem", "train/vocals_9": "missing_stem",
    }  # fmt: skip
    assert songs["train/Song 1"].layout == "stem-folders"
    assert _files(songs["train/Song 1"]) == {source: ["Song 1.wav"] for source in SOURCES}
    assert "no file for drums, bass, other of this name" in songs["train/vocals_9"].detail


@pytest.mark.parametrize("header", ["instrum,path", "instrument,path", "type,path", "Stem;Path"])
def test_a_csv_lists_files_of_songs(tmp_path: Path, header: str) -> None:
    mark = ";" if ";" in header else ","
    paths = [f"{source}{mark}A/{source}.wav" for source in SOURCES] + [
        f"{source}{mark}{source}/B.wav" for source in SOURCES
    ]
    _touch(tmp_path, [row.split(mark)[1] for row in paths])
    (tmp_path / "list.csv").write_text(
        "\n".join([header, *paths, f"vocals{mark}lonely.wav"]) + "\n", encoding="utf-8-sig"
    )
    songs = _songs(tmp_path)
    assert {name: (song.layout, song.reason) for name, song in songs.items()} == {
        "A": ("csv", ""), "B": ("csv", ""), "lonely": ("csv", "missing_stem"),
    }  # fmt: skip
    assert all(Path(files[0].path).is_file() for files in songs["B"].files.values())


def test_a_csv_with_songs_sums_what_it_lists_and_its_name_states_a_split(tmp_path: Path) -> None:
    rows = [f"{source},One,x/{source}.wav" for source in SOURCES] + ["Lead Vox,One,x/more.wav", "theremin,Two,x/t.wav"]
    _touch(tmp_path, [row.split(",")[2] for row in rows])
    (tmp_path / "valid.csv").write_text("\n".join(["instrum,song,path", *rows]))
    (tmp_path / "train.csv").write_text("\n".join(["instrum,song,path", *rows]).replace("One", "Three"))
    songs = _songs(tmp_path)
    assert _files(songs["valid/One"])["vocals"] == ["more.wav", "vocals.wav"]
    assert songs["valid/Two"].reason == "unknown_stem"
    assert survey(tmp_path).sides["valid/One"][0] == "valid"


@pytest.mark.parametrize("path", ["../outside/vocals.wav", "/etc/passwd", "A/../../outside/vocals.wav", "~/vocals.wav"])
def test_a_csv_path_must_stay_in_the_corpus_unless_asked(tmp_path: Path, path: str) -> None:
    _touch(tmp_path, ["root/drums.wav", "outside/vocals.wav"])
    (tmp_path / "root/list.csv").write_text(f"instrum,song,path\ndrums,A,drums.wav\nvocals,A,{path}\n")
    (song,) = _songs(tmp_path / "root", ("drums", "vocals")).values()
    assert (song.reason, song.files) == ("unsafe_name", {})
    assert "corpus.allow_outside=true" in song.detail
    (song,) = _songs(tmp_path / "root", ("drums", "vocals"), allow_outside=True).values()
    assert song.reason == ""


def test_a_csv_song_name_never_leads_out(tmp_path: Path) -> None:
    _touch(tmp_path, ["v.wav", "d.wav"])
    (tmp_path / "list.csv").write_text("instrum,song,path\ndrums,../../x,d.wav\nvocals,../../x,v.wav\n")
    (song,) = _songs(tmp_path, ("drums", "vocals")).values()
    assert song.reason == "unsafe_name"


def test_csv_files_side_by_side_are_one_list_and_a_row_counts_once(tmp_path: Path) -> None:
    for source in SOURCES:
        _touch(tmp_path, [f"{source}/One.wav"])
        row = f'"{source}", "{source}/One.wav"'
        (tmp_path / f"{source}.csv").write_text(f"type, path\n{row}\n{row}\n\n")
    (song,) = _songs(tmp_path).values()
    assert (song.name, song.reason) == ("One", "")
    assert _files(song) == {source: ["One.wav"] for source in SOURCES}


@pytest.mark.parametrize("path", ["a\0b.wav", "~nobody/x.wav", "x" * 5000 + ".wav", "", ".", "\\\\host\\x.wav"])
def test_an_impossible_csv_path_is_the_songs_trouble_not_ours(tmp_path: Path, path: str) -> None:
    _touch(tmp_path, ["d.wav", "good.wav"])
    (tmp_path / "list.csv").write_text(
        f"instrum,song,path\ndrums,A,d.wav\nvocals,A,{path}\ndrums,B,d.wav\nvocals,B,good.wav\n"
    )
    found = scan(tmp_path, sources=("drums", "vocals"))
    assert "B" in {track.title for track in found.tracks}
    for verdict in found.rejected:
        assert verdict.reason in ("unsafe_name", "missing_stem", "unavailable")


def test_other_csv_files_are_no_lists(tmp_path: Path) -> None:
    _touch(tmp_path, [f"S/{source}.wav" for source in SOURCES])
    (tmp_path / "tracks.csv").write_text("artist,title,bpm\nAda,One,120\n")
    (tmp_path / "broken.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    assert _songs(tmp_path)["S"].layout == "folders"
    assert {file.name: file.detail for file in survey(tmp_path).csv_files} == {
        "broken.csv": "it is no text in UTF-8, UTF-16 or Windows-1252", "empty.csv": "it is empty",
        "picture.csv": "it is no text in UTF-8, UTF-16 or Windows-1252",
        "tracks.csv": "it has no columns instrum and path",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["path,type,size", "S,folder,4", "T,folder,4"], "its paths are no audio files, such as 'S'"),
        (["path,source", "S/drums.wav,studio", "T/bass.wav,web"], "mean no source that is known, such as 'studio'"),
        (["stem;path", "drums;old/S/drums.wav", "bass;old/S/bass.wav"], "none of its files is there, such as"),
        (["path,type", "S/drums.wav,mix"], "its instruments mean no source"),
        (["path,type"], "it lists nothing"),
    ],
)
def test_a_csv_that_is_not_about_these_stems_takes_nothing_over_and_is_named(
    tmp_path: Path, rows: list[str], why: str
) -> None:
    _touch(tmp_path, [f"{song}/{source}.wav" for song in "ST" for source in SOURCES])
    (tmp_path / "about.csv").write_text("\n".join(rows))
    seen = survey(tmp_path)
    assert [(song.name, song.reason) for song in seen.songs] == [("S", ""), ("T", "")]
    (remark,) = seen.remarks
    assert remark.startswith("about.csv is not used: ")
    assert why in remark
    (tmp_path / "songs.csv").write_text("instrum,path\n" + "".join(f"{source},S/{source}.wav\n" for source in SOURCES))
    assert [song.name for song in survey(tmp_path).songs] == ["S"]
    assert survey(tmp_path).remarks[0] == "songs.csv is the list of songs"


# --- CSV as other programs write it ---------------------------------------------------------------------------


def _table(song: str, *, mark: str = ",", end: str = "\r\n", slash: str = "/") -> str:
    rows = [mark.join(("song", "instrum", "path"))]
    rows += [mark.join((song, source, f"x{slash}{song[0]}{k}.wav")) for k, source in enumerate(SOURCES)]
    return end.join([*rows, ""])


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_a_list_is_read_in_every_encoding_that_programs_save(
    tmp_path: Path, encoding: str, end: str, mark: str
) -> None:
    _touch(tmp_path, [f"x/N{k}.wav" for k in range(4)])
    first = "sep=;\r\n" if (mark, end) == (";", "\r\n") else ""
    (tmp_path / "songs.csv").write_bytes((first + _table("Noël", mark=mark, end=end)).encode(encoding))
    (song,) = _songs(tmp_path).values()
    assert (song.name, song.layout, song.reason) == ("Noël", "csv", "")
    assert _files(song) == {source: [f"N{k}.wav"] for k, source in enumerate(SOURCES)}
    (file,) = survey(tmp_path).csv_files
    assert file.detail == ("read as Windows-1252: byte 0xeb is not UTF-8" if encoding == "cp1252" else "").replace(
        "0xeb", "0xeb in line 3" if first else "0xeb in line 2" if end != "\r" else "0xeb in line 1"
    )


def test_a_guessed_encoding_that_makes_names_of_no_files_is_refused_by_name_and_byte(tmp_path: Path) -> None:
    _touch(tmp_path, [f"x/{letter}{k}.wav" for letter in ("é", "A") for k in range(4)])
    (tmp_path / "songs.csv").write_bytes((_table("été") + _table("A")).encode("mac_roman"))
    with pytest.raises(InputError, match=r"songs\.csv .* is not UTF-8 \(byte 0x8e in line 2\).*save it as CSV UTF-8"):
        survey(tmp_path)
    (tmp_path / "songs.csv").write_bytes(_table("Ž\x81").encode("latin-1", "replace"))  # 0x81 is no letter there either
    with pytest.raises(InputError, match=r"\(byte 0x81 in line 2\) and not Windows-1252: save it as CSV UTF-8"):
        survey(tmp_path)
    (tmp_path / "songs.csv").write_bytes(_table("A").encode("utf-16")[:-1])
    with pytest.raises(InputError, match=r"songs\.csv in the corpus folder is damaged, as utf-16"):
        survey(tmp_path)


@pytest.mark.parametrize("before", ["", ".\\", "y\\..\\"])
def test_backslashes_separate_folders_unless_a_file_is_called_so(tmp_path: Path, before: str) -> None:
    _touch(tmp_path, [f"x/A{k}.wav" for k in range(3)] + ["x\\A3.wav"])
    (tmp_path / "songs.csv").write_text(_table("A", slash="\\").replace("x\\A0", f"{before}x\\A0"))
    (song,) = _songs(tmp_path).values()
    assert song.reason == ""
    assert all(Path(file.path).is_file() for files in song.files.values() for file in files)
    assert _files(song)["vocals"] == ["x\\A3.wav"]


@pytest.mark.parametrize(
    "path", ["C:\\songs\\A0.wav", "d:/songs/A0.wav", "\\\\server\\songs\\A0.wav", "..\\A0.wav", "/songs/A0.wav"]
)
@pytest.mark.parametrize("allow", [False, True])
def test_paths_that_lead_out_are_judged_by_their_names(tmp_path: Path, path: str, allow: bool) -> None:
    _touch(tmp_path, [f"c/x/{song}{k}.wav" for song in "AB" for k in range(4)])
    (tmp_path / "c/songs.csv").write_text(_table("A").replace("x/A0.wav", path) + _table("B").split("\r\n", 1)[1])
    songs = _songs(tmp_path / "c", allow_outside=allow)
    assert songs["B"].reason == ""
    if ":" in path or path.startswith("\\\\"):
        assert songs["A"].reason == "unsafe_name"
        assert songs["A"].detail == (
            f"{path}, which songs.csv names, is a path of another machine; write it relative to the corpus folder"
        )
    else:
        assert songs["A"].reason == ("" if allow else "unsafe_name")


def test_a_list_with_one_wrong_path_refuses_one_song_before_anything_is_read(tmp_path: Path) -> None:
    _touch(tmp_path, [f"x/{song}{k}.wav" for song in "AB" for k in range(4)])
    (tmp_path / "songs.csv").write_text(_table("A").replace("A2", "A9") + _table("B").split("\r\n", 1)[1])
    songs = _songs(tmp_path)
    assert songs["B"].reason == ""
    assert (songs["A"].reason, songs["A"].detail) == (
        "missing_stem", "x/A9.wav, which songs.csv names, is not there"
    )  # fmt: skip


# --- object stores ------------------------------------------------------------------------------------------


def test_a_listing_of_objects_is_that_of_the_same_files_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [f"train/{source}/deep/One.wav" for source in SOURCES] + [
        "list.csv",
        ".hidden/x.wav",
        "A/.x.wav",
        "A/y.wav",
    ]
    stores = [f"{top}/{part}/x" for top in ("train/store", "kept") for part in ("chunks", "manifests", "separated/S")]
    _touch(tmp_path, [*paths, *stores, "half/chunks/z.wav"])
    stamps = {path: storage.Stamp(size=1, changed_ns=0) for path in sorted([*paths, *stores, "half/chunks/z.wav"])}
    monkeypatch.setattr(storage, "files_below", lambda root: stamps)
    disk = {folder: names for folder, names in list_folder(str(tmp_path)).folders.items() if folder not in STORES}
    assert dict(list_folder("s3://bucket/songs").folders) == disk
    assert any("deep" in folder for folder in disk)


# --- names that are no text ---------------------------------------------------------------------------------


def test_a_file_name_that_is_no_text_refuses_its_song_only(tmp_path: Path) -> None:
    _touch(tmp_path, [f"{song}/{source}.wav" for song in ("Good", "Bad") for source in SOURCES])
    try:
        _touch(tmp_path, ["Bad/" + os.fsdecode(b"vox \xff.wav")])
    except OSError:
        pytest.skip("this file system only takes Unicode names")
    songs = _songs(tmp_path)
    assert {name: song.reason for name, song in songs.items()} == {"Good": "", "Bad": "unsafe_name"}
    assert "vox \\xff.wav" in songs["Bad"].detail
    json.dumps([song.detail for song in songs.values()]).encode()


def test_a_folder_that_cannot_be_looked_into_is_a_song_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, [f"{song}/{source}.wav" for song in ("Good", "Locked") for source in SOURCES])
    scandir = os.scandir

    def locked(path: str) -> Any:
        if str(path).endswith("Locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    songs = _songs(tmp_path)
    assert {name: song.reason for name, song in songs.items()} == {"Good": "", "Locked": "unavailable"}
    assert songs["Locked"].detail == "the folder cannot be looked into: Permission denied"


def test_system_files_are_not_audio(tmp_path: Path) -> None:
    _touch(
        tmp_path, [f"S/{source}.wav" for source in SOURCES] + ["S/._drums.wav", "__MACOSX/S/drums.wav", "S/.DS_Store"]
    )
    assert list(_songs(tmp_path)) == ["S"]


def test_audio_beside_the_song_folders_is_named(tmp_path: Path) -> None:
    _touch(tmp_path, [f"{source}.wav" for source in SOURCES])
    with pytest.raises(
        InputError, match=r"4 audio files are directly in .* bass\.wav: give each song a folder of its own"
    ):
        survey(tmp_path)
    _touch(tmp_path, [f"S/{source}.wav" for source in SOURCES])
    assert survey(tmp_path).stray == tuple(f"{source}.wav" for source in sorted(SOURCES))


def test_an_unknown_taxonomy_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, ["S/drums.wav"])
    with pytest.raises(InputError, match="give a TOML file or one of default"):
        _songs(tmp_path, taxonomy="nowhere.toml")


def test_a_file_that_a_list_names_twice_is_used_once_and_for_one_source(tmp_path: Path) -> None:
    _touch(tmp_path, [f"x/{source}.wav" for source in SOURCES])
    rows = ["song,instrum,path", *(f"A,{source},x/{source}.wav" for source in SOURCES)]
    (tmp_path / "songs.csv").write_text("\n".join([*rows, "A,Lead Vox,x/vocals.wav"]))
    (song,) = _songs(tmp_path).values()
    assert (song.reason, _files(song)["vocals"]) == ("", ["vocals.wav"])
    (tmp_path / "songs.csv").write_text("\n".join([*rows, "A,E-Gtr,x/bass.wav"]))
    (song,) = _songs(tmp_path).values()
    assert (song.reason, song.files) == ("ambiguous_stem", {})
    assert song.detail in ("x/bass.wav is listed as bass and as other", "x/bass.wav is listed as other and as bass")
