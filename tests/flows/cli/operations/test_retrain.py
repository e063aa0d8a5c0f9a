"""`stemline retrain --explain` says whether it would train; `tests/e2e/test_road.py` lets it train."""

import json
from pathlib import Path

import pytest

from flows.__main__ import main


def test_explain_of_a_new_store_is_a_sentence_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retrain", "--explain", "--json", f"store.root={tmp_path}"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["retrain"] is False
    assert answer["why"] == "No: there are no clean songs to learn from yet."
    assert list(tmp_path.iterdir()) == []
