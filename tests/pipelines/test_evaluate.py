"""Scores of held-out songs: right per song, summed up right, never computed twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.errors import InputError
from datasets.schema import Score, ShardSet
from datasets.shards import read_objects, read_track
from models import checkpoint
from models.catalog import build
from models.metrics import nsdr
from models.separate import separate
from pipelines import evaluate
from pipelines.evaluate import EvaluateConfig, score_track, summarize
from tests.pipelines.songs import RATE, SOURCES, write_songs

CONFIG = EvaluateConfig(num_workers=1)


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_songs(tmp_path_factory.mktemp("songs"), {"a": "train", "b": "test", "c": "test"})


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = {"sources": SOURCES, "sample_rate": RATE, "segment_s": 0.5, "nfft": 512, "depth": 2}
    return build("htdemucs-tiny", **options).eval()


def score(track_id: str, source: str, value: float, *, sdr: float | None = 1.0) -> Score:
    return Score(
        track_id=track_id, title=track_id, source=source, protocol="p", nsdr=value, sdr=sdr, mixture_nsdr=-5.0,
        mixture_sdr=sdr,
    )  # fmt: skip


def test_a_song_gets_a_score_per_source_and_the_mixture_s_beside_it(chunks: ShardSet, model: torch.nn.Module) -> None:
    scores, seconds = score_track(CONFIG, model, chunks, track_id="b", title="B")
    assert seconds > 0
    stems_SCT = torch.from_numpy(read_track(chunks, "b", sources=SOURCES))
    mixture_CT = stems_SCT.sum(dim=0)
    assert [row.source for row in scores] == list(SOURCES)
    assert [row.nsdr for row in scores] == pytest.approx(nsdr(stems_SCT, separate(model, mixture_CT)).tolist())
    assert [row.mixture_nsdr for row in scores] == pytest.approx(
        nsdr(stems_SCT, mixture_CT.expand_as(stems_SCT)).tolist()
    )
    assert all(row.sdr is not None and row.protocol == CONFIG.protocol for row in scores)


def test_a_limit_scores_the_start_and_is_another_protocol(chunks: ShardSet, model: torch.nn.Module) -> None:
    limited = replace(CONFIG, max_song_s=1.0)
    assert (
        score_track(limited, model, chunks, track_id="b", title="B")[0]
        != score_track(CONFIG, model, chunks, track_id="b", title="B")[0]
    )
    assert "first 1 s" in limited.protocol
    assert replace(CONFIG, num_workers=7, batch_size=3).protocol == CONFIG.protocol


def test_all_four_scores_of_bss_eval_come_when_asked_for(chunks: ShardSet, model: torch.nn.Module) -> None:
    import numpy as np
    from museval.metrics import bss_eval

    asked = replace(CONFIG, all_four=True)
    scores, _ = score_track(asked, model, chunks, track_id="b", title="B")
    stems_SCT = torch.from_numpy(read_track(chunks, "b", sources=SOURCES))
    estimates_SCT = separate(model, stems_SCT.sum(dim=0))
    signals = (signal_SCT.double().numpy().transpose(0, 2, 1) for signal_SCT in (stems_SCT, estimates_SCT))
    expected = np.nanmedian(np.stack(bss_eval(*signals, window=RATE, hop=RATE)[:4]), axis=2)
    given = np.array([[row.sdr, row.isr, row.sir, row.sar] for row in scores]).T
    np.testing.assert_allclose(given, expected, atol=1e-2)
    assert asked.protocol != CONFIG.protocol
    assert [row.sir for row in score_track(CONFIG, model, chunks, track_id="b", title="B")[0]] == [None] * len(SOURCES)


def test_nsdr_is_averaged_over_songs_and_sdr_takes_the_median() -> None:
    rows = [score(track, "drums", value, sdr=value) for track, value in (("a", 1.0), ("b", 2.0), ("c", 6.0))]
    rows += [score(track, "bass", 0.0, sdr=None) for track in "abc"]
    summary = summarize(rows, "m", "d")
    assert summary.sources["drums"].nsdr == 3.0
    assert summary.sources["drums"].sdr == 2.0
    assert summary.sources["bass"].sdr is None
    assert summary.overall.nsdr == 1.5
    assert summary.overall.sdr == 2.0
    assert summary.overall.improvement == 6.5
    assert tuple(summary.songs) == ("a", "b", "c")


def test_scores_of_two_protocols_are_not_summed_up() -> None:
    with pytest.raises(InputError, match="2 protocols"):
        summarize([score("a", "drums", 1.0), replace(score("b", "drums", 1.0), protocol="q")], "m", "d")


def test_an_empty_split_is_named(chunks: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 3 songs stands in the valid split"):
        evaluate.run(EvaluateConfig(split="valid"), "nowhere", chunks, store=str(tmp_path))
    with pytest.raises(InputError, match=r"evaluate\.split='dev'"):
        EvaluateConfig(split="dev")


@pytest.mark.ray
@pytest.mark.slow
def test_held_out_songs_are_scored_once_by_actors(
    ray_local: Any, chunks: ShardSet, model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(checkpoint.save(tmp_path / "model", model))
    first = evaluate.run(CONFIG, folder, chunks, store=str(tmp_path))
    assert tuple(first.summary.songs) == ("b", "c")
    assert first.scores.num_rows == 4
    assert first.summary.size_bytes == (Path(folder) / "weights.safetensors").stat().st_size
    assert first.summary.real_time is not None
    assert first.summary.real_time > 0
    expected = [row for name in "bc" for row in score_track(CONFIG, model, chunks, track_id=name, title=name)[0]]
    for given, wanted in zip(read_objects(first.scores, Score), expected, strict=True):
        assert (given.track_id, given.source, given.protocol) == (wanted.track_id, wanted.source, wanted.protocol)
        assert given.nsdr == pytest.approx(wanted.nsdr, abs=1e-3)
    monkeypatch.delattr(evaluate, "_separate_and_score")
    assert evaluate.run(CONFIG, folder, chunks, store=str(tmp_path)) == first
