"""Names of one song's files are read side by side, and what is not certain is noted, not guessed."""

import json
import os
from pathlib import Path

import pytest

from datasets.corpus.stem_names import STATUSES, FileNote, read_label, read_song
from datasets.corpus.taxonomy import Taxonomy, load
from datasets.schema import SOURCES

DATA = Path(__file__).parents[3] / "../shared/data"


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return load()


def _read(taxonomy: Taxonomy, *paths: str, sources: tuple[str, ...] = SOURCES) -> dict[str, FileNote]:
    notes = read_song(paths, taxonomy=taxonomy, sources=sources)
    assert all(note.status in STATUSES and bool(note.source) == (note.status == "used") for note in notes)
    return {note.path: note for note in notes}


def test_a_file_called_like_a_source_is_that_source_even_if_the_taxonomy_never_heard_of_it(taxonomy: Taxonomy) -> None:
    assert _read(taxonomy, "Theremin.wav", sources=("theremin", "other"))["Theremin.wav"].source == "theremin"
    assert _read(taxonomy, "bass.flac", sources=("drums", "bass"))["bass.flac"].source == "bass"
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


def test_one_name_in_two_formats_is_a_version_or_the_lossy_one_is_left_out(taxonomy: Taxonomy) -> None:
    notes = _read(taxonomy, "Kick.wav", "Kick.flac", "Drums/Snare.wav", "Snare.wav", "Vox.aiff", "Vox.mp3", "Vox.ogg")
    assert {name: note.version_of or note.status for name, note in notes.items()} == {
        "Kick.wav": "used", "Kick.flac": "Kick.wav", "Drums/Snare.wav": "used", "Snare.wav": "used",
        "Vox.aiff": "used", "Vox.mp3": "lossy", "Vox.ogg": "lossy",
    }  # fmt: skip
    assert _read(taxonomy, "vocals.wav", "Mixdown/vocals.wav")["Mixdown/vocals.wav"].version_of == "vocals.wav"
    lossy = _read(taxonomy, "Bass.mp3", "Bass.ogg")
    assert [note.version_of for note in lossy.values()] == ["", "Bass.mp3"]


COPIES = (
    "vocals copy|vocals copy 2|vocals (1)|vocals [2]|vocals - Copy|vocals - Copy (2)|Copy of vocals|vocals (copy)|"
    "vocals (another copy)|vocals (3rd copy)|vocals~1|vocals~|vocals_copy|vocalsCopy|"
    "vocals - Kopie|Kopie von vocals|vocals Kopie 2|vocals (Kopie)|vocals - Copie|copie de vocals|vocals - copia|"
    "Copia di vocals|vocals - Cópia|Cópia de vocals|vocals — копия|vocals копия 2|vocals - копія|vocals - Kopi|"
    "vocals - Kopio|vocals - Kopya|vocals – kopia|vocals - másolat|vocals - コピー|vocalsのコピー|vocals 副本|"
    "vocals副本 2|vocals - 副本|vocals - 복사본|vocals - Αντίγραφο|vocals - Salinan|vocals - Bản sao|"
    "vocals (Studio-PC's conflicted copy 2024-01-02)|vocals (Anna's Bass-Mac's conflicted copy 2024-01-02)|"
    "vocals (in Konflikt stehende Kopie von Rechner 2024-01-02)|vocals (Case Conflict)|vocals (Case Conflict 1)|"
    "vocals (conflicted copy 2024-01-02 101530)|vocals conflicted copy 2024-01-02|"
    "vocals.sync-conflict-20240102-101530-ABCDEFG|vocals_conflict-20240102-101530|VOCALS (Unicode Encoding Conflict)|"
    "vocals 复件|复件 vocals|Copy (2) of vocals|Kopie (2) von vocals|Копия (3) vocals|vocals-DESKTOP-AB12CD3|"
    "vocals-LAPTOP-4F5G6H7J-2|vocals-Anna’s-MacBook-Pro|vocals.wav"
)
VERSIONS = (
    "vocals old|vocals_OLD|old vocals|vocals bak|vocals.bak|vocals backup|vocals v2|vocals_v1.2|vocals version 3|"
    "vocals ver2|vocals take 2|vocals_take2|vocals dry|vocals wet|vocals raw|vocals edit|vocals FINAL|"
    "vocals final v2|vocals new|vocals alt|vocals 24bit|vocals 16-bit|vocals_24b|vocals 32bit float|vocals 48k|"
    "vocals 44.1kHz|vocals_96000|vocals 2024-01-02|vocals_20240102|vocals 2024.01.02 10-15|vocals tuned|"
    "vocals rendered|vocals bip|old/vocals|Backup/vocals|v1/vocals|Stems 16bit/vocals|24-bit/vocals|Stems Dry/vocals|"
    "Old Stems/vocals|Stems copy/vocals|Take 2/vocals|Stems/vocals|2024-01-02/vocals|"
    "vocals_NEU|vocals - nuevo|vocals 最新|vocals-consolidated|vocals_frozen|vocals_norm|vocals melodyne|"
    "vocals_recovered|vocals-export|vocals_printed|vocals_02-01-2024|vocals 1.2.2024|Archiv/vocals"
)


@pytest.mark.parametrize("name", [*COPIES.split("|"), *VERSIONS.split("|")])
@pytest.mark.parametrize("numbered", [False, True])
def test_copies_and_versions_are_told_by_their_names_and_name_the_other(
    taxonomy: Taxonomy, name: str, numbered: bool
) -> None:
    plain = "vocals 1.wav" if numbered else "vocals.wav"  # "Vocals 1 copy" is a copy of "Vocals 1"
    stem = name.replace("vocals", "vocals 1").replace("VOCALS", "VOCALS 1") if numbered else name
    others = ("drums.wav", "bass.wav", "other.wav", "vocals 3.wav")
    notes = _read(taxonomy, plain, f"{stem}.wav", *others)
    assert {note.source for note in notes.values()} == set(SOURCES)
    assert notes[f"{stem}.wav"].version_of == plain
    assert not any(note.version_of for path, note in notes.items() if path != f"{stem}.wav")


@pytest.mark.parametrize(
    "names",
    [
        "Vocals 1|Vocals 2|Vocals 3", "Vox|Vox dbl|Vox dbl 2|Vox Stack", "Gtr L|Gtr R|Gtr L 2", "Kick In|Kick Out",
        "Snare Top|Snare Bottom", "Bass DI|Bass Amp|Bass Cab", "Vox (1)|Vox (2)", "Lead Vox/01|Backing Vox/01",
        "Drums/Close/Kick|Drums/Far/Kick", "Verse/Vox|Chorus/Vox", "Gtr Clean|Gtr Dist", "Vox U87|Vox SM7",
        "Backup Vox|Lead Vox", "Backups L|Backups R", "Choir Hi|Choir Lo", "Vox A|Vox B",
        "Take Five - Vox|Take Five - Kick|Take Five - Bass",
        "Old Friends - Vox 1|Old Friends - Vox 2|Old Friends - Kick", "Vox 2|Vox", "Muted Gtr|Gtr",
    ],
)  # fmt: skip
def test_files_that_belong_together_are_no_versions(taxonomy: Taxonomy, names: str) -> None:
    rest = [] if "Friends" in names or "Five" in names else ["drums.wav", "other.wav"]
    notes = _read(taxonomy, *(f"{name}.wav" for name in names.split("|")), *rest)
    doubts = {path: (note.status, note.version_of) for path, note in notes.items() if path != "drums.wav"}
    assert set(doubts.values()) == {("used", "")}, doubts


def test_versions_without_a_plain_name_are_versions_of_the_first(taxonomy: Taxonomy) -> None:
    for pair in (
        "Vox v1|Vox v2",
        "Vox dry|Vox wet",
        "Stems 24bit/Vox|Stems 16bit/Vox",
        "v1/Vox|v2/Vox",
        "A/Vox v1|B/Vox v2",
    ):
        first, second = (f"{name}.wav" for name in pair.split("|"))
        notes = _read(taxonomy, first, second, "drums.wav", "bass.wav")
        found = [note.version_of for note in notes.values() if note.version_of]
        assert found in ([first], [second]) or pair.startswith("A/")


def test_an_old_file_is_doubted_beside_any_of_its_kind_and_in_a_folder_of_old_files_always(taxonomy: Taxonomy) -> None:
    notes = _read(taxonomy, "Lead Vox OLD.wav", "vocals.wav", "Kick old.wav", "Snare.wav", "old/Flute.wav", "Pad.wav")
    assert notes["Lead Vox OLD.wav"].version_of == "vocals.wav"
    assert (notes["Kick old.wav"].status, notes["Kick old.wav"].version_of) == ("used", "")
    assert notes["old/Flute.wav"].status == "ambiguous"
    assert "old/Flute.wav may be left from an older version" in notes["old/Flute.wav"].detail
    alone = _read(taxonomy, "Backup/Kick.wav", "Backup/Vox.wav")  # all that there is
    assert {note.status for note in alone.values()} == {"used"}


def test_what_is_muted_is_left_out_and_a_way_of_playing_is_not(taxonomy: Taxonomy) -> None:
    muted = (
        "Guitar MUTED|Vox_OFF|Vox (off)|Keys muted|Muted/Keys|_OFF/Vox|MUTED Vox|[muted] Vox|Unused/Kick|Kick unused"
    )
    notes = _read(taxonomy, *(f"{name}.wav" for name in muted.split("|")), "drums.wav")
    assert {note.status for path, note in notes.items() if path != "drums.wav"} == {"muted"}
    played = "Muted Trumpet|Gtr Palm Mute|Palm Muted Gtr|Trumpet Harmon Mute|muted gtr"
    notes = _read(taxonomy, *(f"{name}.wav" for name in played.split("|")), "drums.wav")
    assert {note.source for path, note in notes.items() if path != "drums.wav"} == {"other"}


def test_a_word_of_ones_own_tells_files_apart(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('extends = "default"\n[apart]\nwords = ["take"]\n[muted]\nwords = ["aus"]\n')
    notes = _read(load(own), "Vox take 1.wav", "Vox take 2.wav", "Gtr aus.wav")
    assert [note.version_of or note.status for note in notes.values()] == ["used", "used", "muted"]


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


def test_a_folder_two_levels_up_names_a_file_that_says_nothing(taxonomy: Taxonomy) -> None:
    notes = _read(taxonomy, "Drums/close/01.wav", "Drums/close/02.wav", "Bass/takes/best/03.wav", "Vox/x/y/z/04.wav")
    assert {name: note.source for name, note in notes.items()} == {
        "Drums/close/01.wav": "drums", "Drums/close/02.wav": "drums", "Bass/takes/best/03.wav": "bass",
        "Vox/x/y/z/04.wav": "vocals",
    }  # fmt: skip


def test_of_two_folders_that_name_something_the_nearer_one_counts(taxonomy: Taxonomy) -> None:
    notes = _read(taxonomy, "Drums/Bass/01.wav", "Bass/Drums/close/02.wav", "Drums/Lead Vox/takes/03.wav")
    assert {name: note.source for name, note in notes.items()} == {
        "Drums/Bass/01.wav": "bass", "Bass/Drums/close/02.wav": "drums", "Drums/Lead Vox/takes/03.wav": "vocals",
    }  # fmt: skip


def test_a_name_that_all_files_share_is_left_out_although_they_are_numbered(taxonomy: Taxonomy) -> None:
    """The song is called after an instrument; each file also has a number, which does not make it bare."""
    names = [f"Bass Culture {what} {n}.wav" for n, what in enumerate(("Kick", "Snare", "Tambourine", "Zxq", "Zyq"))]
    notes = _read(taxonomy, *names)
    assert notes["Bass Culture Kick 0.wav"].source == "drums"
    assert notes["Bass Culture Zxq 3.wav"].source != "bass"
    assert notes["Bass Culture Zyq 4.wav"].source != "bass"


def test_three_files_tell_what_is_the_songs_name_and_two_do_not(taxonomy: Taxonomy) -> None:
    names = [f"Bass Culture {part}.wav" for part in ("Kick", "Vox", "Zorp")]
    assert [note.source or note.status for note in _read(taxonomy, *names).values()] == ["drums", "vocals", "unknown"]
    assert {note.status for note in _read(taxonomy, *names[:2]).values()} == {"ambiguous"}


def test_a_word_that_two_files_consist_of_is_no_songs_name(taxonomy: Taxonomy) -> None:
    notes = _read(taxonomy, "Bass.wav", "Bass 2.wav", "Bass Kick.wav")
    assert [note.source or note.status for note in notes.values()] == ["bass", "bass", "ambiguous"]


def test_of_many_parts_four_are_named_and_the_others_counted(taxonomy: Taxonomy) -> None:
    parts = ("Kick.wav", "Snare.wav", "Hat.wav", "Tom.wav", "Ride.wav", "Crash.wav")
    detail = _read(taxonomy, "drums.wav", *parts)["drums.wav"].detail
    assert "the sum of Kick.wav, Snare.wav, Hat.wav, Tom.wav and 2 more, or" in detail
    assert "Tom.wav, or" in _read(taxonomy, "drums.wav", *parts[:4])["drums.wav"].detail


def test_a_note_is_of_a_single_part_with_no_side_unless_it_says_so() -> None:
    note = FileNote(path="a.wav", status="unknown")
    assert (note.source, note.kind, note.side, note.sum, note.whole) == ("", "", None, False, False)
