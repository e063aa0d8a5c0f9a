"""Every song with its verdict, to be filtered, sorted and overruled."""

from collections import Counter
from typing import Any

from markupsafe import Markup

from datasets.schema import Verdict
from pipelines.report.curation.page_input import DROPPED, CurationInput
from pipelines.report.curation.rule_sections import confusion_matrix
from pipelines.report.formatting import clock
from pipelines.report.html_page import render

MAX_MATRICES = 600  # small ones in the table, of about 2 kB


def songs_section(data: CurationInput) -> Markup:
    """Every song with its verdict; with the script it is filtered, sorted, and overruled."""
    counts = Counter(verdict.reason for verdict in data.verdicts if not verdict.keep)
    num_kept = sum(verdict.keep for verdict in data.verdicts)
    chips = [("kept", f"Kept {num_kept}"), ("dropped", f"Dropped {len(data.verdicts) - num_kept}")]
    chips += [(reason, f"{reason} {count}") for reason, count in sorted(counts.items(), key=lambda i: (-i[1], i[0]))]
    mislabelled = [verdict.track_id for verdict in data.verdicts if verdict.reason == "mislabelled"]
    with_matrix = set([track_id for track_id in mislabelled if track_id in data.matrices][:MAX_MATRICES])
    return render(
        "curation/songs.html.j2",
        file=DROPPED,
        chips=chips,
        songs=[_row(data, verdict, with_matrix=verdict.track_id in with_matrix) for verdict in data.verdicts],
        missing=len(mislabelled) - len(with_matrix),
    )


def _row(data: CurationInput, verdict: Verdict, *, with_matrix: bool) -> dict[str, Any]:
    """What the template shows of a song."""
    return {
        "verdict": verdict,
        "outcome": "kept" if verdict.keep else "dropped",
        "duration_s": f"{verdict.duration_s:.1f}",
        "length": clock(verdict.duration_s) if verdict.duration_s else "–",  # nobody knows that of a song not read
        "is_stored": verdict.track_id in data.songs,
        "matrix": confusion_matrix(data, data.matrices[verdict.track_id], small=True) if with_matrix else "",
    }
