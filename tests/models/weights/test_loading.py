"""One function tells what lies at a path, and loads it as the same model."""

import shutil
from pathlib import Path

import pytest
import torch

from models.errors import ModelError
from models.networks.bag import Bag
from models.networks.catalog import build
from models.weights import checkpoint
from models.weights.demucs.demucs_packages import export_bag, export_package
from models.weights.loading import ModelKind, kind_of, load_model


def test_every_form_of_a_model_is_told_and_loaded_as_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build("hdemucs-tiny", segment_s=0.5).eval()
    folder = checkpoint.save(tmp_path / "model", model)
    alone = Path(shutil.copy(folder / "weights.safetensors", tmp_path / "alone.safetensors"))
    bag = export_bag([model, model], tmp_path / "bag", name="twice")
    beside = Path(shutil.copy(alone, tmp_path / "bag" / "mine.safetensors"))
    mixed = tmp_path / "bag" / "mixed.yml"
    mixed.write_text(f"models: [twice_0, {beside.stem}]\n", encoding="utf-8")
    forms = {
        folder: ModelKind.CHECKPOINT,
        alone: ModelKind.WEIGHTS,
        export_package(model, tmp_path, signature="old", form="th"): ModelKind.PACKAGE,
        export_package(model, tmp_path, signature="new", form="safetensors"): ModelKind.PACKAGE,
        bag: ModelKind.BAG,
        mixed: ModelKind.BAG,
    }
    assert {path: kind_of(path) for path in forms} == forms
    mixture_BCT = torch.randn(1, 2, model.config.segment_samples, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(mixture_BCT)
        for path in forms:
            loaded = load_model(path)
            members = list(loaded.models) if isinstance(loaded, Bag) else [loaded]
            assert len(members) == (2 if forms[path] is ModelKind.BAG else 1)
            for member in members:
                assert not member.training
                torch.testing.assert_close(member(mixture_BCT), expected)


def test_where_no_model_lies_the_path_and_what_would_be_one_are_named(tmp_path: Path) -> None:
    for name in ("gone", "gone.safetensors", "gone.th", "gone.yaml"):
        with pytest.raises(ModelError, match=rf"no model at .*{name}: give a checkpoint folder"):
            load_model(tmp_path / name)
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    with pytest.raises(ModelError, match="no safetensors file"):
        kind_of(tmp_path / "song.wav")
