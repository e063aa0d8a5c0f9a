"""The store folder: one command at a time, writable or refused."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from datasets.errors import InputError
from datasets.schema import VERDICTS
from datasets.shards.arrow_tables import table_of, write_table
from datasets.store.ownership import STORE_MARKER, is_store
from flows.__main__ import main
from flows.tasks import open_store

HOLDER = """
import sys
from flows.tasks import open_store
with open_store.store_lock(sys.argv[1], verb="train"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_store_is_made_and_released(tmp_path: Path) -> None:
    for _ in range(2):
        with open_store.store_lock(str(tmp_path / "a" / "store"), verb="run") as folder:
            assert folder.is_absolute()
            assert folder.is_dir()


def test_a_second_command_is_told_who_holds_the_store_until_the_first_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(InputError, match=rf"in use by `stemline train`, process {holder.pid}, since .*store\.root=DIR"),
        open_store.store_lock(str(tmp_path), verb="run"),
    ):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    with open_store.store_lock(str(tmp_path), verb="run"):
        pass


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot be written to"),
        open_store.store_lock(str(tmp_path / "file" / "x"), verb="run"),
    ):
        pass


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["tables/mine.parquet", "chunks/a.txt", "runs/7/result.json", "manifests/notes.json", "report.html",
             "mlflow.db", "cache/jobs/accounts.json", "cache/flows/mine.toml"],
)  # fmt: skip
def test_a_folder_of_somebodys_does_not_become_a_store(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("precious")
    before = below(tmp_path)
    given = Path(name).parts[0]
    with (
        pytest.raises(InputError, match=rf"is no store, and {given}.* nothing was touched"),
        open_store.store_lock(str(tmp_path), verb="train"),
    ):
        pass
    assert below(tmp_path) == before


def test_a_store_stands_beside_files_of_other_names_and_is_known_again(tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "thesis.txt").write_text("x")
    with open_store.store_lock(str(tmp_path), verb="run") as folder:
        assert is_store(folder)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "plans-a.parquet").write_text("ours by now")
    with open_store.store_lock(str(tmp_path), verb="run"):
        pass


@pytest.mark.parametrize("known_by", ["manifest", "lock", "training"])
def test_a_store_from_before_there_were_markers_gets_one(tmp_path: Path, known_by: str) -> None:
    write_table(tmp_path, "verdicts", table_of([], VERDICTS), key="first")
    if known_by == "lock":
        shutil.rmtree(tmp_path / "manifests")
        (tmp_path / ".lock").write_text('{"verb": "ingest", "pid": 7, "since": "12:00:00"}')
    elif known_by == "training":  # its tables are elsewhere, and what ran last was gc
        shutil.rmtree(tmp_path / "manifests")
        (tmp_path / ".lock").write_text('{"verb": "gc", "pid": 7, "since": "12:00:00"}')
        (tmp_path / "runs" / "abc").mkdir(parents=True)
        told = {"run_key": "abc", "checkpoint": "x", "model_digest": "y", "history": "z"}
        (tmp_path / "runs" / "abc" / "result.json").write_text(json.dumps(told))
    assert not (tmp_path / STORE_MARKER).exists()
    with open_store.store_lock(str(tmp_path), verb="run"):
        assert (tmp_path / STORE_MARKER).exists()


def test_a_folder_on_which_only_gc_ever_ran_is_no_store(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text('{"verb": "gc", "pid": 7, "since": "12:00:00"}')
    (tmp_path / "chunks").mkdir()
    (tmp_path / "chunks" / "mine.parquet").write_text("precious")
    assert not is_store(tmp_path)


def test_the_place_of_the_tables_is_claimed_as_well(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "chunks").mkdir(parents=True)
    with open_store.store_lock(str(tmp_path / "a"), verb="run", data=str(data)):
        assert is_store(data)
    others = tmp_path / "others"
    (others / "tables").mkdir(parents=True)
    (others / "tables" / "mine.parquet").write_text("precious")
    with (
        pytest.raises(InputError, match=r"store\.data=.*tables/"),
        open_store.store_lock(str(tmp_path / "a"), verb="run", data=str(others)),
    ):
        pass
    assert below(others) == {"tables/mine.parquet": b"precious"}


@pytest.mark.parametrize("setting", ["store.root=", "store.root=  ", "store.root=\t", "store.data= "])
@pytest.mark.parametrize("verb", ["gc", "history", "train", "datasets", "doctor", "inspect", "retrain", "ui"])
def test_a_store_without_a_name_is_refused_by_every_verb(
    verb: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([verb, setting]) == 2
    assert f"{setting.partition('=')[0]} must name a folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("precious")
    for verb in ("gc", "history", "ingest"):
        assert main([verb, f"store.root={tmp_path}/file"]) == 2
        assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "words",
    [["history"], ["lineage", "models:/stemline/1"], ["lineage", "a song"], ["retrain", "--explain"], ["datasets"],
     ["gc"], ["gc", "--keep", "2"], ["gc", "--delete"], ["train", "--print-config"], ["inspect", "corpus.root=."],
     ["rollback"], ["sbom"]],
    ids=" ".join,
)  # fmt: skip
def test_a_verb_that_only_looks_makes_no_folder(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [] if words == ["sbom"] else [f"store.root={tmp_path}/none"]
    assert main([*words, *given]) in (0, 2)
    assert not list(tmp_path.iterdir())


def test_no_servers_begin_their_books_in_a_folder_of_somebodys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["ui", f"store.root={tmp_path}"]) == 2
    assert "is no store" in capsys.readouterr().err
    assert below(tmp_path) == {"thesis.txt": b"precious"}


@pytest.mark.parametrize(
    "words", [["history"], ["lineage", "models:/stemline/1"], ["retrain", "--explain"], ["rollback"]], ids=" ".join
)
def test_a_registry_that_is_not_there_yet_is_not_begun_by_looking(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/books/mlflow.db")
    assert main([*words, f"store.root={tmp_path}/none"]) in (0, 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    with (
        pytest.raises(InputError, match="cannot be written to"),
        open_store.store_lock(str(tmp_path / "shut"), verb="run"),
    ):
        pass


def test_a_read_only_file_system_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written to"), open_store.store_lock("/proc/stemline", verb="run"):
        pass


def test_a_patient_command_has_the_store_once_the_other_is_gone(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with open_store.store_lock(str(tmp_path), verb="run", patience_s=30.0):
            order.append("second")

    with open_store.store_lock(str(tmp_path), verb="train"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
