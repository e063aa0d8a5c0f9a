"""Rounding to a grid and the packed file: every width comes back, and a file that was altered is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn

from models.errors import ModelError
from models.networks.catalog import build
from models.weights import checkpoint
from models.weights.bit_packing import (
    QuantizationGrid,
    large_matrices,
    pack,
    packed_bytes,
    rounded,
    uniform_packing,
    unpack,
)
from models.weights.loading import load_model
from models.weights.model_identity import describe

SMALL = {"sample_rate": 8000, "segment_s": 0.25, "nfft": 512, "depth": 2, "channels": 4, "transformer_layers": 1}


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small() -> nn.Module:
    torch.manual_seed(0)
    return build("htdemucs-tiny", **SMALL)


def grid(num_weights: int, bits: list[int], group_size: int, num_ranges: int = 1) -> QuantizationGrid:
    num_groups = -(-num_weights // group_size)
    widths = torch.tensor([bits[place % len(bits)] for place in range(num_groups)], dtype=torch.uint8)
    return QuantizationGrid(bits_G=widths, group_size=group_size, num_ranges=num_ranges)


def through_the_file(state: dict[str, Tensor], packing: dict[str, QuantizationGrid]) -> dict[str, Tensor]:
    return unpack(*pack(state, packing), origin="a file")[0]


@pytest.mark.parametrize("bits", range(2, 16))
def test_every_width_packs_and_unpacks_to_the_same_values_and_leaves_values_on_its_grid_alone(bits: int) -> None:
    state = {"weight": torch.randn(6, 35, generator=dice(bits))}
    packing = {"weight": grid(210, [bits], 8)}
    once = through_the_file(state, packing)["weight"]
    assert torch.equal(once, rounded(state, packing)["weight"])
    assert torch.equal(once, through_the_file({"weight": once}, packing)["weight"])
    spread = state["weight"].max() - state["weight"].min()
    assert (once - state["weight"]).abs().max() <= 0.501 * spread / (2**bits - 1)
    assert len(once.unique()) <= 2**bits
    assert torch.equal(torch.stack(once.aminmax()), torch.stack(state["weight"].aminmax()))


def test_the_bytes_of_a_width_are_its_bits_lowest_first() -> None:
    tensors, described = pack({"weight": torch.tensor([[0.0, 1.0, 2.0, 3.0]])}, {"weight": grid(4, [2], 4)})
    assert tensors["weight"].tolist() == [0b11_10_01_00]
    assert described == {"weight": {"shape": [1, 4], "group_size": 4, "bits": [2, 2]}}
    assert tensors["weight#ranges"].tolist() == [[0.0, 3.0]]
    assert tensors["weight#widths"].numel() == 0  # one width for all needs no list of them


@pytest.mark.parametrize("num_weights", [1, 7, 8, 9, 63])
def test_a_last_group_that_is_not_full_and_widths_that_differ_survive(num_weights: int) -> None:
    state = {"weight": torch.randn(num_weights, 1, generator=dice())}
    packing = {"weight": grid(num_weights, [2, 15, 5], 8)}
    tensors, described = pack(state, packing)
    assert sum(tensor.nbytes for tensor in tensors.values()) == packed_bytes(state, packing)
    values, found = unpack(tensors, described, origin="a file")
    assert torch.equal(values["weight"], rounded(state, packing)["weight"])
    assert torch.equal(found["weight"].bits_G, packing["weight"].bits_G)
    assert (found["weight"].group_size, found["weight"].num_ranges) == (8, 1)


def test_a_range_per_row_keeps_a_quiet_row_that_one_range_would_lose() -> None:
    weight = torch.randn(2, 50, generator=dice()) * torch.tensor([[1.0], [1e-3]])
    shared, own = (
        rounded({"weight": weight}, {"weight": grid(100, [8], 100, num_ranges)})["weight"] for num_ranges in (1, 2)
    )
    assert (own - weight)[1].abs().max() < 0.01 * (shared - weight)[1].abs().max()


def test_equal_weights_and_vectors_and_integers_and_what_overflows_float16_come_back() -> None:
    state = {
        "constant": torch.full((4, 4), 0.3),
        "vector": torch.randn(5, generator=dice()),
        "steps": torch.tensor(7),
        "huge": torch.tensor([1e6, 1.0]),
    }
    packing = {"constant": grid(16, [4], 8)}
    back = through_the_file(state, packing)
    assert torch.equal(back["constant"], state["constant"])
    assert torch.equal(back["vector"], state["vector"].half())
    assert back["steps"] == 7
    assert torch.equal(back["huge"], state["huge"])
    with pytest.raises(ModelError, match="constant holds weights that are not finite"):
        pack({"constant": torch.full((4, 4), torch.nan)}, packing)


@pytest.mark.parametrize("bits", [2, 4, 8, 15, 16])
def test_the_file_is_as_large_as_predicted_and_loads_as_what_was_scored(bits: int, tmp_path: Path) -> None:
    model = small()
    packing = uniform_packing(model, bits, min_mib=0.0005)
    folder = checkpoint.save(tmp_path / "model", model, packing=packing)
    file = folder / "weights.safetensors"
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert describe(folder).size_bytes == file.stat().st_size
    assert file.stat().st_size - header == packed_bytes(model.state_dict(), packing)
    expected = rounded(model.state_dict(), packing)
    for place in (folder, file):
        loaded = load_model(place).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_widths_out_of_range_are_refused() -> None:
    for bits in (1, 17):
        with pytest.raises(ModelError, match=f"{bits} bits: give 2 to 15, or 16 for float16"):
            uniform_packing(small(), bits)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small()
    packing = {
        name: grid(weight.numel(), [2, 9, 15, 6], 8) for name, weight in large_matrices(model, min_mib=0.0005).items()
    }
    folder = checkpoint.save(tmp_path_factory.mktemp("packed") / "model", model, packing=packing)
    return folder / "weights.safetensors"


@pytest.mark.parametrize(
    "how", ["stream", "ranges", "no ranges", "widths", "shape", "group_size", "bits", "words", "list", "no json"]
)
def test_a_packed_file_whose_parts_do_not_fit_is_refused(packed: Path, tmp_path: Path, how: str) -> None:
    tensors = load_file(packed)
    with safe_open(packed, framework="pt") as file:
        described = json.loads(file.metadata()["packed"])
    name = next(iter(described["tensors"]))
    entry = described["tensors"][name]
    if how == "stream":
        tensors[name] = tensors[name][:-1]
    elif how == "ranges":
        tensors[name + "#ranges"] = tensors[name + "#ranges"].flip(1)
    elif how == "no ranges":
        del tensors[name + "#ranges"]
    elif how == "widths":
        tensors[name + "#widths"] = torch.full_like(tensors[name + "#widths"], 255)
    elif how in ("shape", "group_size", "bits"):
        entry[how] = {"shape": [10**9, 10**9], "group_size": 0, "bits": [2, 40]}[how]
    elif how == "words":
        described["tensors"][name] = "eight"
    elif how == "list":
        described = [described]
    text = "{" if how == "no json" else json.dumps(described)
    save_file(tensors, tmp_path / "weights.safetensors", metadata={"packed": text})
    with pytest.raises(ModelError, match="altered"):
        load_model(tmp_path / "weights.safetensors")


def test_a_truncated_packed_file_and_a_flipped_bit_in_a_folder_are_refused(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-10])
    with pytest.raises(ModelError, match="truncated"):
        load_model(tmp_path / "cut.safetensors")
    (tmp_path / "config.json").write_bytes(packed.with_name("config.json").read_bytes())
    (tmp_path / "weights.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError, match="truncated or was altered"):
        load_model(tmp_path)
