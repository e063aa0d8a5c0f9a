"""Tensors get to a GPU without a wait, whatever memory they were in; elsewhere they stay what they are."""

import torch

from models.host_to_device import upload
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
