"""What a folder states of a song's licence reaches the song; nothing that is stated is more than a line of text."""

from pathlib import Path

import pytest

from datasets.corpus.licenses import is_non_commercial, is_unknown, named_license, one_line
from datasets.corpus.scan import scan, survey
from datasets.errors import InputError, Unavailable
from datasets.schema import SOURCES


def _song(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    for source in SOURCES:
        (folder / f"{source}.wav").write_bytes(f"{name}/{source}".encode())
    return folder


def _licenses(root: Path) -> dict[str, str]:
    return {track.title: track.license for track in scan(root, license="own recordings").tracks}


def test_a_table_goes_before_the_nearest_file_and_that_before_the_setting(tmp_path: Path) -> None:
    for name in ("train/A - One", "train/B - Two", "train/album/C - Three", "test/D - Four"):
        _song(tmp_path, name)
    (tmp_path / "train/A - One/license.txt").write_text("CC BY 4.0, by A\n\nmore")
    (tmp_path / "train/B - Two/LICENSE").write_text("SPDX-License-Identifier: CC0-1.0\n")
    (tmp_path / "train/album/LICENCE.md").write_text("Creative Commons\nAttribution-NonCommercial-ShareAlike 4.0 Int.")
    assert _licenses(tmp_path) == {
        "A - One": "CC BY 4.0, by A",
        "B - Two": "CC0-1.0",
        "C - Three": "CC-BY-NC-SA-4.0",
        "D - Four": "own recordings",
    }
    (tmp_path / "licenses.csv").write_text(
        "song,license\nA - One,MIT\ntest/D - Four,\x1b[31m=cmd()\n", encoding="utf-8"
    )
    assert _licenses(tmp_path)["A - One"] == "MIT"
    assert _licenses(tmp_path)["D - Four"] == "[31m=cmd()"
    assert not any("licenses.csv" in remark for remark in survey(tmp_path).remarks)


def test_a_file_that_cannot_be_read_is_no_reason_to_believe_the_one_above(tmp_path: Path) -> None:
    folder = _song(tmp_path, "train/A")
    (tmp_path / "LICENSE").write_text("CC0 1.0 Universal")
    (folder / "LICENSE").symlink_to("gone")
    with pytest.raises(Unavailable, match="train/A/LICENSE cannot be read"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,terms\na,b\n", "must have the columns song and license, got name, terms"),
        (b"song,license\nA,MIT\nA,CC0-1.0\n", "says both 'MIT' and 'CC0-1.0' of 'A': leave one line"),
        (b"song,license\nA,\xff\n", "is no CSV file in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_input_error(tmp_path: Path, content: bytes, message: str) -> None:
    _song(tmp_path, "train/A")
    (tmp_path / "licenses.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("license", "forbids"),
    [
        ("CC-BY-NC-SA-4.0", True), ("CC BY-NC 3.0", True), ("MUSDB18: mixed, non-commercial; see its list", True),
        ("All rights reserved", True), ("research use only", True), ("for personal use", True),
        ("Not for commercial use", True), ("No commercial use", True), ("Commercial use is prohibited", True),
        ("must not be used for any commercial purpose", True), ("non\u2011commercial", True),
        ("for educational purposes", True),
        ("CC0-1.0", False), ("CC-BY-SA-4.0", False), ("own recordings", False), ("Advanced Sound Concepts", False),
        ("free for any use, commercial use included", False),
    ],
)  # fmt: skip
def test_a_licence_says_by_its_name_whether_it_forbids_commercial_use(license: str, forbids: bool) -> None:
    assert is_non_commercial(license) is forbids
    assert not is_unknown(license)
    assert is_unknown(" Unknown ")


def test_a_text_is_recognized_and_never_more_than_a_line() -> None:
    assert named_license("Licensed under http://creativecommons.org/licenses/by-nc/3.0/us/") == "CC-BY-NC-3.0"
    assert named_license("Creative Commons Legal Code\n\nCC0 1.0 Universal\n") == "CC0-1.0"
    assert named_license("\n\n  MIT License \n\nCopyright") == "MIT License"
    assert one_line("a\nb\x07\u202ec " * 40) == ("a b c " * 40)[:120].rstrip()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("# SPDX-License-Identifier: CC-BY-4.0 AND CC-BY-NC-4.0\nmore", "CC-BY-4.0 AND CC-BY-NC-4.0"),
        ("<!-- SPDX-License-Identifier: MIT -->", "MIT"),
        (
            "46 songs: creativecommons.org/licenses/by/4.0\nothers: creativecommons.org/licenses/by-nc-sa/4.0/",
            "CC-BY-4.0, CC-BY-NC-SA-4.0",
        ),
        ("Creative Commons Attribution-Non-Commercial 3.0", "CC-BY-NC-3.0"),
        ("Songs of 2018\n\nThey are for educational\npurposes only.", "Songs of 2018 (non-commercial)"),
        ("BSD License\nAll rights reserved.\nRaleigh, NC", "BSD License"),
    ],
)
def test_what_a_text_forbids_is_in_the_name_that_is_kept(text: str, named: str) -> None:
    assert named_license(text) == named
    assert is_non_commercial(named) is ("NC-" in named or "non-commercial" in named)
