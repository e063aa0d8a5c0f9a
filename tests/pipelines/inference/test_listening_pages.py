"""Which songs and which seconds are put on the listening pages, and that they hold what the models made."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
import torch

from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.store.ownership import FILES_MARKER
from models.networks.catalog import build
from models.weights import checkpoint
from pipelines.evaluation import gate
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.gate import GateConfig
from pipelines.evaluation.scoring_job import score_track
from pipelines.evaluation.summary import summarize
from pipelines.inference import listening_pages
from pipelines.inference.listening_pages import ComparedModel, ListenConfig, excerpt
from tests.pipelines.songs import RATE, SOURCES, write_songs

SCORING = EvaluateConfig()


@pytest.mark.parametrize(("better", "start"), [(False, 4), (True, 1)])
def test_the_excerpt_is_where_the_first_loses_most_or_gains_most(better: bool, start: int) -> None:
    rng = np.random.default_rng(0)
    reference_SCT = rng.standard_normal((2, 2, 8 * RATE)).astype(np.float32)
    first_SCT, second_SCT = reference_SCT + np.float32(0.1), reference_SCT + np.float32(0.1)
    first_SCT[:, :, 4 * RATE : 6 * RATE] += np.float32(0.5)
    second_SCT[:, :, 1 * RATE : 3 * RATE] += np.float32(0.5)
    found = excerpt(reference_SCT, first_SCT, second_SCT, size=2 * RATE, window=RATE, better=better)
    assert found == (start * RATE, (start + 2) * RATE)


def test_a_song_shorter_than_the_excerpt_is_heard_whole() -> None:
    short_SCT = np.ones((1, 2, 700), np.float32)
    assert excerpt(short_SCT, short_SCT, short_SCT, size=RATE, window=RATE, better=False) == (0, 700)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_songs(tmp_path_factory.mktemp("songs"), {"A/one": "test", "B/two": "test", "learnt": "train"})


@pytest.fixture(scope="module")
def rivals(songs: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[ComparedModel, ComparedModel]:
    made = []
    for seed, name in enumerate(("new", "old")):
        torch.manual_seed(seed)
        options: dict[str, Any] = {"sources": SOURCES, "sample_rate": RATE, "segment_s": 0.5, "nfft": 512, "depth": 2}
        model = build("htdemucs-tiny", **options).eval()
        folder = tmp_path_factory.mktemp("models") / name
        checkpoint.save(folder, model)
        scores = [
            row for track_id in ("A/one", "B/two") for row in
            score_track(SCORING, model, songs, track_id=track_id, title=track_id)[0]
        ]  # fmt: skip
        made.append(ComparedModel(name=name, checkpoint=str(folder), scores=summarize(scores, name, songs.digest)))
    return made[0], made[1]


@pytest.mark.slow
def test_pages_hold_what_the_models_made_of_the_worst_songs_first(
    songs: ShardSet, rivals: tuple[ComparedModel, ComparedModel], tmp_path: Path
) -> None:
    pairs = gate.compare(rivals[0].scores, rivals[1].scores, GateConfig())
    config = ListenConfig(seconds=1.0)
    index = Path(listening_pages.run(config, SCORING, rivals, pairs, songs, out=str(tmp_path)))
    links = re.findall(r'<a href="([^"]+)">([^<]+)</a>', index.read_text())
    listed = [(unquote(link), title) for link, title in links]
    worst_first = sorted(pairs.songs, key=lambda track_id: pairs.songs[track_id])
    assert [title for _, title in listed] == worst_first
    assert "learnt" not in index.read_text()
    page = (tmp_path / listed[0][0]).read_text()
    blocks = re.findall(r'<script type="audio/flac" data-version="(\d)" data-stem="(\d)">([^<]+)<', page)
    assert [(version, stem) for version, stem, _ in blocks] == [(v, s) for v in "012" for s in "01"]
    heard = [soundfile.read(io.BytesIO(base64.b64decode(data)))[0].T for _, _, data in blocks]
    assert {(item.shape, item.dtype.name) for item in heard} == {((2, RATE), "float64")}
    assert all(np.abs(item).max() > 0.01 for item in heard[:2])
    assert not np.allclose(heard[2], heard[4], atol=1e-3)  # two models, two estimates
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.html")}
    listening_pages.run(config, SCORING, rivals, pairs, songs, out=str(tmp_path))
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.html")}
    assert {name for name in before if before[name] != after[name]} == {"index.html"}  # the others are kept
    listening_pages.run(replace(config, seconds=0.5), SCORING, rivals, pairs, songs, out=str(tmp_path))
    assert (tmp_path / listed[0][0]).stat().st_mtime_ns != after[listed[0][0]]


def test_no_two_songs_share_a_page_and_none_has_the_place_of_the_list() -> None:
    names = listening_pages.page_names(["A/one", "A one", "a one", "Index", "B/index"])
    assert names == ["A one.html", "A one (2).html", "a one (3).html", "Index (2).html", "B index.html"]


def test_songs_are_chosen_by_pattern_and_a_pattern_that_fits_none_is_named(
    songs: ShardSet, rivals: tuple[ComparedModel, ComparedModel], tmp_path: Path
) -> None:
    pairs = gate.compare(rivals[0].scores, rivals[1].scores, GateConfig())
    index = Path(
        listening_pages.run(ListenConfig(only=("A/*",)), SCORING, rivals, pairs, songs, out=str(tmp_path))
    ).read_text()
    assert re.findall(r'<a href="[^"]+">([^<]+)</a>', index) == ["A/one"]
    with pytest.raises(InputError, match="none of 2 scored songs is called C"):
        listening_pages.run(ListenConfig(only=("C*",)), SCORING, rivals, pairs, songs, out=str(tmp_path))


@pytest.mark.parametrize("name", ["index.html", "A one.html"])
def test_pages_of_somebodys_are_not_replaced(
    songs: ShardSet, rivals: tuple[ComparedModel, ComparedModel], tmp_path: Path, name: str
) -> None:
    pairs = gate.compare(rivals[0].scores, rivals[1].scores, GateConfig())
    out, config = tmp_path / "site", ListenConfig(seconds=0.5, only=("A/*",))
    out.mkdir()
    (out / name).write_text("<html>my home page</html>")
    with pytest.raises(InputError, match=f"holds {name}.*--out"):
        listening_pages.run(config, SCORING, rivals, pairs, songs, out=str(out))
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: "<html>my home page</html>"}
    listening_pages.run(config, SCORING, rivals, pairs, songs, out=str(tmp_path / "pages"))
    (tmp_path / "pages" / FILES_MARKER).unlink()  # as they were made before there was a record
    listening_pages.check(str(tmp_path / "pages"))
    listening_pages.run(config, SCORING, rivals, pairs, songs, out=str(tmp_path / "pages"))
