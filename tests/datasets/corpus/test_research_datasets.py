"""Published datasets are read by what they say of their stems, as their trees are on a disk."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped,unused-ignore]

from datasets.corpus.layouts.found_song import FoundSong, LayoutRules
from datasets.corpus.scan import scan, survey
from datasets.errors import InputError
from datasets.schema import SOURCES


def _touch(root: Path, paths: Iterable[str]) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())


def _songs(root: Path, sources: tuple[str, ...] = SOURCES, **rules: Any) -> dict[str, FoundSong]:
    return {song.name: song for song in survey(root, sources=sources, rules=LayoutRules(**rules)).songs}


def _files(song: FoundSong) -> dict[str, list[str]]:
    return {source: sorted(Path(file.path).name for file in files) for source, files in song.files.items()}


# --- Slakh2100 ------------------------------------------------------------------------------------------------


def _slakh(root: Path, song: str, classes: Mapping[str, str], *, suffix: str = "flac", silent: str = "") -> None:
    stems = {
        name: {
            "audio_rendered": name != silent, "inst_class": kind, "integrated_loudness": -20.5,
            "is_drum": kind == "Drums",
            "midi_program_name": kind, "midi_saved": True, "plugin_name": "x.nkm", "program_num": 1,
        }
        for name, kind in classes.items()
    }  # fmt: skip
    about = {"UUID": "1a", "audio_dir": "stems", "midi_dir": "MIDI", "overall_gain": 0.1, "stems": stems}
    _touch(root, [f"{song}/stems/{name}.{suffix}" for name in classes if name != silent])
    _touch(root, [f"{song}/mix.{suffix}", f"{song}/all_src.mid", f"{song}/MIDI/S00.mid"])
    (root / song / "metadata.yaml").write_text(yaml.safe_dump(about))


def test_slakh_is_read_from_its_metadata(tmp_path: Path) -> None:
    classes = {
        "S00": "Guitar", "S01": "Drums", "S02": "Bass", "S03": "Strings (continued)", "S04": "Percussive",
        "S05": "Piano",
        "S06": "Synth Lead",
    }  # fmt: skip
    _slakh(tmp_path, "train/Track00001", classes, silent="S06")
    _slakh(tmp_path, "validation/Track01501", classes, suffix="wav")
    songs = _songs(tmp_path, ("drums", "bass", "other"))
    assert {name: (song.layout, song.reason) for name, song in songs.items()} == dict.fromkeys(
        ("train/Track00001", "validation/Track01501"), ("slakh2100", "")
    )
    assert _files(songs["train/Track00001"]) == {
        "drums": ["S01.flac"], "bass": ["S02.flac"], "other": ["S00.flac", "S03.flac", "S04.flac", "S05.flac"],
    }  # fmt: skip
    assert [Path(file.path).name for file in songs["validation/Track01501"].mixture] == ["mix.wav"]
    six = _songs(tmp_path, ("drums", "bass", "guitar", "piano", "other"))["train/Track00001"]
    assert (_files(six)["guitar"], _files(six)["piano"]) == (["S00.flac"], ["S05.flac"])
    four = _songs(tmp_path)["train/Track00001"]
    assert (four.reason, four.detail) == ("missing_stem", "no file for vocals")
    sides = survey(tmp_path, sources=("drums", "bass", "other")).sides
    assert sides["validation/Track01501"][0] == "valid"


def test_a_stem_that_slakh_names_and_that_is_gone_refuses_the_song(tmp_path: Path) -> None:
    _slakh(tmp_path, "Track00001", {"S00": "Drums", "S01": "Bass"})
    (tmp_path / "Track00001/stems/S01.flac").unlink()
    (song,) = _songs(tmp_path, ("drums", "bass")).values()
    assert (song.reason, song.detail) == (
        "missing_stem", "stems/S01.flac, which metadata.yaml names, is not there"
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["a: [", "- 1", "stems: 3", "", "[" * 20_000, "stems: {S00: {inst_class: Bass}}", "x: " + "y" * (1 << 21)]
)
def test_another_programs_metadata_is_no_slakh(tmp_path: Path, text: str) -> None:
    _touch(tmp_path, [f"S/{source}.wav" for source in SOURCES])
    (tmp_path / "S/metadata.yaml").write_text(text)
    assert _songs(tmp_path)["S"].layout == "folders"


@pytest.mark.parametrize("folder", ["../..", "/etc", "stems/../..", "a/b", "..\\.."])
def test_metadata_never_leads_out_of_the_song(tmp_path: Path, folder: str) -> None:
    _slakh(tmp_path, "T", {"S00": "Drums", "S01": "Bass"})
    path = tmp_path / "T/metadata.yaml"
    path.write_text(path.read_text().replace("audio_dir: stems", f"audio_dir: '{folder}'"))
    (song,) = _songs(tmp_path, ("drums", "bass")).values()
    assert song.reason in ("unsafe_name", "missing_stem")
    assert not any(song.files.values())


# --- MedleyDB -------------------------------------------------------------------------------------------------


def _medley(root: Path, song: str, instruments: Mapping[str, Any]) -> None:
    stems = {
        f"S{number:02d}": {
            "component": "", "filename": f"{song}_STEM_{number:02d}.wav", "instrument": instrument,
            "raw": {"R01": {"filename": f"{song}_RAW_{number:02d}_01.wav", "instrument": instrument}},
        }
        for number, instrument in enumerate(instruments.values(), 1)
    }  # fmt: skip
    artist, title = song.split("_")
    about = {
        "artist": artist, "title": title, "mix_filename": f"{song}_MIX.wav", "raw_dir": f"{song}_RAW",
        "stem_dir": f"{song}_STEMS", "stems": stems, "has_bleed": "no",
    }  # fmt: skip
    for stem in stems.values():
        _touch(root, [f"{song}/{song}_STEMS/{stem['filename']}", f"{song}/{song}_RAW/{stem['raw']['R01']['filename']}"])
    _touch(root, [f"{song}/{song}_MIX.wav"])
    (root / song / f"{song}_METADATA.yaml").write_text(yaml.safe_dump(about))


def test_medleydb_is_read_from_its_metadata_and_its_raw_files_are_left_alone(tmp_path: Path) -> None:
    parts = {
        "a": "drum set", "b": "electric bass", "c": "male singer", "d": "clean electric guitar", "e": "theremin",
        "f": ["violin", "cello"], "g": "auxiliary percussion",
    }  # fmt: skip
    _medley(tmp_path, "Ann_Dawn", parts)
    _medley(tmp_path, "Bob_Dusk", {**parts, "h": "Main System"})
    _medley(tmp_path, "Cid_Noon", {**parts, "h": ["male singer", "piano"]})
    songs = _songs(tmp_path)
    assert {name: (song.layout, song.title, song.reason) for name, song in songs.items()} == {
        "Ann_Dawn": ("medleydb", "Ann - Dawn", ""), "Bob_Dusk": ("medleydb", "Bob - Dusk", "unknown_stem"),
        "Cid_Noon": ("medleydb", "Cid - Noon", "ambiguous_stem"),
    }  # fmt: skip
    assert _files(songs["Ann_Dawn"]) == {
        "drums": ["Ann_Dawn_STEM_01.wav", "Ann_Dawn_STEM_07.wav"], "bass": ["Ann_Dawn_STEM_02.wav"],
        "other": [f"Ann_Dawn_STEM_0{number}.wav" for number in (4, 5, 6)], "vocals": ["Ann_Dawn_STEM_03.wav"],
    }  # fmt: skip
    assert [Path(file.path).name for file in songs["Ann_Dawn"].mixture] == ["Ann_Dawn_MIX.wav"]
    assert "Ann_Dawn_STEM_08.wav" not in str(songs["Ann_Dawn"].files)
    assert "Cid_Noon_STEM_08.wav holds male singer, piano in one" in songs["Cid_Noon"].detail
    left_out = _songs(tmp_path, unknown="leave_out")["Bob_Dusk"]
    assert left_out.reason == ""


# --- trees without metadata -----------------------------------------------------------------------------------


def test_musdb_xl_is_read_as_musdb18_hq(tmp_path: Path) -> None:
    for song in ("AM Contra - Heart Peripheral", "Al James - Schoolboy Facination"):
        _touch(tmp_path, [f"musdb_XL/test/{song}/{name}.wav" for name in (*SOURCES, "mixture")])
    found = scan(tmp_path / "musdb_XL")
    assert (found.layout, {track.split for track in found.tracks}) == ("musdb18-hq", {"test"})
    assert all(len(track.mixture) == 1 for track in found.tracks)


def test_a_folder_of_a_mixture_alone_is_listed_and_alone_refused_with_its_name(tmp_path: Path) -> None:
    _touch(tmp_path, [f"Good/{source}.wav" for source in SOURCES] + ["Bare/mixture.wav", "Bare/Click.wav"])
    songs = _songs(tmp_path)
    assert (songs["Good"].reason, songs["Bare"].reason) == ("", "missing_stem")
    assert songs["Bare"].detail == "no stems, only Click.wav, mixture.wav"
    _touch(tmp_path / "other", ["Bare/mixture.wav"])
    with pytest.raises(InputError, match=r"Bare holds no stems, only mixture\.wav"):
        survey(tmp_path / "other")


@pytest.mark.parametrize(
    ("foreign", "rules", "reason", "words"),
    [
        ("vocals.ape", {}, "missing_stem", "no file for vocals; not used: vocals.ape (a format that is not read)"),
        ("Gesang.wav", {}, "unknown_stem", "Gesang.wav: no word of the name is in the taxonomy"),
        (
            "Gesang.wav",
            {"unknown": "leave_out"},
            "missing_stem",
            "no file for vocals; not used: Gesang.wav (a name that",
        ),
        ("Vox MUTED.wav", {}, "missing_stem", "no file for vocals; not used: Vox MUTED.wav (muted, by its name)"),
        ("notes.txt", {}, "missing_stem", "no file for vocals"),
    ],
)
def test_a_foreign_file_beside_three_stems_is_named(
    tmp_path: Path, foreign: str, rules: dict[str, Any], reason: str, words: str
) -> None:
    _touch(tmp_path, [f"S/{source}.wav" for source in SOURCES if source != "vocals"] + [f"S/{foreign}"])
    (song,) = _songs(tmp_path, **rules).values()
    assert song.reason == reason
    assert song.detail.startswith(words)


def test_a_video_of_stems_and_a_stem_file_are_told_apart(tmp_path: Path) -> None:
    _touch(tmp_path, [f"S/{source}.mp4" for source in SOURCES] + ["T.stem.mp4", "S/cover.jpg"])
    assert {name: (song.layout, song.reason) for name, song in _songs(tmp_path).items()} == {
        "S": ("folders", ""), "T": ("musdb18", ""),
    }  # fmt: skip
