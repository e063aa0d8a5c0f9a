"""The seconds that show why songs were dropped: which of them are played, and the players."""

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from markupsafe import Markup

from datasets.audio.audio_types import Samples, to_channels
from datasets.audio.resampling import resample
from datasets.schema import REASONS, Verdict
from datasets.seeding import spread
from datasets.shards.manifests import Song
from datasets.shards.shards import read_song
from pipelines.report.audio_players import PAGE_RATE, Clip, band_levels, player
from pipelines.report.curation.page_input import CurationInput, Evidence
from pipelines.report.curation.rule_sections import confusion_matrix
from pipelines.report.formatting import clock
from pipelines.report.html_page import render

CLIP_S = 5.0
MAX_PLAYERS = 30  # of about 150 kB: the page stays something that a mail takes, however many songs there are
MAX_PER_SONG = 6  # as many as most corpora have sources, so that each stem at fault is played
MAX_GAIN_DB = 24.0  # by which a quiet moment is made audible


def listening_section(data: CurationInput) -> Markup:
    """Dropped songs with the evidence, and players for the seconds that show it."""
    chosen = choose(data)
    if not chosen:
        return Markup()
    dropped = [verdict.track_id for verdict in data.verdicts if not verdict.keep]
    unreadable = sum(track_id not in data.songs for track_id in dropped)
    without_audio = sum(track_id in data.songs and not data.evidence.get(track_id) for track_id in dropped)
    return render(
        "curation/excerpts.html.j2",
        clip_s=f"{CLIP_S:g}",
        max_gain_db=f"{MAX_GAIN_DB:g}",
        num_songs=len(chosen),
        without_player=len(dropped) - unreadable - without_audio - len(chosen),
        without_audio=without_audio,
        unreadable=unreadable,
        groups=_groups(data, chosen),
    )


def _groups(data: CurationInput, chosen: Sequence[tuple[Verdict, list[Evidence]]]) -> list[dict[str, Any]]:
    """The songs that get players by reason, and how many of all these are."""
    reasons: dict[str, list[dict[str, Any]]] = {}
    for verdict, moments in chosen:
        reasons.setdefault(verdict.reason, []).append(_case(data, verdict, moments))
    totals = Counter(verdict.reason for verdict in data.verdicts)
    return [
        {
            "reason": reason,
            "meaning": REASONS.get(reason, ""),
            "played": f"all {len(cases)}" if 1 < totals[reason] == len(cases) else f"{len(cases)} of {totals[reason]}",
            "cases": cases,
        }
        for reason, cases in reasons.items()
    ]


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


def _case(data: CurationInput, verdict: Verdict, moments: Sequence[Evidence]) -> dict[str, Any]:
    """One dropped song: why, its matrix, its worst seconds."""
    shares_SS = data.matrices.get(verdict.track_id)
    return {
        "title": verdict.title,
        "track_id": verdict.track_id,
        "detail": verdict.detail,
        "matrix": "" if shares_SS is None else confusion_matrix(data, shares_SS, small=True),
        "players": [_player(data, verdict, moment) for moment in moments],
    }


def _player(data: CurationInput, verdict: Verdict, moment: Evidence) -> Markup:
    song = data.songs[moment.track_id or verdict.track_id]
    length_s = song.num_samples / song.sample_rate
    start_s = max(0.0, min((moment.start_s + moment.stop_s - CLIP_S) / 2, length_s - CLIP_S))
    samples_CT, gain_db = _audible(_excerpt(song, moment.source, start_s, data.sources))
    length_s = samples_CT.shape[-1] / PAGE_RATE
    marked = (max(0.0, moment.start_s - start_s), min(length_s, moment.stop_s - start_s))
    place = f"{(moment.source or 'mixture').capitalize()} at {clock(moment.start_s)}"
    name = ", ".join(filter(None, (place, moment.words, f"+{gain_db:.0f} dB" if gain_db else "")))
    clip = Clip(source=moment.source or "mixture", kind=name, samples_CT=samples_CT)
    loudest_db = max(-60.0, float(band_levels(samples_CT).max()))
    peak = max(1e-3, float(np.abs(samples_CT).max(initial=0.0)))
    return player(clip, song.title, loudest_db=loudest_db, peak=peak, whole=False, moment_s=marked)


def _excerpt(song: Song, source: str, start_s: float, sources: Sequence[str]) -> Samples:
    """`CLIP_S` of a stem, or of the sum of all, as stereo at the page's rate."""
    start, num_samples = round(start_s * song.sample_rate), round(CLIP_S * song.sample_rate)
    stems_SCT = read_song(song, sources=[source] if source else list(sources), start=start, num_samples=num_samples)
    summed_CT = to_channels(stems_SCT.sum(axis=0), 2)
    return resample(summed_CT, source_rate=song.sample_rate, target_rate=PAGE_RATE)


def _audible(samples_CT: Samples) -> tuple[Samples, float]:
    """The samples, turned down to full scale, or up in whole decibels where they are quiet; and by how many."""
    peak_db = 20 * np.log10(max(1e-6, float(np.abs(samples_CT).max(initial=0.0))))
    gain_db = float(-peak_db) if peak_db > 0 else float(np.clip(np.floor(-3.0 - peak_db), 0, MAX_GAIN_DB))
    gain_db = gain_db if gain_db < 0 or gain_db >= 3.0 else 0.0  # not worth mentioning
    return samples_CT * np.float32(10 ** (gain_db / 20)), max(0.0, gain_db)
