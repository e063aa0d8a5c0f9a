"""Decisions by hand are read as they are written, and every mistake in them is named."""

from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.quality.verdict_overrides import Override, Overrides, read_overrides

KNOWN = ("Artist/Song A", "Artist/Song B", "Broken", 'Comma, "quoted"')


def read(path: Path) -> Overrides:
    return read_overrides(str(path), known=KNOWN, unstored={"Broken": "empty_file"})


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_and_toml_say_the_same(tmp_path: Path) -> None:
    table = write(
        tmp_path / "a.csv",
        '\ufefftrack_id,verdict,why\r\nArtist/Song A,keep,"quiet, on purpose"\r\n\r\n'
        '"Comma, ""quoted""",drop,out of tune\r\n',
    )
    tree = write(
        tmp_path / "a.toml",
        """
        [[song]]
        track_id = 'Comma, "quoted"'
        verdict = "drop"
        why = "out of tune"

        [[song]]
        track_id = "Artist/Song A"
        verdict = "keep"
        why = " quiet, on purpose "
        """,
    )
    assert read(table).songs == {
        "Artist/Song A": Override(keep=True, why="quiet, on purpose"),
        'Comma, "quoted"': Override(keep=False, why="out of tune"),
    }
    assert read(tree) == Overrides(songs=read(tree).songs, digest=read(table).digest)
    assert dict(read(tree).songs) == dict(read(table).songs)


def test_the_digest_follows_what_is_said(tmp_path: Path) -> None:
    head = "track_id,verdict,why\n"
    keep = read(write(tmp_path / "a.csv", f"{head}Artist/Song A,keep,x\n"))
    drop = read(write(tmp_path / "a.csv", f"{head}Artist/Song A,drop,x\n"))
    other_order = read(write(tmp_path / "a.csv", "why,verdict,track_id\nx,keep,Artist/Song A\n"))
    assert keep.digest == other_order.digest != drop.digest
    assert read(write(tmp_path / "a.csv", head)).songs == {}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("Artist/Sing A,drop,x", r"line 2: there is no song 'Artist/Sing A'; did you mean 'Artist/Song A'\?"),
        ("Artist/Song A,kepe,x", "'Artist/Song A': verdict must be keep or drop, got 'kepe'"),
        ("Artist/Song A,keep, ", "'Artist/Song A': no reason"),
        ("Broken,keep,I like it", "'Broken' cannot be kept, its audio is not there: empty_file"),
        ("Artist/Song A,keep,x\nArtist/Song A,drop,y", "line 3: 'Artist/Song A' is decided twice"),
        ("Artist/Song A,keep", "line 2: must have 3 cells, got 2"),
    ],
)
def test_a_mistake_is_named_with_what_would_do(tmp_path: Path, row: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(write(tmp_path / "a.csv", f"track_id,verdict,why\n{row}\n"))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    rows = "".join(f"Nobody {number},drop,x\n" for number in range(10))
    with pytest.raises(InputError, match=r"(?s)'Nobody 0'.*'Nobody 7'.*and 2 more"):
        read(write(tmp_path / "a.csv", f"track_id,verdict,why\n{rows}"))


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "id,verdict,why\n", r"must have the columns track_id,verdict,why, got id,verdict,why"),
        ("a.csv", "", "must have the columns track_id,verdict,why, got nothing"),
        ("a.toml", "song = 1", "must hold tables .* got song"),
        ("a.toml", "[[songs]]\n", "must hold tables .* got songs"),
        (
            "a.toml",
            "[[song]]\ntrack_id='x'\nverdict='keep'\nwhy='y'\nwy='z'",
            "song 1: must have track_id, verdict, why, got track_id, verdict, why, wy",
        ),
        ("a.toml", "[[song", "not valid TOML"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(write(tmp_path / name, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv cannot be read"):
        read(tmp_path / "none.csv")


def test_the_apostrophe_that_keeps_a_name_from_being_a_formula_is_no_part_of_it(tmp_path: Path) -> None:
    known = ("=SUM(A1)", "-1", "'-2", "-2")
    path = write(tmp_path / "a.csv", "track_id,verdict,why\n'=SUM(A1),drop,x\n-1,drop,x\n'-2,drop,x\n")
    assert sorted(read_overrides(str(path), known=known, unstored={}).songs) == ["'-2", "-1", "=SUM(A1)"]
