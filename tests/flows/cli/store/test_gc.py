"""`stemline gc`: what is referred to stays, what is not can go, and nothing goes before it was asked for."""

import io
import json
import os
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.fs as fs
import pytest
from rich.console import Console

from datasets.errors import InputError
from datasets.schema import VERDICTS, Verdict
from datasets.shards.arrow_tables import table_of, write_table
from datasets.shards.manifests import address_of, read_manifest, write_manifest
from datasets.store import storage
from flows import config as door
from flows.__main__ import main
from flows.cli.store import gc
from flows.console.progress_display import current
from flows.tasks.open_store import store_lock
from pipelines.registry import used_registries
from tests.flows.command import asked
from tests.pipelines.lineage.test_training_recordings import book
from tests.s3 import BUCKET, object_store

OLD_S = time.time() - 10 * gc.DAY_S


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


def _age(store: Path, at_s: float, *, newer: float | None = None) -> None:
    """Files and folders changed at a time, but for those that are older already, or no `newer` than given."""
    for path in store.rglob("*"):
        if path.stat().st_mtime > (at_s if newer is None else newer):
            os.utime(path, (at_s, at_s))


def waste(config: door.RunConfig, *, keep: int = 0) -> set[str]:
    found = gc.find(config, keep=keep, now_s=time.time())
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
    answer = asked("gc", f"store.root={root}")
    assert before <= {path for path in root.rglob("*") if path.is_file()}
    assert {str(Path(one).relative_to(root)) for one in answer["waste"]} == UNREFERRED
    assert asked("gc", f"store.root={root}", "--delete")["removed"]
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


@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("chunks/bbbb.parquet", 1), ("tables/.tmp-verdicts-y.parquet-1234", 1), ("chunks/.tmp-cccc.parquet-12ab", 1),
        ("cache/jobs/b.json", 7), ("cache/flows/run.toml", 30), ("runs/finished/step-000000006", 1),
    ],
)  # fmt: skip
def test_each_kind_of_waste_is_left_alone_for_a_while(config: door.RunConfig, name: str, days: int) -> None:
    path = Path(config.store.root) / name
    _write(path / "learner.pt" if "step-" in name else path)
    os.utime(path, (OLD_S, OLD_S))
    for later_s, goes in ((-60.0, False), (60.0, True)):
        found = gc.find(config, keep=0, now_s=OLD_S + days * gc.DAY_S + later_s)
        assert (str(path) in {one.address for one in found}) is goes


@pytest.mark.parametrize(
    ("size", "words"), [(250_000_000, "0.25 GB"), (99_000_000, "99.00 MB"), (100_000_000, "0.10 GB")]
)
def test_sizes_are_told_in_megabytes_and_from_100_on_in_gigabytes(
    config: door.RunConfig, size: int, words: str
) -> None:
    path = Path(config.store.root) / "chunks" / "bbbb.parquet"
    path.touch()
    os.truncate(path, size)  # takes no room on the disk
    os.utime(path, (OLD_S, OLD_S))
    assert words in told(config)


def told(config: door.RunConfig, *, delete: bool = False) -> str:
    """What the command prints."""
    console = Console(width=120, file=io.StringIO())
    console.print(*gc.run(config, keep=0, delete=delete, screen=current())["console_output"])
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_what_can_go_is_told_by_kind_with_number_and_size_and_how_to_remove_it(config: door.RunConfig) -> None:
    listed = told(config)
    for kind, number, size in (
        ("intermediate checkpoint", 2, "0.00 MB"), ("shard of no dataset", 2, "0.00 MB"),
        ("left by a kill", 1, "0.00 MB"), ("answer of a job", 1, "0.00 MB"),
    ):  # fmt: skip
        assert re.search(rf"{kind} +│? *{number} +│? *{re.escape(size)}", listed), listed
    assert "Nothing was removed" in listed
    removed = told(config, delete=True)
    assert "shard of no dataset" in removed
    assert "Nothing was removed" not in removed
    assert told(config, delete=True).strip() == "Everything is referred to."


def test_the_size_of_a_folder_is_that_of_all_files_below_it(config: door.RunConfig) -> None:
    folder = Path(config.store.root) / "runs" / "finished" / "step-000000002"
    _write(folder / "best" / "weights.safetensors")
    _age(folder.parent, OLD_S)
    sizes = {Path(one.address).name: one.num_bytes for one in gc.find(config, keep=0, now_s=time.time())}
    assert sizes["step-000000002"] == 2000
    assert {size for name, size in sizes.items() if name != "step-000000002"} == {1000}


def test_a_checkpoint_in_which_something_is_linked_stays(config: door.RunConfig) -> None:
    """Removing the link would do no harm, but whoever made it uses the folder."""
    run = Path(config.store.root) / "runs" / "finished"
    (run / "step-000000002" / "weights.safetensors").symlink_to(run / "model" / "weights.safetensors")
    (run / "step-000000004" / "config.json").symlink_to(run / "model")  # a folder
    _age(run, OLD_S)
    assert waste(config) == UNREFERRED - {"runs/finished/step-000000002", "runs/finished/step-000000004"}


def test_settings_that_an_old_version_kept_beside_a_dataset_go_with_it(config: door.RunConfig) -> None:
    for name in ("verdicts-first.toml", "verdicts-second.toml", "mine.toml"):
        path = Path(config.store.root) / "manifests" / name
        _write(path)
        os.utime(path, (OLD_S, OLD_S))
    assert waste(config) == UNREFERRED
    more = waste(config, keep=1) - UNREFERRED
    assert {Path(name).name for name in more} == {
        "verdicts-first.json", "verdicts-first.toml", "verdicts-first.parquet",
    }  # fmt: skip


def test_a_negative_number_of_versions_to_keep_is_refused(config: door.RunConfig) -> None:
    with pytest.raises(InputError, match="--keep must be >= 0, got -1"):
        waste(config, keep=-1)


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
        gc.run(elsewhere, keep=0, delete=True, screen=current())
    assert (tmp_path / "data" / "chunks" / "aaaa.parquet").exists()


# -- who is asked before a dataset goes ------------------------------------------------------------------------


@pytest.fixture
def without_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def gone(config: door.RunConfig, *, keep: int = 1) -> set[str]:
    """The datasets that would go."""
    return {Path(name).name for name in waste(config, keep=keep) if "manifests/" in name}


def dataset(config: door.RunConfig, key: str, at_s: float, **extra: Any) -> str:
    """One more dataset of songs, changed at a time; its manifest."""
    made = write_manifest(config.store.tables, table="chunks", step="curate", key=key, shards=[], songs=[], extra=extra)
    os.utime(made.uri, (at_s, at_s))
    return made.uri


@pytest.mark.slow
def test_what_a_model_of_any_name_learnt_from_stays_and_what_that_was_made_from(
    config: door.RunConfig, without_server: None
) -> None:
    root = Path(config.store.root)
    ingested = write_manifest(root, table="chunks", step="ingest", key="old", shards=[], songs=[])
    write_manifest(root, table="chunks", step="ingest", key="new", shards=[], songs=[])
    for name, at_s in (("ingest-old", OLD_S), ("ingest-new", OLD_S + 9)):
        os.utime(root / "manifests" / f"{name}.json", (at_s, at_s))
    old = dataset(config, "old", OLD_S, made_from="ingest-old", note="the uri of nothing", counts={"uris": 1})
    other = dataset(config, "other", OLD_S + 1, made_from="ingest-never")
    mixes = dataset(config, "mixes", OLD_S + 2)
    dataset(config, "unlearnt", OLD_S + 3)
    dataset(config, "newest", OLD_S + 4)
    everything = {
        "verdicts-first.json", "ingest-old.json", "curate-old.json", "curate-other.json", "curate-mixes.json",
        "curate-unlearnt.json",
    }  # fmt: skip
    assert gone(config) == everything
    book(root, "another-name", {"dataset_uri": old, "checkpoint_digest": "c"})
    assert gone(config) == everything - {"curate-old.json", "ingest-old.json"}
    # The store may have stood elsewhere when it was registered; the key in the name says which dataset it was.
    book(root, "stemline", {"dataset_uri": f"/elsewhere/manifests/{Path(other).name}", "automix_uri": mixes})
    assert gone(config) == {"verdicts-first.json", "curate-unlearnt.json"}
    assert ingested.uri.endswith("ingest-old.json")


def test_a_training_that_is_under_way_keeps_its_dataset(config: door.RunConfig, without_server: None) -> None:
    learnt = dataset(config, "learnt", OLD_S)
    dataset(config, "newest", OLD_S + 1)
    record = Path(config.store.root) / "runs" / "at-work" / "ancestry.json"
    record.write_text(json.dumps({"datasets": [learnt], "start_uri": "none"}))
    assert "curate-learnt.json" not in gone(config)
    (record.parent / "result.json").write_text("{}")
    assert "curate-learnt.json" in gone(config)


def test_a_registry_that_is_not_asked_now_stops_it(
    config: door.RunConfig, without_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = config.store.root
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@mlflow.example:5000/")
    used_registries.record(root)
    used_registries.record(root)
    assert used_registries.recorded(root) == ["http://somebody:***@mlflow.example:5000"]
    assert "secret" not in (Path(root) / used_registries.FILE).read_text()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    before = {path for path in Path(root).rglob("*") if path.is_file()}
    assert main(["gc", f"store.root={root}", "--keep", "1", "--delete"]) == 2
    said = capsys.readouterr().err
    assert "http://somebody:***@mlflow.example:5000, which cannot be read now (MLFLOW_TRACKING_URI is not set)" in said
    assert before <= {path for path in Path(root).rglob("*") if path.is_file()}
    assert waste(config) == UNREFERRED  # without --keep no dataset goes, and nobody need be asked
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////somewhere/else.db")
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI names sqlite:////somewhere/else\.db"):
        waste(config, keep=1)


def test_a_registry_of_before_this_was_noted_is_known_by_its_trainings(
    config: door.RunConfig, without_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(config.store.root)
    mark = root / "runs" / "finished" / "mlflow.json"
    mark.write_text(json.dumps({"address": "http://mlflow.example:5000", "step": 3}))
    with pytest.raises(InputError, match=r"registered models at http://mlflow\.example:5000"):
        waste(config, keep=1)
    mark.write_text(json.dumps({"address": f"sqlite:///{root / 'mlflow.db'}", "step": 3}))
    assert used_registries.recorded(str(root)) == []
    # The store has moved since, and its books with it; others' books that cannot be reached are no such thing.
    mark.write_text(json.dumps({"address": "sqlite:////where/it/stood/mlflow.db", "step": 3}))
    assert used_registries.recorded(str(root)) == ["sqlite:////where/it/stood/mlflow.db"]
    (mark.parent / "result.json").write_text(json.dumps({"checkpoint": "/where/it/stood/runs/finished/model"}))
    assert used_registries.recorded(str(root)) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    assert used_registries.current(str(root)) == used_registries.OWN


def test_a_second_store_on_the_same_data_is_seen_from_both_sides(config: door.RunConfig, tmp_path: Path) -> None:
    root = config.store.root
    second = door.load("smoke", [f"store.root={tmp_path / 'second'}", f"store.data={root}"])
    with store_lock(second.store.root, verb="curate", data=second.store.data):
        pass
    with pytest.raises(InputError, match=f"the store {tmp_path / 'second'} keeps its datasets in {root} as well"):
        waste(config, keep=1)
    with pytest.raises(InputError, match=f"the store {root} keeps its datasets in {root} as well"):
        list(gc.find(second, keep=1, now_s=time.time()))
    assert waste(config) == UNREFERRED
    shared = tmp_path / "data"
    for name in ("one", "two"):
        with store_lock(str(tmp_path / name), verb="curate", data=str(shared)):
            pass
        (tmp_path / name).rename(tmp_path / f"{name} away")  # as from another machine, where it cannot be looked at
    one = door.load("smoke", [f"store.root={tmp_path / 'one'}", f"store.data={shared}"])
    with pytest.raises(InputError, match=f"the store {tmp_path / 'two'} keeps"):
        list(gc.find(one, keep=1, now_s=time.time()))


@pytest.mark.parametrize("text", ["{", "[1]", '{"registries": "mlflow.db"}', ""])
def test_a_damaged_note_of_registries_lets_nothing_go(config: door.RunConfig, text: str) -> None:
    file = Path(config.store.root) / used_registries.FILE
    file.write_text(text)
    with pytest.raises(InputError, match=r"registries\.json says which registries .* cannot be read"):
        list(gc.find(config, keep=1, now_s=time.time()))
    used_registries.record(config.store.root)
    assert file.read_text() == text


@pytest.mark.parametrize("text", ["{", "[1]", "{}"])
def test_a_damaged_record_of_a_training_under_way_lets_nothing_go(config: door.RunConfig, text: str) -> None:
    record = Path(config.store.root) / "runs" / "at-work" / "ancestry.json"
    record.write_text(text)
    with pytest.raises(InputError, match=r"at-work/ancestry\.json says which datasets .* cannot be read"):
        list(gc.find(config, keep=1, now_s=time.time()))


def test_in_an_object_store_checkpoints_of_finished_trainings_can_go_and_nothing_else() -> None:
    with object_store():
        root = f"s3://{BUCKET}/gc"
        waste = {"step-000000003.json", "step-000000003-0badbeef/current/learner.pt", "step-000000006/best/config.json"}
        kept = {"result.json", "model/weights.safetensors", "notes.json", "step-000000003-mine/x", "history.jsonl"}
        for name in waste | kept:
            storage.write(f"{root}/runs/finished/{name}", b"x")
        storage.write(f"{root}/runs/at-work/step-000000003.json", b"x")
        config = door.load("smoke", [f"store.root={root}"])
        assert list(gc.find(config, keep=0, now_s=time.time())) == []
        found = list(gc.find(config, keep=0, now_s=time.time() + 2 * gc.DAY_S))
        assert {item.address for item in found} == {f"{root}/runs/finished/{name}" for name in waste}
        assert {item.kind for item in found} == {"intermediate checkpoint"}


def test_in_an_object_store_copies_of_models_go_after_a_week_and_markers_of_killed_commands_after_a_day() -> None:
    with object_store():
        root = f"s3://{BUCKET}/gc-copies"
        copies = {
            f"{root}/cache/models/0123456789abcdef/{name}"
            for name in ("config.json", "files/a.th", "weights.safetensors")
        }
        marker, kept = f"{root}/cache/seen-{'0' * 32}", {f"{root}/cache/models/mine/config.json", f"{root}/cache/seen"}
        for address in {marker, *copies, *kept}:
            storage.write(address, b"x")
        config, now_s = door.load("smoke", [f"store.root={root}"]), time.time()
        found = [
            {item.address for item in gc.find(config, keep=0, now_s=now_s + days * gc.DAY_S)} for days in (0, 2, 8)
        ]
        assert found == [set(), {marker}, {marker, *copies}]


def test_in_an_object_store_nothing_is_left_of_folders_whose_files_were_removed() -> None:
    with object_store():
        root = f"s3://{BUCKET}/gc-folders"
        config = door.load("smoke", [f"store.root={root}"])
        waste = {
            "runs/finished/step-000000003-0badbeef/current/learner.pt", "runs/finished/step-000000006/best/config.json",
            "cache/models/0123456789abcdef/files/a.th",
        }  # fmt: skip
        for name in {*waste, "runs/finished/result.json", "runs/finished/step-000000006-mine/x", "cache/models/mine/a"}:
            storage.write(f"{root}/{name}", b"x")
        s3, path = storage.filesystem(root)
        s3.create_dir(f"{path}/runs/finished/mine")  # of somebody who has plans for it
        found = list(gc.find(config, keep=0, now_s=time.time() + 8 * gc.DAY_S))
        assert {item.address for item in found} == {f"{root}/{name}" for name in waste}
        gc.remove(found, root)
        left = s3.get_file_info(fs.FileSelector(path, recursive=True))
        assert {info.path.removeprefix(f"{path}/") for info in left if not info.is_file} == {
            "runs", "runs/finished", "runs/finished/step-000000006-mine", "runs/finished/mine",
            "cache", "cache/models", "cache/models/mine",
        }  # fmt: skip
