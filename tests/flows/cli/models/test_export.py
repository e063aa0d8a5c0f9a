"""`stemline export`: one graph of one model, told by its digest; nothing is written for what is none."""

import json
from pathlib import Path

import pytest
import torch

from flows.__main__ import main
from flows.cli.models.export import run_demucs
from flows.config import load
from flows.console.progress_display import Screen
from flows.console.sanitized_console import Terminal
from models.networks.catalog import build
from models.weights import checkpoint
from models.weights.demucs import demucs_packages
from models.weights.loading import load_model
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


def test_packages_for_demucs_come_back_as_the_model_and_replace_only_what_we_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That stock demucs separates with such files to the same samples is tested where they are written."""
    models = [network(), build("demucs-v3-tiny", sample_rate=8000, segment_s=0.25, depth=2).eval()]
    for number, model in enumerate(models):
        checkpoint.save(tmp_path / f"model{number}", model)
    out = tmp_path / "out"
    for number, model in enumerate(models):
        words = ["export", str(tmp_path / f"model{number}"), "--format", "demucs", "--to", str(out / "mine.yaml")]
        assert main([*words, "--json", f"store.root={tmp_path}/store"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert sorted(answer["files"]) == sorted(str(path) for path in out.iterdir() if path.name.startswith("mine"))
        bag = load_model(out / "mine.yaml")
        for name, value in model.state_dict().items():
            assert torch.equal(bag.models[0].state_dict()[name], value)
    (out / "mine.yaml").write_text("precious")
    assert main([*words, f"store.root={tmp_path}/store"]) == 2
    assert "which stemline did not write, or which was changed since" in capsys.readouterr().err
    assert (out / "mine.yaml").read_text() == "precious"


def test_it_says_which_part_of_the_work_it_is_at(tmp_path: Path) -> None:
    notes: list[str] = []

    class NotedScreen(Screen):
        def note(self, text: str) -> None:
            notes.append(f"{self._done:g}/{self._total:g} {text}")

    model = checkpoint.save(tmp_path / "model", network())
    config = load("smoke", [f"store.root={tmp_path}/store"])
    with NotedScreen(Terminal(stderr=True)) as screen:
        run_demucs(config, str(model), to=str(tmp_path / "out" / "one.yaml"), screen=screen)
    assert notes == ["0/3 reads the weights", "1/3 writes 1 package", "2/3 puts them in their place"]


def test_packages_of_another_name_in_the_same_folder_stay(tmp_path: Path) -> None:
    folder, out = checkpoint.save(tmp_path / "model", network()), tmp_path / "out"
    for name in ("mine_ft", "mine_0", "mine"):
        to = ["--format", "demucs", "--to", str(out / f"{name}.yaml")]
        assert main(["export", str(folder), *to, f"store.root={tmp_path}/store"]) == 0
    for name in ("mine_ft", "mine_0", "mine"):
        load_model(out / f"{name}.yaml")


@pytest.mark.parametrize(
    ("preset", "to", "message"),
    [
        ("demucs-v3-tiny", "x.th", "must be a file that ends in .yaml with --format demucs"),
        ("demucs-v3-tiny", "a-b.yaml", "letters, digits and underscores"),
        ("demucs-v2-tiny", "x.yaml", "Demucs v2 cannot be exported"),
        ("scnet-tiny", "x.yaml", "scnet cannot be exported: demucs 4.1.0 has no network like it"),
    ],
)
def test_what_demucs_cannot_load_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], preset: str, to: str, message: str
) -> None:
    folder = checkpoint.save(tmp_path / "model", build(preset))
    words = ["export", str(folder), "--format", "demucs", "--to", str(tmp_path / to), f"store.root={tmp_path}/store"]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.yaml"))
