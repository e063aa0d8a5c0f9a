"""Songs separated by actors that hold the model, on all nodes: a Ray Data job."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets.corpus.layouts.separated_stems import Teacher
from datasets.errors import InputError
from pipelines.inference.separate_config import SeparateConfig
from pipelines.inference.song_separation import PlannedSong, SongSeparator, separate_song
from pipelines.inference.stem_files import SeparatedSong, find_separated
from pipelines.runtime.cluster import connect, quiet_data
from pipelines.runtime.node_resources import has_gpus, workers_that_fit

# Measured with a song of four minutes: an interpreter with torch, and the segments in passing. Songs go through files.
_WORKER_BYTES = 1_500_000_000


def separate_on_nodes(
    separator: SongSeparator, songs: Mapping[int, PlannedSong]
) -> Iterator[tuple[int, SeparatedSong | InputError | OSError]]:
    """What came of each song, by its place, in no order.

    InputError where what a node writes is not seen here.
    """
    import ray
    import ray.data

    from models.weights.state_dict import num_bytes

    config = separator.config
    with connect():
        quiet_data()
        use_gpu = config.device.startswith("cuda") or (config.device == "auto" and has_gpus())
        memory_bytes = _WORKER_BYTES + 2 * num_bytes(separator.model)
        fitting = workers_that_fit(memory_bytes, use_gpu=use_gpu)
        model = ray.put(separator.model.cpu())  # once for each node, wherever its weights were read
        # As JSON text: Arrow would guess types from the first song.
        items = [{"item": json.dumps({"place": place, **asdict(song)})} for place, song in songs.items()]
        answers = ray.data.from_items(items, override_num_blocks=len(items)).map(
            _Actor,  # type: ignore[arg-type]  # Ray's own signature has no callable classes
            fn_constructor_args=(config, [model], separator.digest, separator.teacher),
            compute=ray.data.ActorPoolStrategy(size=min(config.num_workers or fitting, len(items))),
            num_cpus=1,
            num_gpus=1 if use_gpu else None,
        )
        for answer in answers.iter_rows():
            place, song = answer["place"], songs[answer["place"]]
            if answer["errno"]:
                yield place, OSError(answer["errno"], answer["error"])
            elif answer["error"]:
                yield place, InputError(answer["error"])
            else:
                if find_separated(Path(song.song), Path(song.folder), song.key) is None:
                    raise InputError(
                        f"stems that a node wrote to {song.folder} are not there: name a folder that all nodes share "
                        "with --out, or set separate.num_workers=1"
                    )
                result = json.loads(answer["result"])
                yield place, SeparatedSong(**{**result, "notes": tuple(result["notes"])})


class _Actor:
    """An actor that holds the model."""

    def __init__(self, config: SeparateConfig, model: list[Any], digest: str, teacher: Teacher) -> None:
        import ray
        import torch

        self.separator = SongSeparator(config, ray.get(model[0]), digest=digest, teacher=teacher)
        if self.separator.device == "cpu":
            torch.set_num_threads(1)  # as many actors as CPUs

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        item = json.loads(row["item"])
        answer = {"place": item.pop("place"), "result": "", "error": "", "errno": 0}
        try:
            return answer | {"result": json.dumps(asdict(separate_song(self.separator, PlannedSong(**item))))}
        except InputError as error:
            return answer | {"error": str(error)}
        except OSError as error:  # Ray would give up the job for it
            return answer | {"error": error.strerror or str(error), "errno": error.errno or 1}
