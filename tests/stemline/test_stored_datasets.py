"""Versions, songs and crops of a store, and the same crops through torch's DataLoader and Ray Data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stemline
from tests.datasets import toy_store

SONGS = {"train/a": ("train", 9_000), "train/b": ("train", 5_000), "test/c": ("test", 4_000)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> stemline.Store:
    folder = tmp_path_factory.mktemp("store")
    toy_store.store(folder, SONGS, key="abcdef0123", bits=16)
    return stemline.open_store(folder)


def test_a_version_has_its_songs_and_a_song_its_stems(store: stemline.Store) -> None:
    (version,) = store.datasets
    dataset = store.dataset(version.id)
    assert [song.track_id for song in dataset.songs] == ["test/c", "train/a", "train/b"]
    assert (dataset.sources, dataset.sample_rate) == (toy_store.SOURCES, toy_store.RATE)
    assert dataset.digest == version.digest == store.dataset().digest
    whole = dataset.read("train/a")
    np.testing.assert_array_equal(np.stack(list(whole.values())), toy_store.stems("train/a", 9_000))
    part = dataset.read("train/a", sources=["bass"], start_s=8.5, duration_s=1.0)
    assert part.keys() == {"bass"}
    np.testing.assert_array_equal(part["bass"], whole["bass"][:, 8_500:])


def test_crops_fill_the_split_once_and_depend_on_seed_and_epoch_alone(store: stemline.Store) -> None:
    dataset = store.dataset()
    crops = dataset.crops(split="train", segment_s=2.0, seed=3)
    assert len(crops) == 7
    assert {crop.shape for crop in crops} == {(2, 2, 2_000)}
    np.testing.assert_array_equal(crops[-1], dataset.crops(segment_s=2.0, seed=3)[6])
    later = dataset.crops(segment_s=2.0, seed=3, epoch=1)
    assert not any(np.array_equal(a, b) for a, b in zip(crops, later, strict=True))
    expected = toy_store.batch(crops._index, [7], num_samples=2_000, seed=3)[0]  # of training, in the same order
    np.testing.assert_array_equal(later[0], expected)
    with pytest.raises(IndexError):
        _ = crops[7]


def test_torch_gives_the_same_crops_in_batches(store: stemline.Store) -> None:
    crops = store.dataset().crops(segment_s=2.0)
    loader = torch.utils.data.DataLoader(crops.to_torch(), batch_size=4)
    batches = list(loader)
    assert [tuple(batch.shape) for batch in batches] == [(4, 2, 2, 2_000), (3, 2, 2, 2_000)]
    np.testing.assert_array_equal(torch.cat(batches).numpy(), np.stack(list(crops)))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_data_gives_the_same_crops(store: stemline.Store, ray_local: Any) -> None:
    crops = store.dataset().crops(segment_s=2.0)
    rows = sorted(crops.to_ray().take_all(), key=lambda row: row["number"])
    np.testing.assert_array_equal(np.stack([row["stems"] for row in rows]), np.stack(list(crops)))


def test_what_is_not_there_is_named(store: stemline.Store, tmp_path: Path) -> None:
    with pytest.raises(stemline.InputError, match="there is no store at"):
        stemline.open_store(tmp_path / "gone")
    with pytest.raises(stemline.InputError, match=r"no dataset in .* yet; `stemline curate"):
        stemline.open_store(tmp_path).dataset()
    with pytest.raises(stemline.InputError, match="no dataset is called 'ffff'"):
        store.dataset("ffff")
    dataset = store.dataset()
    with pytest.raises(stemline.InputError, match="no song 'train/z' among the 3"):
        dataset.read("train/z")
    with pytest.raises(stemline.InputError, match="'train/a' has drums, bass, and was asked for kazoo"):
        dataset.read("train/a", sources=["kazoo"])
    with pytest.raises(stemline.InputError, match="split must be one of train, valid, test"):
        dataset.crops(split="training", segment_s=1.0)
    with pytest.raises(stemline.InputError, match="the valid split is empty"):
        dataset.crops(split="valid", segment_s=1.0)
    with pytest.raises(stemline.InputError, match=r"the longest song has 9\.00 s"):
        dataset.crops(segment_s=60.0)


def test_a_store_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    toy_store.store(tmp_path, SONGS)
    (path,) = (tmp_path / "manifests").glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(stemline.InputError, match="has schema version 99; this program reads version"):
        stemline.open_store(tmp_path).dataset()
