"""A model and songs are held against each other by name and by rate before anything is computed."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from datasets.audio.resampling import resample
from datasets.errors import InputError
from datasets.schema import ShardSet
from datasets.shards import arrow_tables, manifests, shards
from datasets.shards.chunks import SongHeader, song_rows
from datasets.shards.manifests import find_song
from datasets.shards.shards import read_track
from models.inference.separate import separate
from models.learning.warm_start import begin
from models.networks.catalog import build
from models.scores.metrics import nsdr
from models.weights import checkpoint
from models.weights.demucs import demucs_packages
from models.weights.loading import load_model
from models.weights.model_identity import describe
from pipelines.evaluation import evaluate, model_compatibility, scoring_job
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.gate import Pairs
from pipelines.evaluation.paired_bootstrap import difference
from pipelines.evaluation.scoring_job import score_estimates, score_track, separate_song
from pipelines.evaluation.summary import summarize
from pipelines.inference import listening_pages
from pipelines.inference.listening_pages import ComparedModel, ListenConfig
from pipelines.report.ab_page import song_page
from tests.pipelines.songs import RATE, SOURCES, stems

CONFIG = EvaluateConfig(num_workers=1)
SONGS = {"a": "train", "b": "test", "c": "test"}


def write(
    store: Path, *, rate: int = RATE, sources: tuple[str, ...] = SOURCES, channels: int = 2, num_samples: int = 24_001
) -> ShardSet:
    """Songs at a rate, with these sources in this order and so many channels."""
    rows: list[Any] = []
    for name, split in SONGS.items():
        own = dict(zip(SOURCES, stems(name, num_samples), strict=True))
        chosen = [own.get(source, 0.3 * own["bass"][:, ::-1])[:channels] for source in sources]
        moved = [resample(np.ascontiguousarray(stem_CT), source_rate=RATE, target_rate=rate) for stem_CT in chosen]
        header = SongHeader(track_id=name, title=name, split=split, license="", origin="corpus", sample_rate=rate)
        rows += song_rows(np.stack(moved), header, sources=sources, chunk_s=2)
    shard = shards.write_shard(store, f"songs-{rate}", rows, sources=sources)
    return manifests.write_manifest(store, table="chunks", step="ingest", key="k", shards=[shard])


def network(rate: int = RATE, sources: tuple[str, ...] = SOURCES, seed: int = 0, **options: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    asked: dict[str, Any] = {"segment_s": 0.5, "nfft": 512, "depth": 2} | options
    return build("htdemucs-tiny", sources=sources, sample_rate=rate, **asked).eval()


def by_hand(model: torch.nn.Module, mixture_CT: np.ndarray, rate: int) -> np.ndarray:
    """Estimates of a mixture at `RATE`, resampled there and back one after the other, and as long as it is."""
    given_CT = torch.from_numpy(resample(mixture_CT, source_rate=RATE, target_rate=rate))
    back = [resample(made_CT.numpy(), source_rate=rate, target_rate=RATE) for made_CT in separate(model, given_CT)]
    made_SCT = np.stack(back)[..., : mixture_CT.shape[-1]]
    return np.pad(made_SCT, ((0, 0), (0, 0), (0, mixture_CT.shape[-1] - made_SCT.shape[-1])))


def unreachable(*_: Any, **__: Any) -> Any:
    raise AssertionError("a song was about to be computed")


@pytest.mark.slow
@pytest.mark.parametrize("rate", [RATE, 11_025, 16_000, 44_100])
def test_songs_are_scored_at_their_own_rate_whatever_the_model_s(tmp_path: Path, rate: int) -> None:
    chunks, model = write(tmp_path), network(rate)
    true_SCT = torch.from_numpy(read_track(chunks, "b", sources=SOURCES))
    mixture_CT = true_SCT.sum(dim=0)
    expected_SCT = torch.from_numpy(by_hand(model, mixture_CT.numpy(), rate))
    estimates_SCT, _ = separate_song(CONFIG, model, chunks, "b")
    assert estimates_SCT.shape == true_SCT.shape
    np.testing.assert_allclose(estimates_SCT, expected_SCT.numpy(), rtol=0, atol=1e-6)
    scores, _ = score_track(CONFIG, model, chunks, track_id="b", title="B")
    assert [row.nsdr for row in scores] == pytest.approx(nsdr(true_SCT, expected_SCT).tolist(), abs=1e-4)
    assert {row.duration_s for row in scores} == {24_001 / RATE}


def test_the_first_seconds_are_those_of_the_song(tmp_path: Path) -> None:
    chunks, model = write(tmp_path), network(44_100)
    limited = replace(CONFIG, max_song_s=1.0)
    assert separate_song(limited, model, chunks, "b")[0].shape[-1] == RATE
    assert score_track(limited, model, chunks, track_id="b", title="B")[0][0].duration_s == 1.0


def test_up_and_down_again_a_perfect_model_stays_perfect() -> None:
    mixture_CT = stems("x", 24_001)[1]
    for rate in (11_025, 44_100):
        model = SimpleNamespace(sources=SOURCES, sample_rate=rate, audio_channels=2)
        seen: list[int] = []

        def both(given_CT: Any, seen: list[int] = seen) -> Any:
            seen.append(given_CT.shape[-1])
            return np.stack([given_CT, -given_CT])

        made_SCT = model_compatibility.at_rate_of(model, mixture_CT, RATE, both)
        assert seen == [round(24_001 * rate / RATE)]
        expected_SCT = np.stack([mixture_CT, -mixture_CT])
        np.testing.assert_allclose(made_SCT[:, :, 400:-400], expected_SCT[:, :, 400:-400], atol=1e-3)


def test_sources_are_matched_by_name_and_a_permuted_model_scores_the_same(tmp_path: Path) -> None:
    chunks, model = write(tmp_path), network()
    turned = network(sources=("bass", "drums"), seed=1)
    begin(turned, model, origin="a start")
    one, two = (
        {row.source: row.nsdr for row in score_track(CONFIG, each, chunks, track_id="b", title="B")[0]}
        for each in (model, turned)
    )
    assert list(two) == ["bass", "drums"]
    assert two == pytest.approx(one, abs=1e-4)


OTHERS = {
    "more": (("drums", "bass", "other", "vocals"), "drums, bass, other, vocals"),
    "fewer": (("drums",), "drums"),  # whose mixture would else be the drums alone
    "others": (("speech", "music"), "speech, music"),
}


@pytest.mark.parametrize("which", OTHERS)
def test_other_sources_are_refused_with_both_lists_before_the_first_song(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    sources, named = OTHERS[which]
    chunks, model = write(tmp_path / "store"), network(sources=sources)
    folder = str(checkpoint.save(tmp_path / "model", model))
    monkeypatch.setattr(evaluate, "connect", unreachable)
    words = f"separates {named}, but songs such as 'b' have drums, bass: "
    with pytest.raises(InputError, match=words) as seen:
        evaluate.run(CONFIG, folder, chunks, store=str(tmp_path / "store"))
    assert "damaged" not in str(seen.value)
    with pytest.raises(InputError, match=words):
        score_track(CONFIG, model, chunks, track_id="b", title="B")


def test_channels_are_refused_with_both_numbers(tmp_path: Path) -> None:
    chunks = write(tmp_path / "store", channels=1)
    folder = str(checkpoint.save(tmp_path / "model", network()))
    with pytest.raises(InputError, match=r"takes 2 channels, but songs such as 'b' have 1: .*ingest\.channels=2"):
        evaluate.run(CONFIG, folder, chunks, store=str(tmp_path / "store"))


def test_an_absent_source_is_no_damage(tmp_path: Path) -> None:
    chunks = write(tmp_path)
    with pytest.raises(InputError, match="'b' has drums, bass, and was asked for vocals, other") as seen:
        read_track(chunks, "b", sources=("drums", "vocals", "other"))
    assert "delete" not in str(seen.value)
    with pytest.raises(InputError, match="has no column vocals") as seen:
        list(arrow_tables.read_rows(chunks, columns=["track_id", "vocals"]))
    assert "delete" not in str(seen.value)
    with pytest.raises(InputError, match="has no column genre"):
        list(arrow_tables.read_rows(chunks, where={"genre": "jazz"}))


def test_estimates_at_another_rate_than_the_song_s_are_refused(tmp_path: Path) -> None:
    chunks = write(tmp_path)
    made_SCT = np.zeros((2, 2, 24_001), np.float32)
    with pytest.raises(InputError, match="B: estimates at 44100 Hz of a song at 8000 Hz"):
        score_estimates(
            CONFIG, chunks, made_SCT, track_id="b", title="B", sources=SOURCES, seconds=1.0, sample_rate=44_100
        )


def test_a_model_that_changes_while_it_is_scored_is_noticed(tmp_path: Path) -> None:
    chunks = write(tmp_path / "store")
    folder = str(checkpoint.save(tmp_path / "model", network()))
    item = {"key": "k", "track_id": "b", "title": "B", "model_digest": describe(folder).digest}
    row = {"item": json.dumps(item)}
    num_threads = torch.get_num_threads()
    whole = scoring_job.Separator(CONFIG, folder, chunks)(row)
    assert json.loads(whole["item"])["input_error"] == ""
    assert whole["estimates_SCT"].shape == (2, 2, 24_001)
    checkpoint.save(tmp_path / "model", network(seed=1))
    told = json.loads(scoring_job.Separator(CONFIG, folder, chunks)(row)["item"])["input_error"]
    torch.set_num_threads(num_threads)  # an actor has its process to itself
    assert "was changed while it was being scored" in told


def test_only_resampled_songs_have_the_rates_in_their_key(tmp_path: Path) -> None:
    song = find_song(write(tmp_path), "b")
    hows = [
        model_compatibility.resampling(SimpleNamespace(sources=SOURCES, sample_rate=rate, audio_channels=2), song)
        for rate in (RATE, 16_000, 44_100)
    ]
    rates = [how and (how.song_rate, how.model_rate) for how in hows]
    assert rates == [None, (RATE, 16_000), (RATE, 44_100)]


def test_pages_are_not_begun_for_a_model_of_other_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = write(tmp_path / "store")
    scores: Any = SimpleNamespace(songs={}, protocol="p")
    rivals = [
        ComparedModel(
            name=name, checkpoint=str(checkpoint.save(tmp_path / name, network(sources=sources))), scores=scores
        )
        for name, sources in (("new", SOURCES), ("old", ("drums", "bass", "vocals")))
    ]
    gain = difference([1.0, 1.0], confidence=0.95)
    pairs = Pairs(gain=gain, songs={"b": 1.0, "c": 1.0}, sources={}, slices={}, left_out=())
    monkeypatch.setattr(listening_pages, "separate_song", unreachable)
    with pytest.raises(InputError, match="old separates drums, bass, vocals, but songs such as 'b' have drums, bass"):
        listening_pages.run(ListenConfig(), CONFIG, (rivals[0], rivals[1]), pairs, chunks, out=str(tmp_path / "pages"))
    assert not (tmp_path / "pages").exists()


@pytest.mark.slow
def test_pages_hold_estimates_at_the_songs_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = write(tmp_path / "store")
    true_SCT = read_track(chunks, "b", sources=SOURCES)
    rivals, expected = [], {"Reference": true_SCT}
    for name, rate in (("new", RATE), ("old", 16_000)):
        model = network(rate)
        expected[name] = by_hand(model, true_SCT.sum(axis=0), rate)
        rows = [row for song in "bc" for row in score_track(CONFIG, model, chunks, track_id=song, title=song)[0]]
        scored = summarize(rows, name, chunks.digest)
        rivals.append(ComparedModel(name=name, checkpoint=str(checkpoint.save(tmp_path / name, model)), scores=scored))
    gain = difference([1.0, 1.0], confidence=0.95)
    pairs = Pairs(gain=gain, songs={"b": 1.0, "c": 1.0}, sources={}, slices={}, left_out=())
    shown: list[Any] = []

    def page(duel: Any, *arguments: Any, **options: Any) -> str:
        shown.append(duel)
        return song_page(duel, *arguments, **options)

    monkeypatch.setattr(listening_pages, "song_page", page)
    asked = ListenConfig(songs=1, seconds=1.0)
    index = listening_pages.run(asked, CONFIG, (rivals[0], rivals[1]), pairs, chunks, out=str(tmp_path / "pages"))
    assert Path(index).is_file()
    (duel,) = shown
    assert duel.sample_rate == RATE
    start = round(duel.start_s * RATE)
    gain = np.abs(duel.versions["Reference"]).max() / np.abs(true_SCT[..., start : start + RATE]).max()
    for name, whole_SCT in expected.items():
        np.testing.assert_allclose(duel.versions[name], gain * whole_SCT[..., start : start + RATE], rtol=0, atol=1e-6)


def test_a_reference_is_described_wherever_it_lies(tmp_path: Path) -> None:
    bag = demucs_packages.export_bag([network(), network(seed=1)], tmp_path, name="two")
    found = model_compatibility.describe(str(bag), store=str(tmp_path))
    assert found.sources == SOURCES
    assert found.origins[0] == str(bag)
    with pytest.raises(InputError, match="not found"):
        model_compatibility.describe(str(tmp_path / "nowhere"), store=str(tmp_path))
    (tmp_path / "bad.yaml").write_text("models: []")
    with pytest.raises(InputError, match=r"model .*bad\.yaml: .*is no bag"):
        model_compatibility.describe(str(tmp_path / "bad.yaml"), store=str(tmp_path))


@pytest.mark.ray
@pytest.mark.slow
def test_two_bags_of_one_name_are_scored_apart(ray_local: Any, tmp_path: Path) -> None:
    chunks = write(tmp_path / "store")
    weights = [[1.0, 0.0], [0.0, 1.0]]
    bags = []
    for day, seeds in (("monday", (1, 2)), ("tuesday", (3, 4))):
        members = [network(seed=seed) for seed in seeds]
        bags.append(demucs_packages.export_bag(members, tmp_path / day, name="ft", weights=weights))
    assert bags[0].read_text() == bags[1].read_text()
    for bag in bags:
        told = evaluate.run(CONFIG, str(bag), chunks, store=str(tmp_path / "store")).summary
        model = load_model(bag)
        true = {row.source: row.nsdr for row in score_track(CONFIG, model, chunks, track_id="b", title="b")[0]}
        assert told.songs["b"].nsdr == pytest.approx(true, abs=1e-3)
        assert told.size_bytes == sum(path.stat().st_size for path in bag.parent.glob("*.th"))
