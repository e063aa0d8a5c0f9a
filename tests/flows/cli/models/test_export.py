"""`stemline export`: one graph of one model, told by its digest; nothing is written for what is none."""

import json
from pathlib import Path

import pytest
import torch

from flows.__main__ import main
from models.networks.catalog import build
from models.weights import checkpoint, demucs_packages
from models.weights.model_identity import describe


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("demucs-v3-tiny", sample_rate=8000, segment_s=0.25, depth=2).eval()


@pytest.mark.slow
def test_a_graph_gives_the_model_s_estimates_and_is_told_by_its_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network()
    folder = checkpoint.save(tmp_path / "model", model)
    words = ["export", str(folder), "--to", str(tmp_path / "model.pt2"), "--json", f"store.root={tmp_path}/store"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["digest"] == describe(folder).digest
    assert told["kept"] == ""
    mixture = 0.1 * torch.randn(2, 2, 2000)
    graph = torch.export.load(told["file"]).module()
    torch.testing.assert_close(graph(mixture), model(mixture), rtol=0, atol=1e-5)


def test_a_bag_is_refused_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = demucs_packages.export_bag([network(), network()], tmp_path / "bag", name="two")
    out = tmp_path / "out"
    assert main(["export", str(bag), "--to", str(out / "model.onnx"), f"store.root={tmp_path}/store"]) == 2
    assert "a bag of 2 models is no single graph" in capsys.readouterr().err
    assert not list(out.glob("*.onnx"))


@pytest.mark.parametrize(("to", "words"), [("model/x.pt2", "holds a model"), ("notes/x.onnx", "cannot write to")])
def test_no_graph_lies_in_a_checkpoint_or_below_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, words: str
) -> None:
    folder = checkpoint.save(tmp_path / "model", network())
    (tmp_path / "notes").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(folder), "--to", str(tmp_path / to), f"store.root={tmp_path}/store"]) == 2
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
