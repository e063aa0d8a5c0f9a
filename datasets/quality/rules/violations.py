"""Which rules a song breaks by its measures, each with the stem, the value and the time; `judge` takes the first."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from datasets.quality.against_mixture.alignment import RANGE_S
from datasets.quality.bleed import NO_BLEED_DB
from datasets.quality.fingerprint import clock
from datasets.quality.measures import WorstSegment
from datasets.quality.rules.quality_rules import QualityRules
from datasets.quality.rules.stem_remarks import remarks
from datasets.quality.stem_classifier import likeliest

_OFF = 1000.0  # a limit that switches its rule off
_NO_HUM_DB = -120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleViolation:
    """One rule that a song breaks."""

    reason: str  # of `schema.REASONS`
    source: str
    detail: str  # in words, with the seconds where it is worst
    other: str = ""  # the second source, where two are concerned

    def worst(self, moments: Sequence[WorstSegment]) -> list[WorstSegment]:
        """Those of `StemStatistics.worst` that are about this fault, the worst first."""
        key = (self.reason, self.source, self.other)
        return [moment for moment in moments if (moment.reason, moment.source, moment.other) == key]


def judge(
    measures: Mapping[str, float], rules: QualityRules, *, sources: Sequence[str], moments: Sequence[WorstSegment] = ()
) -> tuple[bool, str, str]:
    """Keep or not, the reason of `schema.REASONS`, and the evidence in words: the first of `faults` decides."""
    for fault in faults(measures, rules, sources=sources, moments=moments):
        return False, fault.reason, fault.detail
    return True, "", ""


def faults(
    measures: Mapping[str, float], rules: QualityRules, *, sources: Sequence[str], moments: Sequence[WorstSegment] = ()
) -> tuple[RuleViolation, ...]:
    """Every rule that the song breaks; `moments` of `StemStatistics.worst` add where."""
    rooms = (_silence, _waveform, _defects, _spectrum, _mixture, _names, _remarked)
    found = [fault for room in rooms for fault in room(measures, rules, sources)]
    return tuple(replace(fault, detail=fault.detail + _where(fault, moments)) for fault in found)


def silent_sources(measures: Mapping[str, float], rules: QualityRules, *, sources: Sequence[str]) -> list[str]:
    """The sources that sound in too few seconds."""
    return [source for source in sources if measures[f"{source}_presence"] < rules.min_presence]


def _silence(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    silent = silent_sources(measures, rules, sources=sources)
    if silent:
        heard = ", ".join(f"{source} in {measures[f'{source}_presence']:.0%}" for source in silent)
        detail = f"sounds above {rules.silence_db:g} dB: {heard} of seconds"
        yield RuleViolation(reason="silent_source", source=silent[0], detail=detail)


def _waveform(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    for source in sources:
        peak_db = 20 * math.log10(max(measures[f"{source}_peak"], 1e-6))
        if peak_db > rules.max_peak_db:
            detail = f"{source}: its highest sample is {peak_db:.0f} dB beyond full scale"
            yield RuleViolation(reason="too_loud", source=source, detail=detail)
        clipped, offset = measures[f"{source}_clipped"], measures[f"{source}_offset"]
        if clipped > rules.max_clipped:
            yield RuleViolation(
                reason="clipped", source=source, detail=f"{source}: {clipped:.2%} of samples are clipped"
            )
        if offset > rules.max_offset:
            yield RuleViolation(
                reason="offset", source=source, detail=f"{source}: mean {offset:.1%} of full scale off zero"
            )
        if _cancels(measures, rules, source):
            correlation = measures[f"{source}_correlation"]
            detail = f"{source}: its channels cancel each other, correlation {correlation:.2f}"
            yield RuleViolation(reason="inverted", source=source, detail=detail)


def _cancels(measures: Mapping[str, float], rules: QualityRules, source: str) -> bool:
    return measures[f"{source}_correlation"] < rules.min_correlation


def _is_noise(measures: Mapping[str, float], rules: QualityRules, source: str) -> bool:
    return measures.get(f"{source}_noise", 0.0) > rules.max_noise


def _defects(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    for source in sources:
        times, share = measures.get(f"{source}_dropouts", 0.0), measures.get(f"{source}_one_sided", 0.0)
        bits = measures.get(f"{source}_bits", 24.0)
        if times > rules.max_dropouts:
            detail = f"{source}: falls to zero {times:.0f} times without fading"
            yield RuleViolation(reason="dropouts", source=source, detail=detail)
        if (clicks := measures.get(f"{source}_clicks", 0.0)) > rules.max_clicks:
            detail = f"{source}: {clicks:.1f} clicks per second"
            yield RuleViolation(reason="clicks", source=source, detail=detail)
        if (hum_db := measures.get(f"{source}_hum_db", _NO_HUM_DB)) > rules.max_hum_db and rules.max_hum_db < 0:
            detail = f"{source}: hum of {measures[f'{source}_hum_hz']:.0f} Hz at {hum_db:.0f} dB of the stem's level"
            yield RuleViolation(reason="hum", source=source, detail=detail)
        if share > rules.max_one_sided:
            detail = f"{source}: one channel is dead in {share:.0%} of seconds"
            yield RuleViolation(reason="one_sided", source=source, detail=detail)
        if bits < rules.min_bits:
            detail = f"{source}: its samples have {bits:.0f} bits"
            yield RuleViolation(reason="coarse", source=source, detail=detail)
        if _is_noise(measures, rules, source):
            detail = f"{source}: nothing but steady noise in {measures[f'{source}_noise']:.0%} of seconds"
            yield RuleViolation(reason="noise", source=source, detail=detail)


def _spectrum(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    for source in sources:
        cutoff = measures[f"{source}_cutoff_hz"]
        if cutoff < rules.min_cutoff_hz:
            yield RuleViolation(
                reason="lossy", source=source, detail=f"{source}: its spectrum is cut off at {cutoff:.0f} Hz"
            )
        for other in sources:
            level = measures.get(f"{source}_bleed_{other}_db", NO_BLEED_DB)
            if level > rules.max_bleed_db and rules.max_bleed_db < 0:
                detail = f"{source}: {other} is heard in it at {level:.0f} dB"
                yield RuleViolation(reason="bleed", source=source, detail=detail, other=other)


def _mixture(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    shifted = set()
    for source in sources:
        shift = measures.get(f"{source}_shift_ms", 0.0)
        if abs(shift) > rules.max_shift_ms and rules.max_shift_ms < 1000 * RANGE_S:
            shifted.add(source)
            detail = f"{source}: {abs(shift):.1f} ms {'after' if shift > 0 else 'before'} its place in the mixture"
            yield RuleViolation(reason="misaligned", source=source, detail=detail)
    named = [] if rules.max_gain_db >= _OFF else list(_against_mixture(measures, rules, sources, shifted))
    yield from named
    if (residual := measures.get("residual_db", NO_BLEED_DB)) > rules.max_residual_db and not (named or shifted):
        detail = f"the stems leave {residual:.1f} dB of the mixture that came with them"
        yield RuleViolation(reason="unlike_mixture", source="", detail=detail)


def _against_mixture(
    measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str], shifted: Collection[str]
) -> Iterator[RuleViolation]:
    """What the mixture says against single stems, but for the shifted ones, which explain nothing where they are."""
    for source in sources:
        gain_db = measures.get(f"{source}_gain_db", 0.0)
        for kind, words in _MIXTURE_WORDS.items():
            seconds = measures.get(f"{source}_mixture_{kind}")
            if seconds is None or source in shifted or ("level" in kind and abs(gain_db) <= rules.max_gain_db):
                continue
            part = f", for {seconds:.0f} s" if kind != "missing" and seconds < measures["compared_s"] - 1 else ""
            level = f"{abs(gain_db):.1f} dB too {'loud' if gain_db > 0 else 'quiet'}"
            told = words.format(level=level, seconds=seconds)
            yield RuleViolation(reason="unlike_mixture", source=source, detail=f"{source}: {told}{part}")


# What is said of a stem of which the mixture holds something else, by `StemFault.kind`.
_MIXTURE_WORDS = {
    "level": "{level} against the mixture",
    "left_level": "its left channel is {level} against the mixture",
    "right_level": "its right channel is {level} against the mixture",
    "inverted": "upside down against the mixture (its polarity)",
    "exchanged": "left and right are exchanged against the mixture",
    "left_dead": "its left channel is silent, and the mixture has it",
    "right_dead": "its right channel is silent, and the mixture has it",
    "absent": "the mixture holds nothing of it: it is of another song, at another rate, or far too loud",
    "missing": "{seconds:.2f} s of it are missing that the mixture has",
}


def _names(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    spoilt = [source for source in sources if _is_noise(measures, rules, source) or _cancels(measures, rules, source)]
    given, odds = likeliest(measures, sources, unlike=spoilt)
    if odds > rules.max_label_odds and rules.max_label_odds < _OFF:
        wrong = {source: label for source, label in given.items() if source != label}
        words = ", ".join(f"{source} sounds like {label}" for source, label in wrong.items())
        yield RuleViolation(reason="swapped", source=next(iter(wrong)), detail=f"{words}; log odds {odds:.1f}")


def _remarked(measures: Mapping[str, float], rules: QualityRules, sources: Sequence[str]) -> Iterator[RuleViolation]:
    for name, source, words in remarks(measures, sources) if rules.drop_for else ():
        if name in rules.drop_for:
            yield RuleViolation(reason=name, source=source, detail=words)


def _where(fault: RuleViolation, moments: Sequence[WorstSegment]) -> str:
    """The worst stretches of a fault, in the order of time."""
    own = sorted((moment.start_s, moment.stop_s) for moment in fault.worst(moments))
    if not own or fault.reason == "silent_source":
        return ""
    return f", worst at {', '.join(f'{clock(start)}-{clock(stop)}' for start, stop in own)}"
