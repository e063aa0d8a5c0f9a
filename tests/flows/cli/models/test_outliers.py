"""`stemline outliers`: how songs are scored for it, and what it says of what it could not rank."""

from flows.cli.models.outliers import _console_output, _scoring
from flows.console.sanitized_console import Terminal
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.score_tables.score_outliers import ScoreOutlier


def test_nothing_is_scored_that_the_ranking_does_not_read() -> None:
    costly = EvaluateConfig(
        full_bss_eval=True, scorer="museval", museval_json="scores", extra_metrics=("bleedless",), max_song_s=60
    )
    assert _scoring(costly, "train") == EvaluateConfig(split="train", max_song_s=60)


def test_titles_and_sources_are_printed_as_they_are_and_what_is_left_out_is_named() -> None:
    worst = ScoreOutlier(
        track_id="[bold]x\x1b[31m", title="", source="vocals", nsdr=1.0, expected_nsdr=6.5, deviation=-9.04
    )
    console = Terminal(width=160)
    with console.capture() as printed:
        for part in _console_output([worst], {"[red]piano": 3}, 2, "train"):
            console.print(part)
    text = printed.get()
    assert "[bold]x\\x1b" in text
    assert "\x1b" not in text
    assert "vocals  1.00      6.50        -9.0" in text
    assert "[red]piano is left out: it can be ranked in 3 songs, and 12 are needed" in text
    assert "quiet stems are left out, 2 of them: more than 15 dB below the rest of their song" in text
