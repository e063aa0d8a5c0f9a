"""`curation.html`: which songs were kept, why the others were not, and how that sounds; one file, no network.

Read `run`, then the sections in the order of the page; `assets/curation/` has their markup. A button beside each
song overrules its verdict, and gives the file that `curate.overrides` takes.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from markupsafe import Markup

from datasets.schema import REASONS, SPLITS, Funnel, Verdict
from datasets.store import storage
from pipelines.report.curation.excerpts import listening_section
from pipelines.report.curation.page_input import DROPPED, PAGE, CurationInput
from pipelines.report.curation.rule_sections import measures_section, model_section
from pipelines.report.curation.songs_table import songs_section
from pipelines.report.html_page import document
from pipelines.report.html_page import render as render_template
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import Step

# Raise it when the same verdicts give a page that says something else (CONTRIBUTING.md)
VERSION = 4
STEP = Step(name="curation_page", version=VERSION)


def is_about(store: str | Path, key: str) -> bool:
    """Whether the store's page is that of this curation, by this code."""
    try:
        return f'content="{_made_from(key)}"'.encode() in storage.read(storage.join(store, PAGE), 2000)
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class CurationPageInputs:
    """All that decides on the page."""

    curation: str  # its key


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # what spreadsheets take for one


def _made_from(key: str) -> str:
    return f"{key}-{STEP.key(CurationPageInputs(curation=key))}"


def run(data: CurationInput, *, store: str | Path, progress: Progress | None = None) -> str:
    """Write `dropped.csv` and then `curation.html` into the store, each whole or not at all; the page's path.

    The same input gives the same bytes.
    """
    with stage(progress, "page") as progress:
        storage.write(storage.join(store, DROPPED), dropped_table(data.verdicts).encode())
        page = render(data).encode("utf-8", "replace")
        storage.write(storage.join(store, PAGE), page)
        progress.finish(f"{PAGE} and {DROPPED}, {len(page) / 1e6:.1f} MB")
    return storage.join(store, PAGE)


def dropped_table(verdicts: Sequence[Verdict]) -> str:
    """The dropped songs as CSV, for spreadsheets and shells."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    columns = ("track_id", "title", "split", "reason", "detail", "duration_s")
    writer.writerow(columns)
    for verdict in verdicts:
        if not verdict.keep:
            writer.writerow([_cell(asdict(verdict)[name]) for name in columns])
    return out.getvalue()


def _cell(value: object) -> object:
    """A value for a spreadsheet, which would compute text that begins like a formula: an apostrophe says it is text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def render(data: CurationInput) -> str:
    """The page as text."""
    parts = [headline(data), reasons_section(data), measures_section(data), model_section(data),
             listening_section(data), songs_section(data)]  # fmt: skip
    return document("Curation", Markup().join(parts), parts=("page", "curation"), about=_made_from(data.key))


def headline(data: CurationInput) -> Markup:
    """How much was kept, in one sentence and a few numbers."""
    kept = [verdict for verdict in data.verdicts if verdict.keep]
    funnel = Funnel(found=len(data.verdicts), readable=len(data.songs), kept=len(kept))
    facts = [("Songs", funnel.words, ""), ("Music kept", *_total_duration(kept))]
    facts += [(split.capitalize(), str(sum(v.split == split for v in kept)), "songs") for split in SPLITS]
    if data.by_hand:
        facts.append(("Decided manually", str(len(data.by_hand)), ""))
    return render_template(
        "curation/headline.html.j2",
        num_kept=len(kept),
        num_songs=len(data.verdicts),
        model=data.model,
        facts=facts,
    )


def reasons_section(data: CurationInput) -> Markup:
    """How many songs were dropped for each reason."""
    total = max(1, len(data.verdicts))
    counts = Counter(verdict.reason for verdict in data.verdicts if not verdict.keep)
    num_kept = sum(verdict.keep for verdict in data.verdicts)
    rows = [["Kept", "", str(num_kept), _bar(num_kept / total, style="kept")]]
    rows += [
        [reason, REASONS.get(reason, ""), str(count), _bar(count / total)]
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return render_template("curation/reasons.html.j2", rows=rows, settings=data.would_keep)


def _bar(share: float, *, style: str = "") -> Markup:
    group = f'<g class="{style}">' if style else "<g>"
    return Markup(
        f'<svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">{group}'
        f'<rect width="{max(0.4, 100 * share):.1f}" height="4" rx="0.5"/></g></svg>'
    )


def _total_duration(verdicts: Sequence[Verdict]) -> tuple[str, str]:
    """Length of all songs together: number and unit."""
    seconds = sum(verdict.duration_s for verdict in verdicts)
    if seconds < 5400:
        return (f"{seconds / 60:.0f}", "min") if seconds >= 90 else (f"{seconds:.0f}", "s")
    return f"{seconds / 3600:.1f}", "h"
