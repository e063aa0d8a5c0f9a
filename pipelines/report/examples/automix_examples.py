"""The report's sample of automixes: beat grids over waveforms, chroma before and after, and both as sound.

`sample` renders a few seconds of a few plans; `mixes_section` draws them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from datasets.analysis.harmony import PITCHES, chroma
from datasets.analysis.song_profile import DRUMS
from datasets.audio.audio_types import Samples
from datasets.audio.mono_mix import mono
from datasets.audio.resampling import resample
from datasets.mixing.render import place
from datasets.schema import MixPlan, Part, Profile, ShardSet
from datasets.seeding import spread
from datasets.shards.arrow_tables import read_objects
from datasets.shards.manifests import Song, read_songs
from datasets.shards.shards import read_song
from pipelines.report.audio_players import PAGE_RATE, Clip, band_levels, player, waveform
from pipelines.report.html_page import render

Beats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartExample:
    """A few seconds of one part, before and after, at `PAGE_RATE`."""

    part: Part
    title: str
    before_CT: Samples  # from where the song itself stands at the first of these seconds
    after_CT: Samples
    beats_s: tuple[float, ...]  # of its own song, where they fall in these seconds
    chroma_before: tuple[float, ...]  # empty for drums and for silence
    chroma_after: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MixExample:
    """A few seconds of a mix."""

    plan: MixPlan
    title: str
    license: str
    beats_s: tuple[float, ...]  # of the reference: the grid
    parts: tuple[PartExample, ...]  # the reference's own first


def sample(
    plans: ShardSet, profiles: ShardSet, chunks: ShardSet, *, count: int, seconds: float
) -> tuple[MixExample, ...]:
    """Some seconds of up to `count` whole plans, from all over the corpus, each of another reference."""
    whole = {plan.parts[0].track_id: plan for plan in read_objects(plans, MixPlan) if not plan.reason}
    chosen = [whole[name] for name in sorted(spread(whole)[:count])]
    profiles_by_id = {profile.track_id: profile for profile in read_objects(profiles, Profile)}
    songs = {song.track_id: song for song in read_songs(chunks)}
    return tuple(mix_example(plan, profiles_by_id, songs, seconds=seconds) for plan in chosen)


def mix_example(
    plan: MixPlan, profiles: Mapping[str, Profile], songs: Mapping[str, Song], *, seconds: float
) -> MixExample:
    """The middle of the stretch in which all parts of the mix play."""
    reference = songs[plan.parts[0].track_id]
    rate = reference.sample_rate
    spans = [
        (part.shift_samples, part.shift_samples + round(part.stretch * songs[part.track_id].num_samples))
        for part in plan.parts
    ]
    begin, end = max(0, *(first for first, _ in spans)), min(reference.num_samples, *(last for _, last in spans))
    length = max(1, min(round(seconds * rate), end - begin))
    start = begin + (end - begin - length) // 2
    return MixExample(
        plan=plan,
        title=reference.title,
        license=" + ".join(sorted({songs[part.track_id].license for part in plan.parts})),
        beats_s=_inside(np.asarray(profiles[reference.track_id].beats_s) - start / rate, length / rate),
        parts=tuple(
            _part(part, songs[part.track_id], profiles[part.track_id], start=start, length=length)
            for part in plan.parts
        ),
    )


def _part(part: Part, song: Song, profile: Profile, *, start: int, length: int) -> PartExample:
    rate = song.sample_rate
    stem_CT = read_song(song, sources=(part.source,))[0]
    after_CT = place(stem_CT, replace(part, shift_samples=part.shift_samples - start), rate, num_samples=length)
    begin = min(start, max(0, song.num_samples - length))  # nothing moved: the same seconds of the song itself
    before_CT = stem_CT[:, begin : begin + length]
    beats_s = part.stretch * np.asarray(profile.beats_s) + (part.shift_samples - start) / rate
    pitched = part.source != DRUMS
    at = max(0, round((start - part.shift_samples) / part.stretch))  # what sounds there, before it was bent
    source_T = mono(stem_CT[:, at : at + round(length / part.stretch)])
    return PartExample(
        part=part,
        title=song.title,
        before_CT=_for_page(before_CT, rate),
        after_CT=_for_page(after_CT, rate),
        beats_s=_inside(beats_s, length / rate),
        chroma_before=chroma(source_T, rate) if pitched else (),
        chroma_after=chroma(mono(after_CT), rate) if pitched else (),
    )


def _inside(beats_s: Beats, length_s: float) -> tuple[float, ...]:
    return tuple(beats_s[(beats_s >= 0.0) & (beats_s < length_s)].tolist())


def _for_page(samples_CT: Samples, rate: int) -> Samples:
    return resample(samples_CT, source_rate=rate, target_rate=PAGE_RATE)


# -- drawing --------------------------------------------------------------------------------------------------


def mixes_section(mixes: Sequence[MixExample]) -> Markup:
    """A figure and two players for each mix."""
    return render("report/mixes.html.j2", mixes=[_mix(mix) for mix in mixes]) if mixes else Markup()


def _mix(mix: MixExample) -> dict[str, Any]:
    """What the template shows of a mix."""
    plan = mix.plan
    facts = [
        f"{plan.tempo_bpm:.1f} bpm",
        plan.key or "key unknown",
        f"predicted beat error {plan.beat_error_ms:.1f} ms",
    ]
    facts.append(f"key distance {plan.key_distance:.2f}")
    length = min(part.after_CT.shape[1] for part in mix.parts)
    before_CT = _sum([part.before_CT for part in mix.parts], length)
    after_CT = _sum([part.after_CT for part in mix.parts], length)
    peak = max(1.0, float(np.abs(before_CT).max()), float(np.abs(after_CT).max()))
    clips = [
        Clip(source="mixture", kind=kind, samples_CT=samples_CT / np.float32(peak))
        for kind, samples_CT in (("As they were", before_CT), ("Automix", after_CT))
    ]
    loudest_db = max(-60.0, *(float(band_levels(clip.samples_CT).max()) for clip in clips))
    return {
        "title": mix.title,
        "license": mix.license,
        "facts": ", ".join(filter(None, facts)),
        "parts": [_part_figure(part, mix) for part in mix.parts],
        "players": [
            player(clip, mix.title, loudest_db=loudest_db, peak=1.0, whole=False, preload="none") for clip in clips
        ],
    }


def _sum(parts: Sequence[Samples], length: int) -> Samples:
    total_CT = np.zeros((2, length), np.float32)
    for part_CT in parts:
        total_CT[:, : part_CT.shape[1]] += part_CT[:, :length]
    return total_CT


def _part_figure(example: PartExample, mix: MixExample) -> dict[str, Any]:
    """One part: what was done to it, its waveform under the grid, and its chroma before and after."""
    others = [part.chroma_after for part in mix.parts if part is not example and part.chroma_after]
    context = tuple(np.mean(others, axis=0).tolist()) if others else ()
    return {
        "source": example.part.source,
        "title": example.title,
        "changes": _changes(example.part),
        "grid": _under_grid(example, mix),
        "chromas": _chromas(example, context) if example.chroma_before and example.chroma_after else [],
    }


def _changes(part: Part) -> str:
    """What the plan does to a part, in words."""
    if part.stretch == 1.0 and not part.semitones and not part.shift_samples:
        return "as it is"
    changes = [f"{100 * part.stretch:.1f}\u2009% as long"]
    if part.semitones:
        changes.append(f"{part.semitones:+d} semitone{'s' if abs(part.semitones) > 1 else ''}".replace("-", "\u2212"))
    if part.cents:
        changes.append(f"{part.cents:+.0f} cents".replace("-", "\u2212"))
    if part.gain_db:
        changes.append(f"{part.gain_db:+.1f} dB".replace("-", "\u2212"))
    return ", ".join(changes)


def _under_grid(example: PartExample, mix: MixExample) -> Markup:
    length_s = example.after_CT.shape[1] / PAGE_RATE
    peak = max(1e-3, float(np.abs(example.after_CT.mean(axis=0)).max()))

    def lines(beats_s: Sequence[float], kind: str, top: int, bottom: int) -> str:
        path = "".join(f"M{1000 * beat / length_s:.1f} {top}V{bottom}" for beat in beats_s)
        return f'<path class="{kind}" vector-effect="non-scaling-stroke" d="{path}"/>' if path else ""

    label = (
        f"{example.part.source} of {example.title}: {len(example.beats_s)} beats under {len(mix.beats_s)} of the grid"
    )
    grid = (
        f'<svg class="beats" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f"{lines(mix.beats_s, 'beat', 0, 100)}{lines(example.beats_s, 'own-beat', 80, 100)}</svg>"
    )
    return waveform(example.after_CT, peak=peak) + Markup(grid)


def _chromas(example: PartExample, context: Sequence[float]) -> list[tuple[str, Markup]]:
    """Two strips of twelve bars, each with its label."""
    strips = []
    for when, own in (("before", example.chroma_before), ("after", example.chroma_after)):
        label = when
        if context:
            distance = float(np.abs(np.asarray(own) - np.asarray(context)).sum())
            label = f"{when}: {distance:.2f} away"
        tallest = max(*own, *context, 1e-9)
        marks = []
        for index, share in enumerate(own):
            height = 46 * share / tallest
            marks.append(
                f'<rect class="tint" x="{12 * index + 1}" y="{48 - height:.1f}" width="10" height="{height:.1f}"/>'
            )
        if context:
            steps = "".join(f"V{48 - 46 * share / tallest:.1f}h12" for share in context)
            marks.append(f'<path class="context" d="M0 48{steps}V48"/>')
        names = "".join(
            f'<text x="{12 * index + 6}" y="59" text-anchor="middle">{name}</text>'
            for index, name in enumerate(PITCHES)
            if "#" not in name
        )
        drawing = (
            f'<svg class="chroma" viewBox="0 0 144 62" role="img" aria-label="Chroma {escape(label)}">'
            f"{''.join(marks)}{names}</svg>"
        )
        strips.append((label, Markup(drawing)))
    return strips
