"""A name means what its words mean, in any spelling, and a name with two meanings says so."""

from pathlib import Path

import pytest

from datasets.corpus.stem_names import read_song
from datasets.corpus.taxonomy import Taxonomy, load, shipped, tokens_of
from datasets.errors import InputError
from datasets.schema import SOURCES

SIX = (*SOURCES, "guitar", "piano")


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return load()


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
        ('["my vocals"]\nwords = ["x"]\n', "use lower-case letters, digits and _"),
        ('extends = "default"\n[kick]\nwords = ["x"]\n', "'kick' below '' and below 'kit'"),
        ('extends = "nowhere"\n', "extends 'nowhere'; it must extend one of default"),
        ("", "names no kind of sound"),
    ],
)
def test_a_faulty_taxonomy_is_refused_with_what_would_do(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load(path)


def test_every_shipped_taxonomy_loads_and_lists_no_word_twice_by_accident() -> None:
    meant = {"808", "lead", "ld", "key", "keys", "kbd", "keyboard", "ep", "noise", "vcl", "backup"}
    assert shipped() == ["default"]
    taxonomy = load()
    doubled = {word for word, senses in taxonomy.vocabulary.items() if len({sense.kind for sense in senses}) > 1}
    assert doubled == meant
