"""Every song with its verdict, to be filtered, sorted and overruled."""

from collections import Counter

from datasets.schema import Verdict
from pipelines.report.curation.curation_input import DROPPED, CurationInput
from pipelines.report.curation.rule_sections import confusion_matrix
from pipelines.report.formatting import clock
from pipelines.report.page import section, text

MAX_MATRICES = 600  # small ones in the table, of about 2 kB


def songs_section(data: CurationInput) -> str:
    """Every song with its verdict; with the script it is filtered, sorted, and overruled."""
    counts = Counter(verdict.reason for verdict in data.verdicts if not verdict.keep)
    kept = sum(verdict.keep for verdict in data.verdicts)
    chips = [("kept", f"Kept {kept}"), ("dropped", f"Dropped {len(data.verdicts) - kept}")]
    chips += [(reason, f"{reason} {count}") for reason, count in sorted(counts.items(), key=lambda i: (-i[1], i[0]))]
    buttons = "".join(
        f'<button type="button" class="chip" value="{text(value)}" aria-pressed="false">{text(name)}</button>'
        for value, name in chips
    )
    tools = (
        '<div class="tools script-only" hidden><input type="search" id="search" placeholder="Search in titles, ids '
        f'and evidence" aria-label="Search songs">{buttons}</div>'
    )
    drawn = _drawn_matrices(data)
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Song", "Split", "Length", "Verdict", "Evidence"))
    rows = "".join(_row(data, verdict, with_matrix=verdict.track_id in drawn) for verdict in data.verdicts)
    shown = f'<div class="songs scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    foot = (
        '<p class="note script-only" hidden><span id="count" role="status"></span> '
        '<button type="button" class="more">Show more</button></p>'
    )
    missing = sum(verdict.reason == "mislabelled" for verdict in data.verdicts) - len(drawn)
    note = f'<p class="note">{missing} matrices of mislabelled songs were left out of the table.</p>' if missing else ""
    return section(
        "Every song",
        tools,
        shown,
        foot,
        note,
        _overrides_form(),
        lead=f"The dropped songs are also listed in {DROPPED}.",
    )


def _drawn_matrices(data: CurationInput) -> set[str]:
    broken = [v.track_id for v in data.verdicts if v.reason == "mislabelled" and v.track_id in data.matrices]
    return set(broken[:MAX_MATRICES])


def _row(data: CurationInput, verdict: Verdict, *, with_matrix: bool) -> str:
    kept = "kept" if verdict.keep else "dropped"
    badge = f'<span class="badge {"yes" if verdict.keep else "no"}">{text(verdict.reason or kept)}</span>'
    flip = ""
    if verdict.track_id in data.songs:
        act = "Drop" if verdict.keep else "Keep"
        flip = (
            f' <button type="button" class="flip" hidden aria-pressed="false" aria-label="{act} {text(verdict.title)} '
            f'by hand">{act}</button>'
        )
    matrix = ""
    if with_matrix:
        drawn = confusion_matrix(data, data.matrices[verdict.track_id], small=True)
        matrix = f"<details><summary>What the model recognizes</summary>{drawn}</details>"
    name = f'<span class="id">{text(verdict.track_id)}</span>' if verdict.track_id != verdict.title else ""
    return (
        f'<tr data-id="{text(verdict.track_id)}" data-verdict="{kept}" data-reason="{text(verdict.reason)}">'
        f'<th scope="row">{text(verdict.title)}{name}</th><td class="brief">{text(verdict.split)}</td>'
        f'<td class="brief" data-key="{verdict.duration_s:.1f}">{clock(verdict.duration_s)}</td>'
        f"<td>{badge}{flip}</td><td>{text(verdict.detail)}{matrix}</td></tr>"
    )


def _overrides_form() -> str:
    return (
        '<div class="hand" hidden><h3>Your decisions</h3><p>Save this as a file and run the step again with '
        "<code>curate.overrides=FILE.csv</code>; the text after the second comma is yours to choose.</p>"
        '<textarea readonly spellcheck="false" aria-label="The file of decisions"></textarea></div>'
    )
