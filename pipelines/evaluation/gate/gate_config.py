"""What the gate asks for: its settings, section `gate` of the configuration."""

import csv
import glob
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from datasets.errors import InputError
from datasets.field_constraints import Decibels, NonNegativeFloat, PositiveFloat, PositiveInt, Range, check_ranges
from datasets.store import storage


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """The rules; in dB of nSDR where nothing else is said."""

    # Least gain over the mixture, mean over songs and sources; no setting lets a model through that gains nothing
    min_improvement: Decibels = 3.0
    # Least score, the same mean; silence scores 0 dB, the mixture some 5 dB below that, and no setting lets a model
    # through that is no better than silence
    min_nsdr: Decibels = 0.0
    # Of each lower bound; at 0.95 some 8 of 100 equal models would pass
    confidence: Annotated[float, Range(ge=0.5, lt=1)] = 0.975
    min_songs: PositiveInt = 8  # with fewer, no candidate replaces a champion
    margin: Decibels = 0.0  # what the lower bound of the gain over the champion must exceed
    # Standard deviation of the mean gain between two seeds of one recipe, for which the bound of the gain allows;
    # retrainings in the registry that differ in their seed alone correct it. 0: no allowance
    seed_noise_db: Annotated[float, Range(ge=0, unit="dB")] = 0.1
    # How far below 0 the lower bound of any source's gain may lie
    source_tolerance: Annotated[float, Range(ge=0, unit="dB")] = 0.5
    # How far below 0 the mean gain over any slice of the songs may lie
    slice_tolerance: Annotated[float, Range(ge=0, unit="dB")] = 1.0
    # Slices of your own: for each name patterns of track ids, such as */Jazz*
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tags: str = ""  # a CSV file of track_id,tag, such as genres: each tag is a slice
    # How many dB more than the champion's the leakage into silent stems may be, relative to the mixture
    leakage_tolerance_db: NonNegativeFloat = 3.0
    max_size_mb: NonNegativeFloat = 0.0  # largest size of the files of the weights; 0: any
    # Most seconds of computing per second of song, as measured in scoring; 0: any
    max_real_time: NonNegativeFloat = 0.0
    # Refuse a model that learned from songs whose licence forbids commercial use, or is not known
    refuse_non_commercial: bool = False
    # Rules of plug-ins, after all others: names of entry points in stemline.gate_rules, or package.module:object
    plugins: tuple[str, ...] = ()
    approval: bool = False  # ask a person before a candidate that passed is promoted
    approval_s: PositiveFloat = 86400.0  # how long to wait for the answer; none means no

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="gate.")


def with_tags(config: GateConfig) -> GateConfig:
    """The rules with a slice for each tag of the file `config.tags`; slices of the settings win over tags."""
    if not config.tags:
        return config
    try:
        rows = list(csv.reader(io.StringIO(storage.read(config.tags).decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"gate.tags must be a CSV file of track_id,tag; {config.tags} cannot be read ({error})"
        ) from None
    header = [name.strip() for name in rows[0]] if rows else []
    if header != ["track_id", "tag"] or any(len(row) != 2 for row in rows[1:] if row):
        raise InputError(f"gate.tags must have the columns track_id,tag in each line, got {header} in {config.tags}")
    members: dict[str, list[str]] = {}
    for track_id, tag in filter(None, rows[1:]):
        members.setdefault(tag.strip(), []).append(glob.escape(track_id.strip()))
    return replace(config, slices={**{tag: tuple(ids) for tag, ids in sorted(members.items())}, **config.slices})
