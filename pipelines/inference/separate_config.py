"""How songs are separated and what is written."""

from dataclasses import dataclass
from string import Formatter

from datasets.corpus.scan import safe_name
from datasets.errors import InputError
from datasets.field_constraints import NonNegativeInt, PositiveInt, ProperFraction, check_ranges
from models import learner_config
from models.inference import CONSISTENCY_MODES

FORMATS = {"wav16": "wav", "wav24": "wav", "float": "wav", "flac": "flac", "mp3": "mp3"}  # -> extension
PRECISIONS = (*learner_config.PRECISIONS, "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeparateConfig:
    """How songs are separated and what is written."""

    format: str = "wav16"  # of the stems: wav16, wav24, float (32-bit WAV), flac (24 bit) or mp3
    # Name of a stem's file in the folder of its song, without the ending: {song} and {stem} stand for theirs
    filename: str = "{stem}"
    two_stems: str = ""  # a source to write with "no_<source>", the sum of the others; empty writes every source
    stems: tuple[str, ...] = ()  # sources to write; empty writes every source
    # Lets the stems sum to the song: "residual" adds an equal part of what they lack to each (Wisdom et al. 2019),
    # "mask" divides the song's spectrum in the ratio of their magnitudes; "off" leaves them
    mixture_consistency: str = "off"
    overlap: ProperFraction = 0.25  # share of a segment that the next one covers again
    shifts: NonNegativeInt = 0  # delayed copies to average over; each costs a whole pass
    batch_size: PositiveInt = 1  # segments computed together; more is faster on a GPU
    seed: NonNegativeInt = 0  # seed of the delays of `shifts`
    # "float32"; "bfloat16", faster where a CPU has its units, and on GPUs; "int8", on CPUs: linear layers in 8 bits,
    # of networks with transformers
    precision: str = "float32"
    # Songs separated at once, each by a copy of the model with a CPU or a GPU; 0 takes as many as all nodes of the Ray
    # cluster hold, and 1 works in this process
    num_workers: NonNegativeInt = 1
    device: str = "auto"  # cpu, cuda, mps, or "auto": the best of them that is there

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InputError(f"separate.format={self.format!r}: use one of {', '.join(FORMATS)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"separate.precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.mixture_consistency not in CONSISTENCY_MODES:
            raise InputError(
                f"separate.mixture_consistency must be one of {', '.join(CONSISTENCY_MODES)}, got "
                f"{self.mixture_consistency!r}"
            )
        check_filename(self.filename)
        if self.stems and self.two_stems:
            raise InputError(
                f"separate.stems={list(self.stems)} and separate.two_stems={self.two_stems!r} each say which stems are "
                "written; give one of them"
            )
        check_ranges(self, InputError, section="separate.")


def check_filename(template: str) -> None:
    """InputError unless a template names each stem's file apart, and is a name on every file system, never a path."""
    wrong = (
        f"separate.filename={template!r}: use text with {{stem}} and, if you like, {{song}}, such as "
        "'{song} ({stem})'"
    )
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{wrong}; {error}") from None
    fields = [name for _, name, _, _ in parts if name is not None]
    if any(
        name not in ("song", "stem") or form or conversion for _, name, form, conversion in parts if name is not None
    ):
        raise InputError(f"{wrong}; other fields and formats are not known")
    if "stem" not in fields:
        raise InputError(f"{wrong}; without {{stem}} all stems would be one file")
    example = template.format(song="song", stem="stem")
    if safe_name(example) != example:
        raise InputError(f"{wrong}; it is a name, not a path, of characters that every file system takes")
