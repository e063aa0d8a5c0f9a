"""What is odd about a stem is remarked on, and drops a song only where its owner asks for it."""

from functools import cache

import numpy as np
import pytest

from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.errors import InputError
from datasets.quality.measures import measure
from datasets.quality.rules.quality_rules import SWITCHED_OFF, QualityRules, in_toml
from datasets.quality.rules.stem_remarks import REMARKS, remarks
from datasets.quality.rules.violations import faults
from datasets.schema import REASONS, SOURCES
from datasets.seeding import row_rng
from tests.datasets import corruptions

RATE = 44100
DRUMS, BASS, OTHER, VOCALS = range(4)


@cache
def _song() -> Samples:
    stems_SCT = perform(compose(33, "remarks", 5.0), RATE)
    stems_SCT[DRUMS] += 0.01 * row_rng(1, "hiss").standard_normal(stems_SCT[DRUMS].shape).astype(np.float32)
    stems_SCT.flags.writeable = False
    return stems_SCT


def _remarks(place: int, stem_CT: Samples) -> dict[str, str]:
    """What is said of that stem, by the name of the remark."""
    stems_SCT = _song().copy()
    stems_SCT[place] = stem_CT
    found = remarks(measure(stems_SCT, sources=SOURCES, sample_rate=RATE), SOURCES)
    return {name: words for name, source, words in found if source == SOURCES[place]}


def test_nothing_is_odd_about_a_good_song() -> None:
    assert list(remarks(measure(_song(), sources=SOURCES, sample_rate=RATE), SOURCES)) == []


def test_a_stem_made_mono_is_remarked_on_and_a_bass_is_not() -> None:
    mono = _remarks(VOCALS, corruptions.make_mono(_song()[VOCALS], row_rng(2, ""), sample_rate=RATE))
    assert mono == {"mono": "vocals: mono, while drums, bass and other are in stereo (made mono?)"}
    assert _remarks(BASS, corruptions.make_mono(_song()[BASS], row_rng(2, ""), sample_rate=RATE)) == {}


def test_a_stem_that_ends_below_the_others_is_remarked_on() -> None:
    narrow = _remarks(DRUMS, corruptions.limit_band(_song()[DRUMS], np.random.default_rng(0), sample_rate=RATE))
    assert list(narrow) == ["band_limited"]
    assert narrow["band_limited"].startswith("drums: nothing above 1")


@pytest.mark.parametrize("codec", ["mp3", "vorbis"])
def test_a_stem_that_was_clipped_and_then_coded_is_remarked_on(codec: str) -> None:
    """A chord that swells every second: its loud half is cut off."""
    time_T = np.arange(_song().shape[2]) / RATE
    chord_T = sum(np.sin(2 * np.pi * hertz * time_T + hertz) for hertz in (220.3, 277.1, 329.7, 440.9))
    loud_T = chord_T * (0.05 + 0.4 * (time_T % 1))
    chord_CT = np.stack([loud_T, np.roll(loud_T, 40)]).astype(np.float32)
    assert "flattened" not in _remarks(OTHER, chord_CT)
    clipped_CT = 0.4 * np.clip(chord_CT, -1.0, 1.0)
    coded_CT = corruptions.transcode(clipped_CT, codec=codec, kbps=192, sample_rate=RATE)
    said = _remarks(OTHER, coded_CT)["flattened"]
    level_db = float(said.split(" at ")[1].split(" dBFS")[0])
    assert abs(level_db - 20 * np.log10(0.4)) < 1.0
    softly_CT = (0.4 * np.tanh(chord_CT / 0.8)).astype(np.float32)
    assert "flattened" in _remarks(OTHER, softly_CT)


@pytest.mark.parametrize("kind", ["a chip", "a coded chip", "distortion"])
def test_instruments_that_play_at_one_level_are_not_called_flattened(kind: str) -> None:
    rng, time_T = row_rng(6, "chip"), np.arange(_song().shape[2]) / RATE
    step = (8 * time_T).astype(np.int64)
    phase_T = np.cumsum(220 * 2 ** (rng.integers(0, 20, 64) / 12)[step]) / RATE
    sound_T = 0.2 * np.sign(np.sin(2 * np.pi * phase_T)) * (8 * time_T % 1 < rng.uniform(0.4, 1, 64)[step])
    if kind == "distortion":  # before a cabinet
        sound_T = 0.3 * np.tanh(20 * sum(np.sin(2 * np.pi * hertz * time_T) for hertz in (82.4, 123.5, 164.8)))
    sound_CT = np.stack([sound_T, sound_T]).astype(np.float32)
    if kind == "a coded chip":
        sound_CT = corruptions.transcode(sound_CT, codec="mp3", kbps=160, sample_rate=RATE)
    assert "flattened" not in _remarks(OTHER, sound_CT)


def test_a_remark_drops_a_song_only_if_its_name_is_set() -> None:
    stems_SCT = _song().copy()
    stems_SCT[VOCALS] = stems_SCT[VOCALS].mean(axis=0)
    measures = measure(stems_SCT, sources=SOURCES, sample_rate=RATE)
    assert "mono" not in {fault.reason for fault in faults(measures, QualityRules(), sources=SOURCES)}
    strict = QualityRules(drop_for=("flattened", "mono"))
    (fault,) = (fault for fault in faults(measures, strict, sources=SOURCES) if fault.reason == "mono")
    assert (fault.source, fault.detail[:12]) == ("vocals", "vocals: mono")
    assert REMARKS.keys() <= SWITCHED_OFF.keys() & REASONS.keys()
    assert in_toml(SWITCHED_OFF["mono"][0]) == "curate.drop_for=[]"


def test_an_unknown_remark_is_refused() -> None:
    with pytest.raises(InputError, match=r"curate.drop_for must hold .*flattened, mono, band_limited.*got 'stereo'"):
        QualityRules(drop_for=("stereo",))
