"""Every value that crosses a border between rooms, and the Arrow schema of every table we write.

Column names are public interface: renaming one raises `SCHEMA_VERSION` and is a line in the changelog.
Shape suffixes, here and everywhere: B batch, S source, C audio channel, T sample in time, F frequency bin,
N STFT frame, D feature, H attention head.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import pyarrow as pa

SCHEMA_VERSION = 2
SOURCES = ("drums", "bass", "other", "vocals")
SPLITS = ("train", "valid", "test")

REASONS = {
    "missing_stem": "a source has no file",
    "unknown_stem": "a file whose name the taxonomy does not know",
    "ambiguous_stem": "a source has several files, or a name may mean several sources",
    "unsafe_name": "a name that is no valid text, is taken, or would leave the corpus folder",
    "unavailable": "a file that could not be read this time, or changed meanwhile; the next run tries again",
    "empty_file": "a file of zero bytes",
    "undecodable": "a file that no decoder reads to its end",
    "not_finite": "NaN or infinite samples",
    "length_mismatch": "stems of one song differ in length",
    "rate_mismatch": "stems of one song differ in sample rate",
    "channel_mismatch": "a file of more than two channels that does not say which is which",
    "too_short": "shorter than the shortest song allowed",
    "silent_source": "a source sounds in too few seconds",
    "too_loud": "samples far beyond full scale, as of integers taken for floats",
    "clipped": "too many clipped samples",
    "offset": "a stem's mean is far from zero",
    "inverted": "the two channels of a stem cancel each other",
    "dropouts": "a stem falls to zero for moments, and comes back, without fading",
    "clicks": "single samples of a stem leap out of it, again and again",
    "hum": "a stem holds hum of the mains, 50 or 60 Hz and multiples",
    "one_sided": "a channel of a stem is dead for a while, or throughout in a song that is not hard-panned",
    "coarse": "a stem's samples have few bits",
    "noise": "a stem is nothing but steady noise",
    "lossy": "a stem's spectrum ends where a lossy codec would have cut it",
    "bleed": "a stem holds too much of another stem of the song",
    "misaligned": "a stem is shifted against the mixture",
    "unlike_mixture": "the stems do not sum to the mixture that came with them",
    "swapped": "a stem sounds like another source than its name says",
    "flattened": "the loudest peaks of a stem are flattened, as by clipping before it was coded",
    "mono": "both channels of a stem are the same, in a song in stereo",
    "band_limited": "a stem's spectrum ends lower than those of the others, as if cut",
    "mislabelled": "a model hears a stem as another source, or not as what it is called",
    "plug_in": "a rule of a plug-in",
    "duplicate": "the same audio as another song",
    "leak": "the same audio as a song on a stricter side of the split",
    "overridden": "dropped by hand, or a copy of what was",
    "forgotten": "a recording that the store is to forget",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StemFile:
    """Where one part of a stem's audio is: a file, and the stream inside it for containers such as .stem.mp4."""

    path: str  # or the address of an object in S3
    stream: int | None = None
    side: str | None = None  # "left" or "right": where a mono file belongs; a stereo file goes in as it is
    apart: str = ""  # what its name says besides the source: "kick in" and "kick out" belong beside each other
    num_bytes: int = field(default=0, compare=False)  # of the file; 0 where that is not known
    changed_ns: int = field(default=0, compare=False)  # when the file last changed, since the epoch
    content: str = field(default="", compare=False)  # SHA-256 of the file; empty where nobody asks for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One song of the corpus. `track_id` is its path under the root: a value, never used as a path to write to."""

    track_id: str
    title: str
    group: str  # songs of one group never stand on two sides of a split
    split: str
    license: str
    layout: str
    stems: Mapping[str, tuple[StemFile, ...]]  # source -> files, summed
    fingerprint: str  # SHA-256 over the content of the files, in source order
    pad_s: float = 0.0  # files may end earlier than the longest by this much, which is filled with silence
    mixture: tuple[StemFile, ...] = ()  # the mixture that came with the stems, if any; never stored
    # Pairs of files of a source that may be two versions of one by their names: the source and both positions in it
    versions: tuple[tuple[str, int, int], ...] = ()
    remarks: tuple[str, ...] = ()  # what names alone have left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Keep or drop, with a reason from `REASONS` (empty when kept) and what was measured."""

    track_id: str  # the path of the song under the root of the corpus
    title: str  # of the song
    split: str  # train, valid or test
    keep: bool  # whether curation kept it
    reason: str  # one of the reasons below; empty when kept
    detail: str  # the reason in words, with numbers
    duration_s: float  # of the song
    measures: Mapping[str, float]  # what was measured of it, by the name of the measure

    @classmethod
    def refused(cls, track_id: str, *, title: str, split: str, reason: str, detail: str) -> "Verdict":
        """The verdict on a song of which nothing was measured."""
        return cls(
            track_id=track_id, title=title, split=split, keep=False, reason=reason, detail=detail, duration_s=0.0,
            measures={},
        )  # fmt: skip


class HasReason(Protocol):
    """A song that was refused: its `Verdict`, or what its folder held."""

    @property
    def reason(self) -> str: ...


Refused = TypeVar("Refused", bound=HasReason)


def by_reason(songs: Iterable[Refused]) -> list[tuple[str, int, Refused]]:
    """Each reason with how many of these songs have it and the first of them, the commonest reason first."""
    found: dict[str, list[Refused]] = defaultdict(list)
    for song in songs:
        found[song.reason].append(song)
    return sorted(((reason, len(several), several[0]) for reason, several in found.items()), key=lambda row: -row[1])


def refusals_in_words(verdicts: Iterable[Verdict]) -> list[str]:
    """A line for each reason, with how many songs have it and one of them."""
    return [
        f"  - {reason} ({REASONS[reason]}): {count} songs, such as {example.title!r}: {example.detail}"
        for reason, count, example in by_reason(verdicts)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How many songs of a corpus came how far; None for a step that has not run."""

    found: int  # in the folder
    readable: int  # of those, stored
    kept: int | None = None  # of those, by curation

    @property
    def words(self) -> str:
        kept = "" if self.kept is None else f" → {self.kept} kept"
        return f"{self.found} found → {self.readable} readable{kept}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """What a kept song sounds like, to know it again in another master, an excerpt or at another speed."""

    track_id: str  # the path of the song under the root of the corpus
    audio: str  # digest of what is stored of the song
    signature: str  # as `fingerprint.pack` writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Tempo, beats, chroma, key and singing of one track; times in seconds from the start of the track."""

    track_id: str  # the path of the song under the root of the corpus
    split: str  # train, valid or test
    duration_s: float  # of the song
    tempo_bpm: float  # 0 when no beat was found
    tempo_confidence: float  # 0 to 1
    beats_s: tuple[float, ...]  # times of the beats
    downbeats_s: tuple[float, ...]  # times of the first beats of bars
    chroma: tuple[float, ...]  # 12 shares from C to B that sum to 1; empty when nothing is pitched
    key: str  # "A minor"; empty when unknown
    key_confidence: float  # 0 to 1
    loudness_db: Mapping[str, float]  # RMS of each source over its sounding seconds, dBFS
    phase_confidence: float = 1.0  # 0 to 1: the chance that beats are beats, not half a beat off or of another tempo
    downbeat_confidence: float = 0.0  # 0 to 1: the chance that bars begin where they do
    tuning_cents: float = 0.0  # from A = 440 Hz, -50 to 50
    vocals_s: tuple[tuple[float, float], ...] = ()  # from when to when somebody sings


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One stem's place in a mix plan; fields are applied in this order."""

    track_id: str  # the song that gives the stem
    source: str  # which of its stems
    stretch: float  # output duration / input duration; 1.0 leaves the tempo alone
    semitones: int  # drums always 0: transposed cymbals sound wrong long before they clash
    shift_samples: int  # start in the mix, counted after stretching; negative cuts the stem's start
    gain_db: float  # applied to the stem
    cents: float = 0.0  # added to the semitones: what brings the part's tuning to that of the mix


@dataclass(frozen=True, slots=True, kw_only=True)
class MixPlan:
    """Which stems go together and how; `reason` says why parts are missing, and is empty for a whole plan."""

    mix_id: str  # names the mix
    seed: int  # of its random choices
    split: str  # of all its songs
    tempo_bpm: float  # of the mix
    key: str  # of the mix, such as "A minor"; empty when unknown
    parts: tuple[Part, ...]  # one for each source
    beat_error_ms: float  # predicted median distance between the beats of the parts
    key_distance: float  # predicted mean L1 distance between chromas, 0 to 2
    reason: str  # why parts are missing; empty for a whole plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One source of one held-out track. Decibels; None where the metric was not asked for or is undefined: where the
    stem is silent over the whole track (RMS below -60 dBFS) all are but `leakage_db`.
    """

    track_id: str  # the path of the song under the root of the corpus
    title: str  # of the song
    source: str  # the stem that is scored
    protocol: str  # all that scores depend on beside model and song, in words
    nsdr: float | None  # MDX 2021: one energy ratio over the whole track
    sdr: float | None  # BSS Eval v4: median over 1 s windows
    mixture_nsdr: float | None  # nsdr of the unprocessed mixture as the estimate
    mixture_sdr: float | None  # sdr of the same
    isr: float | None = None  # image to spatial distortion (BSS Eval v4), median over 1 s windows
    sir: float | None = None  # source to interference, likewise
    sar: float | None = None  # source to artifacts, likewise
    leakage_db: float | None = (
        None  # RMS of the estimate in windows where the stem is silent, relative to the mixture's
    )
    si_sdr: float | None = None  # scale-invariant SDR over the whole track
    si_sir: float | None = None  # scale-invariant source to interference over the whole track
    si_sar: float | None = None  # scale-invariant source to artifacts, likewise
    log_wmse: float | None = None  # logarithm of the error as an ear weights frequencies, at most 73.7; no decibels
    aura_mrstft: float | None = None  # multi-resolution STFT distance d as 100 / (1 + 10 d)
    bleedless: float | None = None  # 0 to 100: how little is in the estimate that is not in the stem
    fullness: float | None = None  # 0 to 100: how little of the stem is missing in the estimate
    plugin_scores: Mapping[str, float] = field(default_factory=dict)  # by the name of the plug-in that gave it
    ceiling_nsdr: float | None = None  # nsdr of the IRM2 oracle (a mask made from the true stems); no upper bound
    ceiling_sdr: float | None = None  # sdr of the same
    solver: str = ""  # of BSS Eval's equations; "lu": rounding errors decide on isr, sir and sar
    conditioning: float | None = None  # of these equations, 0 to 1
    duration_s: float = 0.0  # of what was scored
    level_db: float = 0.0  # RMS of the mixture, dBFS


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSet:
    """The address of a finished table. It exists only if its manifest does, and the manifest is written last."""

    uri: str  # the manifest's address
    table: str  # "chunks", "verdicts", "profiles", "plans" or "scores"
    num_rows: int
    digest: str  # of the content; independent of where and when it was written


def chunks_schema(sources: Sequence[str]) -> pa.Schema:
    """Table CHUNKS: one row, one row group, is up to 30 s of one song with all its stems as FLAC.

    A stored sample times `scale` is the sample of the song: scale is 1, or the power of two that keeps a
    stem beyond full scale from clipping. Everything is required, so a value is the last thing in its page, and the
    footer alone says where in the file each FLAC lies (`loading/segment_sampler.py` reads crops by it).
    """
    fields = [
        ("schema_version", pa.int32()),  # raised when a column is renamed
        ("track_id", pa.string()),  # the path of the song under the root of the corpus
        ("title", pa.string()),  # of the song
        ("split", pa.string()),  # as it was drawn or stated when the row was written; the manifest says today's
        ("license", pa.string()),  # of the song
        ("origin", pa.string()),  # "corpus" or "automix"
        ("index", pa.int32()),  # of the row in its song
        ("start_samples", pa.int64()),  # where the row begins in its song
        ("num_samples", pa.int32()),  # of the row
        ("sample_rate", pa.int32()),  # Hz
        ("channels", pa.int32()),  # 1 or 2
        ("bits", pa.int32()),  # 16 or 24, of the FLAC
        ("scale", pa.float32()),  # a stored sample times this is the sample of the song
    ]
    for source in sources:
        fields += [
            (f"{source}_rms_db", pa.float32()),  # dBFS
            (f"{source}_peak", pa.float32()),  # highest absolute sample
            (f"{source}_activity", pa.float32()),  # share of the time in seconds of more than -40 dBFS
            (f"{source}_crc32", pa.uint32()),  # of the FLAC
        ]
    # uint32, little-endian: where each frame of 4096 samples begins in the FLAC, and the FLAC's length.
    fields += [(f"{source}_frames", pa.binary()) for source in sources]
    # A whole FLAC file.
    fields += [(source, pa.large_binary()) for source in sources]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])


VERDICTS = pa.schema(
    [
        ("schema_version", pa.int32()),
        ("track_id", pa.string()),
        ("title", pa.string()),
        ("split", pa.string()),
        ("keep", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("duration_s", pa.float64()),
        ("measures", pa.map_(pa.string(), pa.float64())),
    ]
)

LANDMARKS = pa.schema(
    [
        ("schema_version", pa.int32()),
        ("track_id", pa.string()),
        ("audio", pa.string()),
        ("signature", pa.string()),
    ]
)

PROFILES = pa.schema(
    [
        ("schema_version", pa.int32()),
        ("track_id", pa.string()),
        ("split", pa.string()),
        ("duration_s", pa.float64()),
        ("tempo_bpm", pa.float64()),
        ("tempo_confidence", pa.float64()),
        ("phase_confidence", pa.float64()),
        ("beats_s", pa.list_(pa.float64())),
        ("downbeats_s", pa.list_(pa.float64())),
        ("chroma", pa.list_(pa.float64())),
        ("key", pa.string()),
        ("key_confidence", pa.float64()),
        ("loudness_db", pa.map_(pa.string(), pa.float64())),
        ("downbeat_confidence", pa.float64()),
        ("tuning_cents", pa.float64()),
        ("vocals_s", pa.list_(pa.list_(pa.float64()))),
    ]
)

PART = pa.struct(
    [
        ("track_id", pa.string()),
        ("source", pa.string()),
        ("stretch", pa.float64()),
        ("semitones", pa.int32()),
        ("shift_samples", pa.int64()),
        ("gain_db", pa.float64()),
        ("cents", pa.float64()),
    ]
)

PLANS = pa.schema(
    [
        ("schema_version", pa.int32()),
        ("mix_id", pa.string()),
        ("seed", pa.int64()),
        ("split", pa.string()),
        ("tempo_bpm", pa.float64()),
        ("key", pa.string()),
        ("parts", pa.list_(PART)),
        ("beat_error_ms", pa.float64()),
        ("key_distance", pa.float64()),
        ("reason", pa.string()),
    ]
)

SCORES = pa.schema(
    [
        ("schema_version", pa.int32()),
        ("track_id", pa.string()),
        ("title", pa.string()),
        ("source", pa.string()),
        ("protocol", pa.string()),
        ("nsdr", pa.float64()),
        ("sdr", pa.float64()),
        ("mixture_nsdr", pa.float64()),
        ("mixture_sdr", pa.float64()),
        ("isr", pa.float64()),
        ("sir", pa.float64()),
        ("sar", pa.float64()),
        ("leakage_db", pa.float64()),
        ("si_sdr", pa.float64()),
        ("si_sir", pa.float64()),
        ("si_sar", pa.float64()),
        ("log_wmse", pa.float64()),
        ("aura_mrstft", pa.float64()),
        ("bleedless", pa.float64()),
        ("fullness", pa.float64()),
        ("ceiling_nsdr", pa.float64()),
        ("ceiling_sdr", pa.float64()),
        ("solver", pa.string()),
        ("conditioning", pa.float64()),
        ("duration_s", pa.float64()),
        ("level_db", pa.float64()),
        ("plugin_scores", pa.map_(pa.string(), pa.float64())),
    ]
)
