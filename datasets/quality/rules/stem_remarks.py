"""What is true of a stem and proves nothing: a remark in the verdict, or a rule where `curate.drop_for` says so.

Basses are mono and samples of choirs end at 9 kHz by design; a stem that was made mono, or came through a lower rate,
looks the same. So a remark never drops a song unless its owner asks for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

_FLATTENED = 3.5  # log odds; a distorted guitar came to 3.4
_SAME = 1e-6  # below one, of the channels' correlation: -63 dB of difference
_APART = 1e-4  # below one, from which on a stem is stereo
_MONO_BY_DESIGN = ("bass",)
_NARROWER = 0.85  # of where the widest other stem ends


def remarks(measures: Mapping[str, float], sources: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Name of the remark, the source, and the remark in words."""
    heard = [source for source in sources if measures[f"{source}_presence"] > 0]
    for source in heard:
        others = [other for other in heard if other != source]
        for name, remark in REMARKS.items():
            if words := remark(measures, source, others):
                yield name, source, f"{source}: {words}"


def _flattened(measures: Mapping[str, float], source: str, others: Sequence[str]) -> str:
    if measures.get(f"{source}_flattened", 0.0) <= _FLATTENED:
        return ""
    level_db = measures[f"{source}_ceiling_db"]
    return f"its loudest peaks are flattened at {level_db:.1f} dBFS (clipped before it was coded, or softly?)"


def _mono(measures: Mapping[str, float], source: str, others: Sequence[str]) -> str:
    if source in _MONO_BY_DESIGN or measures[f"{source}_correlation"] < 1 - _SAME:
        return ""
    stereo = [other for other in others if measures[f"{other}_correlation"] < 1 - _APART]
    return f"mono, while {_and(stereo)} {'are' if len(stereo) > 1 else 'is'} in stereo (made mono?)" if stereo else ""


def _band_limited(measures: Mapping[str, float], source: str, others: Sequence[str]) -> str:
    ends_hz = measures[f"{source}_cutoff_hz"]
    widest_hz = max((measures[f"{other}_cutoff_hz"] for other in others), default=0.0)
    if ends_hz >= _NARROWER * widest_hz:
        return ""
    return f"nothing above {ends_hz / 1000:.1f} kHz, while others reach {widest_hz / 1000:.1f} kHz"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


Remark = Callable[[Mapping[str, float], str, Sequence[str]], str]
REMARKS: Mapping[str, Remark] = {"flattened": _flattened, "mono": _mono, "band_limited": _band_limited}
