"""The rules on the signal of a song as settings, and how each is switched off.

The presence rule is that of the HT Demucs paper (Rouard et al. 2023): a source must be louder than -40 dB in at least
30 % of seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets.errors import InputError
from datasets.field_constraints import (
    AnyNumber,
    Correlation,
    NonNegativeFloat,
    NonPositiveFloat,
    PositiveFloat,
    Probability,
    check_ranges,
)
from datasets.quality.rules.stem_remarks import REMARKS


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRules:
    """What a song must be like to be kept; every threshold can be set, and each rule be switched off."""

    silence_db: NonPositiveFloat = -40.0  # dBFS; a second of a stem below this level counts as silent
    min_presence: Probability = 0.3  # share of all seconds in which each source must sound; 0 keeps silent stems
    # dBFS; a stem with a higher peak holds integers that were taken for floats; 1000 keeps any
    max_peak_db: AnyNumber = 30.0
    # Share of a stem's samples that may be clipped (in flat tops); 1 keeps clipped stems
    max_clipped: Probability = 0.0005
    max_offset: Probability = 0.01  # DC offset: how far from zero a stem's mean may lie, of full scale; 1 keeps any
    # Least correlation between the channels of a stem; -1 keeps stems that cancel in mono
    min_correlation: Correlation = -0.9
    max_dropouts: NonNegativeFloat = 1.0  # times a stem may fall to zero for a moment without fading; 1e9 keeps any
    max_clicks: NonNegativeFloat = 1.25  # clicks per second of a stem; 1e9 keeps any, such as crackle of records
    # Level of mains hum in a stem, relative to the stem; 0 keeps any
    max_hum_db: NonPositiveFloat = -30.0
    max_one_sided: Probability = 0.1  # share of a stem's seconds in which one channel may be dead; 1 keeps any
    min_bits: NonNegativeFloat = 9.0  # of a stem's samples, by the steps between them; 0 keeps any
    max_noise: Probability = 0.5  # share of a stem's seconds that may be nothing but steady noise; 1 keeps any
    # Lowest frequency at which a stem's spectrum may end as if cut; 0 keeps lossy songs (MUSDB18)
    min_cutoff_hz: NonNegativeFloat = 0.0
    # Level of another stem that a stem may hold; -20 through a room reads as -25; 0 keeps any
    max_bleed_db: NonPositiveFloat = -25.0
    # Time by which a stem may be off the mixture that came with it, if any; 1000 keeps any
    max_shift_ms: NonNegativeFloat = 3.0
    max_residual_db: NonPositiveFloat = -3.0  # level of what the stems leave of that mixture, against it; 0 keeps any
    # Level by which a stem may differ from that mixture, which also finds stems that are upside down, of another song,
    # or that lack a channel or some milliseconds; 1000 keeps any
    max_gain_db: NonNegativeFloat = 2.0
    # Log of how much likelier other names for the stems may be than their own; 1000 keeps any
    max_label_odds: NonNegativeFloat = 1.0
    # Share of the shorter song that another must hold to be its copy; > 1 keeps copies
    min_similarity: PositiveFloat = 0.5
    # Remarks on a stem that drop its song: flattened, mono, band_limited; by default none does
    drop_for: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="curate.")
        if unknown := [name for name in self.drop_for if name not in REMARKS]:
            raise InputError(f"curate.drop_for must hold names of remarks ({', '.join(REMARKS)}), got {unknown[0]!r}")


# The settings that switch off the rule behind each reason; several rules may be behind one.
SWITCHED_OFF: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "silent_source": ({"min_presence": 0},),
    "too_loud": ({"max_peak_db": 1000},),
    "clipped": ({"max_clipped": 1},),
    "offset": ({"max_offset": 1},),
    "inverted": ({"min_correlation": -1},),
    "dropouts": ({"max_dropouts": 1e9},),
    "clicks": ({"max_clicks": 1e9},),
    "hum": ({"max_hum_db": 0},),
    "one_sided": ({"max_one_sided": 1},),
    "coarse": ({"min_bits": 0},),
    "noise": ({"max_noise": 1},),
    "lossy": ({"min_cutoff_hz": 0},),
    "bleed": ({"max_bleed_db": 0},),
    "misaligned": ({"max_shift_ms": 1000},),
    "unlike_mixture": ({"max_gain_db": 1000}, {"max_residual_db": 0}, {"max_gain_db": 1000, "max_residual_db": 0}),
    "swapped": ({"max_label_odds": 1000},),
    **dict.fromkeys(REMARKS, ({"drop_for": ()},)),
    "mislabelled": ({"model": ""},),  # of `CurateConfig`, as the next
    "plug_in": ({"plugins": ()},),
}


def in_toml(settings: Mapping[str, Any]) -> str:
    """Settings of curation as the command line takes them."""
    empty = {"": '""', (): "[]"}
    words = (f"{name}={empty.get(value) or f'{value:g}'}" for name, value in settings.items())
    return " ".join(f"curate.{word}" for word in words)
