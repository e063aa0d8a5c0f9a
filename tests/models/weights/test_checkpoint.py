"""Checkpoints: whole or refused, and the same model afterwards."""

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.errors import ModelError
from models.learner_config import AugmentConfig, LearnerConfig
from models.learning.learner import Learner
from models.networks.catalog import build, to_config
from models.weights import checkpoint
from models.weights.loading import load_model
from models.weights.model_identity import describe

SMALL = {"sample_rate": 8000, "segment_s": 0.25, "nfft": 512, "depth": 2}


def small(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    return build("htdemucs-tiny", **(SMALL | changes)).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(tmp_path_factory.mktemp("checkpoint") / "model", small(), extra={"step": 7})


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in saved.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("name", [".", "weights.safetensors"])
def test_the_folder_and_its_weights_alone_load_the_same_model(saved: Path, name: str) -> None:
    model = load_model(saved / name)
    mixture_BCT = torch.randn(1, 2, 2000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(mixture_BCT), small()(mixture_BCT))
    assert to_config(model) == to_config(small())
    assert not model.training


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = checkpoint.save(tmp_path / "model", small(), extra={"step": 7})
    for file in saved.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_saving_again_replaces_and_leaves_nothing_behind(copy: Path) -> None:
    checkpoint.save(copy, small(), extra={"step": 8})
    assert checkpoint.read_config(copy)["extra"] == {"step": 8}
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_checkpoint_and_no_rest(copy: Path) -> None:
    with pytest.raises(ModelError, match="Linear is no model of this catalog"):
        checkpoint.save(copy, nn.Linear(1, 1))
    assert checkpoint.read_config(copy)["extra"] == {"step": 7}
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model/thesis.txt": "x", "model/old/weights.safetensors": "y"}, r"no part of a checkpoint \(old/, thesis"),
        ({"model/config.json": '{"model_type": "bert"}'}, "no checkpoint of ours"),
        ({"model/config.json": '{"model_type": "bert"}', "model/model.safetensors": "1"}, r"\(model\.safetensors\)"),
        ({"model/weights.safetensors": "1"}, r"no checkpoint of ours .* it has no config\.json"),
        ({"model": "a file"}, "is a file, no checkpoint folder"),
    ],
)
def test_only_a_checkpoint_is_replaced(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = below(tmp_path)
    with pytest.raises(ModelError, match=message):
        checkpoint.save(tmp_path / "model", small())
    assert below(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "weights.safetensors", "learner.pt"])
def test_a_checkpoint_with_a_file_of_somebodys_in_it_stays(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"precious")
    before = below(copy.parent)
    with pytest.raises(ModelError, match=name):
        checkpoint.save(copy, small())
    assert below(copy.parent) == before


def test_a_link_is_no_checkpoint_to_replace_and_an_empty_folder_is(copy: Path) -> None:
    link, empty = copy.with_name("link"), copy.with_name("empty")
    link.symlink_to(copy)
    with pytest.raises(ModelError, match="is a link to"):
        checkpoint.save(link, small())
    empty.mkdir()
    checkpoint.save(empty, small())
    checkpoint.check(empty)


@pytest.mark.parametrize("fails", [1, 2])
def test_a_replacement_that_fails_is_undone(copy: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    real, calls = os.replace, iter(range(1, 10))

    def full(*paths: object) -> None:
        if next(calls) == fails:
            raise OSError(28, "No space left on device")
        real(*paths)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(copy, small(), extra={"step": 8})
    assert checkpoint.read_config(copy)["extra"] == {"step": 7}
    checkpoint.check(copy)
    assert [path.name for path in copy.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("htdemucs-tiny", {"nfft": 512, "depth": 2}),
        ("scnet-tiny", {"nfft": 256, "hop_length": 64, "block_channels": (8,)}),
        ("mel-band-roformer-tiny", {"nfft": 128, "hop_length": 50, "num_bands": 4, "depth": 1}),
    ],
)
def test_the_learner_goes_on_from_a_folder(preset: str, options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(preset, sample_rate=8000, segment_s=0.25, **options)
    augment = AugmentConfig(shift_s=0.0, remix_group=1)
    learner = Learner(model, LearnerConfig(ema_decays=(0.9,), augment=augment))
    learner.step(torch.randn(1, 4, 2, 2000), step=0)
    checkpoint.save(tmp_path / "model", model, learner=learner.state())
    again = Learner(load_model(tmp_path / "model"), LearnerConfig(ema_decays=(0.9,), augment=augment))
    again.load_state(checkpoint.load_learner(tmp_path / "model"))
    batch = torch.randn(1, 4, 2, 2000)
    assert torch.equal(learner.step(batch, step=1).loss, again.step(batch, step=1).loss)
    assert torch.equal(learner.step(batch, step=2).loss, again.step(batch, step=2).loss)


@pytest.mark.parametrize("how", ["truncated", "altered", "gone"])
def test_a_broken_file_is_named(copy: Path, how: str) -> None:
    weights = copy / "weights.safetensors"
    data = weights.read_bytes()
    if how == "gone":
        weights.unlink()
    else:
        weights.write_bytes(data[:-100] if how == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        load_model(copy)


def test_a_truncated_file_of_weights_alone_is_named(copy: Path) -> None:
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"weights\.safetensors is truncated"):
        load_model(weights)


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 99}', '{"format_version": 1}'])
def test_a_config_that_says_nothing_is_named(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(copy)


def test_weights_of_another_configuration_are_listed(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["model"]["channels"] = 12
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"another configuration") as error:
        load_model(copy)
    assert "the model wants (12, 4, 8, 1), the file has (8, 4, 8, 1)" in str(error.value) or "more" in str(error.value)


def test_a_network_far_larger_than_its_weights_is_not_built(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    for name, value in (("channels", 10**6), ("transformer_width", 2 * 10**5), ("transformer_layers", 1000)):
        changed = config | {"model": config["model"] | {name: value}}
        (copy / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ModelError, match="larger network than its weights can fill"):
            load_model(copy)


def test_a_configuration_that_nothing_can_be_built_from_is_named_with_its_file(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    for model in (
        {"family": "perceptron"},
        {},
        config["model"] | {"depth": -1},
        config["model"] | {"depth": 10**9},
        config["model"] | {"sources": []},
    ):
        (copy / "config.json").write_text(json.dumps(config | {"model": model}))
        for read in (load_model, describe):
            with pytest.raises(ModelError, match=str(copy)):
                read(copy)


def test_nothing_there_and_nothing_to_go_on_with_are_said(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model at"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match=r"no learner\.pt"):
        checkpoint.load_learner(saved)


def test_a_checkpoint_is_for_everyone_who_may_read_its_parent_and_says_what_it_is(saved: Path) -> None:
    assert saved.stat().st_mode & 0o777 == 0o755
    told = json.loads((saved / "config.json").read_text())
    assert (told["format_version"], told["extra"], sorted(told)) == (
        1, {"step": 7}, ["extra", "format_version", "model", "weights_sha256"],
    )  # fmt: skip
    assert told["weights_sha256"] == hashlib.sha256((saved / "weights.safetensors").read_bytes()).hexdigest()


def test_nothing_is_put_into_a_checkpoint_however_deep(copy: Path) -> None:
    for name in ("inner", "in/ner"):
        with pytest.raises(ModelError, match=r"would lie in .*model, which holds a model"):
            checkpoint.save(copy / name, small())
    (copy / "config.json").unlink()  # what is half of one, or other folders, hold what they like
    checkpoint.save(copy / "inner", small())
    checkpoint.check(copy / "inner")


def test_eight_files_of_others_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for letter in "abcdefgh":
        (folder / letter).touch()
    with pytest.raises(ModelError, match=r"\(a, b, c, d, e, f, g, h\)"):
        checkpoint.save(folder, small())
    (folder / "i").touch()
    (folder / "j").touch()
    with pytest.raises(ModelError, match=r"\(a, b, c, d, e, f, g, h and 2 more\)"):
        checkpoint.save(folder, small())


def test_the_state_of_a_training_is_checked_with_the_rest(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "model", small(), learner={"steps": torch.arange(3)})
    checkpoint.check(folder)
    assert torch.equal(checkpoint.load_learner(folder)["steps"], torch.arange(3))
    checkpoint.save(folder, small(), learner={"steps": torch.arange(4)})  # one may be replaced
    data = (folder / "learner.pt").read_bytes()
    (folder / "learner.pt").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for refuse in (checkpoint.check, checkpoint.load_learner, lambda folder: checkpoint.save(folder, small())):
        with pytest.raises(ModelError, match=r"learner\.pt"):
            refuse(folder)
    assert checkpoint.load_packing(folder) is None


@pytest.mark.parametrize("change", [{"extra": []}, {"learner_sha256": 7}, {"weights_sha256": None}, {"model": "m"}])
def test_a_config_whose_values_are_of_another_kind_is_refused_by_their_name(
    copy: Path, change: dict[str, object]
) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=f"lacks {next(iter(change))}, or it is not what it should be"):
        checkpoint.read_config(copy)
    del config["extra"]
    (copy / "config.json").write_text(json.dumps(config))
    checkpoint.check(copy)  # older ones have none


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"model": ' * 200_000, '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"]
)
def test_a_configuration_nested_beyond_reason_is_refused_by_name(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    for read in (load_model, describe, checkpoint.read_config):
        with pytest.raises(ModelError, match=r"config\.json"):
            read(copy)


def test_a_description_from_strangers_is_bounded_and_answered_whatever_stands_in_it(copy: Path) -> None:
    config = copy / "config.json"
    told = config.read_text()
    for text, words in (
        (told.replace("8000", "9" * 5000, 1), "cannot be read"),  # more digits than Python turns into a number
        ("[" * 100_000, "cannot be read"),
        (" " * checkpoint.MAX_CONFIG_BYTES + told, "are the most that is read"),
    ):
        assert text != told
        config.write_text(text)
        for read in (checkpoint.read_config, load_model):
            with pytest.raises(ModelError, match=words):
                read(copy)
    config.write_text(told)
    load_model(copy)


@pytest.mark.parametrize(
    "header", [b"{}", b"[" * 2000, b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4]}}']
)
@pytest.mark.parametrize("length", [None, 2**62, 99_999_999])
def test_a_header_that_lies_is_refused_though_its_digest_is_right(
    copy: Path, header: bytes, length: int | None
) -> None:
    (copy / "weights.safetensors").write_bytes(struct.pack("<Q", length or len(header)) + header)
    digest = hashlib.sha256((copy / "weights.safetensors").read_bytes()).hexdigest()
    told = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**told, "weights_sha256": digest}))
    with pytest.raises(ModelError):
        load_model(copy)
