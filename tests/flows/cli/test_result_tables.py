"""What the end of a verb says became of the candidate, and what it scored."""

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from datasets.schema import Score, ShardSet
from flows.cli.models.compare import _score_tables
from flows.cli.result_tables import extra_tables, outcome
from flows.train_model import _flat_scores
from pipelines.evaluation.evaluate import EvaluateResult
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.gate import GateConfig, GateDecision, compare
from pipelines.evaluation.summary import ScoreSummary, summarize
from pipelines.registry import ModelVersion


@pytest.mark.parametrize(
    ("alias", "reason", "said"),
    [
        (
            "",
            "No better than silence, which scores 0 dB: its mean is -0.10 dB nSDR over 2 songs.",
            "models:/stemline/3 is registered as candidate, not promoted: no better than silence, which scores 0 dB: "
            "its mean is -0.10 dB nSDR over 2 songs.",
        ),
        ("", "Ada says no.", "models:/stemline/3 is registered as candidate, not promoted: Ada says no."),
        ("champion", "The first champion: +6.00 dB.", "Promoted: The first champion: +6.00 dB."),
    ],
)
def test_a_candidate_is_said_to_be_one(alias: str, reason: str, said: str) -> None:
    decision = GateDecision(promote=bool(alias), reason=reason, improvement=1.0, checks=(), num_songs=2)
    version = ModelVersion(name="stemline", version="3", run_id="r", run_key="k", digest="d", alias=alias)
    assert outcome(decision, version).plain == said
    assert outcome(decision, None).plain.startswith("Would be promoted" if alias else "Would not be promoted")


def summary_of(*names: str) -> ScoreSummary:
    """Two songs, of which the second has no bass."""

    def score(song: str, source: str, value: float | None) -> Score:
        made: dict[str, Any] = dict.fromkeys(("nsdr", "sdr", "mixture_nsdr", "mixture_sdr", "si_sdr"), value)
        made |= {name: value for name in names}
        return Score(
            track_id=song, title=song, source=source, protocol=EvaluateConfig(extra_metrics=names).protocol, **made
        )

    scores = (score("a", "drums", 4.0), score("b", "drums", 5.0), score("a", "bass", 7.0), score("b", "bass", None))
    return summarize(scores, "m", "d")


def cells_of(items: Sequence[Any]) -> list[list[str]]:
    """The words of each printed line."""
    console = Console(file=(printed := StringIO()), width=120)
    for item in items:
        console.print(item)
    return [line.replace("│", " ").replace("┃", " ").split() for line in printed.getvalue().splitlines()]


def test_of_two_models_each_mean_and_each_gain_stands_beside_the_songs_that_counted() -> None:
    summary = summary_of("si_sar")
    cells = cells_of(_score_tables("x", "y", summary, summary, compare(summary, summary, GateConfig())))
    assert ["bass", "1", "of", "2", "7.00", "7.00", "7.00", "–"] in cells
    assert ["mean", "2", "of", "2", "5.75", "5.75", "5.75", "–"] in cells
    assert [row[:5] for row in cells if "+0.00" in row][:3] == [
        ["drums", "2", "of", "2", "+0.00"], ["bass", "1", "of", "2", "+0.00"], ["mean", "2", "of", "2", "+0.00"],
    ]  # fmt: skip
    assert cells.count(["source", "songs", "SI-SAR"]) == 2


def test_scores_that_were_requested_have_a_table_and_names_in_mlflow() -> None:
    summary = summary_of("fullness", "si_sar")
    cells = cells_of(extra_tables({"": summary}))
    assert ["source", "songs", "SI-SAR", "Fullness"] in cells
    assert ["drums", "2", "of", "2", "4.50", "4.50"] in cells
    assert ["bass", "1", "of", "2", "7.00", "7.00"] in cells
    assert ["mean", "2", "of", "2", "5.75", "5.75"] in cells

    drums = replace(summary.sources["drums"], num_extra_songs={"si_sar": 1, "fullness": 2})
    muted = replace(summary, sources={**summary.sources, "drums": drums})
    assert ["drums", "2", "of", "2", "4.50", "(1)", "4.50"] in cells_of(extra_tables({"": muted}))

    shards = ShardSet(uri="scores", table="scores", num_rows=4, digest="d")
    flat = _flat_scores(EvaluateResult(scores=shards, summary=summary))
    assert {name: value for name, value in flat.items() if "/si_" in name} == {
        "test/si_sar/drums": 4.5, "test/si_sar/bass": 7.0, "test/si_sar/mean": 5.75,
    }  # fmt: skip
    assert {"test/fullness/mean", "test/nsdr/mean", "test/num_songs/bass"} <= flat.keys()


def test_nothing_is_shown_of_scores_that_nobody_requested() -> None:
    assert extra_tables({"the first": summary_of(), "the second": summary_of()}) == []
    shards = ShardSet(uri="scores", table="scores", num_rows=4, digest="d")
    assert not [name for name in _flat_scores(EvaluateResult(scores=shards, summary=summary_of())) if "/si_" in name]
