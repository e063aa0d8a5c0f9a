"""The page of the curation tells what was dropped and why, stays small, and runs nothing that a song is called."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.quality.rules.quality_rules import QualityRules
from datasets.schema import Verdict
from datasets.shards.manifests import read_songs
from pipelines.report.curation import excerpts, rule_sections, songs_table
from pipelines.report.curation.curation_page import dropped_table, is_about, render, run
from pipelines.report.curation.excerpts import MAX_PLAYERS, choose
from pipelines.report.curation.page_input import CurationInput, Evidence
from pipelines.report.curation.plots import Panel, histogram, matrix_plot
from tests.pipelines.report.test_model_report import EVIL, Page
from tests.pipelines.songs import RATE, SOURCES, write_songs

LIMITS: dict[str, Any] = {"min_own": 0.7, "max_foreign": 0.3}


def verdict(track_id: str, *, reason: str = "", presence: float = 0.9) -> Verdict:
    return Verdict(
        track_id=track_id, title=f"{EVIL} {track_id}", split="train", keep=not reason, reason=reason,
        detail=f"because {EVIL}" if reason else "", duration_s=200.0,
        measures={f"{source}_presence": presence for source in SOURCES},
    )  # fmt: skip


def make_curation(store: Path) -> CurationInput:
    """Five songs of seven seconds: two kept, one silent, one mislabelled, one a copy."""
    chunks = write_songs(store, dict.fromkeys("abcde", "train"), num_samples=7 * RATE)
    shares_SS = np.array([[0.1, 0.9], [0.0, 1.0]])
    return CurationInput(
        key="key",
        rules=QualityRules(),
        sources=SOURCES,
        verdicts=[
            verdict("a"), verdict("b"), verdict("c", reason="silent_source", presence=0.1),
            verdict("d", reason="mislabelled"), verdict("e", reason="duplicate"),
            verdict("broken", reason="undecodable"),
        ],
        songs={song.track_id: song for song in read_songs(chunks)},
        evidence={
            "c": [Evidence(source="bass", start_s=3, stop_s=4, words=EVIL)],
            "d": [Evidence(source="drums", start_s=0, stop_s=1, words="called drums")],
            "e": [Evidence(source="", start_s=6, stop_s=7), Evidence(source="", start_s=6, stop_s=7, track_id="a")],
        },
        matrices={"a": np.eye(2), "d": shares_SS},
        by_hand=("b",),
        model="models:/stemline@champion",
        **LIMITS,
        heard_db=-10.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CurationInput:
    return make_curation(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def page(made: CurationInput) -> str:
    return render(made)


def test_nothing_that_a_song_is_called_becomes_markup(page: str) -> None:
    tags = Page(page).tags
    assert sum(name == "script" for name, _ in tags) == 1
    assert not [attributes for _, attributes in tags if any(name.startswith("on") for name in attributes)]
    assert not [attributes for _, attributes in tags if "style" in attributes]  # the policy would refuse it


def test_the_page_says_how_many_songs_each_reason_cost(page: str) -> None:
    assert "<h1>2 of 6 songs kept</h1>" in page
    assert "6 found → 5 readable → 2 kept" in page
    for reason in ("silent_source", "mislabelled", "duplicate", "undecodable"):
        assert f">{reason}</th>" in page
    assert "the same audio as another song" in page
    assert " 1 song could not be read. The table below" in page
    assert "more have no player" not in page


def test_the_page_says_what_other_settings_would_keep(page: str, made: CurationInput) -> None:
    assert "With one rule off:" not in page
    told = render(replace(made, would_keep=["curate.min_presence=0 keeps 34 more"]))
    assert "<li>curate.min_presence=0 keeps 34 more</li>" in told


def test_every_song_is_in_the_table_and_only_stored_ones_can_be_overruled(page: str) -> None:
    rows = [attributes for name, attributes in Page(page).tags if name == "tr" and "data-id" in attributes]
    assert [row["data-id"] for row in rows] == ["a", "b", "c", "d", "e", "broken"]
    buttons = [attributes for name, attributes in Page(page).tags if attributes.get("class") == "flip"]
    assert len(buttons) == 5


def test_evidence_has_players_that_load_when_started(page: str, made: CurationInput) -> None:
    players = [attributes for name, attributes in Page(page).tags if name == "audio"]
    assert len(players) == 4
    assert {player["preload"] for player in players} == {"none"}
    assert {player["data-seconds"] for player in players} == {"5.0"}
    assert "Drums at 0:00, called drums" in page
    assert page.count('class="moment"') == 4


def test_quiet_moments_are_turned_up_and_loud_ones_down() -> None:
    quiet_CT = np.full((2, 10), 0.01, np.float32)
    louder_CT, gain_db = excerpts._audible(quiet_CT)
    assert gain_db == excerpts.MAX_GAIN_DB
    assert louder_CT.max() == pytest.approx(0.01 * 10 ** (24 / 20), rel=1e-5)
    turned_CT, said_db = excerpts._audible(np.full((2, 10), 2.0, np.float32))
    assert (float(turned_CT.max()), said_db) == (pytest.approx(1.0), 0.0)


@pytest.mark.slow
def test_a_corpus_of_thousands_stays_below_ten_megabytes_and_says_what_was_left_out(made: CurationInput) -> None:
    songs = [f"Some Artist/A Song With A Name Of Usual Length {number:04d}" for number in range(3500)]
    reasons = ["", "silent_source", "mislabelled", "mislabelled"]
    verdicts = [
        replace(verdict(name, reason=reasons[index % 4]), title=name.split("/")[1], detail="words of evidence " * 6)
        for index, name in enumerate(songs)
    ]
    shares_SS = np.random.default_rng(0).uniform(size=(4, 4))
    large = replace(
        made,
        verdicts=verdicts,
        songs={name: made.songs["a"] for name in songs},
        evidence={name: [Evidence(source="bass", start_s=1, stop_s=2)] * 2 for name in songs},
        matrices=dict.fromkeys(songs, shares_SS),
        sources=("drums", "bass", "other", "vocals"),
    )
    page = render(large)
    assert len(page.encode()) < 10e6
    assert page.count("<audio") == MAX_PLAYERS
    assert "2610 more songs have no player, so that the page stays small." in page
    assert "1150 matrices of mislabelled songs were left out" in page


def test_every_rule_s_measure_is_drawn_with_its_limit_and_a_rule_that_is_off_without(made: CurationInput) -> None:
    measures = {
        "drums_presence": 0.5, "drums_bleed_bass_db": -40.0, "drums_cutoff_hz": 16000.0, "residual_db": -80.0,
        "drums_heard_as_drums": 0.6, "drums_heard_as_bass": 0.2, "drums_heard_as_vocals": 0.4, "drums_shift_ms": -5.0,
    }  # fmt: skip
    one = replace(verdict("a"), measures=measures)
    drawn = {panel.title: panel for panel in rule_sections.panels(replace(made, verdicts=[one]))}
    assert list(drawn) == [
        "Presence", "Bleed", "Bandwidth", "Shift", "Residual", "Recognized as itself", "Taken for another",
    ]  # fmt: skip
    assert (drawn["Presence"].least, drawn["Recognized as itself"].least, drawn["Taken for another"].most) == (
        0.3,
        0.7,
        0.3,
    )
    assert drawn["Taken for another"].values["drums"] == [0.4]
    assert drawn["Shift"].values["drums"] == [5.0]
    assert drawn["Residual"].values[""] == [-70.0]  # what is less stands at the end of the axis
    assert drawn["Bandwidth"].least is None
    assert drawn["Bandwidth"].note.endswith("the rule is off")


def test_every_clipped_stem_is_played_and_the_length_of_a_song_not_read_is_not_said(made: CurationInput) -> None:
    clipped = [Evidence(source=source, start_s=0, stop_s=1) for source in ("drums", "bass", "other", "vocals")]
    whole, unread = verdict("c", reason="clipped"), replace(verdict("broken", reason="undecodable"), duration_s=0.0)
    data = replace(made, verdicts=[whole, unread], evidence={"c": clipped})
    assert [len(moments) for _, moments in choose(data)] == [4]
    lengths = [songs_table._row(data, song, with_matrix=False)["length"] for song in data.verdicts]
    assert lengths == ["3:20", "–"]


def test_players_go_to_every_reason_in_turn(made: CurationInput) -> None:
    many = [verdict(f"m{number:02d}", reason="mislabelled") for number in range(60)]
    few = [verdict("z", reason="clipped")]
    evidence = {one.track_id: [Evidence(source="bass", start_s=0, stop_s=1)] for one in [*many, *few]}
    chosen = choose(replace(made, verdicts=[*many, *few], evidence=evidence))
    assert len(chosen) == MAX_PLAYERS
    assert [one.reason for one, _ in chosen].count("clipped") == 1
    assert chosen[0][0].track_id == "z"


def test_the_page_and_the_list_are_written_whole_and_found_again(made: CurationInput, tmp_path: Path) -> None:
    assert not is_about(tmp_path, "key")
    path = Path(run(made, store=tmp_path))
    first = path.read_bytes()
    assert is_about(tmp_path, "key")
    assert not is_about(tmp_path, "other")
    run(made, store=tmp_path)
    assert path.read_bytes() == first
    rows = list(csv.DictReader(io.StringIO((tmp_path / "dropped.csv").read_text(encoding="utf-8"))))
    assert [(row["track_id"], row["reason"]) for row in rows] == [
        ("c", "silent_source"), ("d", "mislabelled"), ("e", "duplicate"), ("broken", "undecodable"),
    ]  # fmt: skip
    assert sorted(file.name for file in tmp_path.iterdir()) == ["curation.html", "dropped.csv"]


def test_a_corpus_without_a_model_or_a_fault_has_no_such_sections(made: CurationInput) -> None:
    page = render(replace(made, verdicts=[verdict("a")], evidence={}, matrices={}, model="", by_hand=()))
    assert "What the model recognizes" not in page
    assert "How it sounds" not in page
    assert "<h1>1 of 1 song kept</h1>" in page
    assert dropped_table([verdict("a")]).count("\n") == 1


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "＝1"])
def test_names_are_no_formulas_in_a_spreadsheet(name: str) -> None:
    (row,) = csv.DictReader(
        io.StringIO(dropped_table([replace(verdict(name, reason="lossy"), title=name, detail=name)]))
    )
    assert [row[column] for column in ("track_id", "title", "detail")] == [f"'{name}"] * 3
    assert row["duration_s"] == "200.0"


def test_what_cannot_be_heard_has_no_player_and_is_counted_apart(made: CurationInput) -> None:
    page = render(replace(made, evidence={"d": made.evidence["d"]}))
    assert page.count("<audio") == 1
    assert "2 more songs were dropped for a reason that cannot be heard, such as silence. 1 song could not" in page
    assert "have no player" not in page


def test_a_histogram_counts_what_lies_beyond_its_limits() -> None:
    panel = Panel(title="T", note="n", values={"drums": [0.0, 0.5, 1.0], "bass": [0.2, float("nan")]}, least=0.3)
    assert "T: 2 of 4 values are beyond the limit" in histogram(panel)
    assert histogram(panel).count('class="tint"') == 4
    assert histogram(Panel(title="T", note="n", values={"drums": [float("nan")]})) == ""
    several = Panel(title="T", note="n", values={"": [0.0, 1e-5, 0.1]}, most=0.002, percent=True, decades=True)
    assert "T: 1 of 3 values" in histogram(several)
    assert "0.2\u2009%" in histogram(several)
    assert 'class="tint"' in histogram(Panel(title="T", note="n", values={"drums": [0.0]}, decades=True))


def test_a_matrix_borders_what_breaks_the_rule_and_leaves_unknown_rows_empty() -> None:
    shares_SS = np.array([[0.5, 0.4, 0.0], [0.0, 1.0, 0.29], [np.nan, np.nan, np.nan]])
    drawn = matrix_plot(shares_SS, ("drums", "bass", "vocals"), **LIMITS)
    assert drawn.count('class="broken"') == 2
    assert drawn.count('class="cell') == 6
    assert "drums as drums 50%; drums as bass 40%" in drawn
    assert "all within the rule" in matrix_plot(np.eye(3), ("drums", "bass", "vocals"), **LIMITS)
