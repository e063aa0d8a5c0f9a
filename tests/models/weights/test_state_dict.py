"""A network for a table of weights: filled where they fit, refused by name where they do not."""

import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from models.errors import ModelError
from models.networks.catalog import PRESETS, build, to_config
from models.weights.demucs.demucs_packages import load_package
from models.weights.msst import msst_checkpoints
from models.weights.state_dict import LISTED, build_for, load_state


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return build("htdemucs-tiny", sample_rate=8000, segment_s=0.25, nfft=512, depth=2)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.endswith("tiny")])
def test_a_network_is_built_from_its_configuration_and_filled(preset: str) -> None:
    model = build(preset)
    state = model.state_dict()
    again = build_for(to_config(model), state, origin="a file")
    load_state(again, state, origin="a file")
    assert type(again) is type(model)
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


def test_missing_and_surplus_tensors_are_both_listed() -> None:
    with pytest.raises(ModelError) as error:
        load_state(nn.Linear(2, 2), {"weight": torch.zeros(2, 3), "gain": torch.zeros(1)}, origin="a file")
    for text in ("bias: the model wants (2,)", "gain: the file has (1,)", "weight: the model wants (2, 2)"):
        assert text in str(error.value)


def test_of_many_differences_some_are_listed_and_the_rest_counted(network: nn.Module) -> None:
    num_tensors = len(network.state_dict())
    with pytest.raises(ModelError, match=f"{num_tensors} tensors differ") as error:
        load_state(network, {}, origin="a file")
    assert str(error.value).count("the file lacks it") == LISTED
    assert str(error.value).endswith(f"and {num_tensors - LISTED} more")


def test_a_refused_state_leaves_the_model_as_it_was(network: nn.Module) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    state[next(iter(state))] = torch.zeros(1)
    with pytest.raises(ModelError, match="1 tensors differ"):
        load_state(network, state, origin="a file")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 10**5}, "larger network than its weights can fill"),
        ({"transformer_width": 10**5}, "larger network than its weights can fill"),
        ({"transformer_layers": 1000}, "larger network than its weights can fill"),
        ({"transformer_hidden_scale": 1e7}, "larger network than its weights can fill"),
        ({"nfft": 2**27}, "larger network than its weights can fill"),
        ({"depth": 10**9}, "depth must be at most 32"),
        ({"family": "perceptron"}, "perceptron"),
        ({"colour": "red"}, "no option 'colour'"),
    ],
)
def test_a_configuration_that_its_weights_cannot_have_is_refused_with_the_origin(
    network: nn.Module, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=f"a file: .*{re.escape(message)}"):
        build_for(to_config(network) | changes, network.state_dict(), origin="a file")


@pytest.mark.parametrize("suffix", [".th", ".ckpt"])
def test_an_archive_that_unpacks_to_more_than_it_is_is_refused_unread(suffix: str, tmp_path: Path) -> None:
    whole, packed = tmp_path / "whole", tmp_path / f"bomb{suffix}"
    torch.save({"state": {"a": torch.zeros(1_000_000)}}, whole)
    with zipfile.ZipFile(whole) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in plain.namelist():
            archive.writestr(entry, plain.read(entry))
    read = load_package if suffix == ".th" else msst_checkpoints._read_state
    with pytest.raises(ModelError, match=rf"bomb{suffix} is refused: its archive of \d+ bytes unpacks to 4\d+"):
        read(packed)
    assert packed.stat().st_size < 10_000


@pytest.mark.parametrize("harm", ["a name that is no text", "a version of the future", "no list of entries"])
def test_an_archive_that_python_cannot_list_is_refused_unread(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"state": {"a": torch.zeros(9)}}, tmp_path / "bad.th")
    content = bytearray((tmp_path / "bad.th").read_bytes())
    entry = content.index(b"PK\1\2")
    if harm == "a name that is no text":
        content[entry + 9] |= 8  # UTF-8
        content[content.index(b"data.pkl", entry)] = 0xFF
    elif harm == "a version of the future":
        content[entry + 6] = 99
    else:
        content[entry + 3] = 9
    (tmp_path / "bad.th").write_bytes(content)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(ModelError, match=r"bad\.th is refused: it is truncated or no torch file \("):
        load_package(tmp_path / "bad.th")
