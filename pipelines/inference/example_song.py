"""One song to listen to: a held-out song out of its shards as files, or a stem file as it is; then its scores.

`separate` writes estimates as files; here they are held against the true stems, and handed to the report's players.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.audio.audio_types import Samples
from datasets.audio.decoding import decode
from datasets.audio.writers import AudioWriter
from datasets.corpus.scan import safe_name
from datasets.errors import InputError
from datasets.schema import SOURCES, Score, ShardSet, StemFile
from datasets.seeding import spread
from datasets.shards.manifests import Song, read_songs
from datasets.shards.shards import read_song_blocks

PROTOCOL = "one song, whole; nSDR of the written files"


@dataclass(frozen=True, slots=True, kw_only=True)
class SongFiles:
    """A song whose true stems are known, as files."""

    title: str
    mixture: StemFile
    references: Mapping[str, tuple[StemFile, ...]]
    license: str = ""


def shipped_song() -> SongFiles:
    """The real song of six seconds that the `stempeg` package carries: mixture and four stems in one file."""
    spec = importlib.util.find_spec("stempeg")  # importing it would look for ffmpeg
    folders = list(spec.submodule_search_locations or ()) if spec else []
    songs = sorted(path for folder in folders for path in Path(folder, "data").glob("*.stem.mp4"))
    if not songs:
        raise InputError("the stempeg package brings no .stem.mp4 file here; `make install` installs it")
    path = str(songs[0])
    streams = {source: (StemFile(path=path, stream=place),) for place, source in enumerate(SOURCES, start=1)}
    title = songs[0].name.removesuffix(".stem.mp4")
    return SongFiles(
        title=title,
        mixture=StemFile(path=path, stream=0),
        references=streams,
        license=f"{title}: CC BY-NC-SA 3.0, as MUSDB18 lists it; from the stempeg package.",
    )


def held_out_song(chunks: ShardSet, *, split: str, sources: Sequence[str], out: str | Path) -> SongFiles:
    """A song of a split, always the same one, as float WAV files below `out`: `mixture` and one per source."""
    songs = {song.track_id: song for song in read_songs(chunks) if song.split == split}
    if not songs:
        raise InputError(f"the {split} split is empty; raise corpus.{'valid' if split == 'valid' else 'test'}_fraction")
    song = songs[spread(songs)[0]]
    folder = Path(out) / safe_name(song.title)
    # The mixture carries the title: its stems will be put into a folder of that name.
    paths = {"mixture": folder / f"{safe_name(song.title)}.wav", **{name: folder / f"{name}.wav" for name in sources}}
    folder.mkdir(parents=True, exist_ok=True)
    _write(song, sources, paths)
    return SongFiles(
        title=song.title,
        mixture=StemFile(path=str(paths["mixture"])),
        references={source: (StemFile(path=str(paths[source])),) for source in sources},
    )


def _write(song: Song, sources: Sequence[str], paths: Mapping[str, Path]) -> None:
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                AudioWriter(path, sample_rate=song.sample_rate, channels=song.channels, format="float")
            )
            for name, path in paths.items()
        }
        for stems_SCT in read_song_blocks(song, sources=sources):
            writers["mixture"].write(stems_SCT.sum(axis=0))
            for source, stem_CT in zip(sources, stems_SCT, strict=True):
                writers[source].write(stem_CT)


def score(song: SongFiles, estimates: Mapping[str, str]) -> list[Score]:
    """A score for each source that has both files; where lengths differ, the common start is compared."""
    import torch

    from models.scores.metrics import ideal_ratio_mask, nsdr, silent

    shared = [source for source in song.references if source in estimates]
    if not shared:
        return []
    mixture_CT = _samples([song.mixture])
    references = [_samples(song.references[source]) for source in shared]
    estimated = [_samples([StemFile(path=estimates[source])]) for source in shared]
    length = min(item.shape[-1] for item in (mixture_CT, *references, *estimated))
    reference_SCT, estimate_SCT = (
        torch.from_numpy(np.stack([item[:, :length] for item in items])) for items in (references, estimated)
    )
    unprocessed_SCT = torch.from_numpy(np.ascontiguousarray(mixture_CT[:, :length])).expand_as(reference_SCT)
    silent_S = silent(reference_SCT).tolist()

    def scores(made_SCT: "torch.Tensor") -> list[float | None]:
        values = nsdr(reference_SCT, made_SCT).tolist()
        return [None if is_silent else value for value, is_silent in zip(values, silent_S, strict=True)]

    ours, before = scores(estimate_SCT), scores(unprocessed_SCT)
    whole = set(shared) == set(song.references)  # a mask needs all that sounds
    ceiling = scores(ideal_ratio_mask(reference_SCT)) if whole else [None] * len(shared)
    return [
        Score(
            track_id=song.title,
            title=song.title,
            source=source,
            protocol=PROTOCOL,
            nsdr=ours[place],
            sdr=None,
            mixture_nsdr=before[place],
            mixture_sdr=None,
            ceiling_nsdr=ceiling[place],
        )
        for place, source in enumerate(shared)
    ]


def _samples(files: Sequence[StemFile]) -> Samples:
    parts: Iterator[Samples] = (decode(file.path, stream=file.stream)[0] for file in files)
    total = next(parts)
    for part_CT in parts:
        length = min(total.shape[-1], part_CT.shape[-1])
        total = total[:, :length] + part_CT[:, :length]
    return np.asarray(total, np.float32)
