"""`stemline gc`: what is referred to stays, what is not can go, and nothing goes before it was asked for."""

import os
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.schema import VERDICTS, Verdict
from datasets.shards import address_of, read_manifest, table_of, write_table
from flows import config as door
from flows import sweep
from flows.__main__ import main
from flows.screen import current

OLD_S = time.time() - 10 * sweep.DAY_S


@pytest.fixture
def config(tmp_path: Path) -> door.RunConfig:
    """A store with two datasets, and one of every kind of waste, all of it ten days old."""
    store = tmp_path / "store"
    for number, step in enumerate(("first", "second")):
        verdict = Verdict(
            track_id=step, title=step, split="train", keep=True, reason="", detail="", duration_s=1.0, measures={}
        )
        write_table(store, "verdicts", table_of([verdict], VERDICTS), key=step)
        _age(store, OLD_S + number * 100)
    for name in ("chunks/aaaa.parquet", "chunks/aaaa.json", "tables/.tmp-verdicts-x.parquet-1234", "cache/jobs/a.json"):
        _write(store / name)
    for name in ("result.json", "model/weights.safetensors", "step-000000002/learner.pt", "step-000000004/learner.pt"):
        _write(store / "runs" / "finished" / name)
    _write(store / "runs" / "at-work" / "step-000000002" / "learner.pt")
    _age(store, OLD_S, newer=OLD_S + 200)
    return door.load("smoke", [f"store.root={store}"])


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)


def _age(store: Path, at_s: float, *, newer: float = float("inf")) -> None:
    """Files and folders changed at a time, but for those that are older already."""
    for path in store.rglob("*"):
        if path.stat().st_mtime > newer:
            os.utime(path, (at_s, at_s))


def waste(config: door.RunConfig, *, keep: int = 0) -> set[str]:
    found = sweep.find(config, keep=keep, now_s=time.time())
    return {str(Path(one.address).relative_to(config.store.root)) for one in found}


UNREFERRED = {
    "chunks/aaaa.parquet", "chunks/aaaa.json", "tables/.tmp-verdicts-x.parquet-1234", "cache/jobs/a.json",
    "runs/finished/step-000000002", "runs/finished/step-000000004",
}  # fmt: skip


def test_only_what_nothing_refers_to_can_go(config: door.RunConfig) -> None:
    assert waste(config) == UNREFERRED


def test_without_delete_nothing_goes_and_with_it_only_what_was_listed(config: door.RunConfig) -> None:
    root = Path(config.store.root)
    before = {path for path in root.rglob("*") if path.is_file()}
    told = sweep.run(config, keep=0, delete=False, screen=current())
    assert before <= {path for path in root.rglob("*") if path.is_file()}
    assert len(told["waste"]) == len(UNREFERRED)
    told = sweep.run(config, keep=0, delete=True, screen=current())
    assert told["removed"]
    gone = before - set(root.rglob("*"))
    listed = {root / name for name in UNREFERRED}
    assert all(any(path == one or one in path.parents for one in listed) for path in gone)
    assert waste(config) == set()
    assert (root / "runs/finished/model/weights.safetensors").exists()


def test_superseded_versions_go_where_only_the_newest_shall_stay(config: door.RunConfig) -> None:
    assert waste(config, keep=2) == UNREFERRED
    more = waste(config, keep=1) - UNREFERRED
    assert {Path(name).name for name in more} == {"verdicts-first.json", "verdicts-first.parquet"}


def test_tables_that_a_kept_dataset_names_stay_with_it(config: door.RunConfig) -> None:
    store = Path(config.store.root)
    before = {path: path.stat().st_mtime for path in store.rglob("*")}
    first = read_manifest(str(next((store / "manifests").glob("*first.json"))))
    write_table(store, "verdicts", table_of([], VERDICTS), key="third", extra={"heard": asdict(address_of(first))})
    for path in store.rglob("*"):
        os.utime(path, (before.get(path, OLD_S + 300),) * 2)
    more = waste(config, keep=1) - UNREFERRED
    assert {Path(name).name for name in more} == {"verdicts-second.json", "verdicts-second.parquet"}


def test_what_is_younger_than_a_day_may_be_at_work(config: door.RunConfig) -> None:
    now_s = time.time()
    for path in Path(config.store.root).rglob("*"):
        os.utime(path, (now_s, now_s))
    assert waste(config, keep=1) == set()


def test_a_manifest_that_cannot_be_read_stops_everything(config: door.RunConfig) -> None:
    _write(Path(config.store.root) / "manifests" / "ingest-x.json")
    with pytest.raises(InputError, match="cannot be read"):
        waste(config)


def test_what_is_no_store_is_refused_and_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "experiments"
    for name in ("tables/a.parquet", "chunks/aaaa.parquet", "runs/7/result.json", "runs/7/step-000000002/weights.pt"):
        _write(mine / name)
    _age(tmp_path, OLD_S)
    before = sorted(mine.rglob("*"))
    for words in ([], ["--delete"], ["--delete", "--keep", "1"]):
        assert main(["gc", f"store.root={mine}", *words]) == 2
        assert "is no store" in capsys.readouterr().err
    assert main(["gc", f"store.root={tmp_path}/none"]) == 2
    assert sorted(mine.rglob("*")) == before
    assert not (tmp_path / "none").exists()


def test_files_of_others_inside_a_store_are_no_waste(config: door.RunConfig) -> None:
    root = Path(config.store.root)
    for name in (
        "chunks/my-features.parquet", "chunks/aaaa.txt", "tables/spectra.parquet", "tables/.tmp-notes",
        "runs/finished/step-000000002/thesis.txt", "runs/finished/step-4-tries/weights.safetensors",
    ):  # fmt: skip
        _write(root / name)
    _age(root, OLD_S, newer=OLD_S + 200)
    assert waste(config) == UNREFERRED - {"runs/finished/step-000000002"}


def test_tables_elsewhere_must_be_a_store_too(config: door.RunConfig, tmp_path: Path) -> None:
    _write(tmp_path / "data" / "chunks" / "aaaa.parquet")
    elsewhere = door.load("smoke", [f"store.root={config.store.root}", f"store.data={tmp_path}/data"])
    with pytest.raises(InputError, match=r"store\.data=.*is no store"):
        sweep.run(elsewhere, keep=0, delete=True, screen=current())
    assert (tmp_path / "data" / "chunks" / "aaaa.parquet").exists()
