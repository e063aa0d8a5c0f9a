"""What a model hears in each stem alone: matrices known beforehand, from a model that splits by frequency."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datasets.audio.audio_types import Samples
from datasets.errors import InputError
from datasets.shards import manifests, shards
from datasets.shards.chunks import SongHeader, song_rows
from datasets.shards.manifests import Song
from models.networks.catalog import build
from models.weights import checkpoint
from models.weights.demucs.demucs_packages import export_bag
from pipelines.preparation import label_check
from pipelines.preparation.label_check import LabelModel, read_levels, stem_blocks, write_levels
from pipelines.preparation.label_rule import Levels, confusions, in_words, levels_of, matrix

RATE = 8000
SOURCES = ("drums", "bass", "vocals")
BANDS_HZ = {"bass": (0, 300), "vocals": (300, 2000), "drums": (2000, 4001)}
TONES_HZ = {"bass": 100, "vocals": 800, "drums": 3000}


@dataclass(frozen=True)
class BandsConfig:
    sources: tuple[str, ...] = ("bass", "vocals", "drums")  # another order than the corpus'
    sample_rate: int = RATE
    audio_channels: int = 2
    segment_samples: int = 2 * RATE


class Bands(nn.Module):
    """A separator whose answer is known: each source is what lies in its band."""

    def __init__(self) -> None:
        super().__init__()
        self.config = BandsConfig()

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(mixture_BCT)
        hz = torch.fft.rfftfreq(mixture_BCT.shape[-1], 1 / RATE)
        bands = [spectrum * ((hz >= low) & (hz < high)) for low, high in map(BANDS_HZ.get, self.config.sources)]
        return torch.stack([torch.fft.irfft(band, n=mixture_BCT.shape[-1]) for band in bands], dim=1)


def load_bands(path: str) -> nn.Module:
    assert path == "bands"
    return Bands()


def tones(*seconds: Sequence[str] | str) -> Samples:
    """A stem of one second per argument: the tones of these sources at -9 dB each, or silence for none."""
    time_T = np.arange(RATE) / RATE
    parts = [
        sum(
            (
                0.5 * np.sin(2 * np.pi * TONES_HZ[name] * time_T)
                for name in ([names] if isinstance(names, str) else names)
            ),
            np.zeros(RATE),
        )
        for names in seconds
    ]
    return np.stack([np.concatenate(parts)] * 2).astype(np.float32)


def write_song(store: Path, name: str, stems: dict[str, Samples], *, rate: int = RATE) -> Song:
    header = SongHeader(track_id=name, title=name, split="train", license="", origin="corpus", sample_rate=rate)
    rows = song_rows(np.stack([stems[source] for source in SOURCES]), header, sources=SOURCES, chunk_s=3)
    shard = shards.write_shard(store, f"songs-{name}", rows, sources=SOURCES)
    address = manifests.write_manifest(store, table="chunks", step="ingest", key=name, shards=[shard])
    return manifests.read_songs(address)[0]


def right(seconds: int = 6) -> dict[str, Samples]:
    return {source: tones(*[source] * seconds) for source in SOURCES}


def listen(song: Song, model: nn.Module | None = None, **options: Any) -> Levels:
    def read(source: str) -> Iterator[Samples]:
        return stem_blocks(song, source)

    return levels_of(model or Bands(), read, sources=SOURCES, sample_rate=song.sample_rate, **options)


def heard(song: Song) -> np.ndarray[Any, Any]:
    return matrix(listen(song), silence_db=-40, heard_db=-10)


def test_right_labels_give_the_unit_matrix(tmp_path: Path) -> None:
    np.testing.assert_array_equal(heard(write_song(tmp_path, "a", right())), np.eye(3))


def test_shares_count_the_seconds_in_which_the_stem_sounds(tmp_path: Path) -> None:
    bass = tones("vocals", "vocals", "vocals", (), "bass", (), (), ("bass", "vocals"))
    shares_SS = heard(write_song(tmp_path, "a", {**right(8), "bass": bass}))
    np.testing.assert_allclose(shares_SS, [[1, 0, 0], [0, 2 / 5, 4 / 5], [0, 0, 1]])


def test_a_stem_that_never_sounds_has_no_shares_and_breaks_no_rule(tmp_path: Path) -> None:
    shares_SS = heard(write_song(tmp_path, "a", {**right(), "bass": tones(*[()] * 6)}))
    assert np.isnan(shares_SS[1]).all()
    assert confusions(shares_SS, sources=SOURCES, min_own=0.7, max_foreign=0.3) == []


def test_ten_decibels_below_the_stem_is_the_border(tmp_path: Path) -> None:
    stems = right()
    for below_db, share in ((9.0, 1.0), (11.0, 0.0)):
        stems["bass"] = tones(*["bass"] * 6) + tones(*["vocals"] * 6) * np.float32(10 ** (-below_db / 20))
        # The leak's own power is in the stem too: 0.5 dB at 9 dB below.
        assert heard(write_song(tmp_path, f"b{below_db}", stems))[1].tolist() == [0, 1, share]


def test_a_song_of_another_rate_or_shorter_than_a_second_is_heard_too(tmp_path: Path) -> None:
    song = write_song(
        tmp_path, "a", {source: np.repeat(stem, 2, axis=1) for source, stem in right(4).items()}, rate=2 * RATE
    )
    np.testing.assert_array_equal(heard(song), np.eye(3))
    short = write_song(tmp_path, "b", {source: stem[:, :3000] for source, stem in right(1).items()})
    assert listen(short).own_NS.shape == (1, 3)
    np.testing.assert_array_equal(heard(short), np.eye(3))


def test_a_bag_and_another_batch_hear_the_same(tmp_path: Path) -> None:
    from models.networks.bag import Bag

    song = write_song(tmp_path, "a", {**right(), "drums": tones(*["vocals"] * 3, *["drums"] * 3)})
    one = listen(song)
    for other in (
        listen(song, Bag([Bands(), Bands()])),
        listen(song, batch_size=3),
    ):
        np.testing.assert_allclose(other.heard_NSS, one.heard_NSS, atol=0.01)


def test_the_words_name_what_a_stem_is_heard_as() -> None:
    swapped_SS = np.array([[1, 0, 0], [0, 0.03, 0.92], [0, 0.95, 0.01]])
    found = confusions(swapped_SS, sources=SOURCES, min_own=0.7, max_foreign=0.3)
    assert [(one.source, one.predicted_as) for one in found] == [("bass", "vocals"), ("vocals", "bass")]
    assert in_words(found, max_foreign=0.3) == (
        "bass and vocals look swapped; the stem called bass is heard as vocals in 92% of seconds, as bass in 3%; "
        "the stem called vocals is heard as bass in 95% of seconds, as vocals in 1%"
    )
    unknown_SS = np.array([[0.6, 0.1, 0], [0, 1, 0.2], [0.31, 0, 0.9]])
    told = in_words(confusions(unknown_SS, sources=SOURCES, min_own=0.7, max_foreign=0.3), max_foreign=0.3)
    assert told == (
        "the stem called drums is heard as drums in only 60% of seconds; "
        "the stem called vocals is heard as drums in 31% of seconds, as vocals in 90%"
    )


@pytest.mark.parametrize(("own", "foreign", "broken"), [(0.71, 0.29, 0), (0.70, 0.0, 1), (1.0, 0.30, 1)])
def test_the_published_borders_are_strict(own: float, foreign: float, broken: int) -> None:
    shares_SS = np.array([[own, foreign], [0.0, 1.0]])
    assert len(confusions(shares_SS, sources=("a", "b"), min_own=0.7, max_foreign=0.3)) == broken


def test_levels_come_back_from_their_file_and_damage_counts_as_missing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    levels = Levels(
        own_NS=rng.uniform(-120, 0, (5, 2)).astype(np.float32),
        heard_NSS=rng.uniform(-120, 10, (5, 2, 2)).astype(np.float32),
    )
    path = tmp_path / "levels.json"
    write_levels(path, levels)
    again = read_levels(path)
    assert again is not None
    np.testing.assert_allclose(again.heard_NSS, levels.heard_NSS, atol=0.0051)
    path.write_text(path.read_text().replace('"num_seconds": 5', '"num_seconds": 6'))
    assert read_levels(path) is None
    assert read_levels(tmp_path / "none.json") is None


def test_a_model_of_other_sources_is_refused_with_both_named() -> None:
    model = LabelModel(path="m", digest="d", sources=("drums", "other"))
    with pytest.raises(InputError, match=r"m separates drums, other, but the songs have drums, bass, vocals"):
        model.check(SOURCES)
    model.check(("other", "drums"))


def test_a_model_is_known_by_weights_and_configuration_not_by_its_place(tmp_path: Path) -> None:
    options: dict[str, Any] = {"sources": SOURCES, "sample_rate": RATE, "nfft": 512, "depth": 2}
    torch.manual_seed(0)
    model = build("htdemucs-tiny", segment_s=1.0, **options)
    shorter = build("htdemucs-tiny", segment_s=0.5, **options)
    shorter.load_state_dict(model.state_dict())
    paths = [checkpoint.save(tmp_path / name, one) for name, one in (("a", model), ("b", model), ("c", shorter))]
    a, b, c = (label_check.label_model(str(path)) for path in paths)
    assert (a.digest, a.sources) == (b.digest, SOURCES)
    assert c.digest != a.digest
    bag = export_bag([model, model], tmp_path / "bag", name="two", weights=[[1, 0, 0], [0, 1, 1]])
    assert label_check.label_model(str(bag)).sources == SOURCES
    assert label_check.label_model(str(bag)).digest not in {a.digest, c.digest}
    with pytest.raises(InputError, match=r"curate\.model .*nowhere: no model at"):
        label_check.label_model(str(tmp_path / "nowhere"))


@pytest.mark.ray
def test_songs_are_heard_once_by_actors_whatever_their_names_and_thresholds(
    ray_local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers know this model by value
    monkeypatch.setattr(label_check, "load", load_bands)
    songs = [write_song(tmp_path, "a", right()), write_song(tmp_path, "b", {**right(), "bass": tones(*["vocals"] * 6)})]
    given = {song.audio: song for song in songs}
    options: dict[str, Any] = {
        "sources": SOURCES, "store": tmp_path, "num_workers": 2, "use_gpu": False, "batch_size": 2,
    }  # fmt: skip
    model = LabelModel(path="bands", digest="d", sources=BandsConfig().sources)
    found = label_check.run(given, model, **options)
    for song in songs:
        expected = listen(song, batch_size=2)
        np.testing.assert_allclose(found[song.audio].heard_NSS, expected.heard_NSS, atol=0.0051)

    def no_work(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is to be heard again")

    monkeypatch.setattr(label_check, "_listen", no_work)
    moved = {audio: replace(song, track_id=f"renamed {song.track_id}") for audio, song in given.items()}
    again = label_check.run(moved, model, **options)
    np.testing.assert_array_equal(again[songs[1].audio].heard_NSS, found[songs[1].audio].heard_NSS)
    with pytest.raises(AssertionError, match="heard again"):
        label_check.run(given, replace(model, digest="other weights"), **options)
