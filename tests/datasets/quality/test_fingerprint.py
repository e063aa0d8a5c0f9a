"""A recording is recognized in other clothes, another recording is not, and memory and order do not matter."""

import numpy as np
import pytest

from datasets.audio.samples import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.quality.fingerprint import (
    FingerprintExtractor,
    Match,
    Signature,
    clock,
    find_duplicates,
    find_matches,
    pack,
    unpack,
)
from datasets.seeding import row_rng
from tests.datasets import corruptions

RATE = 22050


@pytest.fixture(scope="module")
def songs() -> dict[str, Samples]:
    """Mixtures (2, T) of three toy songs of 10 s."""
    return {f"song {n}": perform(compose(3, f"{n}", 10.0), RATE).sum(axis=0) for n in range(3)}


@pytest.fixture(scope="module")
def known(songs: dict[str, Samples]) -> dict[str, Signature]:
    return {name: _signature(samples_CT) for name, samples_CT in songs.items()}


def _signature(samples_CT: Samples, *, block: int = RATE) -> Signature:
    listener = FingerprintExtractor(RATE)
    mono_T = np.ascontiguousarray(samples_CT.mean(axis=0))
    for start in range(0, len(mono_T), block):
        listener.add(mono_T[start : start + block])
    return listener.signature()


def _only_match(known: dict[str, Signature], copy_CT: Samples) -> Match:
    matches = find_matches(known | {"the copy": _signature(copy_CT)}, min_similarity=0.5)
    assert len(matches) == 1
    return matches[0]


@pytest.mark.parametrize("kind", ["exact", "quieter", "master", "mp3"])
def test_a_copy_in_other_clothes_is_found(songs: dict[str, Samples], known: dict[str, Signature], kind: str) -> None:
    original_CT = songs["song 1"]
    copy_CT = {
        "exact": lambda: original_CT,
        "quieter": lambda: original_CT * np.float32(0.1),
        "master": lambda: corruptions.remaster(original_CT, row_rng(0, "master"), sample_rate=RATE),
        "mp3": lambda: corruptions.transcode(original_CT, codec="mp3", kbps=64, sample_rate=RATE),
    }[kind]()
    match = _only_match(known, copy_CT)
    assert (match.first, match.later) == ("song 1", "the copy")
    assert match.similarity > 0.8
    assert match.speed == pytest.approx(1.0, abs=0.004)
    assert abs(match.semitones) <= 0.1


@pytest.mark.parametrize("speed", [0.97, 1.03])
def test_a_copy_at_another_tape_speed_is_found_and_its_speed_told(
    songs: dict[str, Samples], known: dict[str, Signature], speed: float
) -> None:
    match = _only_match(known, corruptions.change_speed(songs["song 2"], speed, sample_rate=RATE))
    assert match.first == "song 2"
    assert match.speed == pytest.approx(speed, abs=0.005)
    assert match.semitones == pytest.approx(12 * np.log2(speed), abs=0.15)
    assert "in speed" in match.words
    assert "semitones" in match.words


@pytest.mark.parametrize("semitones", [-1.0, 1.0])
def test_a_transposed_copy_is_found(songs: dict[str, Samples], known: dict[str, Signature], semitones: float) -> None:
    match = _only_match(known, corruptions.transpose(songs["song 0"], semitones, sample_rate=RATE))
    assert match.first == "song 0"
    assert match.semitones == pytest.approx(semitones, abs=0.15)


def test_an_excerpt_is_found_with_its_place(songs: dict[str, Samples], known: dict[str, Signature]) -> None:
    match = _only_match(known, songs["song 0"][:, 4 * RATE : 9 * RATE])
    assert match.similarity > 0.8
    assert match.first_start_s - match.start_s == pytest.approx(4.0, abs=0.3)
    assert "from 0:04" in match.words
    assert match.start_s < 1.0
    assert match.stop_s == pytest.approx(5.0, abs=1.0)


def test_different_songs_are_no_copies(known: dict[str, Signature]) -> None:
    others = {f"other {n}": _signature(perform(compose(4, f"{n}", 6.0), RATE).sum(axis=0)) for n in range(4)}
    assert find_matches(known | others, min_similarity=0.1) == ()


@pytest.mark.parametrize("block", [1000, 4410, 100_000])
def test_a_signature_hardly_depends_on_the_blocks_it_was_heard_in(
    songs: dict[str, Samples], known: dict[str, Signature], block: int
) -> None:
    again = _signature(songs["song 0"], block=block)
    assert len(np.intersect1d(again, known["song 0"])) > 0.99 * len(again)
    assert len(again) == pytest.approx(len(known["song 0"]), rel=0.01)


def test_silence_and_nothing_have_no_landmarks() -> None:
    silent = _signature(np.zeros((2, 5 * RATE), np.float32))
    empty = FingerprintExtractor(RATE).signature()
    assert len(silent) == len(empty) == 1
    assert find_duplicates({"a": silent, "b": silent, "c": empty}, min_similarity=0.5) == {}
    assert find_duplicates({}, min_similarity=0.5) == {}


def test_a_signature_survives_text(known: dict[str, Signature]) -> None:
    np.testing.assert_array_equal(unpack(pack(known["song 0"])), known["song 0"])


def test_copies_of_copies_all_name_the_first(known: dict[str, Signature]) -> None:
    copies = {name: known["song 0"] for name in ("b", "d", "a", "c")}
    assert find_duplicates(copies, min_similarity=0.9) == {"b": "a", "c": "a", "d": "a"}


def test_a_thinned_index_finds_the_same_copies(known: dict[str, Signature], monkeypatch: pytest.MonkeyPatch) -> None:
    copies = known | {f"{name} copy": signature for name, signature in known.items()}
    whole = find_duplicates(copies, min_similarity=0.5)
    monkeypatch.setattr("datasets.quality.fingerprint._INDEX_ROWS", sum(map(len, copies.values())))
    assert find_duplicates(copies, min_similarity=0.5) == whole == {f"{name} copy": name for name in known}


def test_times_are_told_in_minutes() -> None:
    assert clock(0.4) == "0:00"
    assert clock(65.9) == "1:05"
