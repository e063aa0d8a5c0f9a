"""Crops as torch's DataLoader takes them, also with workers that are spawned."""

from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset as TorchDataset

if TYPE_CHECKING:
    from stemline.stored_datasets import Crops


class TorchCrops(TorchDataset[torch.Tensor]):
    """A map-style dataset of tensors (S, C, T)."""

    def __init__(self, crops: "Crops") -> None:
        self.crops = crops

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.from_numpy(self.crops[number])
