"""What the gate decided is written as strict JSON and read back, however few songs its bounds rest on."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest

from datasets.store.strict_json import dumps
from flows import config as door
from flows.cli.session import print_result
from flows.report_model import curves
from pipelines.evaluation.gate import GateConfig, GateDecision, decide
from pipelines.evaluation.paired_bootstrap import difference
from pipelines.lineage.contamination import Contamination
from pipelines.report.model_report import training_section
from pipelines.report.report_input import ReportInput
from tests.pipelines.evaluation.test_gate import around, summary


def decided(num_songs: int, **rules: Any) -> GateDecision:
    champion = summary(1.0, 1.0, model="champion", num_songs=num_songs)
    gains = around(3.0, 0.3, num_songs=num_songs)
    return decide(summary(gains, gains, num_songs=num_songs), champion, GateConfig(**rules))


@pytest.mark.parametrize("num_songs", [2, 3, 8, 11, 15, 16, 50])
def test_a_decision_is_read_back_as_it_was(num_songs: int) -> None:
    made = decided(num_songs, min_songs=1, slices={"jazz": ("00", "01")})
    text = dumps(asdict(made), indent=2)
    assert "Infinity" not in text
    assert "NaN" not in text
    assert repr(door.parse(GateDecision, text)) == repr(made)  # NaN is not equal to itself


def test_a_decision_over_the_one_song_that_nobody_heard_is_read_back() -> None:
    champion, candidate = summary(1.0, 1.0, model="champion"), summary(3.0, 3.0)
    contamination = Contamination(songs=dict.fromkeys(sorted(candidate.songs)[1:], "the same audio"))
    made = decide(candidate, champion, GateConfig(), contamination=contamination)
    assert (made.num_songs, made.min_detectable_gain) == (1, None)
    assert repr(door.parse(GateDecision, dumps(asdict(made)))) == repr(made)


def test_a_decision_of_an_older_stemline_is_read() -> None:
    def words(value: Any) -> Any:
        """As it was written until now."""
        if isinstance(value, dict):
            return {name: words(below) for name, below in value.items()}
        if isinstance(value, list | tuple):
            return [words(below) for below in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    made = decided(8)
    assert repr(door.parse(GateDecision, json.dumps(words(asdict(made))))) == repr(made)


def test_a_decision_is_read_under_the_names_that_its_fields_had() -> None:
    decision = replace(decided(8), approver="Ada")
    stored = json.loads(dumps(asdict(decision)))
    for now, before in (("min_detectable_gain", "visible"), ("approver", "asked")):
        stored[before] = stored.pop(now)
    for check in stored["checks"]:
        check["said"] = check.pop("message")
    assert repr(door.parse(GateDecision, json.dumps(stored))) == repr(decision)


def test_a_result_with_open_bounds_is_strict_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"gain": asdict(difference([1.0], confidence=0.975)), "worst": [-math.inf]}, as_json=True)
    shown = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert shown["gain"] == {
        "mean": 1.0,
        "low": None,
        "high": None,
        "spread": None,
        "num_songs": 1,
        "seed_noise_db": 0.0,
    }
    assert shown["worst"] == [None]


def test_a_point_whose_steps_were_all_skipped_breaks_no_report() -> None:
    history = [
        {"step": 1, "loss": 0.5, "loss_bass": 0.4, "loss_drums": 0.6},
        {"step": 2, "learning_rate": 0.1, "skipped": 1, "valid_nsdr_raw": 3.0, "valid_nsdr": 3.0},
        {"step": 3, "loss": 0.4, "loss_bass": 0.3, "loss_drums": 0.5, "valid_nsdr_raw": 3.5, "valid_nsdr": 3.5},
    ]
    drawn = curves(history, ["drums", "bass"])
    assert drawn[0] == {"step": 1, "loss": 0.5, "per_source": [0.6, 0.4], "valid_nsdr": {}}
    assert drawn[1] == {"step": 2, "valid_nsdr": {"raw": 3.0}}
    page = training_section(ReportInput(name="m", history=drawn, sources=["drums", "bass"], scores=[], split="test"))
    assert "raw ends at 3.5" in page
    only = curves(history[1:2], ["drums", "bass"])
    assert (
        training_section(ReportInput(name="m", history=only, sources=["drums", "bass"], scores=[], split="test")) == ""
    )
