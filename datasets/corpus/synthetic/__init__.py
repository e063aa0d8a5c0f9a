"""Seeded toy songs of known tempo, key and defects: the README's first command, and the tests' ground truth.

Each song is a small arrangement (drum pattern, bass on the chord roots, pad and arpeggio, a voice-like lead)
played by synthesizers whose timbre is drawn per song. Beside the good songs stand planted bad ones, one for
each way in which real corpora go wrong, with the reason that they should be dropped for. `write_corpus` is
the way in; `compose` and `perform` are its two halves for callers that want arrays.
"""

from datasets.corpus.synthetic.composition import Composition, compose
from datasets.corpus.synthetic.stem_rendering import perform
from datasets.corpus.synthetic.write import VERSION, CorpusTruth, SongTruth, read_truth, write_corpus

__all__ = [
    "VERSION",
    "Composition",
    "CorpusTruth",
    "SongTruth",
    "compose",
    "perform",
    "read_truth",
    "write_corpus",
]
