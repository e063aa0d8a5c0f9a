"""More than two channels to two, after ITU-R BS.775-3, annex 4: by what the file says of its channels, not by a guess.

Left and right stay as they are. Centre and surrounds are added at -3 dB to the side they belong to, a centre to both,
a rear centre at -6 dB to both; the low-frequency effects are left out, as BS.775 has it. Nothing is turned down
afterwards: samples are floats, and a stereo file of the same song stays in balance.
"""

from collections.abc import Sequence

import numpy as np

from datasets.audio.audio_types import AudioInfo, Samples
from datasets.errors import AudioError

_DB3, _DB6 = float(np.sqrt(0.5)), 0.5
# What each channel adds to the left and to the right, by the names of FFmpeg.
GAINS = {
    "FL": (1.0, 0.0), "FR": (0.0, 1.0), "FC": (_DB3, _DB3), "LFE": (0.0, 0.0), "LFE2": (0.0, 0.0),
    "BL": (_DB3, 0.0), "BR": (0.0, _DB3), "BC": (_DB6, _DB6), "SL": (_DB3, 0.0), "SR": (0.0, _DB3),
    "FLC": (1.0, 0.0), "FRC": (0.0, 1.0), "WL": (1.0, 0.0), "WR": (0.0, 1.0), "DL": (1.0, 0.0), "DR": (0.0, 1.0),
    "TFL": (_DB3, 0.0), "TFR": (0.0, _DB3), "TFC": (_DB6, _DB6), "TC": (_DB6, _DB6), "TBC": (_DB6, _DB6),
    "TBL": (_DB3, 0.0), "TBR": (0.0, _DB3), "TSL": (_DB3, 0.0), "TSR": (0.0, _DB3), "SDL": (_DB3, 0.0),
    "SDR": (0.0, _DB3),
}  # fmt: skip


def is_surround(info: AudioInfo) -> bool:
    """Whether a file has more channels than two."""
    return info.channels > 2


def downmix_gains(info: AudioInfo, name: str) -> Samples:
    """What each channel of a file adds to left and right, shape (2, C); AudioError unless it says which is which."""
    unknown = [speaker for speaker in info.speakers if speaker not in GAINS]
    if len(info.speakers) != info.channels or unknown or "FL" not in info.speakers or "FR" not in info.speakers:
        why = f"what {', '.join(unknown)} is is not known here" if unknown else "it does not say which of them is which"
        raise AudioError(
            "channel_mismatch",
            f"{name}: has {info.channels} channels, and {why}; mix it down to two, or save it with a channel layout",
        )
    return np.array([GAINS[speaker] for speaker in info.speakers], np.float32).T


def downmixed(block_CT: Samples, gains_2C: Samples) -> Samples:
    """Left and right of a block of more channels."""
    mixed_CT: Samples = gains_2C @ block_CT
    return mixed_CT


def downmix_note(info: AudioInfo) -> str:
    """What is done to a file of more than two channels, in words; empty for others."""
    if not is_surround(info):
        return ""
    quiet = [speaker for speaker in info.speakers if 0 < max(GAINS[speaker]) < 1]
    levels = sorted({max(GAINS[speaker]) for speaker in quiet}, reverse=True)
    left_out = [speaker for speaker in info.speakers if not any(GAINS[speaker])]
    told = [f"{info.channels} channels ({_joined(info.speakers)}) mixed down to two after ITU-R BS.775"]
    told += (
        [f"{_joined(quiet)} at {' or '.join(f'{20 * np.log10(level):.0f} dB' for level in levels)}"] if quiet else []
    )
    told += [f"{_joined(left_out)} left out"] if left_out else []
    return ", ".join(told)


def _joined(speakers: Sequence[str]) -> str:
    return " ".join(speakers)
