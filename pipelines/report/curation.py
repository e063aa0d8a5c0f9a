"""`curation.html`: which songs were kept, why the others were not, and how that sounds; one file, no network.

Read `run`, then the sections below it in the order of the page. Whoever disagrees presses a button beside a song and
gets the file that `curate.overrides` takes.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from datasets.audio.files import Samples, resample, to_channels
from datasets.quality.measures import Rules
from datasets.schema import REASONS, SPLITS, Verdict
from datasets.seeding import spread
from datasets.shards.manifests import Song
from datasets.shards.shards import read_song
from datasets.store import storage
from pipelines.report.listening import PAGE_RATE, Clip, band_levels, player
from pipelines.report.page import document, section, table, text
from pipelines.report.panels import Panel, Shares, histogram, matrix_plot
from pipelines.runtime.progress import Progress, stage
from pipelines.runtime.step_keys import code_digest

PAGE, DROPPED = "curation.html", "dropped.csv"
CLIP_S = 5.0
MAX_PLAYERS = 30  # of about 150 kB: the page stays something that a mail takes, however many songs there are
MAX_PER_SONG = 3
MAX_GAIN_DB = 24.0  # by which a quiet moment is made audible
MAX_MATRICES = 600  # small ones in the table, of about 2 kB


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A stretch of a song that shows why it was dropped."""

    source: str  # the stem that it is in; empty for the mixture
    start_s: float
    stop_s: float
    words: str = ""  # what to listen for
    track_id: str = ""  # of another song; empty for the dropped one


@dataclass(frozen=True, slots=True, kw_only=True)
class CurationInput:
    """Everything the page tells."""

    key: str  # of the curation: the page of an equal one is not made again
    rules: Rules
    sources: Sequence[str]
    verdicts: Sequence[Verdict]  # on all songs
    songs: Mapping[str, Song]  # those that are stored
    evidence: Mapping[str, Sequence[Evidence]]
    matrices: Mapping[str, Shares]  # of the songs that the model heard
    min_own: float  # the borders of the label rule, see `CurateConfig`
    max_foreign: float
    heard_db: float
    by_hand: Sequence[str]  # songs that a person decided on
    model: str = ""  # that was asked


def is_about(store: Path, key: str) -> bool:
    """Whether the store's page is that of this curation, by this code."""
    try:
        with (store / PAGE).open(encoding="utf-8") as file:
            return f'content="{_made_from(key)}"' in file.read(2000)
    except (OSError, UnicodeDecodeError):
        return False


def _made_from(key: str) -> str:
    return f"{key}-{code_digest('pipelines.report.curation')}"


def run(made: CurationInput, *, store: Path, progress: Progress | None = None) -> str:
    """Write `dropped.csv` and then `curation.html` into the store, each whole or not at all; the page's path.

    The same input gives the same bytes.
    """
    with stage(progress, "page") as heard:
        storage.write(store / DROPPED, dropped_table(made.verdicts).encode())
        page = render(made).encode("utf-8", "replace")
        storage.write(store / PAGE, page)
        heard.finish(f"{PAGE} and {DROPPED}, {len(page) / 1e6:.1f} MB")
    return str(store / PAGE)


def dropped_table(verdicts: Sequence[Verdict]) -> str:
    """The dropped songs as CSV, for spreadsheets and shells."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    columns = ("track_id", "title", "split", "reason", "detail", "duration_s")
    writer.writerow(columns)
    for verdict in verdicts:
        if not verdict.keep:
            writer.writerow([asdict(verdict)[name] for name in columns])
    return out.getvalue()


def render(made: CurationInput) -> str:
    """The page as text."""
    parts = [headline(made), reasons_section(made), measures_section(made), model_section(made),
             listening_section(made), songs_section(made)]  # fmt: skip
    return document("Curation", "".join(parts), parts=("page", "curation"), about=_made_from(made.key))


# --- sections -----------------------------------------------------------------------------------------------


def headline(made: CurationInput) -> str:
    """What was kept, in one sentence and a handful of numbers."""
    kept = [verdict for verdict in made.verdicts if verdict.keep]
    facts = {"Songs kept": f"{len(kept)} <small>of {len(made.verdicts)}</small>", "Music kept": _length(kept)}
    for split in SPLITS:
        facts[split.capitalize()] = f"{sum(v.split == split for v in kept)} <small>songs</small>"
    if made.by_hand:
        facts["Decided by hand"] = str(len(made.by_hand))
    listed = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    asked = f" and by what {made.model} hears in its stems" if made.model else ""
    return (
        f'<header><p class="eyebrow">Curation</p><h1>{len(kept)} of {_songs(len(made.verdicts))} kept</h1>'
        f"<p>Every song was judged by its signal{text(asked)}. Nothing was deleted: what was dropped stays in the "
        f'store, and a decision by hand brings it back.</p><dl class="facts">{listed}</dl></header>'
    )


def reasons_section(made: CurationInput) -> str:
    """How many songs each reason cost."""
    total = max(1, len(made.verdicts))
    counts = Counter(verdict.reason for verdict in made.verdicts if not verdict.keep)
    kept = sum(verdict.keep for verdict in made.verdicts)
    rows = [["Kept", "", str(kept), _bar(kept / total, kept=True)]]
    rows += [
        [text(reason), text(REASONS.get(reason, "")), str(count), _bar(count / total)]
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    shown = table(["Verdict", "What it means", "Songs", "Share of all"], rows, numeric=(2,))
    return section("Kept and dropped", f'<div class="tally">{shown}</div>')


def _bar(share: float, *, kept: bool = False) -> str:
    style = ' class="kept"' if kept else ""
    return (
        f'<svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><g{style}>'
        f'<rect width="{max(0.4, 100 * share):.1f}" height="4" rx="0.5"/></g></svg>'
    )


def measures_section(made: CurationInput) -> str:
    """How the songs spread over every measure that a rule looks at."""
    drawings = "".join(histogram(panel) for panel in panels(made))
    if not drawings:
        return ""
    lead = (
        "One value per song, a row per stem. The dashed line is the rule's limit, "
        "and values on the tinted ground beyond it drop a song."
    )
    return section("What was measured", f'<div class="panels">{drawings}</div>', lead=lead)


def panels(made: CurationInput) -> Iterator[Panel]:
    """The measures of the songs with the limits of their rules."""
    measured = [verdict.measures for verdict in made.verdicts if verdict.measures]
    for suffix, title, note, least, most, off, style in _MEASURES:
        least_shown = _LEAST_LEVEL if "level" in style else float("-inf")
        values = {
            source: [max(least_shown, value) for row in measured for value in _measure(row, source, suffix)]
            for source in ("", *made.sources)
        }
        if any(values.values()):
            ends = {"least": least, "most": most}
            limits = {end: _limit(made, field) for end, field in ends.items() if field}
            limits = {end: limit for end, limit in limits.items() if limit != off}
            note += "" if limits else "; no rule" if off is None else "; the rule is off"
            yield Panel(title=title, note=note, values=values, percent="%" in style, decades="log" in style, **limits)


def _limit(made: CurationInput, field: str) -> float:
    """Where a rule draws its line: a field of the signal's rules, or of the label rule."""
    labels = {"min_own": made.min_own, "max_foreign": made.max_foreign}
    return labels[field] if field in labels else float(getattr(made.rules, field))


def _measure(row: Mapping[str, float], source: str, suffix: str) -> list[float]:
    """A source's measure, or the song's own for no source; none where it was not taken."""
    name = f"{source}_{suffix}" if source else suffix
    if suffix in _LOUDEST:  # of what else is in the stem, the most counts
        others = [v for key, v in row.items() if source and key.startswith(f"{name}_") and key != f"{name}_{source}"]
        return [max(others)] if others else []
    if suffix == "heard":
        name = f"{source}_heard_as_{source}"
    return [abs(row[name]) if suffix == "shift_ms" else row[name]] if name in row else []


_LOUDEST = ("bleed", "heard_as")
# Suffix of the measure, title, what it is, the rule's field for the least and the most of a kept song, the setting
# that switches the rule off, style.
_MEASURES: tuple[tuple[str, str, str, str, str, float | None, str], ...] = (
    ("presence", "Presence", "seconds in which the stem sounds", "min_presence", "", 0.0, "%"),
    ("clipped", "Clipping", "samples in flat tops", "", "max_clipped", 1.0, "% log"),
    ("offset", "Offset", "mean of a stem, of full scale", "", "max_offset", 1.0, "% log"),
    ("correlation", "Channels", "correlation; 1 is mono, \u22121 cancels", "min_correlation", "", -1.0, ""),
    ("bleed", "Bleed", "dB; the loudest other stem in it", "", "max_bleed_db", 0.0, "level"),
    ("cutoff_hz", "Bandwidth", "Hz where the spectrum ends", "min_cutoff_hz", "", 0.0, ""),
    ("shift_ms", "Shift", "ms against the mixture", "", "max_shift_ms", 1000.0, ""),
    ("residual_db", "Residual", "dB that the stems leave of the mixture", "", "max_residual_db", 0.0, "level"),
    ("heard", "Heard as itself", "seconds, by the model", "min_own", "", None, "%"),
    ("heard_as", "Heard as another", "seconds, by the model; the most of any", "", "max_foreign", None, "%"),
    ("lufs", "Loudness", "LUFS over the whole song", "", "", None, "level"),
)
_LEAST_LEVEL = -70.0  # silence stands here


def model_section(made: CurationInput) -> str:
    """What the model hears in stems, as the mean over all songs that it heard."""
    if not made.matrices:
        return ""
    stack = np.stack(list(made.matrices.values()))
    known = np.isfinite(stack)
    mean_SS = np.where(known, stack, 0).sum(axis=0) / np.maximum(1, known.sum(axis=0))
    mean_SS[~known.any(axis=0)] = np.nan
    broken = sum(verdict.reason == "mislabelled" for verdict in made.verdicts)
    rule = (
        f"Each stem was played to <strong>{text(made.model)}</strong> alone. A number is the share, in per cent, of "
        "the seconds in which the stem sounds where the model's output is no more than "
        f"{-made.heard_db:g} dB below it."
    )
    said = (
        f"<p>A song is kept when every stem is heard as itself in more than {made.min_own:.0%} and as anything "
        f"else in less than {made.max_foreign:.0%} of its seconds; what breaks this has a border. "
        f"This is the mean over the {_songs(len(made.matrices))} that broke no rule on the signal; {broken} of them "
        f"{'was' if broken == 1 else 'were'} dropped by this rule. Bright cells off the diagonal that all songs share "
        "are confusions of the model, not of the labels.</p>"
    )
    return section(
        "What the model hears",
        f'<div class="beside">{_matrix(made, mean_SS)}<div>{said}</div></div>',
        lead=rule,
    )


def _matrix(made: CurationInput, shares_SS: Shares, *, small: bool = False) -> str:
    return matrix_plot(shares_SS, made.sources, min_own=made.min_own, max_foreign=made.max_foreign, small=small)


# --- listening ----------------------------------------------------------------------------------------------


def listening_section(made: CurationInput) -> str:
    """Dropped songs with what speaks against them, and players for the seconds that show it."""
    chosen = choose(made)
    if not chosen:
        return ""
    reasons: dict[str, list[str]] = {}
    for verdict, moments in chosen:
        reasons.setdefault(verdict.reason, []).append(case(made, verdict, moments))
    parts = []
    for reason, cases in reasons.items():
        total = sum(verdict.reason == reason for verdict in made.verdicts)
        heard = f"all {total}" if len(cases) == total and total > 1 else f"{len(cases)} of {total}"
        parts.append(f"<h3>{text(reason)}: {text(REASONS.get(reason, ''))} <small>({heard})</small></h3>")
        parts.append(f'<div class="cases">{"".join(cases)}</div>')
    dropped = [verdict.track_id for verdict in made.verdicts if not verdict.keep]
    lost = sum(track_id not in made.songs for track_id in dropped)
    mute = sum(track_id in made.songs and not made.evidence.get(track_id) for track_id in dropped)
    left_out = len(dropped) - lost - mute - len(chosen)
    more = f" {_songs(left_out)} more have no player, so that the page stays small." if left_out else ""
    more += f" {_songs(mute)} more were dropped for what cannot be heard, such as silence." if mute else ""
    more += f" Of {_songs(lost)} no audio could be read." if lost else ""
    more += " The table below has the evidence on every song." if more else ""
    lead = (
        f"{CLIP_S:g} seconds around the worst second of {_songs(len(chosen))}; the second itself is marked. Quiet "
        f"moments are turned up by up to {MAX_GAIN_DB:g} dB, which is said.{more} "
        '<span class="hint">Click a picture to jump, or use ← and → beside a button.</span>'
    )
    return section("How it sounds", *parts, lead=lead)


def choose(made: CurationInput) -> list[tuple[Verdict, list[Evidence]]]:
    """The songs that get players, from all over the corpus: of every reason in turn, so that none crowds out others."""
    by_reason: dict[str, list[Verdict]] = {}
    verdicts = {verdict.track_id: verdict for verdict in made.verdicts}
    for track_id in spread(verdicts):
        verdict = verdicts[track_id]
        if not verdict.keep and made.evidence.get(verdict.track_id):
            by_reason.setdefault(verdict.reason, []).append(verdict)
    chosen: list[tuple[Verdict, list[Evidence]]] = []
    players = 0
    for turn in zip_longest(*(by_reason[reason] for reason in sorted(by_reason))):
        for verdict in turn:
            if verdict is None:
                continue
            moments = list(made.evidence[verdict.track_id])[:MAX_PER_SONG]
            if players + len(moments) > MAX_PLAYERS:
                return sorted(chosen, key=lambda pair: (pair[0].reason, pair[0].track_id))
            chosen.append((verdict, moments))
            players += len(moments)
    return sorted(chosen, key=lambda pair: (pair[0].reason, pair[0].track_id))


def case(made: CurationInput, verdict: Verdict, moments: Sequence[Evidence]) -> str:
    """One dropped song: what speaks against it, its matrix, its worst seconds."""
    matrix = ""
    if verdict.track_id in made.matrices:
        matrix = _matrix(made, made.matrices[verdict.track_id], small=True)
    title = f'<h4>{text(verdict.title)}</h4><p class="note mono">{text(verdict.track_id)}</p>'
    players = "".join(_player(made, verdict, moment) for moment in moments)
    kind = "case wide" if matrix or len(moments) > 1 else "case"
    return (
        f'<article class="{kind}"><div class="told"><div>{title}<p>{text(verdict.detail)}</p></div>{matrix}</div>'
        f'<div class="players">{players}</div></article>'
    )


def _player(made: CurationInput, verdict: Verdict, moment: Evidence) -> str:
    song = made.songs[moment.track_id or verdict.track_id]
    length_s = song.num_samples / song.sample_rate
    start_s = max(0.0, min((moment.start_s + moment.stop_s - CLIP_S) / 2, length_s - CLIP_S))
    samples_CT, gain_db = _audible(_excerpt(song, moment.source, start_s, made.sources))
    length_s = samples_CT.shape[-1] / PAGE_RATE
    marked = (max(0.0, moment.start_s - start_s), min(length_s, moment.stop_s - start_s))
    what = f"{(moment.source or 'mixture').capitalize()} at {_clock(moment.start_s)}"
    words = ", ".join([what, *([moment.words] if moment.words else []), *([f"+{gain_db:.0f} dB"] if gain_db else [])])
    clip = Clip(source=moment.source or "mixture", kind=words, samples_CT=samples_CT)
    loudest_db = max(-60.0, float(band_levels(samples_CT).max()))
    peak = max(1e-3, float(np.abs(samples_CT).max(initial=0.0)))
    return player(clip, song.title, loudest_db=loudest_db, peak=peak, whole=False, moment_s=marked)


def _excerpt(song: Song, source: str, start_s: float, sources: Sequence[str]) -> Samples:
    """`CLIP_S` of a stem, or of the sum of all, as stereo at the page's rate."""
    start, num_samples = round(start_s * song.sample_rate), round(CLIP_S * song.sample_rate)
    wanted = [source] if source else list(sources)
    stems_SCT = read_song(song, sources=wanted, start=start, num_samples=num_samples)
    summed_CT = to_channels(stems_SCT.sum(axis=0), 2)
    return resample(summed_CT, source_rate=song.sample_rate, target_rate=PAGE_RATE)


def _audible(samples_CT: Samples) -> tuple[Samples, float]:
    """The samples, turned down to full scale, or up in whole decibels where they are quiet; and by how many."""
    peak_db = 20 * np.log10(max(1e-6, float(np.abs(samples_CT).max(initial=0.0))))
    gain_db = float(-peak_db) if peak_db > 0 else float(np.clip(np.floor(-3.0 - peak_db), 0, MAX_GAIN_DB))
    gain_db = gain_db if gain_db < 0 or gain_db >= 3.0 else 0.0  # not worth a word
    return samples_CT * np.float32(10 ** (gain_db / 20)), max(0.0, gain_db)


# --- the table ----------------------------------------------------------------------------------------------


def songs_section(made: CurationInput) -> str:
    """Every song with its verdict; with the script it is filtered, sorted, and overruled."""
    counts = Counter(verdict.reason for verdict in made.verdicts if not verdict.keep)
    kept = sum(verdict.keep for verdict in made.verdicts)
    chips = [("kept", f"Kept {kept}"), ("dropped", f"Dropped {len(made.verdicts) - kept}")]
    chips += [(reason, f"{reason} {count}") for reason, count in sorted(counts.items(), key=lambda i: (-i[1], i[0]))]
    buttons = "".join(
        f'<button type="button" class="chip" value="{text(value)}" aria-pressed="false">{text(name)}</button>'
        for value, name in chips
    )
    tools = (
        '<div class="tools script-only" hidden><input type="search" id="search" placeholder="Search in titles, ids '
        f'and evidence" aria-label="Search songs">{buttons}</div>'
    )
    drawn = _drawn_matrices(made)
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Song", "Split", "Length", "Verdict", "Evidence"))
    rows = "".join(_row(made, verdict, with_matrix=verdict.track_id in drawn) for verdict in made.verdicts)
    shown = f'<div class="songs scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    foot = (
        '<p class="note script-only" hidden><span id="count" role="status"></span> '
        '<button type="button" class="more">Show more</button></p>'
    )
    missing = sum(verdict.reason == "mislabelled" for verdict in made.verdicts) - len(drawn)
    note = f'<p class="note">{missing} matrices of mislabelled songs were left out of the table.</p>' if missing else ""
    return section(
        "Every song", tools, shown, foot, note, _by_hand(), lead=f"Those that were dropped also stand in {DROPPED}."
    )


def _drawn_matrices(made: CurationInput) -> set[str]:
    broken = [v.track_id for v in made.verdicts if v.reason == "mislabelled" and v.track_id in made.matrices]
    return set(broken[:MAX_MATRICES])


def _row(made: CurationInput, verdict: Verdict, *, with_matrix: bool) -> str:
    kept = "kept" if verdict.keep else "dropped"
    badge = f'<span class="badge {"yes" if verdict.keep else "no"}">{text(verdict.reason or kept)}</span>'
    flip = ""
    if verdict.track_id in made.songs:
        act = "Drop" if verdict.keep else "Keep"
        flip = (
            f' <button type="button" class="flip" hidden aria-pressed="false" aria-label="{act} {text(verdict.title)} '
            f'by hand">{act}</button>'
        )
    matrix = ""
    if with_matrix:
        drawn = _matrix(made, made.matrices[verdict.track_id], small=True)
        matrix = f"<details><summary>What the model hears</summary>{drawn}</details>"
    name = f'<span class="id">{text(verdict.track_id)}</span>' if verdict.track_id != verdict.title else ""
    return (
        f'<tr data-id="{text(verdict.track_id)}" data-verdict="{kept}" data-reason="{text(verdict.reason)}">'
        f'<th scope="row">{text(verdict.title)}{name}</th><td class="brief">{text(verdict.split)}</td>'
        f'<td class="brief" data-key="{verdict.duration_s:.1f}">{_clock(verdict.duration_s)}</td>'
        f"<td>{badge}{flip}</td><td>{text(verdict.detail)}{matrix}</td></tr>"
    )


def _by_hand() -> str:
    return (
        '<div class="hand" hidden><h3>Your decisions</h3><p>Save this as a file and run the step again with '
        "<code>curate.overrides=FILE.csv</code>; the words after the second comma are yours to choose.</p>"
        '<textarea readonly spellcheck="false" aria-label="The file of decisions"></textarea></div>'
    )


# --- words --------------------------------------------------------------------------------------------------


def _songs(count: int) -> str:
    return f"{count} song" if count == 1 else f"{count} songs"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _length(verdicts: Sequence[Verdict]) -> str:
    seconds: Any = sum(verdict.duration_s for verdict in verdicts)
    if seconds < 5400:
        return f"{seconds / 60:.0f} <small>min</small>" if seconds >= 90 else f"{seconds:.0f} <small>s</small>"
    return f"{seconds / 3600:.1f} <small>h</small>"
