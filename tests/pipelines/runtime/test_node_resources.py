"""Actors and tasks ask for what the nodes have, and no more stand side by side than those hold."""

from dataclasses import replace

import numpy as np
import pytest

from datasets.shards.manifests import Song
from pipelines.runtime import node_resources


@pytest.mark.parametrize("nodes", [[10.0], [10.0, 10.0], [64.0, 16.0], [16.0, 16.0, 8.0], [3.0]])
@pytest.mark.parametrize("num_actors", [1, 2, 3, 8])
@pytest.mark.parametrize(("actor", "task"), [(8, 3), (1, 1), (100, 100), (2, 40)])
def test_beside_all_actors_a_task_has_room_wherever_they_stand(
    nodes: list[float], num_actors: int, actor: int, task: int
) -> None:
    memories = [1000 * node for node in nodes]
    asked_actor, asked_task = node_resources._split(1000 * actor, 1000 * task, num_actors=num_actors, nodes=memories)
    assert asked_actor is not None
    assert asked_task is not None
    assert asked_actor <= 1000 * actor
    assert asked_task <= 1000 * task
    random = np.random.default_rng(num_actors)
    for _ in range(20):  # as Ray may place them: anywhere, one after the other
        free = list(memories)
        for _ in range(num_actors):
            places = [place for place, left in enumerate(free) if left >= asked_actor]
            assert places  # every actor stands
            free[random.choice(places)] -= asked_actor
        assert max(free) >= asked_task


def test_plenty_of_memory_is_asked_for_as_it_is_needed_and_none_where_nobody_knows() -> None:
    assert node_resources._split(5, 3, num_actors=2, nodes=[100.0]) == (5, 3)
    assert node_resources._split(5, 3, num_actors=2, nodes=[]) == (None, None)


def test_the_longest_song_is_what_a_task_must_hold() -> None:
    song = Song(
        track_id="a", title="a", split="train", sample_rate=44100, channels=2, num_samples=44100 * 60,
        chunk_samples=44100, first_row=0, num_chunks=60, path="x",
    )  # fmt: skip
    assert node_resources.song_bytes([song, replace(song, num_samples=1)], num_sources=4) == 4 * 4 * 2 * 44100 * 60
    assert node_resources.song_bytes([], num_sources=4) == 0


def test_as_many_workers_as_the_nodes_have_processors_and_memory_for() -> None:
    small, large, unsaid = {"CPU": 2.0, "memory": 10.0}, {"CPU": 8.0, "GPU": 2.0, "memory": 100.0}, {"CPU": 4.0}
    count = node_resources._count_workers
    assert count([small], "CPU", 3, 0) == 2
    assert count([small, large, unsaid], "CPU", 3, 0) == 2 + 8 + 4
    assert count([small, large], "CPU", 30, 0) == 1 + 3  # one even where it does not fit: Ray is asked for less then
    assert count([small, large], "CPU", 30, 45) == 1 + 1
    assert count([small, large], "GPU", 3, 0) == 2
    assert count([small], "GPU", 3, 0) == 1
