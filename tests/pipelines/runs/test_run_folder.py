"""A training's folder: whole checkpoints are found, torn ones set aside, and the curve is read as it grows."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.errors import InputError
from datasets.seeding import row_rng
from models.networks.catalog import build
from models.weights import checkpoint
from pipelines.runs import run_folder
from pipelines.runs.run_folder import Lines, Tail, Writer
from pipelines.runs.uploads import Uploads

Row = dict[str, Any]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("htdemucs-tiny", sample_rate=8000, segment_s=0.25, nfft=512, depth=2)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def whole(folder: Path, step: int, model: torch.nn.Module) -> Path:
    for part in (run_folder.CURRENT, run_folder.BEST):
        checkpoint.save(folder / run_folder.checkpoint_name(step) / part, model)
    return folder / run_folder.checkpoint_name(step)


def test_only_names_that_training_gives_are_those_of_checkpoints(tmp_path: Path) -> None:
    assert run_folder.checkpoint_name(7) == "step-000000007"
    assert run_folder.is_checkpoint_name(run_folder.checkpoint_name(10**10))
    for name in ("step-7", "step-000000007-mine", "damaged-step-000000007", ".step-000000007", "step-00000000x"):
        assert not run_folder.is_checkpoint_name(name)
        (tmp_path / name).mkdir()
    assert run_folder.newest_step(tmp_path) == 0
    for step in (9, 12, 3):
        (tmp_path / run_folder.checkpoint_name(step)).mkdir()
    assert run_folder.newest_step(tmp_path) == 12


@pytest.mark.parametrize("part", [run_folder.CURRENT, run_folder.BEST])
def test_the_newest_whole_checkpoint_is_found_and_what_is_newer_and_damaged_is_set_aside(
    tmp_path: Path, model: torch.nn.Module, part: str
) -> None:
    for step in (2, 4, 6):
        whole(tmp_path, step, model)
    assert (run_folder.find(tmp_path).step, run_folder.find(tmp_path).damaged) == (6, ())
    weights = tmp_path / run_folder.checkpoint_name(6) / part / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found = run_folder.find(tmp_path)
    assert (found.step, found.newest) == (4, tmp_path / "step-000000004")
    ((damaged, why),) = found.damaged
    assert damaged.name == "step-000000006"
    assert "weights.safetensors" in why
    (tmp_path / ".step-torn").mkdir()
    for step in range(1, 8):
        Lines(tmp_path / run_folder.HISTORY).append({"step": step})
        Lines(tmp_path / run_folder.EVENTS).append({"step": step})
    with (tmp_path / run_folder.EVENTS).open("a") as file:
        file.write('{"step": 8')
    run_folder.tidy(tmp_path, found)
    assert names(tmp_path) == [
        "damaged-step-000000006", "events.jsonl", "history.jsonl", "step-000000002", "step-000000004",
    ]  # fmt: skip
    assert [row["step"] for row in Lines(tmp_path / run_folder.HISTORY).read()] == [1, 2, 3, 4]
    assert (tmp_path / run_folder.EVENTS).read_text().splitlines()[-1] == '{"step": 7}'


def test_a_folder_without_a_whole_checkpoint_begins_at_step_0(tmp_path: Path) -> None:
    assert run_folder.find(tmp_path) == run_folder.Found(newest=None, damaged=())
    (tmp_path / run_folder.checkpoint_name(2)).mkdir()
    found = run_folder.find(tmp_path)
    assert (found.step, len(found.damaged)) == (0, 1)


def settle(writer: Writer) -> None:
    writer.wait()
    assert writer.uploads is not None
    writer.uploads.wait()


def test_the_last_few_checkpoints_stay_and_their_copies_may_fail(tmp_path: Path) -> None:
    (tmp_path / "step-000000001-mine").mkdir()
    copied: list[int] = []

    def fill(folder: Path) -> None:
        (folder / "state").write_text("new")

    def copy(step: int) -> None:
        if step == 3:
            raise InputError("the bucket is away")
        copied.append(step)

    with Writer(tmp_path, keep=2, uploads=Uploads(copy)) as writer:
        for step in (1, 2, 3):
            writer.submit(step, fill)
        settle(writer)
        assert writer.complaint == "the bucket is away"
        assert names(tmp_path) == ["step-000000001-mine", "step-000000002", "step-000000003"]
        (tmp_path / "step-000000003" / "state").write_text("from before a rollback")
        writer.submit(4, fill)
        writer.submit(3, fill)
        settle(writer)
        assert (tmp_path / "step-000000003" / "state").read_text() == "new"
        assert writer.complaint == "the bucket is away"
        writer.submit(6, fill)
        settle(writer)
        assert writer.complaint == ""
    assert names(tmp_path) == ["step-000000001-mine", "step-000000004", "step-000000006"]
    assert copied == [1, 2, 4, 6]


def test_a_checkpoint_that_cannot_be_written_ends_a_training_and_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "state").write_text("half")
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"), Writer(tmp_path, keep=1) as writer:
        writer.submit(1, fail)

    def stop_in_training() -> None:
        with Writer(tmp_path, keep=1) as writer:
            writer.submit(1, fail)
            raise RuntimeError("in training")

    with pytest.raises(RuntimeError, match="in training"):
        stop_in_training()
    assert names(tmp_path) == []


def test_rows_are_appended_and_a_torn_one_does_not_count(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "rows.jsonl")
    assert lines.read() == []
    lines.keep(lambda row: True)
    assert not lines.path.exists()
    for step in range(3):
        lines.append({"step": step})
    before = lines.path.stat().st_ino
    lines.keep(lambda row: True)
    assert lines.path.stat().st_ino == before
    with lines.path.open("a") as file:
        file.write('{"step": 3')
    assert [row["step"] for row in lines.read()] == [0, 1, 2]
    lines.keep(lambda row: row["step"] != 1)
    assert lines.path.read_text() == '{"step": 0}\n{"step": 2}\n'
    assert names(tmp_path) == ["rows.jsonl"]


def test_points_of_one_step_are_one_point() -> None:
    points = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 2.0}, {"step": 2, "score": 5.0}, {"step": 2, "loss": 3.0}]
    assert run_folder.merged(points) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 3.0, "score": 5.0}]


def write(path: Path, steps: list[int], *, torn: bool = False, width: int = 0) -> None:
    text = "".join(json.dumps({"step": step, "pad": "x" * width}) + "\n" for step in steps)
    path.write_text(text[:-3] if torn else text)


def steps_of(tail: Tail, after: int) -> tuple[bool, list[int]]:
    anew, rows = tail.look(after)
    return anew, [row["step"] for row in rows]


def test_a_tail_hands_out_each_row_once_and_says_when_it_begins_anew(tmp_path: Path) -> None:
    tail, path = Tail(tmp_path / "rows.jsonl"), tmp_path / "rows.jsonl"
    assert steps_of(tail, 0) == (True, [])
    write(path, [1, 2, 3])
    assert steps_of(tail, 1) == (True, [2, 3])
    assert steps_of(tail, 1) == (False, [])
    write(path, [1, 2, 3, 4, 5], torn=True)
    assert steps_of(tail, 1) == (False, [4])
    write(path, [1, 2, 3, 4, 5])
    assert steps_of(tail, 1) == (False, [5])
    write(path, [1, 2, 7, 8])  # another run went on from a checkpoint
    assert steps_of(tail, 2) == (True, [7, 8])
    path.unlink()
    assert steps_of(tail, 2) == (True, [])
    write(path, [9], torn=True)
    assert steps_of(tail, 2) == (True, [])
    write(path, [9])
    assert steps_of(tail, 2) == (False, [9])  # the line that was being written is of the same run


@pytest.mark.parametrize("width", [10, 300, 40_000, 70_000, 140_000])
def test_a_tail_of_a_long_file_begins_after_the_last_row_of_that_step(tmp_path: Path, width: int) -> None:
    """Rows that straddle the blocks of 64 KiB in which it is read backwards; steps may come again after a rollback."""
    rng = row_rng(0, "tail", width)
    steps = [*range(12), *range(8, 16)]
    for after in (-1, 0, 7, 9, 11, 15, 99):
        torn = bool(rng.integers(2))
        write(tmp_path / "rows.jsonl", steps, torn=torn, width=width + int(rng.integers(50)))
        rows = steps[: len(steps) - torn]
        last = max((place for place, step in enumerate(rows) if step <= after), default=-1)
        assert steps_of(Tail(tmp_path / "rows.jsonl"), after) == (True, rows[last + 1 :])


def test_a_tail_looks_at_each_row_of_a_long_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five blocks of 64 KiB and no row of a step so early: once back to the beginning, and once to hand out."""
    write(tmp_path / "rows.jsonl", list(range(3000)), width=100)
    loads, parsed = json.loads, 0

    def counted(text: bytes) -> Any:
        nonlocal parsed
        parsed += 1
        return loads(text)

    monkeypatch.setattr(json, "loads", counted)
    anew, rows = Tail(tmp_path / "rows.jsonl").look(-1)
    assert (anew, len(rows)) == (True, 3000)
    assert parsed == 2 * 3000
