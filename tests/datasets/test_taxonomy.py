"""A name means what its words mean, in any spelling, and a name with two meanings says so."""

import json
import os
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.schema import SOURCES
from datasets.stemnames import STATUSES, FileNote, read_label, read_song
from datasets.taxonomy import Taxonomy, load, shipped, tokens_of

DATA = Path(__file__).parents[2] / "../shared/data"
SIX = (*SOURCES, "guitar", "piano")


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return load()


def _read(taxonomy: Taxonomy, *paths: str, sources: tuple[str, ...] = SOURCES) -> dict[str, FileNote]:
    notes = read_song(paths, taxonomy=taxonomy, sources=sources)
    assert all(note.status in STATUSES and bool(note.source) == (note.status == "used") for note in notes)
    return {note.path: note for note in notes}


def _source(taxonomy: Taxonomy, name: str, sources: tuple[str, ...] = SOURCES) -> str:
    """The source of a file by itself, or the status where it has none."""
    (note,) = read_song([f"{name}.wav"], taxonomy=taxonomy, sources=sources)
    return note.source or note.status


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("LdVox_dbl", ("ld", "vox", "dbl")),
        ("OHLeft2", ("oh", "left", "2")),
        ("E-Gtr 1", ("e", "gtr", "1")),
        ("01 Kick.In", ("01", "kick", "in")),
        ("Für Élise", ("für", "élise")),
        ("ＫＩＣＫ", ("kick",)),
        ("..", ()),
    ],
)
def test_names_fall_into_words_at_capitals_digits_and_marks(name: str, tokens: tuple[str, ...]) -> None:
    assert tokens_of(name) == tokens


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("vocals", "vocals2|LdVox_dbl|BGVs|BV Stack L|Vox FX|Lead Vox|Choir|Bass Vocal|Voc_Verb|VOX|adlibs|acapella"),
        ("bass", "sub|Bass DI|Synth Bass|BassSynth|808 bass|Upright Bass|Dbl Bass|BGTR|sub-bass"),
        (
            "drums",
            "OH L-R|OHL|Kick In|KickOut|SN_top|HiHat|hi-hats|FlrTom|Bass Drum|808 Kick|Drum Loop 1|Drums Loop|"
            "Perc_Shaker|01_Kick_120bpm|Snare Verb|Tom 3|Tamb|Room|TR-808|Sub Kick",
        ),
        (
            "other",
            "fx|Rhodes|Keys|E-Gtr 2 L|AcGtr_R|Bass Clarinet|Pad|Synth Lead|leadguitar|Strings Hi|Sub Drop|Gtr Room",
        ),
        ("ignored", "mix|Mix v3|2trk|2 TRK|Master|MASTERED_final|ref|Rough Mix|linear_mixture|Click|Stereo Out"),
        ("unknown", "Zorp|Default preset|Take 3|L|12|Print|歌"),
        ("ambiguous", "808|Lead|PAD + BASS|Kick & Bass|Drum Mix|Vox Master|Synth Vox"),
    ],
)
def test_producers_names_are_read(taxonomy: Taxonomy, source: str, names: str) -> None:
    assert {name: _source(taxonomy, name) for name in names.split("|")} == dict.fromkeys(names.split("|"), source)


def test_the_tree_gives_each_set_of_sources_its_own(taxonomy: Taxonomy) -> None:
    kinds = ("kick", "bass", "guitar", "piano", "strings", "fx", "lead_vocals")
    asked = {
        SOURCES: ("drums", "bass", "other", "other", "other", "other", "vocals"),
        SIX: ("drums", "bass", "guitar", "piano", "other", "other", "vocals"),
        ("vocals", "accompaniment"): (*("accompaniment",) * 6, "vocals"),
        ("vocals", "other"): (*("other",) * 6, "vocals"),
        ("drums", "guitar"): ("drums", "", "guitar", "", "", "", ""),
        ("kick", "lead_vocals"): ("kick", "", "", "", "", "", "lead_vocals"),
    }
    for sources, expected in asked.items():
        assert tuple(taxonomy.source_of(kind, sources) for kind in kinds) == expected
    assert taxonomy.source_of("drums", ("kick", "other")) is None  # cannot be told apart
    assert _source(taxonomy, "drums", ("kick", "other")) == "coarse"
    assert _source(taxonomy, "Keys", SIX) == "ambiguous"  # a piano or not
    assert _source(taxonomy, "808", ("vocals", "accompaniment")) == "accompaniment"


def test_a_file_called_like_a_source_is_that_source_even_if_the_taxonomy_never_heard_of_it(taxonomy: Taxonomy) -> None:
    assert _source(taxonomy, "Theremin", ("theremin", "other")) == "theremin"
    assert _source(taxonomy, "bass", ("drums", "bass")) == "bass"
    assert read_label("Theremin", taxonomy=taxonomy, sources=("theremin",)).source == "theremin"
    assert read_label("E. Gtr", taxonomy=taxonomy, sources=SOURCES).source == "other"


def test_left_and_right_are_told_where_they_end_a_name_or_have_a_partner(taxonomy: Taxonomy) -> None:
    names = ("OH L.wav", "OH R.wav", "Gtr_L_dbl.wav", "L Keys.wav", "R Keys.wav", "R&B Drums.wav", "Room LR.wav")
    sides = {name: note.side for name, note in _read(taxonomy, *names, "HatL.wav", "PadR2.wav").items()}
    assert sides == {
        "OH L.wav": "left", "OH R.wav": "right", "Gtr_L_dbl.wav": "left", "L Keys.wav": "left", "R Keys.wav": "right",
        "R&B Drums.wav": None, "Room LR.wav": None, "HatL.wav": "left", "PadR2.wav": "right",
    }  # fmt: skip


def test_a_sum_is_left_out_beside_its_parts_and_is_the_stem_without_them(taxonomy: Taxonomy) -> None:
    beside = _read(taxonomy, "Drum Bus.wav", "Kick.wav", "Vox Bus.wav", "accompaniment.wav")
    assert {name: note.status for name, note in beside.items()} == {
        "Drum Bus.wav": "sum", "Kick.wav": "used", "Vox Bus.wav": "used", "accompaniment.wav": "sum",
    }  # fmt: skip
    alone = _read(taxonomy, "acapella.wav", "instrumental.wav", sources=("vocals", "accompaniment"))
    assert [note.source for note in alone.values()] == ["vocals", "accompaniment"]
    twice = _read(taxonomy, "Drum Bus.wav", "Drum Print.wav", "Vox Bus L.wav", "Vox Bus R.wav")
    assert [note.status for note in twice.values()] == ["ambiguous", "ambiguous", "used", "used"]


def test_what_may_be_a_sum_is_doubted_beside_its_parts(taxonomy: Taxonomy) -> None:
    notes = _read(taxonomy, "drums.wav", "kick.wav", "shaker.wav")
    assert notes["drums.wav"].status == "ambiguous"
    assert "may be the sum of kick.wav" in notes["drums.wav"].detail
    assert _read(taxonomy, "drums.wav", "shaker.wav")["drums.wav"].source == "drums"


def test_a_folder_inside_a_song_speaks_for_files_that_say_too_little(taxonomy: Taxonomy) -> None:
    notes = _read(
        taxonomy, "Drums/01.wav", "Vocals/Lead.wav", "Vocals/FX.wav", "Bass/DI.wav", "Guitars/Lead.wav",
        "Mixes/Song.wav", "Misc/Kick.wav", "Bass/Guitar.wav", "Stems/Zorp.wav", "Vocals/Mix.wav",
    )  # fmt: skip
    assert {name: note.source or note.status for name, note in notes.items()} == {
        "Drums/01.wav": "drums", "Vocals/Lead.wav": "vocals", "Vocals/FX.wav": "vocals", "Bass/DI.wav": "bass",
        "Guitars/Lead.wav": "other", "Mixes/Song.wav": "ignored", "Misc/Kick.wav": "ambiguous",
        "Bass/Guitar.wav": "ambiguous", "Stems/Zorp.wav": "unknown", "Vocals/Mix.wav": "ignored",
    }  # fmt: skip


def test_the_songs_own_name_in_every_file_says_nothing(taxonomy: Taxonomy) -> None:
    names = [f"Bass Instinct - {part}.wav" for part in ("Kick", "Vox", "Zorp", "Bass")]
    notes = _read(taxonomy, *names, "Bass Instinct.wav")
    assert [note.source or note.status for note in notes.values()] == ["drums", "vocals", "unknown", "bass", "unknown"]
    takes = _read(taxonomy, "vox.wav", "vox 2.wav", "vox 3.wav")  # nothing would be left of these
    assert {note.source for note in takes.values()} == {"vocals"}


def test_one_name_in_two_formats_is_in_doubt(taxonomy: Taxonomy) -> None:
    notes = _read(taxonomy, "Kick.wav", "Kick.flac", "Drums/Snare.wav", "Snare.wav")
    assert [note.status for note in notes.values()] == ["ambiguous", "ambiguous", "used", "used"]


def test_a_file_of_ones_own_adds_moves_and_ignores_words(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        'extends = "default"\n[ignore]\nwords = ["zorp"]\npatterns = ["*_sc_*"]\n'
        '[vocals]\nwords = ["John", "lead"]\n[accompaniment.drums.kit.kick]\nwords = ["808"]\n'
        '[accompaniment.other.theremin]\nwords = ["theremin"]\n[accompaniment.bass]\npatterns = ["trk01*"]\n'
    )
    taxonomy = load(own)
    expected = {
        "Zorp 2": "ignored", "Kick_SC_1": "ignored", "john": "vocals", "Lead": "vocals", "808": "drums",
        "Theremin": "other", "trk01 whatever": "bass", "Hats": "drums",
    }  # fmt: skip
    assert {name: _source(taxonomy, name) for name in expected} == expected
    assert _source(taxonomy, "Theremin", ("theremin", "other")) == "theremin"
    alone = tmp_path / "alone.toml"
    alone.write_text('[speech]\nwords = ["dx"]\n[effects]\nwords = ["sfx"]\n')
    assert _source(load(alone), "DX 1", ("speech", "effects")) == "speech"
    assert _source(load(alone), "Kick", ("speech", "effects")) == "unknown"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[vocals\n", "is not valid TOML"),
        ('words = ["x"]\n', "'words' outside any table"),
        ('[vocals]\nword = ["x"]\n', "has 'word' under 'vocals'; known there: words, weak, whole, sum, patterns"),
        ('[ignore]\nweak = ["x"]\n', "known there: words, patterns"),
        ('[vocals]\nwords = "vox"\n', "a list of words in quotes"),
        ('[vocals]\nwords = ["--"]\n', "a letter or a digit is missing"),
        ('["my vocals"]\nwords = ["x"]\n', "lower-case letters, digits and _ would do"),
        ('extends = "default"\n[kick]\nwords = ["x"]\n', "'kick' below '' and below 'kit'"),
        ('extends = "nowhere"\n', "extends 'nowhere'; one of default would do"),
        ("", "names no kind of sound"),
    ],
)
def test_a_faulty_taxonomy_is_refused_with_what_would_do(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load(path)


def test_every_shipped_taxonomy_loads_and_lists_no_word_twice_by_accident() -> None:
    meant = {"808", "lead", "ld", "key", "keys", "kbd", "keyboard", "ep", "noise", "vcl"}
    assert shipped() == ["default"]
    taxonomy = load()
    doubled = {word for word, senses in taxonomy.vocabulary.items() if len({sense.kind for sense in senses}) > 1}
    assert doubled == meant


def _real_names() -> dict[str, list[tuple[str, str]]]:
    """Names of the files that songs of shared/data were summed from, with their sources as judged by ear or by hand."""
    songs: dict[str, set[tuple[str, str]]] = {}
    for path in sorted(DATA.glob("*/train/*/*.json")):
        about, song = json.loads(path.read_text()), songs.setdefault(path.parent.name.split(" (")[0], set())
        for source, names in {**about.get("stems_from", {}), **about.get("members", {})}.items():
            song |= {(os.path.splitext(name)[0].replace("/", "_"), source) for name in names}
        for name, why in (about.get("tracks") or {}).items():
            song.add((name.removesuffix(".ogg").removesuffix(".ds"), why.split()[0]))
    return {song: sorted(names) for song, names in songs.items() if names}


def test_names_of_real_productions_are_read_right_or_reported(taxonomy: Taxonomy) -> None:
    songs = _real_names()
    if not songs:
        pytest.skip("shared/data is not here")
    right, wrong, total = 0, [], 0
    for names in songs.values():
        notes = read_song([f"{name}.wav" for name, _ in names], taxonomy=taxonomy, sources=SOURCES)
        for note, (_, source) in zip(notes, names, strict=True):
            total += 1
            right += note.source == source
            wrong += [note.path] if note.status not in ("unknown", "ambiguous") and note.source != source else []
    assert total > 150
    assert right / total > 0.8
    assert wrong == ["MINILOGUE_SYNTH.wav"]  # plays the bass: no name says so
