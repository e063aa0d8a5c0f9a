"""promote --dry-run decides on what a store has, with the settings of its last run, and writes nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets.corpus.synthetic import write_corpus
from flows import config as settings
from flows.__main__ import main
from pipelines.evaluation import evaluate
from pipelines.lineage import training_ancestry
from pipelines.preparation import curate, ingest
from pipelines.training import train
from tests.benchmarks.road import _without_ray

pytestmark = pytest.mark.slow
TINY = (
    "ingest.sample_rate=8000", "train.steps=2", "train.batch_size=2", "train.checkpoint_every=2", "train.num_workers=0",
    "model.options={segment_s=0.5, nfft=512, depth=2, channels=4, transformer_layers=1}",
    "train.learner.augment.shift_s=0.05", "automix_weight=0", "ingest.min_song_s=1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def trained(folder: Path, store: str) -> Any:
    """Of a new store with a training that has ended, as the steps of a run leave it: settings, checkpoint and songs.

    Its scores are not known yet.
    """
    splits: Any = {"train": 4, "test": 1}
    write_corpus(folder / "songs", num_songs=5, seed=3, duration_s=3.0, sample_rate=8000, defects=False, splits=splits)
    config = settings.load("smoke", [f"store.root={store}", f"corpus.root={folder / 'songs'}", *TINY])
    with _without_ray():
        ingested = ingest.run(config.corpus, config.ingest, store=store)
        songs = curate.run(config.curate, ingested, store=store).chunks
        made = train.run(config.train, config.model, [(songs, 1.0)], sources=config.corpus.sources, store=store)
    assert training_ancestry.read(made.checkpoint.rpartition("/")[0]) is not None
    settings.write(config, f"{made.checkpoint}.toml")
    return config, made.checkpoint, songs


def said(capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, " ".join(err.split())


def files(store: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in store.rglob("*")}


def test_a_dry_run_reads_what_is_there_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = ["promote", "--dry-run", "--json", f"store.root={tmp_path / 'store'}"]
    code, _, message = said(capsys, dry)
    assert (code, (tmp_path / "store").exists()) == (2, False)
    assert "no training with these settings has ended in" in message
    store = tmp_path / "store"
    config, checkpoint, songs = trained(tmp_path, str(store))
    before = files(store)
    code, _, message = said(capsys, dry)
    assert (code, files(store)) == (2, before)
    assert "the trained model was not scored on these songs with these settings; `stemline evaluate`" in message
    with _without_ray():
        evaluate.run(config.evaluate, checkpoint, songs, store=str(store))
    (tmp_path / "songs").rename(tmp_path / "moved away")  # nor does it read the songs again
    before = files(store)
    code, out, message = said(capsys, dry)
    assert (code, files(store)) == (0, before), message
    decision = json.loads(out)["decision"]
    assert "Table" not in out
    assert not decision["promote"]
    assert decision["reason"].startswith("No better than silence")
    # Settings of the gate may be tried; those of another training ask for that training.
    code, out, _ = said(capsys, [*dry, "gate.max_size_mb=0.001"])
    assert "max_size_mb" in [check["rule"] for check in json.loads(out)["decision"]["checks"]]
    code, _, message = said(capsys, [*dry, "train.steps=4"])
    assert (code, files(store)) == (2, before)
    assert "no training with these settings" in message
    # So do those of other songs, wherever these lie.
    code, _, message = said(capsys, [*dry, "curate.min_presence=0.9"])
    assert (code, files(store)) == (2, before)
    assert "no training with these settings" in message
    code, out, _ = said(capsys, [word for word in dry if word != "--json"])
    assert (code, files(store)) == (0, before)
    assert "Would not be promoted: No better than silence" in " ".join(out.split())
    # A store may be moved.
    store.rename(tmp_path / "another")
    code, out, message = said(capsys, [*dry[:-1], f"store.root={tmp_path / 'another'}"])
    assert (code, json.loads(out)["decision"]["reason"]) == (0, decision["reason"]), message


def test_of_two_trainings_the_one_of_the_last_run_is_decided_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    config, checkpoint, songs = trained(tmp_path, str(store))
    other = replace(config, train=replace(config.train, seed=7))
    with _without_ray():
        made = train.run(other.train, other.model, [(songs, 1.0)], sources=other.corpus.sources, store=str(store))
        for one in (checkpoint, made.checkpoint):
            evaluate.run(config.evaluate, one, songs, store=str(store))
    settings.write(other, f"{made.checkpoint}.toml")
    dry = ["promote", "--dry-run", "--json", f"store.root={store}"]
    key = Path(made.checkpoint).parent.name
    assert json.loads(said(capsys, dry)[1])["trained"]["run_key"] == key
    settings.rewrite(config, f"{checkpoint}.toml")  # the first one is run again
    first = Path(checkpoint).parent.name
    assert json.loads(said(capsys, dry)[1])["trained"]["run_key"] == first
    assert json.loads(said(capsys, [*dry, "train.seed=7"])[1])["trained"]["run_key"] == key
