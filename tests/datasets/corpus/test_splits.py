"""Songs of one artist, and parts of one song, stand on one side, and nobody moves when others come and go."""

import pytest

from datasets.corpus.musdb18_metadata import validation_songs
from datasets.corpus.splits import (
    DrawnShare,
    assign_splits,
    drawn_shares,
    groups,
    joined,
    nothing_to_train_on,
    on_one_side,
    song_title,
    stated_sides,
)

# Names as people give them; those of one row belong together, those of different rows do not.
REAL_NAMES: dict[str, list[list[str]]] = {
    "excerpts": [
        ["Autumn_part1", "Autumn_part2", "Autumn part 3", "Autumn (4)", "Autumn_(5)", "Autumn - Part 6"],
        ["Winter Pt. 1", "Winter pt2", "Winter, Pt. II", "Winter [part 3 of 4]", "Winter (live) (take 2)", "winter"],
        ["Spring"],
        ["Spring Cleaning"],
        ["Song 1"], ["Song 2"], ["Song_3"],  # these are names
        ["Apart 1"],
        ["Take Five", "Take Five (live)"],
        ["(Nice Dream)"],
    ],
    "track numbers": [
        ["01 - Suite (1)", "02 - Suite (2)", "1-03 Suite part 3", "04. Suite", "05 Suite", "07_Suite"],
        ["03 - Other"], ["04 - More"], ["08 99 Problems", "99 Problems"], ["1979"], ["7 Rings"],
    ],
    "artists": [
        ["Ann - One", "Ann - Two", "ANN \u2013 Three", "Ann \u2014 Four", "Ann_-_Five", "Ann- Six", "\uff21nn - Seven"],
        ["Bob feat. Ann - One", "Bob - Two", "03 - Bob ft. Cid - Three", "Bob (featuring Dee) - Four", "04 Bob - Five"],
        ["Jay-Z - One", "Jay-Z - Two"],
        ["Al James - Schoolboy", "Al James - Schoolboy Fascination"],
        ["Nobody's Song (1)", "Nobody's Song (2)"],
        ["Left"],
    ],
    "artist folders": [
        ["Ann/First Album/01 - Dawn", "Ann/First Album/02 - Suite part 1", "Ann/Second Album/01 - Dusk", "Ann/Single"],
        ["bob/Album/01 - Dawn", "Bob - Live (extra)/CD 1/01 - Dusk"],
        ["Cid/Album/Dawn"],
        ["Dee/Dawn", "Dee/Dusk"],
    ],
    "a folder or two are no artists": [
        ["songs/Dawn"], ["songs/Dusk"], ["more/Noon"], ["more/Night (1)", "songs/Night (2)"],
    ],
    "discs": [
        ["CD1/01 Dawn", "CD2/05 - Dawn (reprise)"], ["CD1/02 Dusk"], ["Disc 3/01 Noon"], ["disk_4/01 Night"],
    ],
    "compilations": [
        ["Various Artists/01 Ann - Dawn", "Ann - Dusk", "VA/03 Ann feat. Bob - Noon"],
        ["Various Artists/02 Bob - Dawn"], ["VA/Cid - Night"], ["Compilation/Dee - Night"],
        ["Various Artists - Suite (1)", "Various Artists - Suite part 2"], ["Various Artists - Other"],
        ["Various Artists/07 Untitled"], ["Various Artists/08 Unnamed"],
    ],
    "versions": [
        ["Dawn", "Dawn feat. Ann", "Dawn ft. Bob & Cid", "Dawn - Live at the Barn", "Dawn - Remix", "Dawn - Mono Mix"],
        ["Dusk - 2011 Remaster", "Dusk - Remastered 2009", "Dusk - Ann Remix (feat. Bob)", "Dusk (acoustic)", "Dusk"],
        ["Live"], ["Remix"], ["Live Forever"], ["Last Demo"],
    ],
    "volumes, discs and Teile": [
        ["Etude Vol. 2", "Etude vol 1", "Etude, Volume III", "Etude - Vol.4"],
        ["Reigen Teil 2", "Reigen - Teil I", "Reigen (Teil 3)", "Reigen_Teil_4 (live)"],
        ["Harbour CD 2", "Harbour - Disc 1", "Harbour disk two", "Harbour [CD3]"],
        ["Vol. 1"], ["Vol. 2"], ["Disc 3"],  # these are names
        ["Revolution 1"], ["Revolution 9"], ["Vorteil 1"], ["Vorteil 2"], ["Disco 2"], ["Discipline 3"], ["ACD 1"],
    ],
    "sorted under their second word": [
        ["The Rolling Stones - Angie", "Rolling Stones, The - Brown Sugar", "03 - Rolling Stones, The ft. Ann - Miss"],
        ["Die \u00c4rzte - Westerland", "\u00c4rzte, Die - Schrei (Teil 2)"],
        ["Doors, The - Light My Fire", "THE DOORS \u2013 Riders"],
        ["The The - This Is the Day", "The, The - Uncertain Smile"],
        ["Earth, Wind and Fire - September"], ["Stones - Other"], ["Band - Dawn"], ["The Band - Dusk"],
    ],
    "titles sorted under their second word": [
        ["The Boxer", "Boxer, The", "01 Boxer, The (live)"], ["Boxer"], ["Boxer, Theo"], ["Sea, the Sky"],
    ],
    "folders sorted under their second word": [
        ["Beatles, The/Help/01 - Dawn", "The Beatles/Let It Be/02 - Dusk"], ["Who, The/Noon"],
        ["Wall CD1/Night", "Wall CD 2/Morning"], ["The Wall"],
    ],
    "discs are no artists": [
        ["CD 1 - Dawn"], ["CD 1 - Dusk"], ["CD 2 - Noon"], ["Disc 3 - Night"],
    ],
    "formats": [
        ["Dawn/WAV", "Dawn/MP3", "Dawn (FLAC)", "Dawn - MP3 320", "Dawn_24bit 96k"],
        ["WAV/Dusk", "MP3/Dusk", "AAC/Dusk"], ["WAV/Noon", "MP3/Noon"], ["Wave"], ["Flac Attack"], ["Two Stems"],
    ],
    "copies of folders": [
        ["Dawn", "Dawn - Kopie", "Dawn copy 2", "Copy of Dawn", "Kopie (2) von Dawn", "Dawn - копия", "Dawn backup"],
        ["Copy"], ["Copy That"], ["Copycat"], ["Carbon Copy Blues"], ["Of Copies"],
    ],
    "songs inside songs": [
        ["Dawn", "Dawn/Bounces", "Dawn/Bounces/Older Ideas", "Dawn/Rehearsal (live)"], ["Dawning"], ["Bounces"],
    ],
    "artists below collections of many": [
        ["VA/Ann/Dawn", "VA/Ann/Dusk", "CD 1/Ann/Noon"], ["VA/Bob/Dawn", "CD 1/Bob/Dusk"], ["VA/Cid/Dawn"],
        ["CD 1/Dee/Dusk"],
    ],
    "artists below collections": [
        ["train/songs/Ann/Dawn", "train/songs/Ann/Dusk"], ["train/songs/Bob/Dawn"], ["train/songs/Cid/Dawn"],
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(REAL_NAMES))
def test_real_names_are_grouped_as_people_mean_them(kind: str) -> None:
    rows = REAL_NAMES[kind]
    found = groups([name for row in rows for name in row], {})
    together: dict[str, list[str]] = {}
    for name, group in found.items():
        together.setdefault(group, []).append(name)
    assert sorted(map(sorted, together.values())) == sorted(map(sorted, rows))


def test_a_large_folder_is_a_collection_not_an_artist() -> None:
    names = [f"{folder}/{number:04d}" for folder in ("babyslakh", "moisesdb", "musdb") for number in range(101)]
    assert len(set(groups([f"{name} x" for name in names], {}).values())) == 101  # by their own names
    assert set(groups([*names, *(f"ann/{k}" for k in range(3))], {}).values()) >= {"ann"}


def test_titles_say_the_artist_where_folders_do_not() -> None:
    titles = {"f3a1": "Ann - One", "77be": "Ann - Two", "9c0d": "Bob - One", "e811": "Cid - One"}
    assert groups(list(titles), titles) == {"f3a1": "ann", "77be": "ann", "9c0d": "bob", "e811": "cid"}


def _assign(names: list[str], seed: int = 0, *, valid: float = 0.1, test: float = 0.2, **known: str) -> dict[str, str]:
    dealt = assign_splits(names, seed=seed, valid_fraction=valid, test_fraction=test, known=known)
    return {name: split for name, (split, _) in dealt.items()}


def _count(sides: dict[str, str]) -> list[int]:
    return [list(sides.values()).count(split) for split in ("train", "valid", "test")]


@pytest.mark.parametrize("seed", range(20))
def test_excerpts_and_artists_stay_on_one_side(seed: int) -> None:
    excerpts = [f"train/Band - Song {k} ({part})" for k in range(5) for part in (1, 2)]
    sides = _assign(excerpts, seed)
    assert set(sides.values()) == {"train", "valid", "test"}
    assert all(sides[f"train/Band - Song {k} (1)"] == sides[f"train/Band - Song {k} (2)"] for k in range(5))
    by_artist = [f"Artist {a} - Song {k}" for a in range(4) for k in range(6)]
    sides = _assign(by_artist, seed)
    assert all(len({sides[f"Artist {a} - Song {k}"] for k in range(6)}) == 1 for a in range(4))


@pytest.mark.parametrize("fractions", [(0.1, 0.2), (0.05, 0.94), (0.9, 0.05)])
@pytest.mark.parametrize(("songs", "least"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1]), (12, [1, 1, 1])])
def test_small_corpora_have_a_train_song_before_a_test_song_before_a_valid_song(
    songs: int, least: list[int], fractions: tuple[float, float]
) -> None:
    names = [f"Song {chr(65 + k)}" for k in range(songs)]
    for seed in range(30):
        counts = _count(_assign(names, seed, valid=fractions[0], test=fractions[1]))
        assert sum(counts) == songs
        assert all(have >= need for have, need in zip(counts, least, strict=True)), (seed, counts)
        assert songs > 3 or counts == least
    assert _count(_assign(names, valid=0.0, test=0.0)) == [songs, 0, 0]
    assert _count(_assign(names, valid=0.0, test=0.3))[1] == 0


def test_ten_songs_meet_the_fractions_on_average_and_roughly() -> None:
    counts = [_count(_assign([f"Song {chr(65 + k)}" for k in range(10)], seed)) for seed in range(400)]
    means = [sum(column) / len(counts) for column in zip(*counts, strict=True)]
    assert means == pytest.approx([6.7, 1.25, 2.05], abs=0.2)  # at least one each makes valid a little larger
    assert sum(1 <= test <= 4 for _, _, test in counts) > 0.9 * len(counts)


def test_a_large_corpus_meets_its_fractions() -> None:
    names = [f"Song {chr(65 + k % 26)}{k}" for k in range(1000)]
    before = _assign(names)
    assert _count(before) == pytest.approx([700, 100, 200], abs=50)
    assert _assign(names, seed=1) != before


@pytest.mark.parametrize("size", [20, 49, 50, 51, 200])
@pytest.mark.parametrize("valid", [0.0, 0.1])
def test_songs_keep_their_side_as_others_come_and_go(size: int, valid: float) -> None:
    names = [f"Song {k:03d}" for k in range(size)]
    for seed in range(20):
        before = _assign(names, seed, valid=valid)
        more = _assign([*names, "Zebra", "Aardvark"], seed, valid=valid, **before)
        assert {name: more[name] for name in names} == before
        fewer = _assign(names[1:], seed, valid=valid, **before)
        lost = {"train", "test", *(["valid"] if valid else [])} - set(
            _assign(names[1:], seed, valid=0, test=0, **before)
        )
        moved = [name for name in names[1:] if fewer[name] != before[name]]
        emptied = list(before.values()).count(before[names[0]]) == 1
        assert len(moved) == int(emptied and bool(lost)), (seed, moved)
        if not emptied:
            alone = _assign([*names, "Zebra", "Aardvark"], seed, valid=valid)  # with no memory of what was drawn
            assert sum(alone[name] != before[name] for name in names) <= 2


def test_known_sides_are_kept_whatever_the_lots_say_and_new_songs_join_their_group() -> None:
    known = {
        "Ann - One": "test",
        "Bob - One": "train",
        "Cid - One": "valid",
        "Dee - One": "train",
        "Eve - One": "train",
    }
    for seed in range(10):
        sides = _assign([*known, "Ann - Two", "Bob - Two", "Cid - Two"], seed, **known)
        assert {name: sides[name] for name in known} == known
        assert (sides["Ann - Two"], sides["Bob - Two"], sides["Cid - Two"]) == ("test", "train", "valid")
    # Sides that are no longer drawn are not kept, and folders that state a split are believed.
    assert _assign(["A", "B", "C"], valid=0.0, A="valid")["A"] in ("train", "test")
    assert _assign(["train/A", "test/B"], **{"test/B": "train"})["test/B"] == "test"


def test_only_splits_that_no_folder_states_are_drawn() -> None:
    stated = [f"train/Song {chr(65 + k)}" for k in range(10)] + ["test/Song X", "test/Song Y"]
    sides = _assign(stated)
    assert {name for name, side in sides.items() if side == "test"} == {"test/Song X", "test/Song Y"}
    assert list(sides.values()).count("valid") >= 1
    published = sorted(validation_songs())[:2]
    sides = _assign([*stated, *(f"train/{name}" for name in published)])
    assert [name for name, side in sides.items() if side == "valid"] == [f"train/{name}" for name in published]


@pytest.mark.parametrize("songs", [100, 101])
def test_a_folder_of_more_than_a_hundred_songs_is_no_artist(songs: int) -> None:
    tunes = [f"Tune {chr(65 + number // 26)}{chr(65 + number % 26)}" for number in range(songs)]
    names = [f"{folder}/{tune}" for folder in ("ann", "bob", "cid") for tune in tunes]
    assert len(set(groups(names, {}).values())) == (3 if songs == 100 else songs)


def test_a_group_whose_songs_stand_on_two_sides_goes_where_most_do_and_in_doubt_where_nothing_learns_from_it() -> None:
    others = {f"Eve - {word}": "train" for word in ("Dawn", "Dusk")} | {"Fay - Noon": "test", "Gil - Noon": "valid"}
    for sides, expected in (
        (("train", "test"), "test"), (("train", "valid"), "valid"), (("valid", "test"), "test"),
        (("train", "train", "test"), "train"),
    ):  # fmt: skip
        known = {f"Ann - {number}": side for number, side in enumerate(sides)}
        for seed in range(8):
            dealt = _assign([*known, *others, "Ann - New"], seed, **known, **others)
            assert dealt["Ann - New"] == expected


def test_a_split_that_would_be_empty_takes_a_song_that_no_model_has_learned_from() -> None:
    known = {"Ann - One": "train", "Bob - One": "train", "Cid - One": "train"}
    for seed in range(12):
        sides = _assign([*known, "Dee - One"], seed, valid=0.0, **known)
        assert sides == known | {"Dee - One": "test"}


def test_a_corpus_is_dealt_as_it_was_dealt_before() -> None:
    """Written down in November 2026: models were trained on these sides, so that another draw would mix them up."""
    names = [f"Song {letter}" for letter in "ABCDEFGHIJKLMNOP"]
    dealt = {seed: "".join(side[1] for side in _assign(names, seed).values()) for seed in (0, 1, 7)}
    assert dealt == {0: "rrerareerrrrrrrr", 1: "rerarrrrerreaerr", 7: "rarrrrrrrrrerrrr"}  # tRain, vAlid, tEst


@pytest.mark.parametrize("folder", ["test", "TEST", "valid", "val", "Validation"])
@pytest.mark.parametrize("seed", range(3))
def test_a_single_folder_of_a_side_is_taken_at_its_word(folder: str, seed: int) -> None:
    side = "test" if folder.lower() == "test" else "valid"
    names = [f"{folder}/Song {k}" for k in range(8)]
    assert set(_assign(names, seed).values()) == {side}
    assert stated_sides(names)[1] == []
    assert f"{folder}/ (8)" in nothing_to_train_on(names)
    beside = _assign([*names, *(f"Song {chr(65 + k)}" for k in range(12))], seed)  # in no folder of a side
    assert {beside[name] for name in names} == {side}
    assert set(beside.values()) == {"train", "valid", "test"}
    assert not nothing_to_train_on(list(beside))


def test_songs_of_train_alone_are_drawn_and_the_share_is_told_beside_what_was_asked() -> None:
    names = [f"train/{artist} - Song {k}" for artist in ("Ann", "Bob", "Cid") for k in range(1, 11)]
    rule = {"valid_fraction": 0.1, "test_fraction": 0.2}
    sides = assign_splits(names, seed=0, **rule)
    valid, test = drawn_shares(sides, ["test", "valid"], **rule)
    assert (valid.num_songs, valid.pool, valid.is_far_off) == (10, 30, True)
    assert (valid.largest_group, valid.largest) == ("ann", 10)
    assert valid.words.startswith("valid: 33% of the songs, 10% asked for; groups stay together, and the largest, ")
    assert test.split == "test"
    alone = assign_splits([f"train/Song {chr(65 + k)}" for k in range(20)], seed=0, **rule)
    assert not any(share.is_far_off for share in drawn_shares(alone, ["test", "valid"], **rule))
    assert [share.split for share in drawn_shares(sides, ["test"], **rule)] == ["test"]
    for drawn in ([], ["test", "valid"]):
        assert drawn_shares(assign_splits(["test/A"], seed=0, **rule), drawn, **rule) == []


@pytest.mark.parametrize(
    ("fraction", "num_songs", "pool", "far_off"),
    [(0.1, 5, 100, False), (0.1, 4, 100, True), (0.1, 15, 100, False), (0.1, 16, 100, True), (0.1, 0, 20, False),
     (0.1, 4, 20, False), (0.1, 5, 20, True)],
)  # fmt: skip
def test_a_draw_is_far_off_by_more_than_half_and_more_than_two_songs(
    fraction: float, num_songs: int, pool: int, far_off: bool
) -> None:
    asked = f"valid: {num_songs / pool:.0%} of the songs, {fraction:.0%} asked for"
    for largest in (1, 2):
        share = DrawnShare(
            split="valid", fraction=fraction, num_songs=num_songs, pool=pool, largest_group="ann", largest=largest
        )
        assert share.is_far_off is far_off
        why = f"; groups stay together, and the largest, 'ann', has 2 of {pool} songs"
        assert share.words == asked + (why if far_off and largest == 2 else "")


def test_where_folders_state_all_three_splits_nobody_moves() -> None:
    names = [f"{split}/{word}" for split in ("train", "valid", "test") for word in ("Dawn", "Dusk", "Noon")]
    assert _assign(names) == {name: name.split("/")[0] for name in names}


def test_the_song_that_a_split_takes_from_another_is_the_one_nearest_to_it() -> None:
    """Where tests take nine of ten the songs that are left are those that tests would leave first."""
    names = [f"Tune {letter}" for letter in "ABCDEFGHIJKLMNOPQRST"]
    seen = 0
    for seed in range(12):
        (last,) = [name for name, side in _assign(names, seed, valid=0.0, test=1.0).items() if side == "train"]
        left = {name for name, side in _assign(names, seed, valid=0.0, test=0.9).items() if side == "train"}
        assert last in left
        seen += len(left) < 8
    assert seen > 6


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("Dawn", "Dawn"), ("test/Dawn", "Dawn"), ("Dawn/WAV", "Dawn"), ("train/Dawn/MP3", "Dawn"), ("WAV/Dawn", "Dawn"),
        ("train/WAV", "WAV"), ("WAV", "WAV"), ("FLAC/WAV", "WAV"), ("test", "test"),
    ],
)  # fmt: skip
def test_a_folder_called_after_a_format_is_no_title(name: str, title: str) -> None:
    assert song_title(name) == title


# --- songs that must not be parted -----------------------------------------------------------------------------

FREE = ("train", "valid", "test")


def _moved(sides: dict[str, str], *pairs: tuple[str, str], free: tuple[str, ...] = FREE) -> dict[str, str]:
    """What changes side."""
    titles = {name: name for name in sides}
    moved = on_one_side(sides, titles=titles, pairs=pairs, free=free)
    assert list(moved) == list(sides)
    return {name: side for name, side in moved.items() if side != sides[name]}


def test_groups_that_share_a_stem_go_where_most_of_their_songs_are() -> None:
    sides = {"Ann - 1": "test", "Ann - 2": "test", "Bob - 1": "train", "Cid - 1": "train", "Dot - 1": "valid"}
    assert _moved(sides) == {}
    assert _moved(sides, ("Ann - 1", "Bob - 1")) == {"Bob - 1": "test"}
    # Two and two: to train, which no score depends on.
    chain = ("Ann - 1", "Bob - 1"), ("Cid - 1", "Bob - 1")
    assert _moved(sides, *chain) == {"Ann - 1": "train", "Ann - 2": "train"}
    # Valid was stated here, and is not for moving; nor does a song that was stated count.
    assert _moved(sides, ("Dot - 1", "Bob - 1"), free=("train", "test")) == {}
    assert _moved(sides, ("Ann - 1", "Bob - 1"), free=("train", "valid")) == {}


def test_a_group_on_two_sides_is_left_alone_unless_two_of_its_songs_are_one_recording() -> None:
    """Folders of people have put it there."""
    apart = {"Ann - 1": "train", "Ann - 2": "valid", "Ann - 3": "valid"}
    others = {"Bob - 1": "train", "Cid - 1": "test", "Cid - 2": "train"}
    assert _moved(apart | others) == {}
    assert _moved(apart | others, ("Ann - 2", "Ann - 1")) == {"Ann - 1": "valid"}
    assert _moved(apart | others, ("Cid - 1", "Cid - 2")) == {"Cid - 1": "train"}


def test_groups_joined_by_several_pairs_have_the_first_name_of_all() -> None:
    group_of = {"x": "b", "y": "a", "z": "c", "alone": "d", "e1": "e", "e2": "f"}
    expected = {"x": "a", "y": "a", "z": "a", "alone": "d", "e1": "e", "e2": "e"}
    for pairs in ([("x", "z"), ("z", "y"), ("e2", "e1")], [("y", "z"), ("e1", "e2"), ("z", "x")]):
        assert joined(group_of, pairs) == expected
    assert joined(group_of, []) == group_of


@pytest.mark.parametrize("seed", range(12))
def test_songs_that_must_not_be_parted_are_drawn_for_one_side(seed: int) -> None:
    names = [f"Tune {letter}" for letter in "ABCDEFGHIJKL"]
    pairs = [("Tune A", "Tune L"), ("Tune L", "Tune F"), ("Tune C", "Tune D")]
    dealt = assign_splits(names, seed=seed, valid_fraction=0.3, test_fraction=0.4, pairs=pairs)
    for together in ("AFL", "CD"):
        assert len({dealt[f"Tune {letter}"] for letter in together}) == 1
    assert len({group for _, group in dealt.values()}) == 12 - 2 - 1
    assert {side for side, _ in dealt.values()} == {"train", "valid", "test"}
