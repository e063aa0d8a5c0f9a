"""The seconds that show why songs were dropped: which of them are played, and the players."""

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from datasets.audio.resampling import resample
from datasets.audio.samples import Samples, to_channels
from datasets.schema import REASONS, Verdict
from datasets.seeding import spread
from datasets.shards.manifests import Song
from datasets.shards.shards import read_song
from pipelines.report.curation.curation_input import CurationInput, Evidence
from pipelines.report.curation.rule_sections import confusion_matrix
from pipelines.report.formatting import clock, count_songs
from pipelines.report.listening import PAGE_RATE, Clip, band_levels, player
from pipelines.report.page import section, text

CLIP_S = 5.0
MAX_PLAYERS = 30  # of about 150 kB: the page stays something that a mail takes, however many songs there are
MAX_PER_SONG = 3
MAX_GAIN_DB = 24.0  # by which a quiet moment is made audible


def listening_section(data: CurationInput) -> str:
    """Dropped songs with the evidence, and players for the seconds that show it."""
    chosen = choose(data)
    if not chosen:
        return ""
    reasons: dict[str, list[str]] = {}
    for verdict, moments in chosen:
        reasons.setdefault(verdict.reason, []).append(case(data, verdict, moments))
    parts = []
    for reason, cases in reasons.items():
        total = sum(verdict.reason == reason for verdict in data.verdicts)
        played = f"all {total}" if len(cases) == total and total > 1 else f"{len(cases)} of {total}"
        parts.append(f"<h3>{text(reason)}: {text(REASONS.get(reason, ''))} <small>({played})</small></h3>")
        parts.append(f'<div class="cases">{"".join(cases)}</div>')
    dropped = [verdict.track_id for verdict in data.verdicts if not verdict.keep]
    unreadable = sum(track_id not in data.songs for track_id in dropped)
    without_audio = sum(track_id in data.songs and not data.evidence.get(track_id) for track_id in dropped)
    left_out = len(dropped) - unreadable - without_audio - len(chosen)
    more = f" {count_songs(left_out)} more have no player, so that the page stays small." if left_out else ""
    more += (
        f" {count_songs(without_audio)} more were dropped for a reason that cannot be heard, such as silence."
        if without_audio
        else ""
    )
    more += f" {count_songs(unreadable)} could not be read." if unreadable else ""
    more += " The table below has the evidence on every song." if more else ""
    lead = (
        f"{CLIP_S:g} seconds around the worst second of {count_songs(len(chosen))}; that second is marked. Quiet "
        f"excerpts are amplified by up to {MAX_GAIN_DB:g} dB; the gain is shown.{more} "
        '<span class="hint">Click a picture to jump, or use ← and → beside a button.</span>'
    )
    return section("How it sounds", *parts, lead=lead)


def choose(data: CurationInput) -> list[tuple[Verdict, list[Evidence]]]:
    """The songs that get players, from all over the corpus: of every reason in turn, so that none crowds out others."""
    by_reason: dict[str, list[Verdict]] = {}
    verdicts = {verdict.track_id: verdict for verdict in data.verdicts}
    for track_id in spread(verdicts):
        verdict = verdicts[track_id]
        if not verdict.keep and data.evidence.get(verdict.track_id):
            by_reason.setdefault(verdict.reason, []).append(verdict)
    chosen: list[tuple[Verdict, list[Evidence]]] = []
    players = 0
    for turn in zip_longest(*(by_reason[reason] for reason in sorted(by_reason))):
        for verdict in turn:
            if verdict is None:
                continue
            moments = list(data.evidence[verdict.track_id])[:MAX_PER_SONG]
            if players + len(moments) > MAX_PLAYERS:
                return sorted(chosen, key=lambda pair: (pair[0].reason, pair[0].track_id))
            chosen.append((verdict, moments))
            players += len(moments)
    return sorted(chosen, key=lambda pair: (pair[0].reason, pair[0].track_id))


def case(data: CurationInput, verdict: Verdict, moments: Sequence[Evidence]) -> str:
    """One dropped song: why, its matrix, its worst seconds."""
    matrix = ""
    if verdict.track_id in data.matrices:
        matrix = confusion_matrix(data, data.matrices[verdict.track_id], small=True)
    title = f'<h4>{text(verdict.title)}</h4><p class="note mono">{text(verdict.track_id)}</p>'
    players = "".join(_player(data, verdict, moment) for moment in moments)
    kind = "case wide" if matrix or len(moments) > 1 else "case"
    return (
        f'<article class="{kind}"><div class="told"><div>{title}<p>{text(verdict.detail)}</p></div>{matrix}</div>'
        f'<div class="players">{players}</div></article>'
    )


def _player(data: CurationInput, verdict: Verdict, moment: Evidence) -> str:
    song = data.songs[moment.track_id or verdict.track_id]
    length_s = song.num_samples / song.sample_rate
    start_s = max(0.0, min((moment.start_s + moment.stop_s - CLIP_S) / 2, length_s - CLIP_S))
    samples_CT, gain_db = _audible(_excerpt(song, moment.source, start_s, data.sources))
    length_s = samples_CT.shape[-1] / PAGE_RATE
    marked = (max(0.0, moment.start_s - start_s), min(length_s, moment.stop_s - start_s))
    what = f"{(moment.source or 'mixture').capitalize()} at {clock(moment.start_s)}"
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
    gain_db = gain_db if gain_db < 0 or gain_db >= 3.0 else 0.0  # not worth mentioning
    return samples_CT * np.float32(10 ** (gain_db / 20)), max(0.0, gain_db)
