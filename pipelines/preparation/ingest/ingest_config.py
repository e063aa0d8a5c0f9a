"""Where the songs are, what is asked of them, and how they are stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from datasets.corpus.file_listing import check_root
from datasets.corpus.layouts.find import LAYOUTS
from datasets.corpus.layouts.found_song import LayoutRules
from datasets.corpus.taxonomy import DEFAULT
from datasets.errors import InputError
from datasets.field_constraints import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ProperFraction,
    Range,
    check_ranges,
)
from datasets.schema import SOURCES, chunks_schema
from datasets.shards.chunks import CHUNK_S
from models.plugins import Plugin, PluginKind, require

LAYOUT = PluginKind(noun="corpus layout", group="stemline.corpus_layouts", setting="corpus.plugins", error=InputError)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusConfig:
    """Where the songs are, and what is asked of them."""

    root: str = ""  # the folder with the songs; `stemline inspect` shows how it would be read
    sources: tuple[str, ...] = SOURCES  # every song must have a stem for each
    taxonomy: str = DEFAULT  # which file names mean which source: a name that ships, or a TOML file of your own
    unknown: str = "refuse"  # "refuse" a song that has a file whose name says nothing, or "leave_out" such files
    pad_s: NonNegativeFloat = 5.0  # files of one song may end this much before the longest; filled with silence
    allow_outside: bool = False  # a CSV may name files outside the root
    # Layouts of plug-ins, asked in this order before ours: names of entry points in stemline.corpus_layouts, or
    # package.module:object
    plugins: tuple[str, ...] = ()
    license: str = "unknown"  # the licence of the songs, noted with every chunk
    split_seed: NonNegativeInt = 0  # seed of the draw that gives songs a split where no folder states one
    valid_fraction: ProperFraction = 0.1  # share of the groups of songs that the draw puts into the validation split
    test_fraction: ProperFraction = 0.2  # share of the groups of songs that the draw puts into the test split

    def __post_init__(self) -> None:
        if not self.sources or len(set(self.sources)) != len(self.sources):
            raise InputError(f"corpus.sources must be one or more different names, got {list(self.sources)}")
        taken = set(chunks_schema(()).names) & set(self.sources)
        if taken or not all(source.isidentifier() and source.islower() for source in self.sources):
            raise InputError(
                f"corpus.sources must be lower-case words other than column names, got {list(self.sources)}"
                + (f"; {sorted(taken)[0]} is a column" if taken else "")
            )
        if self.unknown not in ("refuse", "leave_out"):
            raise InputError(f'corpus.unknown must be "refuse" or "leave_out", got {self.unknown!r}')
        check_ranges(self, InputError, section="corpus.")
        if self.valid_fraction + self.test_fraction >= 1:
            raise InputError(
                "corpus.valid_fraction and corpus.test_fraction together must be < 1, or nothing is left to train on; "
                f"got {self.valid_fraction} and {self.test_fraction}"
            )

    @property
    def split_rule(self) -> dict[str, float]:
        """What decides on the draw besides the songs' names."""
        return {"seed": self.split_seed, "valid_fraction": self.valid_fraction, "test_fraction": self.test_fraction}

    @property
    def rules(self) -> LayoutRules:
        """How names become sources."""
        return LayoutRules(
            taxonomy=self.taxonomy, unknown=self.unknown, pad_s=self.pad_s, allow_outside=self.allow_outside,
            plugins=layout_plugins(self.plugins),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """How songs are stored."""

    sample_rate: Annotated[int, Range(ge=1, unit="Hz")] = 44100  # rate at which songs are stored; others are resampled
    # Quality of resampling, by the names of soxr; "HQ" has -136 dB of aliasing
    resample_quality: Literal["QQ", "LQ", "MQ", "HQ", "VHQ"] = "HQ"
    channels: Annotated[int, Range(ge=1, le=2)] = 2  # channels stored; mono songs are stored with both channels equal
    # Of a stored sample; "source": 16 where no file of a song has more or is lossless, else 24
    bits: Literal["source", 16, 24] = "source"
    chunk_s: PositiveInt = CHUNK_S  # seconds of one song in a row of the table of chunks
    min_song_s: NonNegativeFloat = 1.0  # shorter songs are refused
    shard_mb: PositiveInt = 384  # a shard ends with the song that takes it there; small corpora make smaller shards

    def __post_init__(self) -> None:
        check_ranges(self, InputError, section="ingest.")


def check(corpus: CorpusConfig) -> None:
    """InputError where there is no folder of songs or no such layout; an address in S3 is not looked at."""
    if not corpus.root:
        raise InputError("corpus.root is not set; corpus.root=DIR names the folder with the songs")
    check_root(corpus.root)
    layout_plugins(corpus.plugins)


def layout_plugins(chosen: Sequence[str]) -> tuple[Plugin, ...]:
    """The layouts of these names; InputError where one is not there, nothing to call, or has the name of ours."""
    layouts = tuple(layout for name in chosen if (layout := require(LAYOUT, name)))
    for layout in layouts:
        if layout.name in LAYOUTS:
            raise layout.failure(f"has the name of a layout of stemline's own: set {LAYOUT.setting} to {layout.ref}")
    return layouts
