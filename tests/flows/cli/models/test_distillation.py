"""Stems that a registered model estimated are songs that carry what the model has learned from."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from datasets.corpus.layouts.separated_stems import RECORD
from datasets.errors import InputError
from datasets.schema import SOURCES
from flows import train_model
from flows.__main__ import main
from flows.cli.store import forget
from flows.config import RunConfig, load
from flows.console.progress_display import current
from pipelines import registry
from pipelines.registry import RegistryConfig
from tests.flows.cli.store.test_forget import RATE, build, write_song
from tests.pipelines.lineage.test_training_recordings import book
from tests.pipelines.registry.test_registration import make_candidate

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def teacher(tmp_path: Path, ray_local: Any, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A store with a version of a real model, registered as trained on songs that forbid commercial use."""
    import torch

    from models.networks import catalog
    from models.weights import checkpoint
    from models.weights.model_identity import describe

    @contextmanager
    def bare(*_: Any, **__: Any) -> Iterator[None]:
        yield

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(forget, "prepared", bare)
    monkeypatch.setattr("flows.build_corpus.build_corpus", build)
    for name in ("train/Artist - Song", "train/B", "valid/V", "test/T"):
        write_song(tmp_path / "songs", name)
    config = load("smoke", [
        f"corpus.root={tmp_path / 'songs'}", f"store.root={tmp_path / 'store'}", f"ingest.sample_rate={RATE}",
        "corpus.license=CC-BY-NC-4.0",
    ])  # fmt: skip
    corpus = build(config)
    torch.manual_seed(0)
    network = catalog.build("htdemucs-tiny", segment_s=1.0, sample_rate=RATE)
    weights = checkpoint.save(tmp_path / "model", network)
    tags = {"dataset_uri": corpus.songs.uri, "start_uri": "none", "weights_digest": describe(weights).digest}
    candidate = replace(make_candidate(tmp_path / "other"), checkpoint=str(weights), lineage=tags)
    assert registry.register(RegistryConfig(), candidate, store=config.store.root).uri == "models:/stemline/1"
    return config


def mixtures(folder: Path, names: list[str]) -> list[str]:
    folder.mkdir()
    for name in names:
        write_song(folder / "stems", name)
        stems = [soundfile.read(folder / "stems" / name / f"{source}.wav")[0] for source in SOURCES]
        soundfile.write(folder / f"{name}.wav", sum(stems), RATE, subtype="FLOAT")
    return [str(folder / f"{name}.wav") for name in names]


def taught(tmp_path: Path, store: str) -> RunConfig:
    return load("smoke", [
        f"corpus.root={tmp_path / 'taught'}", f"store.root={store}", f"ingest.sample_rate={RATE}",
        "corpus.license=CC0-1.0", "curate.max_bleed_db=0", "curate.min_presence=0", "gate.refuse_non_commercial=true",
        "corpus.test_fraction=0", "curate.max_offset=1",
    ])  # fmt: skip


def test_a_student_s_songs_carry_what_its_teacher_has_learned_from(
    teacher: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = teacher.store.root
    songs = mixtures(tmp_path / "mixtures", ["M", "N", "O"])
    options = ["-m", "models:/stemline/1", "-o", str(tmp_path / "taught"), f"store.root={store}"]
    options += ["separate.mixture_consistency=residual", "separate.format=float", "separate.device=cpu"]
    assert main(["separate", songs[0], *options]) == 0  # in this process
    assert main(["separate", *songs, *options, "separate.num_workers=2"]) == 0  # the other two by actors
    for name in ("M", "N", "O"):
        noted = json.loads((tmp_path / "taught" / name / RECORD).read_text())["model"]
        assert (noted["name"], noted["licenses"], noted["complete"]) == (
            "models:/stemline/1",
            {"CC-BY-NC-4.0": 3},
            True,
        )

    config = taught(tmp_path, store)
    corpus = build(config)
    with pytest.raises(InputError, match=r"it is not trained.*3 of \d songs forbid commercial use"):
        train_model.refuse_licenses(config, corpus)
    tags = {"dataset_uri": corpus.songs.uri, "start_uri": "none", "checkpoint_digest": "c"}
    student = book(Path(store), "small", tags)
    capsys.readouterr()
    assert main(["lineage", student, f"store.root={store}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["taught_by"] == ["models:/stemline/1"]
    assert main(["card", student, f"store.root={store}"]) == 0
    assert "It learned from stems that models:/stemline/1 estimated" in capsys.readouterr().out.replace("\\", "")
    told = forget.run(teacher, "Artist - Song", screen=current())
    assert set(told["retrain"]) == {"models:/stemline/1", student}

    # Another store knows no version of the teacher: what was noted with the stems counts, and the rest is not known.
    elsewhere = taught(tmp_path, str(tmp_path / "elsewhere"))
    corpus = build(elsewhere)
    with pytest.raises(InputError, match="3 of 6 songs forbid commercial use"):
        train_model.refuse_licenses(elsewhere, corpus)
    student = book(tmp_path / "elsewhere", "small", {"dataset_uri": corpus.songs.uri, "start_uri": "none"})
    who = forget.versions_trained_with(elsewhere, {"an audio"})
    assert "estimated by models:/stemline/1, which is not registered here" in who.unknown[student][0]
