"""Uploads: training waits for none of them longer than asked, and ends with none that it needs."""

import threading
from pathlib import Path

import pytest

from datasets.errors import InputError
from pipelines.runs import uploads
from pipelines.runs.run_folder import Writer, checkpoint_name
from pipelines.runs.uploads import Uploads


def fill(folder: Path) -> None:
    (folder / "state").write_text("new")


def test_a_slow_upload_is_waited_for_as_long_as_asked_and_the_newest_follows_it(tmp_path: Path) -> None:
    sent: list[int] = []
    gone_on = threading.Event()

    def send(step: int) -> None:
        gone_on.wait()
        assert (tmp_path / checkpoint_name(step) / "state").exists()
        sent.append(step)

    with Writer(tmp_path, keep=1, uploads=Uploads(send), upload_wait_s=0.1) as writer:
        for step in (1, 2, 3, 4):
            writer.submit(step, fill)
        writer.wait()
        assert 0.3 <= writer.waited_s < 10
        assert (sent, sorted(path.name for path in tmp_path.iterdir())) == ([], ["step-000000001", "step-000000004"])
        gone_on.set()
    assert sent == [1, 4]


def test_an_upload_that_is_required_is_tried_again_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_PAUSE_S", 0.0)
    tries: list[int] = []

    def send(step: int) -> None:
        tries.append(step)
        if len(tries) < 3:
            raise InputError("the bucket does not answer")

    with Writer(tmp_path, keep=1, uploads=Uploads(send, required=True)) as writer:
        writer.submit(1, fill)
    assert tries == [1, 1, 1]
    tries.clear()

    def never(step: int) -> None:
        raise InputError("the bucket does not answer")

    with (
        pytest.raises(InputError, match=r"of step 2 could not be brought to the store, .* does not answer"),
        Writer(tmp_path, keep=1, uploads=Uploads(never, required=True)) as writer,
    ):
        writer.submit(2, fill)
    with Writer(tmp_path, keep=1, uploads=Uploads(never)) as writer:  # a copy beside: training ends well
        writer.submit(3, fill)
    assert writer.complaint == "the bucket does not answer"


def test_a_fault_of_the_program_comes_out_where_uploads_are_waited_for(tmp_path: Path) -> None:
    def broken(step: int) -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"), Writer(tmp_path, keep=1, uploads=Uploads(broken)) as writer:
        writer.submit(1, fill)
