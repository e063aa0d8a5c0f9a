"""A recording is recognized in other clothes, another recording is not, and memory and order do not matter."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from datasets.audio.audio_types import Samples
from datasets.corpus.synthetic import compose, perform
from datasets.quality.fingerprint import (
    FingerprintExtractor,
    Match,
    Signature,
    clock,
    find_duplicates,
    find_matches,
    landmarks,
    marks_on_line,
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
    match = _only_match(known, songs["song 1"][:, 4 * RATE : 9 * RATE])
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


# --- what a signature holds -----------------------------------------------------------------------------------


def _bursts(*tones: tuple[float, ...], level: float = 0.3) -> Signature:
    """The signature of short tones, at times in seconds, semitones above 220 Hz, of some gain; 5 s in all."""
    time_T = np.arange(5 * 11025) / 11025
    made_T = np.zeros(len(time_T))
    for at_s, pitch, *gain in tones:
        swell_T = np.exp(-0.5 * ((time_T - at_s) / 0.02) ** 2)
        made_T += level * (gain or [1.0])[0] * swell_T * np.sin(2 * np.pi * 220.0 * 2 ** (pitch / 12) * time_T)
    extractor = FingerprintExtractor(11025)
    extractor.add(np.asarray(made_T, np.float32))
    return extractor.signature()


def test_a_stored_signature_can_be_read_as_it_was_written() -> None:
    """Frames of 256 samples at 11 025 Hz; from the lowest bit: frame, eighths of a semitone, frames, hash."""
    total, *landmarks = _bursts((1.0, 12.0), (1.6, 16.0), (2.3, 19.0)).tolist()
    assert total == 5 * 11025 // 256 + 1
    (landmark,) = landmarks
    fields = [landmark & 0xFFFFF, landmark >> 20 & 0x1FF, landmark >> 29 & 0x7F, landmark >> 36]
    second, third = round(0.6 * 11025 / 256), round(1.3 * 11025 / 256)
    steps = (4 * 2 + 64) * 128 + (7 * 2 + 64)  # intervals in half semitones
    assert fields == [round(11025 / 256), 12 * 8, third, steps * 16 + second * 12 // third]


@pytest.mark.parametrize(
    ("tones", "count"),
    [
        (((1.0, 10.0), (1.5, 21.8), (2.0, 14.0)), 1),
        (((1.0, 10.0), (1.5, 22.2), (2.0, 14.0)), 0),  # farther than an octave
        (((1.0, 22.0), (1.5, 10.2), (2.0, 14.0)), 1),
        (((1.0, 22.0), (1.5, 9.8), (2.0, 14.0)), 0),
        (((1.0, 10.0), (1.5, 14.0), (2.48, 18.0)), 1),
        (((1.0, 10.0), (1.5, 14.0), (2.55, 18.0)), 0),  # longer than 1.5 s
        (((1.0, 10.0), (1.14, 18.0), (2.0, 14.0)), 1),
        (((1.0, 10.0), (1.08, 18.0), (2.0, 14.0)), 0),  # shorter than 0.12 s
        (((1.0, 10.0), (1.5, 14.0), (1.5, 18.0)), 0),  # two at once
        (((1.0, 10.0), (1.5, 14.0), (2.0, 18.0), (2.3, 12.0)), 4),  # of the next three any two
        (((1.0, 10.0), (1.3, 14.0), (1.6, 18.0), (1.9, 12.0), (2.2, 15.0)), 7),
        (((1.0, 10.0), (1.5, 14.0), (1.55, 12.5, 0.5), (2.0, 18.0)), 1),  # nothing beside a stronger peak is one
        (((1.0, 10.0), (1.5, 14.0), (1.55, 7.5, 0.5), (2.0, 18.0)), 3),
        (((1.0, 40.0), (1.5, 42.0), (2.0, 46.8)), 1),
        (((1.0, 40.0), (1.5, 42.0), (2.0, 48.5)), 0),  # above 3.5 kHz nothing is listened to
        (((1.0, 6.0), (1.5, 4.0), (2.0, 0.5)), 1),
        (((1.0, 6.0), (1.5, 4.0), (2.0, -0.5)), 0),  # nor below 220 Hz
    ],
)
def test_a_landmark_is_a_peak_and_two_of_the_next_three_within_an_octave_and_one_and_a_half_seconds(
    tones: tuple[tuple[float, ...], ...], count: int
) -> None:
    assert len(_bursts(*tones)) - 1 == count


@pytest.mark.parametrize(
    ("second", "third", "semitones", "count"),
    [
        (5, 64, 12.0, 1), (4, 64, 12.0, 0), (5, 65, 12.0, 0), (5, 64, 12.01, 0), (5, 64, -12.0, 1), (5, 64, -12.01, 0),
        (20, 22, 1.0, 1), (20, 21, 1.0, 0),
    ],
)  # fmt: skip
def test_the_limits_of_a_landmark_are_those_of_stored_ones(
    second: int, third: int, semitones: float, count: int
) -> None:
    """In frames and semitones from its first peak; the other two are more than a frame apart."""
    found = landmarks(np.array([100.0, 100.0 + second, 100.0 + third]), np.array([20.0, 20.0 + semitones, 21.0]))
    assert len(found) == count


def test_of_each_second_the_eight_strongest_peaks_count() -> None:
    tones = [(1.1 + 0.08 * place, (5.0, 17.0, 9.0, 21.0, 13.0)[place % 5], 1 - 0.05 * place) for place in range(10)]
    np.testing.assert_array_equal(_bursts(*tones), _bursts(*tones[:8]))
    assert len(_bursts(*tones[:8])) > len(_bursts(*tones[:7]))


@pytest.mark.parametrize(("level_db", "heard"), [(-70, True), (-96, True), (-112, False)])
def test_what_is_fainter_than_110_db_under_full_scale_is_no_peak(level_db: float, heard: bool) -> None:
    tones = ((1.0, 12.0), (1.6, 16.0), (2.3, 19.0))
    np.testing.assert_array_equal(
        _bursts(*tones, level=10 ** (level_db / 20))[1:], _bursts(*tones)[1:] if heard else []
    )


# --- comparing, with signatures made by hand ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Landmarks in the order of their times, as a signature holds them."""

    frame: np.ndarray
    eighths: np.ndarray
    reach: np.ndarray
    hashed: np.ndarray

    @classmethod
    def random(cls, name: str, count: int = 400, duration_s: float = 20.0) -> "Marks":
        rng = row_rng(0, "marks", name)
        frame = np.sort(rng.integers(0, int(duration_s * FRAMES_PER_S), count))
        return cls(
            frame=frame, eighths=rng.integers(64, 300, count), reach=rng.integers(20, 64, count),
            hashed=rng.integers(0, 1 << 18, count),
        )  # fmt: skip

    def changed(self, *, speed: float = 1.0, semitones: float = 0.0, later_s: float = 0.0) -> "Marks":
        return Marks(
            frame=np.rint(self.frame / speed + later_s * FRAMES_PER_S).astype(np.int64),
            eighths=self.eighths + round(8 * semitones),
            reach=np.rint(self.reach / speed).astype(np.int64),
            hashed=self.hashed,
        )

    def some(self, chosen: slice | np.ndarray) -> "Marks":
        return Marks(frame=self.frame[chosen], eighths=self.eighths[chosen], reach=self.reach[chosen],
                     hashed=self.hashed[chosen])  # fmt: skip

    def beside(self, other: "Marks") -> "Marks":
        names = ("frame", "eighths", "reach", "hashed")
        return Marks(**{name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names})

    def signature(self) -> Signature:
        marks = self.frame | self.eighths << 20 | self.reach << 29 | self.hashed << 36
        return np.concatenate([[self.frame.max() + 1], np.sort(marks)]).astype(np.uint64)


FRAMES_PER_S = 11025 / 256
SONG = Marks.random("song")


def _matched(later: Marks, first: Marks = SONG, *, min_similarity: float = 0.0) -> Match | None:
    found = find_matches({"a": first.signature(), "b": later.signature()}, min_similarity=min_similarity)
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize(("speed", "found"), [(0.955, True), (1.045, True), (0.93, False), (1.075, False)])
def test_copies_are_found_up_to_six_percent_faster_or_slower(speed: float, found: bool) -> None:
    match = _matched(SONG.changed(speed=speed))
    assert (match is not None) == found
    if match:
        assert match.speed == pytest.approx(speed, abs=0.002)
        assert match.speed == round(match.speed, 3)


@pytest.mark.parametrize(
    ("semitones", "found"), [(1.5, True), (-1.5, True), (1.625, False), (-1.625, False), (0.375, True)]
)
def test_copies_are_found_up_to_one_and_a_half_semitones_higher_or_lower(semitones: float, found: bool) -> None:
    match = _matched(SONG.changed(semitones=semitones))
    assert (match is not None) == found
    if match:
        assert match.semitones == round(semitones, 1)
        assert match.similarity == 1.0


@pytest.mark.parametrize("speed", [0.945, 1.055])
@pytest.mark.parametrize("semitones", [-1.5, 1.5])
def test_a_copy_is_found_at_whatever_pitch_and_length_all_its_landmarks_are(speed: float, semitones: float) -> None:
    """Each landmark stands in the index under a range of pitches and one of lengths; no song may fall between two."""
    for eighths, reach in zip(range(100, 148, 4), range(28, 64, 3), strict=True):
        alike = replace(SONG, eighths=np.full(400, eighths), reach=np.full(400, reach))
        assert _matched(alike.changed(speed=speed, semitones=semitones), alike) is not None, (eighths, reach)


def test_where_a_copy_lies_is_told_in_both_songs() -> None:
    tail = SONG.some(SONG.frame >= 8 * FRAMES_PER_S)  # from 0:08 on, now at 0:03
    moved = tail.changed(later_s=-5.0)
    match = _matched(moved.beside(Marks.random("after", 200, 8.0).changed(later_s=16.0)))
    assert match is not None
    told = [round(int(frame) / FRAMES_PER_S, 1) for frame in (moved.frame.min(), moved.frame.max(), tail.frame.min())]
    assert [match.start_s, match.stop_s, match.first_start_s] == told
    assert told == pytest.approx([3.0, 14.9, 8.0], abs=0.15)


@pytest.mark.parametrize(("first_s", "share"), [(20.0, 0.6), (10.0, 1.0)])
def test_what_is_shared_counts_in_the_shorter_song(first_s: float, share: float) -> None:
    """20 s of which the first ten are the other song's; a second counts that lies within two of a common landmark."""
    first = SONG if first_s == 20.0 else SONG.some(SONG.frame < 10 * FRAMES_PER_S)
    later = SONG.some(SONG.frame < 10 * FRAMES_PER_S).beside(Marks.random("else", 200, 10.0).changed(later_s=10.0))
    match = _matched(later, first)
    assert match is not None
    assert (match.similarity, match.later_share, match.first_share) == (share, 0.6, share)
    assert _matched(later, first, min_similarity=0.65) is None or share == 1.0


def test_the_share_is_told_to_the_thousandth() -> None:
    """Landmarks that begin in 6 seconds in a row, the last of which reach into the next two."""
    middle = SONG.some((SONG.frame >= 6 * FRAMES_PER_S) & (SONG.frame < 12 * FRAMES_PER_S))
    later = middle.beside(Marks.random("else", 300, 23.0))
    match = _matched(later)
    assert match is not None
    assert match.similarity == round(8 / 20, 3)  # of the other song, 20 s long: 6 to 13
    shorter = SONG.some(SONG.frame < 19 * FRAMES_PER_S)
    again = _matched(later, shorter)
    assert again is not None
    assert again.similarity == round(8 / 19, 3)


@pytest.mark.parametrize("speed", [0.96, 1.0, 1.045])
def test_long_songs_are_compared_as_a_whole_at_any_speed(speed: float) -> None:
    """Over ten minutes, one percent of speed is six seconds."""
    long = Marks.random("long", 3000, 600.0)
    match = _matched(long.changed(speed=speed), long)
    assert match is not None
    assert match.similarity == 1.0
    assert match.speed == pytest.approx(speed, abs=0.001)
    assert match.stop_s == pytest.approx(600.0 / speed, abs=1.0)


@pytest.mark.parametrize("speed", [0.955, 0.98, 1.045])
def test_a_dozen_landmarks_of_a_minute_are_enough_at_any_speed(speed: float) -> None:
    few = Marks.random("few", 12, 60.0)
    match = _matched(few.changed(speed=speed, semitones=0.5), few)
    assert match is not None
    assert (match.speed, match.semitones) == (pytest.approx(speed, abs=0.002), 0.5)


@pytest.mark.parametrize("later_s", [50.0, 300.0])
def test_a_copy_is_found_minutes_into_another_song(later_s: float) -> None:
    match = _matched(SONG.changed(later_s=later_s))
    assert match is not None
    assert match.start_s == pytest.approx(later_s, abs=0.2)
    assert match.first_start_s == pytest.approx(0.0, abs=0.2)


@pytest.mark.parametrize(("shared", "found"), [(7, False), (8, True)])
def test_fewer_than_eight_landmarks_on_one_line_are_chance(shared: int, found: bool) -> None:
    few = SONG.some(slice(100, 100 + shared))
    assert (_matched(few.changed(later_s=1.0), few) is not None) == found


@pytest.mark.parametrize(("shared", "found"), [(9, False), (24, True)])
def test_three_of_a_hundred_landmarks_must_lie_on_the_line(shared: int, found: bool) -> None:
    """Of 400 in each of two songs, spread over their whole length."""
    places = np.linspace(0, 399, shared).astype(int)
    later = SONG.some(places).beside(Marks.random("rest", 400 - shared))
    assert (_matched(later) is not None) == found


@pytest.mark.parametrize(("copies", "found"), [(12, 11), (13, 0)])
def test_a_landmark_that_more_than_twelve_songs_share_says_nothing(copies: int, found: bool) -> None:
    songs = {f"{number:02d}": SONG.signature() for number in range(copies)}
    assert len(find_duplicates(songs, min_similarity=0.9)) == found


def test_all_of_a_song_can_be_asked_for_and_more_than_all_is_none() -> None:
    assert _matched(SONG, min_similarity=1.0) is not None
    assert _matched(SONG, min_similarity=1.01) is None
    assert _matched(Marks.random("another")) is None


@pytest.mark.parametrize(
    ("speed", "semitones", "told"),
    [
        (1.0035, 0.2, ""), (1.005, 0.0, ", +0.5% in speed"), (0.995, 0.0, ", -0.5% in speed"),
        (1.0, 0.3, ", +0.3 semitones"), (1.0, -0.3, ", -0.3 semitones"),
        (1.03, 0.5, ", +3.0% in speed and +0.5 semitones"),
    ],
)  # fmt: skip
def test_words_tell_a_change_that_is_heard(speed: float, semitones: float, told: str) -> None:
    match = Match(
        later="b", first="a", later_share=1.0, first_share=1.0, similarity=1.0,
        start_s=5.0, stop_s=70.0, first_start_s=61.0, speed=speed, semitones=semitones,
    )  # fmt: skip
    assert match.words == f"0:05-1:10 is a from 1:01{told}"


# --- stems of songs whose match is known -------------------------------------------------------------------------


def _place(*, start_s: float, stop_s: float, first_start_s: float, speed: float = 1.0, semitones: float = 0.0) -> Match:
    return Match(
        later="b", first="a", later_share=1.0, first_share=1.0, similarity=1.0, start_s=start_s, stop_s=stop_s,
        first_start_s=first_start_s, speed=speed, semitones=semitones,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("frames", "semitones", "together"),
    [
        (0, 1.0, True), (15, 1.0, True), (-15, 1.0, True), (16, 1.0, False), (-16, 1.0, False),
        (0, 1.375, True), (0, 0.625, True), (0, 1.5, False), (0, 0.5, False),
    ],
)  # fmt: skip
def test_landmarks_of_two_stems_are_together_within_16_frames_and_half_a_semitone(
    frames: int, semitones: float, together: bool
) -> None:
    stem = Marks.random("stem", 100)
    later = stem.changed(semitones=semitones, later_s=(20 + frames) / FRAMES_PER_S)
    place = _place(start_s=20 / FRAMES_PER_S, stop_s=30.0, first_start_s=0.0, semitones=1.0)
    assert marks_on_line(stem.signature(), later.signature(), place)[0] == (100 if together else 0)


@pytest.mark.parametrize("speed", [0.96, 1.03])
def test_landmarks_of_stems_are_looked_for_where_the_songs_match(speed: float) -> None:
    """The later song has at 0:05 what the first has at 0:02."""
    stem = Marks.random("stem", 100)
    later = stem.changed(speed=speed, later_s=5 - 2 / speed)
    place = {"start_s": 5.0, "stop_s": 25.0, "first_start_s": 2.0, "speed": speed}
    assert marks_on_line(stem.signature(), later.signature(), _place(**place))[0] == 100
    for name, other in (("start_s", 4.5), ("first_start_s", 2.5), ("speed", 1 / speed)):
        assert marks_on_line(stem.signature(), later.signature(), _place(**place | {name: other}))[0] < 60


def test_landmarks_that_could_be_together_are_those_of_the_sparser_stem_in_the_common_stretch() -> None:
    """0:02 to 0:12 of the first song are 0:06 to 0:14 of the later one, which is a quarter faster."""
    place = _place(start_s=6.0, stop_s=14.0, first_start_s=2.0, speed=1.25)
    later = Marks.random("later", 300)
    for num_first in (400, 100):
        first = Marks.random("first", num_first)
        expected = min(
            int(np.count_nonzero((marks.frame >= int(begin_s * FRAMES_PER_S)) & (marks.frame <= end_s * FRAMES_PER_S)))
            for marks, begin_s, end_s in ((first, 2, 12), (later, 6, 14))
        )
        assert marks_on_line(first.signature(), later.signature(), place) == (0, expected)


def test_a_landmark_counts_once_however_many_of_the_other_stem_it_resembles() -> None:
    stem = Marks.random("stem", 50)
    twice = stem.beside(stem.changed(later_s=0.1))
    place = _place(start_s=0.0, stop_s=20.0, first_start_s=0.0)
    assert marks_on_line(twice.signature(), stem.signature(), place) == (50, 50)
