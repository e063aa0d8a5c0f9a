"""From a version to its songs and settings, from a song to the versions that heard it, and how two versions differ."""

import io
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from flows.__main__ import main
from flows.cli.models import lineage
from flows.config import load
from flows.console.progress_display import current
from pipelines import registry
from pipelines.registry import RegistryConfig, used_registries
from tests.pipelines.evaluation.test_gate import summary
from tests.pipelines.registry.test_registration import make_candidate
from tests.pipelines.songs import write_songs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two versions: the second learnt from one song more, with other settings; the first is the champion."""
    folder = tmp_path_factory.mktemp("lineage")
    store = str(folder / "store")
    songs = {"a": "train", "b": "valid", "c": "test"}
    for place, learnt in enumerate((songs, {**songs, "d": "train"})):
        dataset = write_songs(folder / "store", learnt, key=f"k{place}", num_samples=4000)
        made = make_candidate(folder / str(place), run_key=f"run{place}", seed=place)
        origins = {"commit": f"c0ffee{place}", "dataset_digest": dataset.digest, "dataset_uri": dataset.uri}
        told = replace(made, config={"train": {"steps": 20 + place, "lr": 1.0}}, lineage=origins)
        version = registry.register(RegistryConfig(), told, store=store)
        registry.promote(version, {"promote": place == 0, "reason": f"reason {place}"}, store=store)
    return store


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["lineage", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_version_tells_its_songs_settings_code_and_decisions(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "models:/stemline@champion", f"store.root={store}")
    assert [(song["track_id"], song["split"]) for song in told["songs"]] == [
        ("a", "train"), ("b", "valid"), ("c", "test"),
    ]  # fmt: skip
    assert told["settings"] == {"train.steps": "20", "train.lr": "1.0"}
    assert told["tags"]["commit"] == "c0ffee0"
    assert told["decision"]["reason"] == "reason 0"
    assert [entry["kind"] for entry in told["promotions"]] == ["promotion"]
    assert main(["lineage", "models:/stemline/2", f"store.root={store}"]) == 0
    shown = capsys.readouterr().out
    assert "2 train, 1 valid, 1 test" in shown
    assert "c0ffee1" in shown
    assert "reason 1" in shown


def test_the_store_notes_the_registry_that_it_registers_at(store: str) -> None:
    assert used_registries.recorded(store) == [used_registries.OWN]


def test_a_song_tells_who_heard_it(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = f"store.root={store}"
    assert answer(capsys, "a", where)["heard"] == {
        "models:/stemline/1": ["a (train)"], "models:/stemline/2": ["a (train)"],
    }  # fmt: skip
    assert answer(capsys, "d", where)["heard"] == {"models:/stemline/2": ["d (train)"]}
    assert answer(capsys, "c", where)["heard"] == {}
    assert main(["lineage", "c", where]) == 0
    assert "No registered version of stemline learned from c." in capsys.readouterr().out
    assert main(["lineage", "nobody's", where]) == 2
    assert main(["lineage", "models:/stemline/9", where]) == 2
    assert "models:/stemline/9 does not exist" in capsys.readouterr().err


def test_two_versions_differ_in_settings_code_and_songs(store: str) -> None:
    config = load("smoke", [f"store.root={store}"])
    found = lineage.differences(config, "models:/stemline/2", "models:/stemline/1")
    assert found["settings"] == {"train.steps": ("21", "20"), "commit": ("c0ffee1", "c0ffee0")}
    assert (found["dataset"]["added"], found["dataset"]["removed"]) == (("d",), ())
    assert found["dataset"]["unchanged"] == 3
    one, file = lineage.ancestries(config, "models:/stemline/1", "a/folder")
    assert [Path(uri).name for uri in one.datasets] == ["ingest-k0.json"]
    assert file.gaps == ("a/folder is a file: what it has heard is not known",)
    assert lineage.differences(config, "a/folder", "models:/stemline/1")["settings"] is None


def test_a_comparison_tells_what_differs_and_leaves_out_what_one_of_them_heard(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.cli.models import compare

    held_out = write_songs(tmp_path, {"c": "test", "d": "test"}, key="held-out", num_samples=4000)
    scores = summary(1.0, 1.0, num_songs=2)
    scores = replace(scores, songs=dict(zip("cd", scores.songs.values(), strict=True)))
    # No corpus is read and nothing is scored: that is held in tests/e2e/test_road.py.
    monkeypatch.setattr(compare, "prepared", lambda *_, **__: nullcontext())
    monkeypatch.setattr("flows.train_model.compare_models", lambda *_: (scores, replace(scores, model_digest="n")))
    monkeypatch.setattr("flows.build_corpus.build_corpus", lambda *_, **__: SimpleNamespace(songs=held_out))
    config = load("smoke", [f"store.root={store}"])
    told = compare.run(config, "models:/stemline/2", "models:/stemline/1", screen=current())
    assert told["heard"] == {"d": "the same audio"}
    assert told["left_out"] == ("d",)
    assert set(told["songs"]) == {"c"}
    assert told["settings"]["train.steps"] == ("21", "20")
    shown = io.StringIO()
    for part in told["console_output"]:
        Console(file=shown, width=100).print(part)
    assert "Songs of the first: 1 that the second lacks" in shown.getvalue()
    assert "left out: d, which one of them learned from" in shown.getvalue()


def test_an_export_is_kept_with_its_version_and_named_with_its_digest(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_program(model: Any, path: Path) -> Path:
        """Tracing takes half a minute; tests/models/inference/test_export.py holds the result to the model."""
        path.write_bytes(f"a graph of {type(model).__name__}".encode())
        return path

    monkeypatch.setattr("models.inference.export.export_program", export_program)
    file = tmp_path / "graphs" / "model.pt2"
    words = ["export", "models:/stemline@champion", f"store.root={store}", "--to"]
    assert main([*words, str(file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert file.read_bytes() == b"a graph of HTDemucs"
    found = registry.lineage("models:/stemline/1", store=store)
    address, _, digest = found.tags["export.model.pt2"].rpartition(" ")
    assert address == answer["kept"]
    assert Path(address.removeprefix("file://")).read_bytes() == file.read_bytes()
    assert digest == f"sha256:{registry.digest_of(file)}"
    assert main([*words, str(file)]) == 0  # one of ours is replaced
    theirs = tmp_path / "graphs" / "theirs.pt2"
    for path in (theirs, file):
        path.write_bytes(b"a graph of somebody's, as long as ours or longer")
        capsys.readouterr()
        assert main([*words, str(path)]) == 2
        assert f"holds {path.name}, which stemline did not write" in capsys.readouterr().err
        assert path.read_bytes().startswith(b"a graph of somebody's")
    assert main(["export", "models:/stemline/1", f"store.root={store}", "--to", "model.h5"]) == 2
    assert "ends in .onnx or .pt2" in capsys.readouterr().err


def test_a_dataset_that_is_gone_is_said(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Path(store) / "manifests" / "ingest-k0.json"
    manifest.rename(manifest.with_suffix(".away"))
    try:
        assert answer(capsys, "models:/stemline/1", f"store.root={store}")["songs"] is None
        assert answer(capsys, "d", f"store.root={store}")["unknown"] == ["models:/stemline/1"]
        config = load("smoke", [f"store.root={store}"])
        assert lineage.differences(config, "models:/stemline/2", "models:/stemline/1")["dataset"] is None
    finally:
        manifest.with_suffix(".away").rename(manifest)
