"""The datasets of a store: their versions, songs and crops, also for torch and Ray Data."""

import importlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import InputError
from datasets.schema import SPLITS
from datasets.shards import dataset_versions, shards
from datasets.shards.dataset_versions import Version
from datasets.shards.manifests import Manifest, Song, address_of
from datasets.store import storage

if TYPE_CHECKING:
    import ray.data
    import torch

    from datasets.loading.segment_sampler import SegmentIndex


class Store:
    """The store of a project: `open_store` gives one.

    Example:

        store = stemline.open_store("stemline-store")
        for version in store.datasets:
            print(version.id, version.step, version.num_songs)
    """

    address: str  # of its folder, on a disk or in S3

    def __init__(self, address: str) -> None:
        self.address = address

    def __repr__(self) -> str:
        return f"<stemline.Store {self.address}>"

    @property
    def datasets(self) -> list[Version]:
        """The versions of its datasets, the newest first, with songs, hours, splits and settings that changed."""
        return dataset_versions.list_versions(self.address)

    def dataset(self, version: str = "") -> "Dataset":
        """A version by the first digits of its id; by default the newest of what curation kept, else of all songs.

        Raises:
            InputError: There is no such version, more than one, or one of another version of stemline.
        """
        if not version:
            listed = self.datasets
            steps = {
                step: next((version for version in listed if version.step == step), None)
                for step in ("curate", "ingest")
            }
            newest = steps["curate"] or steps["ingest"]
            if newest is None:
                raise InputError(
                    f"no dataset in {self.address} yet; `stemline curate corpus.root=SONGS store.root={self.address}` "
                    "makes one"
                )
            version = newest.id
        return Dataset(dataset_versions.find_version(self.address, version))


class Dataset:
    """One version of a dataset, which never changes: its songs, their stems, and crops of them.

    Example:

        dataset = stemline.open_store("stemline-store").dataset()
        stems = dataset.read(dataset.songs[0].track_id, start_s=30.0, duration_s=10.0)
        crops = dataset.crops(split="train", segment_s=6.0)
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def __repr__(self) -> str:
        return f"<stemline.Dataset {self._manifest.step}-{self._manifest.key}: {len(self.songs)} songs>"

    @property
    def songs(self) -> tuple[Song, ...]:
        """Its songs in the order of their ids, with title, split, license, sample rate and length."""
        return self._manifest.songs

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The sources that every song has, in the order of crops."""
        self._require_songs()
        return shards.sources_of(self.songs[0])

    @property
    def sample_rate(self) -> int:
        """Hz, of its songs."""
        self._require_songs()
        return self.songs[0].sample_rate

    @property
    def digest(self) -> str:
        """Of its content, track ids, splits and audio: equal for equal datasets in any store."""
        return address_of(self._manifest).digest

    def read(
        self,
        track_id: str,
        *,
        sources: Sequence[str] | None = None,
        start_s: float = 0.0,
        duration_s: float | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """The stems of a song by source, each (C, T), from `start_s` on; fewer samples where the song ends.

        Raises:
            InputError: There is no such song or source, or its shard is damaged.
        """
        song = next((song for song in self.songs if song.track_id == track_id), None)
        if song is None:
            raise InputError(f"no song {track_id!r} among the {len(self.songs)} of this dataset; see dataset.songs")
        if start_s < 0 or (duration_s is not None and duration_s < 0):
            raise InputError(f"start_s and duration_s must be >= 0, got {start_s} and {duration_s}")
        names = tuple(sources or self.sources)
        num_samples = None if duration_s is None else round(duration_s * song.sample_rate)
        start = round(start_s * song.sample_rate)
        stems_SCT = shards.read_song(song, sources=names, start=start, num_samples=num_samples)
        return dict(zip(names, stems_SCT, strict=True))

    def crops(
        self,
        *,
        split: str = "train",
        segment_s: float,
        seed: int = 0,
        epoch: int = 0,
        sources: Sequence[str] | None = None,
    ) -> "Crops":
        """The crops of one epoch: as many as fill the playing time of a split once, in an order of their own.

        Raises:
            InputError: The split is empty, or all its songs are shorter than a crop.
        """
        from datasets.loading.segment_sampler import SegmentIndex

        if split not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        num_samples = round(segment_s * self.sample_rate)
        if num_samples < 1 or seed < 0 or epoch < 0:
            raise InputError(
                f"segment_s must be at least a sample, seed and epoch >= 0, got {segment_s}, {seed} and {epoch}"
            )
        index = SegmentIndex.open(
            [(address_of(self._manifest), 1.0)], sources=tuple(sources or self.sources), split=split,
            segment_samples=num_samples,
        )  # fmt: skip
        return Crops(index, num_samples=num_samples, seed=seed, epoch=epoch)

    def _require_songs(self) -> None:
        if not self.songs:
            raise InputError(f"{self!r} has no songs: add songs, or relax the rules of curate")


class Crops(Sequence[NDArray[np.float32]]):
    """Crops of songs, each an array (S, C, T) of stems whose sum over S is the mixture: what training learns from.

    Crop n is a pure function of dataset, seed, epoch and n, in whatever process it is read.

    Example:

        crops = dataset.crops(split="train", segment_s=6.0, seed=0)
        mixture = crops[0].sum(axis=0)
        batches = torch.utils.data.DataLoader(crops.to_torch(), batch_size=4)
        rows = crops.to_ray().map_batches(augment)
    """

    sources: tuple[str, ...]  # in the order of the first axis
    sample_rate: int  # Hz

    def __init__(self, index: "SegmentIndex", *, num_samples: int, seed: int, epoch: int) -> None:
        self._index, self._num_samples, self._seed = index, num_samples, seed
        self._first = epoch * index.epoch_rows(num_samples)
        self.sources, self.sample_rate = index.sources, index.sample_rate

    def __len__(self) -> int:
        return self._index.epoch_rows(self._num_samples)

    def __getitem__(self, number: Any) -> Any:
        """The crop of this number, float32."""
        from datasets.loading.segment_sampler import read_row

        place = operator.index(number)
        place += len(self) if place < 0 else 0
        if not 0 <= place < len(self):
            raise IndexError(f"crop {number} of {len(self)}")
        crop_SCT = np.zeros((len(self.sources), self._index.channels, self._num_samples), np.float32)
        read_row(crop_SCT, self._index, seed=self._seed, number=self._first + place)
        return crop_SCT

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self[number] for number in range(len(self)))

    def to_torch(self) -> "torch.utils.data.Dataset[torch.Tensor]":
        """The same crops as a map-style dataset of torch, for a `DataLoader`; items are tensors (S, C, T)."""
        from stemline.torch_crops import TorchCrops

        return TorchCrops(self)

    def to_ray(self) -> "ray.data.Dataset":
        """The same crops as a dataset of Ray Data with columns `number` and `stems`, an array (S, C, T), read lazily.

        It runs in the Ray that this process is connected to; on a cluster its nodes need stemline and the store.
        """
        importlib.import_module("pipelines")  # sets what Ray reads when it is first imported
        import ray.data

        return ray.data.range(len(self)).map(_ReadCrop(self))


class _ReadCrop:
    """What Ray Data calls for each number."""

    def __init__(self, crops: Crops) -> None:
        self.crops = crops

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"number": row["id"], "stems": self.crops[row["id"]]}


def open_store(address: str | Path = "stemline-store") -> Store:
    """The store in a folder or at `s3://BUCKET/FOLDER`: what `store.root` (or `store.data`) of the command line names.

    Example:

        store = stemline.open_store("stemline-store")

    Raises:
        InputError: There is no such folder.
    """
    place = storage.absolute(address)
    if not storage.is_remote(place) and not Path(place).is_dir():
        raise InputError(f"there is no store at {place}; give the folder that store.root names")
    return Store(place)
