"""What the report is told of a training."""

from flows.report_model import curves
from pipelines.report.model_report import training_section
from pipelines.report.report_input import ReportInput


def test_a_point_of_skipped_steps_alone_breaks_no_report() -> None:
    good = {"learning_rate": 1e-3, "loss": 0.5, "loss_drums": 0.25, "loss_bass": 0.75}
    history = [
        {"step": 1, **good},
        {"step": 2, "learning_rate": 1e-3, "skipped": 1},
        {"step": 3, "valid_nsdr_raw": 1.5, "skipped": 1},
        {"step": 4, **good, "valid_nsdr_raw": 2.5},
    ]
    drawn = curves(history, ("drums", "bass"))
    assert [point["step"] for point in drawn] == [1, 2, 3, 4]
    assert drawn[2]["valid_nsdr"] == {"raw": 1.5}
    assert drawn[3]["per_source"] == [0.25, 0.75]
    section = training_section(
        ReportInput(
            name="m", version="1", promoted=False, reason="", verdicts=(), scores=(), history=drawn,
            sources=("drums", "bass"),
        )
    )  # fmt: skip
    assert "nan" not in section.lower()
    assert section.count("<polyline") >= 4
    only_skipped = curves(history[1:2], ("drums", "bass"))
    told = ReportInput(name="m", version="1", promoted=False, reason="", history=only_skipped, sources=("drums",))
    assert "nan" not in training_section(told).lower()
