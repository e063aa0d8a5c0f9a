"""`report.html`: what went in, what was learned, how well it separates, how it sounds; one file, no network.

Read `run`, then the sections below it in the order of the page; `page.py` has the look, `charts.py` the plots,
`listening.py` the players.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

from datasets.errors import InputError
from datasets.ranges import Range, check_ranges
from datasets.schema import REASONS, SOURCES, Score, Verdict
from datasets.store import storage
from pipelines.evaluation.scoring import ILL_CONDITIONED
from pipelines.lineage.contamination import Contamination
from pipelines.report.augmentation_examples import SoundShown, sounds_section
from pipelines.report.charts import Curve, SourceScores, curve_plot, legend, score_plot
from pipelines.report.listening import SongAudio, clips_of, players
from pipelines.report.mixes import MixShown, mixes_section
from pipelines.report.page import document, section, source_class, table, text
from pipelines.runtime.progress import Progress, stage

NSDR = "nSDR (MDX 2021: one energy ratio over the whole song, mean over songs)"
SDR = "SDR (BSS Eval v4: median over 1 s windows, then median over songs)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """What the page holds."""

    # Length of what is played; nine players of 30 s are 8 MB, what a mail takes
    clip_s: Annotated[float, Range(ge=1, le=30)] = 18.0
    mixes: Annotated[int, Range(ge=0, le=12)] = 3  # automixes that are drawn and played; 0 leaves them out
    mix_s: Annotated[float, Range(ge=1, le=30)] = 10.0  # length of each of these
    # Length of the excerpt on which augmentation is shown; 0: none
    augment_s: Annotated[float, Range(ge=0, le=15)] = 5.0

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="report.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInput:
    """Everything the page tells; a part that is empty is left out of it."""

    name: str  # of the registered model
    version: str = ""  # empty when nothing was registered
    promoted: bool = False
    reason: str = ""  # of the gate's decision
    verdicts: Sequence[Verdict] = ()  # kept and dropped alike, those that could not be read included
    licenses: Mapping[str, int] = field(default_factory=dict)  # license -> songs
    scores: Sequence[Score] = ()
    split: str = "test"
    heard: Contamination | None = None  # which of the scored songs the model knew; None where nobody looked
    history: Sequence[Mapping[str, Any]] = ()  # "step", "loss", "per_source", "valid_nsdr"
    sources: Sequence[str] = SOURCES  # the order of "per_source"
    song: SongAudio | None = None
    mixes: Sequence[MixShown] = ()
    sounds: Sequence[SoundShown] = ()  # of augmentation
    lineage: Mapping[str, str] = field(default_factory=dict)  # what is told -> digest, commit, ...
    config: str = ""  # the resolved configuration as TOML


def run(config: ReportConfig, made: ReportInput, *, store: str, progress: Progress | None = None) -> str:
    """Write `report.html` into the store, whole or not at all; its path. The same input gives the same bytes."""
    path = Path(store) / "report.html"
    with stage(progress, "report") as heard:
        page = render(config, made).encode("utf-8", "replace")
        storage.write(path, page)
        heard.finish(f"{path}, {len(page) / 1e6:.1f} MB")
    return str(path)


def render(config: ReportConfig, made: ReportInput) -> str:
    """The page as text."""
    parts = [
        headline(made),
        scores_section(made),
        listening_section(made, seconds=config.clip_s),
        songs_section(made),
        mixes_section(made.mixes),
        sounds_section(made.sounds),
        training_section(made),
        lineage_section(made),
    ]
    return document(f"{made.name} {made.version}".strip(), "".join(parts))


def headline(made: ReportInput) -> str:
    """What came of the run, in one sentence and a handful of numbers."""
    model = f"{made.name}, version {made.version}" if made.version else f"{made.name}, not registered"
    scores = per_source(made.scores)
    sentence = _sentence(scores) or model
    badge = '<span class="badge yes">Champion</span>' if made.promoted else '<span class="badge no">Not promoted</span>'
    verdict = f'<p class="verdict">{badge}<span>{text(made.reason)}</span></p>' if made.reason else ""
    facts = {}
    if scores:
        facts["Mean nSDR"] = f"{_db(fmean(row.model for row in scores))} <small>dB</small>"
        facts["Mixture as estimate"] = f"{_db(fmean(row.floor for row in scores))} <small>dB</small>"
        facts[f"{made.split.capitalize()} songs"] = str(len({score.track_id for score in made.scores}))
    kept = [verdict for verdict in made.verdicts if verdict.keep]
    if made.verdicts:
        facts["Songs kept"] = f"{len(kept)} <small>of {len(made.verdicts)}</small>"
        facts["Music kept"] = _length(sum(verdict.duration_s for verdict in kept))
    if made.history:
        facts["Training steps"] = f"{int(made.history[-1]['step']):,}".replace(",", "\u2009")
    listed = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return (
        f'<header><p class="eyebrow">{text(model)}</p><h1>{text(sentence)}</h1>'
        f'{verdict}<dl class="facts">{listed}</dl></header>'
    )


def _sentence(scores: Sequence[SourceScores]) -> str:
    """How far the model is above the two estimates that cost nothing: the mixture, and silence, whose nSDR is 0 dB."""
    if not scores:
        return ""
    mean = fmean(row.model for row in scores)
    gain = mean - fmean(row.floor for row in scores)
    if not math.isfinite(gain):
        return ""
    mixture = f"{abs(gain):.1f} dB {'better' if gain > 0 else 'worse'} than the mixture"
    joined = "," if (gain > 0) == (mean > 0) else ", but"
    return f"{mixture}{joined} {abs(mean):.1f} dB {'better' if mean > 0 else 'worse'} than silence"


def per_source(scores: Sequence[Score]) -> list[SourceScores]:
    """Means over songs of nSDR, per source in the order met."""
    return [
        SourceScores(
            source=source,
            floor=fmean(row.mixture_nsdr for row in rows),
            model=fmean(row.nsdr for row in rows),
            songs=tuple(row.nsdr for row in rows),
        )
        for source, rows in _by_source(scores).items()
    ]


def scores_section(made: ReportInput) -> str:
    """The plot and the table of scores; every column says which score it is."""
    summary = per_source(made.scores)
    if not summary:
        return ""
    num_songs = len({score.track_id for score in made.scores})
    songs = f"{num_songs} {'song' if num_songs == 1 else 'songs'} of the {text(made.split)} split"
    plot = score_plot(
        summary,
        label="nSDR per source: "
        + "; ".join(f"{row.source} {_db(row.floor)} dB as mixture, {_db(row.model)} dB separated" for row in summary),
    )
    dots = ", a faint dot is one song" if num_songs > 1 else ""
    caption = f'<p class="note">nSDR in dB. Hollow: the mixture taken as estimate. Filled: the model{dots}.</p>'
    return section(
        "How well it separates",
        plot,
        caption,
        _score_table(made.scores, summary),
        _filtered_table(made.scores),
        _song_table(made.scores) if num_songs > 1 else "",
        lead=f"On {songs}{_heard(made)} More is better. Silence as estimate has an nSDR of 0 dB.",
    )


def _heard(made: ReportInput) -> str:
    """Whether the scored songs were heard in training, said only as far as it is known."""
    if made.split == "valid":
        return ", by which the weights were chosen."
    if made.heard is None:
        return ", heard in training." if made.split == "train" else "; whether any was heard in training is not known."
    scored = {score.track_id for score in made.scores}
    heard = [track_id for track_id in sorted(made.heard.songs) if track_id in scored]
    if heard:
        named = ", ".join(heard[:3]) + (", ..." if len(heard) > 3 else "")
        return f", {len(heard)} of them heard in training: {text(named)}."
    if not made.heard.known:
        return f"; whether any was heard in training is not known: {text('; '.join(made.heard.gaps))}."
    if not made.heard.by_ear:
        return ", none of the same audio as one heard in training; other masters were not looked for."
    return ", never heard in training."


def _score_table(scores: Sequence[Score], summary: Sequence[SourceScores]) -> str:
    with_sdr = any(score.sdr is not None for score in scores)
    with_oracle = any(score.ceiling_nsdr is not None for score in scores)
    headers = ["Source", "nSDR mixture", "nSDR model", "Improvement"] + (["nSDR IRM2 oracle"] if with_oracle else [])
    headers += (["SDR mixture", "SDR model"] + (["SDR IRM2 oracle"] if with_oracle else [])) if with_sdr else []
    rows = []
    for row in summary:
        own = [score for score in scores if score.source == row.source]
        cells = [_named(row.source), _db(row.floor), _db(row.model), _db(row.model - row.floor, signed=True)]
        cells += [_db(_mean(score.ceiling_nsdr for score in own))] if with_oracle else []
        if with_sdr:
            cells += [_db(_median(score.mixture_sdr for score in own)), _db(_median(score.sdr for score in own))]
            cells += [_db(_median(score.ceiling_sdr for score in own))] if with_oracle else []
        rows.append(cells)
    if len(summary) > 1:
        mean = [fmean(row.floor for row in summary), fmean(row.model for row in summary)]
        cells = ["Mean", _db(mean[0]), _db(mean[1]), _db(mean[1] - mean[0], signed=True)]
        cells += [_db(_mean(score.ceiling_nsdr for score in scores))] if with_oracle else []
        rows.append(cells + [""] * (len(headers) - len(cells)))
    protocols = ", ".join(sorted({score.protocol for score in scores if score.protocol}))
    told = f"All in dB. {NSDR}." + (f" {SDR}." if with_sdr else "") + (f" Protocol: {protocols}." if protocols else "")
    return (
        table(headers, rows, numeric=range(1, len(headers)), totals=len(summary) > 1)
        + f'<p class="note">{text(told)}</p>'
    )


def _filtered_table(scores: Sequence[Score]) -> str:
    """ISR, SIR and SAR, and which songs they leave out; empty where they were not asked for."""
    if not any(score.solver for score in scores):
        return ""
    sound = [score for score in scores if score.solver != ILL_CONDITIONED]
    rows = []
    for source, own in _by_source(sound).items():
        medians = (_median(getattr(row, name) for row in own) for name in ("isr", "sir", "sar"))
        rows.append([_named(source), *map(_db, medians)])
    shown = table(["Source", "ISR", "SIR", "SAR"], rows, numeric=(1, 2, 3)) if rows else ""
    parts = [f'{shown}<p class="note">BSS Eval v4 in dB: medians over windows, then over songs.</p>']
    if doubtful := sorted({score.title for score in scores if score.solver == ILL_CONDITIONED}):
        parts.append(
            f'<p class="note"><strong>Left out: {text(", ".join(doubtful))}.</strong> Stems that lack some band make '
            "the equations ill-conditioned, and rounding errors decide on ISR, SIR and SAR.</p>"
        )
    return "".join(parts)


def _song_table(scores: Sequence[Score]) -> str:
    sources = list(_by_source(scores))
    songs: dict[str, dict[str, Score]] = {}
    for score in scores:
        songs.setdefault(score.track_id, {})[score.source] = score
    rows = []
    for by_source in sorted(songs.values(), key=lambda song: fmean(score.nsdr for score in song.values())):
        title = next(iter(by_source.values())).title
        cells = [_db(by_source[source].nsdr) if source in by_source else "–" for source in sources]
        mean = fmean(score.nsdr - score.mixture_nsdr for score in by_source.values())
        rows.append([text(title), *cells, _db(mean, signed=True)])
    headers = ["Song, worst first", *(source.capitalize() for source in sources), "Improvement"]
    shown = table(headers, rows, numeric=range(1, len(headers)))
    return f"<details><summary>nSDR of every song, in dB</summary>{shown}</details>"


def listening_section(made: ReportInput, *, seconds: float) -> str:
    """Players of the separated song."""
    if made.song is None:
        return ""
    clips = clips_of(made.song, seconds=seconds)
    scores = {
        row.source: f"{_db(row.nsdr)} dB nSDR" for row in made.scores if row.title == made.song.title
    }  # only if this song was scored too
    heard = clips[0].samples_CT.shape[-1] / 44_100
    lead = (
        f"<strong>{text(made.song.title)}</strong>, its loudest {heard:.0f} seconds, all at the same gain. "
        '<span class="hint">Starting a player goes on where the last one was; click a picture to jump, '
        "or use ← and → beside a button.</span>"
    )
    terms = f'<p class="note">{text(made.song.license)}</p>' if made.song.license else ""
    note = '<p class="note">Spectrograms: 40 Hz to 16 kHz, the 75 dB below the loudest part of the mixture.</p>'
    return section("How it sounds", players(made.song, clips, scores), note, terms, lead=lead)


def songs_section(made: ReportInput) -> str:
    """Songs and hours per split, then who was dropped and why."""
    if not made.verdicts:
        return ""
    kept = [verdict for verdict in made.verdicts if verdict.keep]
    dropped = [verdict for verdict in made.verdicts if not verdict.keep]
    rows = []
    for split in sorted({verdict.split for verdict in kept}, key=["train", "valid", "test"].index):
        own = [verdict for verdict in kept if verdict.split == split]
        rows.append([text(split), str(len(own)), _length(sum(verdict.duration_s for verdict in own))])
    rows.append(["All", str(len(kept)), _length(sum(verdict.duration_s for verdict in kept))])
    parts = [f'<div class="compact">{table(["Split", "Songs", "Length"], rows, numeric=(1, 2), totals=True)}</div>']
    if dropped:
        parts.append(f"<h3>{len(dropped)} {'song was' if len(dropped) == 1 else 'songs were'} dropped</h3>")
        parts.append(_drop_table(dropped))
    else:
        parts.append('<p class="note">No song was dropped.</p>')
    if made.licenses:
        told = ", ".join(f"{name} ({count})" for name, count in sorted(made.licenses.items()))
        parts.append(f'<p class="note">License of the songs: {text(told)}.</p>')
    return section("What went in", *parts)


def _drop_table(dropped: Sequence[Verdict]) -> str:
    rows = []
    for reason, count in sorted(
        Counter(verdict.reason for verdict in dropped).items(), key=lambda item: (-item[1], item)
    ):
        own = [verdict for verdict in dropped if verdict.reason == reason]
        items = "".join(
            f"<li>{text(verdict.title)}{f': {text(verdict.detail)}' if verdict.detail else ''}</li>" for verdict in own
        )
        names = f"<ul>{items}</ul>"
        if len(own) > 5:
            names = f"<details><summary>{len(own)} songs</summary>{names}</details>"
        rows.append([text(REASONS.get(reason, reason)), str(count), names])
    return table(["Reason", "Songs", "Which"], rows, numeric=(1,))


def training_section(made: ReportInput) -> str:
    """The loss, per source where there are several, and the validation score of every kind of weights."""
    points = [point for point in made.history if "loss" in point]
    if not points:
        return ""
    charts = []
    losses = {"all sources": ("source-mixture", [(point["step"], point["loss"]) for point in points])}
    for index, source in enumerate(made.sources):
        own = [
            (point["step"], point["per_source"][index]) for point in points if len(point.get("per_source", ())) > index
        ]
        if own and len(made.sources) > 1:
            losses[source] = (source_class(source), own)
    charts.append(_chart("Training loss", losses))
    kinds = list(dict.fromkeys(kind for point in made.history for kind in point.get("valid_nsdr", {})))
    styles = ("source-mixture", "source-bass", "source-vocals", "source-other", "source-drums")
    valid = {
        kind: (style, [(p["step"], p["valid_nsdr"][kind]) for p in made.history if kind in p.get("valid_nsdr", {})])
        for kind, style in zip(kinds, styles, strict=False)
    }
    if valid:
        charts.append(_chart("Mean nSDR on the valid split, dB", valid))
    return section("How it learned", f'<div class="charts">{"".join(charts)}</div>')


def _chart(title: str, lines: Mapping[str, tuple[str, list[tuple[float, float]]]]) -> str:
    curves = [Curve(name=name, points=tuple(points), style=style) for name, (style, points) in lines.items()]
    last = "; ".join(f"{curve.name} ends at {curve.points[-1][1]:.3g}" for curve in curves)
    names = legend({name: style for name, (style, _) in lines.items()}) if len(lines) > 1 else ""
    plot = curve_plot(curves, label=f"{title} over training steps: {last}")
    return f"<figure><figcaption>{text(title)}, over steps</figcaption>{names}{plot}</figure>"


def lineage_section(made: ReportInput) -> str:
    """What this version was made from, exactly."""
    if not made.lineage and not made.config:
        return ""
    rows = [[text(name), f'<span class="mono">{text(value)}</span>'] for name, value in made.lineage.items()]
    parts = [table(["What", "Which"], rows)] if rows else []
    if made.config:
        parts.append(
            "<details><summary>Configuration; <code>stemline run --preset FILE.toml</code> with it repeats this run"
            f"</summary><pre>{text(made.config)}</pre></details>"
        )
    return section("Where it comes from", *parts)


def _by_source(scores: Sequence[Score]) -> dict[str, list[Score]]:
    rows: dict[str, list[Score]] = {}
    for score in scores:
        rows.setdefault(score.source, []).append(score)
    return rows


def _named(source: str) -> str:
    return f'<span class="name {source_class(source)}"><span class="dot"></span>{text(source.capitalize())}</span>'


def _median(values: Any) -> float:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return median(known) if known else math.nan


def _mean(values: Any) -> float:
    known = [value for value in values if value is not None]
    return fmean(known) if known else math.nan


def _db(value: float, *, signed: bool = False) -> str:
    """One decimal is what can be heard, and a real minus sign keeps columns even; a dash for what is undefined."""
    if not math.isfinite(value):
        return "–"
    return f"{value:{'+' if signed else ''}.2f}".replace("-", "\u2212")


def _length(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f}\u00a0s"
    return f"{seconds / 60:.0f}\u00a0min" if seconds < 5400 else f"{seconds / 3600:.1f}\u00a0h"
