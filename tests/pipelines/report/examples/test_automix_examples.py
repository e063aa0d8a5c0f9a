"""The report's mixes and sounds: what is drawn is what was planned and rendered, and nothing of a name is markup."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.analysis.song_profile import profile
from datasets.mixing.mixplan import MixRules, plan
from datasets.schema import PLANS, PROFILES, SOURCES, MixPlan, ShardSet
from datasets.shards.arrow_tables import read_objects, table_of, write_table
from datasets.shards.manifests import read_songs
from datasets.shards.shards import read_song
from models.learner_config import AugmentConfig
from pipelines.preparation.automix import mix_stems
from pipelines.report.audio_players import PAGE_RATE
from pipelines.report.examples.augmentation_examples import augmentation_section, examples
from pipelines.report.examples.automix_examples import MixExample, mixes_section, sample
from pipelines.report.model_report import render
from pipelines.report.report_input import ReportConfig, ReportInput
from tests.pipelines.preparation.test_analyze import SAMPLE_RATE, scores, stored

EVIL = "<b onclick='x'>"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardSet]:
    store = tmp_path_factory.mktemp("store")
    chunks = stored(store, scores(3))
    known = [
        profile(read_song(song), track_id=song.track_id, split="train", sources=SOURCES, sample_rate=SAMPLE_RATE)
        for song in read_songs(chunks)
    ]
    plans = plan(known, seed=0, mixes_per_track=2, rules=MixRules(), sources=SOURCES, sample_rate=SAMPLE_RATE)
    assert any(not made.reason for made in plans)
    return {
        "chunks": chunks,
        "profiles": write_table(store, "profiles", table_of(known, PROFILES), key="test"),
        "plans": write_table(store, "plans", table_of(plans, PLANS), key="test"),
    }


@pytest.fixture(scope="module")
def shown(tables: dict[str, ShardSet]) -> tuple[MixExample, ...]:
    return sample(tables["plans"], tables["profiles"], tables["chunks"], count=2, seconds=3.0)


def test_what_is_shown_is_what_is_rendered(tables: dict[str, ShardSet], shown: tuple[MixExample, ...]) -> None:
    assert len(shown) == 2
    songs = {song.track_id: song for song in read_songs(tables["chunks"])}
    made = shown[0]
    whole_SCT = mix_stems(made.plan, songs, SOURCES)
    for part in made.parts:
        assert part.after_CT.shape[1] == 3 * PAGE_RATE
        levels = []
        for samples_CT, rate in ((part.after_CT, PAGE_RATE), (whole_SCT[SOURCES.index(part.part.source)], SAMPLE_RATE)):
            seconds = np.square(samples_CT[:, : samples_CT.shape[1] // rate * rate]).reshape(2, -1, rate)
            levels.append(np.sqrt(seconds.mean(axis=(0, 2))))
        assert levels[0].max() <= 1.5 * levels[1].max()
    own = made.parts[0]
    assert own.part.stretch == 1.0
    np.testing.assert_allclose(own.beats_s, made.beats_s)
    for part in made.parts[1:]:
        nearest = [min(abs(beat - grid) for grid in made.beats_s) for beat in part.beats_s]
        assert np.median(nearest) < 0.035


def test_each_part_has_its_grid_and_each_pitched_part_its_chroma(shown: tuple[MixExample, ...]) -> None:
    page = mixes_section(shown)
    assert page.count('<figure class="part') == sum(len(made.parts) for made in shown)
    assert page.count('class="chroma"') == 2 * sum(part.part.source != "drums" for made in shown for part in made.parts)
    assert page.count("<audio") == 2 * len(shown)
    assert page.count('preload="none"') == 2 * len(shown)
    beats = re.findall(r'class="beat"[^>]* d="([^"]*)"', page)
    assert beats[0].count("M") == len(shown[0].beats_s)


def test_names_are_text_and_a_report_without_mixes_has_no_section(shown: tuple[MixExample, ...]) -> None:
    evil = replace(shown[0], title=EVIL, license=EVIL, parts=tuple(replace(one, title=EVIL) for one in shown[0].parts))
    assert EVIL not in mixes_section([evil])
    assert "Licence: unknown" in mixes_section([replace(shown[0], license="unknown")])
    assert mixes_section(()) == ""
    assert augmentation_section(()) == ""
    assert "automixes" in render(ReportConfig(), ReportInput(name="model", mixes=shown))


def test_a_table_of_plans_that_lack_parts_shows_nothing(tables: dict[str, ShardSet], tmp_path: Path) -> None:
    lacking = [replace(made, reason="no bass") for made in read_objects(tables["plans"], MixPlan)]
    empty = write_table(tmp_path, "plans", table_of(lacking, PLANS), key="test")
    assert sample(empty, tables["profiles"], tables["chunks"], count=2, seconds=3.0) == ()


def test_every_change_is_heard_and_the_page_says_which_the_run_makes(tables: dict[str, ShardSet]) -> None:
    config = AugmentConfig(eq_probability=0.25)
    made = examples(tables["chunks"], config, sources=SOURCES, seconds=2.0)
    assert [sound.name for sound in made][:2] == ["As it is", "Tempo and pitch"]
    for sound in made:
        assert sound.samples_CT.shape == (2, 2 * PAGE_RATE)
        assert np.isfinite(sound.samples_CT).all()
    original_CT = made[0].samples_CT
    assert all(np.abs(sound.samples_CT - original_CT).max() > 1e-3 for sound in made[1:])
    page = augmentation_section(made)
    assert "in this run with probability 0.25" in page
    assert page.count("off in this run") == len(made) - 2
    before, _, folded = page.partition(f"<details><summary>{len(made) - 2} more that this run does not make</summary>")
    assert "off in this run" not in before
    assert folded.count("<audio") == len(made) - 2
    assert examples(tables["chunks"], config, sources=SOURCES, seconds=0.0) == ()
