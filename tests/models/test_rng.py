"""Streams of random numbers hang on all their parts, and on nothing else."""

import itertools

import torch

from models.rng import generator


def numbers(*parts: int | str) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=generator(*parts)).tolist())


def test_the_numbers_of_a_stream_never_change() -> None:
    # A training that goes on after an upgrade draws what it would have drawn: these are the values of the first day.
    assert [generator(0).initial_seed(), generator(7, "row", 3).initial_seed()] == [
        2033344993903900207,
        5056425576211649788,
    ]


def test_equal_parts_give_equal_numbers_whatever_was_drawn_meanwhile() -> None:
    first = numbers(3, "row", 5)
    torch.manual_seed(99)
    torch.rand(10)
    assert numbers(3, "row", 5) == first


def test_every_part_their_order_and_their_borders_count() -> None:
    streams = [(0,), (1,), (0, 0), (0, 1), (1, 0), ("a", "b"), ("b", "a"), ("ab",), ("a", "b", ""), (12, 3), (1, 23)]
    drawn = [numbers(*parts) for parts in streams]
    assert len(set(drawn)) == len(streams)


def test_streams_of_neighbouring_steps_are_unrelated() -> None:
    drawn = torch.stack([torch.randn(1000, generator=generator(0, "step", step)) for step in range(20)])
    correlation = torch.corrcoef(drawn)
    largest = max(abs(correlation[a, b].item()) for a, b in itertools.combinations(range(20), 2))
    assert largest < 5 / 1000**0.5  # five standard deviations of unrelated ones
