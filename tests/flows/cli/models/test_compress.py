"""`stemline compress`: a smaller checkpoint that everything else reads, and nothing overwritten by accident."""

import json
from pathlib import Path

import pytest
import torch

from flows.__main__ import main
from models.networks.catalog import build
from models.weights import checkpoint
from models.weights.loading import load_model
from models.weights.model_identity import describe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = build("htdemucs-tiny", sample_rate=8000, segment_s=0.25, nfft=512, depth=3, transformer_layers=1)
    return checkpoint.save(tmp_path_factory.mktemp("model") / "model", network, extra={"step": 7})


@pytest.mark.parametrize(("bits", "at_most"), [(4, 0.35), (8, 0.45), (16, 0.6)])
def test_a_compressed_checkpoint_is_smaller_and_nearly_the_same_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bits: int, at_most: float
) -> None:
    words = ["compress", str(model), "--bits", str(bits), "--to", str(tmp_path / "small"), "--json"]
    assert main([*words, f"store.root={tmp_path}/store"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes_after"] == (tmp_path / "small" / "weights.safetensors").stat().st_size
    assert told["ratio"] == told["bytes_before"] / told["bytes_after"] > 1 / at_most
    assert told["bytes_after"] < at_most * told["bytes_before"]
    extra = checkpoint.read_config(tmp_path / "small")["extra"]
    assert extra == {"bits": bits, "rounded_from": describe(model).digest}
    before, after = (dict(load_model(path).named_parameters()) for path in (model, tmp_path / "small"))
    for name, weight in before.items():
        half = 2**-11 * weight.abs().max()  # what float16 loses
        assert (weight - after[name]).abs().max() <= (weight.max() - weight.min()) / (2**bits - 1) + half


@pytest.mark.parametrize(
    ("bits", "to", "message"),
    [
        ("1", "small", "1 bits: give 2 to 15, or 16 for float16"),
        ("8", "model", "is the folder of the model"),
        ("8", "songs", "holds something that is no part of a checkpoint (song.wav)"),
        ("8", "file", "is a file, no checkpoint folder"),
        ("8", "file/small", "cannot write to"),
        ("8", "model/deep/small", "holds a model and nothing else"),
    ],
)
def test_what_cannot_be_is_one_message_and_nothing_is_lost(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bits: str, to: str, message: str
) -> None:
    (tmp_path / "songs").mkdir()
    for place in ("file", "songs/song.wav"):
        (tmp_path / place).write_bytes(b"precious")
    target = model.parent / to if to.startswith("model") else tmp_path / to
    digest = describe(model).digest
    assert main(["compress", str(model), "--bits", bits, "--to", str(target), f"store.root={tmp_path}/store"]) == 2
    assert message in capsys.readouterr().err
    assert describe(model).digest == digest
    assert {(tmp_path / place).read_bytes() for place in ("file", "songs/song.wav")} == {b"precious"}
    assert not (tmp_path / "small").exists()
    assert {path.name for path in model.iterdir()} == {"weights.safetensors", "config.json"}


def test_a_compressed_checkpoint_may_be_replaced_and_a_trained_one_may_not(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = checkpoint.save(tmp_path / "runs" / "other" / "model", load_model(model), extra={"step": 9})
    words = ["compress", str(model), f"store.root={tmp_path}/store", "--to"]
    assert main([*words, str(others)]) == 2
    assert "that `stemline compress` did not write" in capsys.readouterr().err
    assert checkpoint.read_config(others)["extra"] == {"step": 9}
    for bits in (4, 8):
        assert main([*words, str(tmp_path / "small"), "--bits", str(bits)]) == 0
        assert checkpoint.read_config(tmp_path / "small")["extra"]["bits"] == bits
    (tmp_path / "small" / "notes.txt").write_text("heard, good")
    assert main([*words, str(tmp_path / "small")]) == 2
    assert "(notes.txt)" in capsys.readouterr().err
    assert (tmp_path / "small" / "notes.txt").read_text() == "heard, good"
