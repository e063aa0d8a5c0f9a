"""Tensors get to a GPU without a wait, whatever memory they were in; elsewhere they stay what they are."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.host_to_device import upload, uploaded_ahead
from tests.pretended_card import CUDA, card


def test_on_a_cpu_nothing_is_copied() -> None:
    tensor = torch.ones(3)
    assert upload(tensor, torch.device("cpu")) is tensor


def test_the_host_waits_for_no_upload_to_a_card() -> None:
    with card() as traffic:
        moved = upload(torch.arange(3.0), CUDA)
        assert moved.device == CUDA
        assert not traffic.waits
        assert sum(traffic.to_device.values()) == 12
        assert upload(moved, CUDA) is moved
        assert moved.cpu().tolist() == [0.0, 1.0, 2.0]


def test_on_a_cpu_batches_pass_through() -> None:
    batches = [(step, torch.ones(2)) for step in range(3)]
    assert all(
        given is expected
        for (_, given), (_, expected) in zip(uploaded_ahead(batches, torch.device("cpu")), batches, strict=True)
    )


@pytest.mark.parametrize("number", range(6))
def test_batches_reach_a_card_in_order_ahead_of_their_use_and_without_a_wait(number: int) -> None:
    asked = []

    def batches() -> Iterator[tuple[int, Tensor]]:
        for step in range(number):
            asked.append(step)
            yield step + 10, torch.full((2, 3 if step < 4 else 1), float(step))  # the last are of another shape

    with card() as traffic:
        given = []
        for step, batch in uploaded_ahead(batches(), CUDA):
            assert len(asked) == min(number, len(given) + 3)  # one is used, one on its way, one being pinned
            given.append((step, batch))
        assert not traffic.waits
        assert [step for step, _ in given] == [step + 10 for step in range(number)]
        for step, batch in given:
            assert batch.device == CUDA
            assert set(batch.flatten().cpu().tolist()) == {float(step - 10)}
