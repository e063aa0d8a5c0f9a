"""Settings and plans from Python are those of the command line, and so are its errors."""

from pathlib import Path
from typing import Any

import pytest

import stemline
from flows import config as settings


def test_settings_are_those_of_the_command_line(tmp_path: Path) -> None:
    given = {"store.root": tmp_path, "train.steps": 20, "corpus.sources": ("drums", "vocals"), "train.use_gpu": True}
    overrides = [f"store.root={tmp_path}", "train.steps=20", 'corpus.sources=["drums", "vocals"]', "train.use_gpu=true"]
    config = stemline.configure("smoke", given)
    assert config == settings.load("smoke", overrides)
    assert stemline.configure(settings=given) == config
    settings.keep_as_last_run(stemline.configure("demo", {"store.root": tmp_path, "train.steps": 7}))
    last = stemline.configure(settings={"store.root": tmp_path, "train.batch_size": 8})
    assert (last.train.steps, last.train.batch_size) == (7, 8)


@pytest.mark.parametrize(
    ("preset", "given", "message"),
    [
        ("smoke", {"train.stepps": 20}, "did you mean 'train.steps'"),
        ("smoke", {"train.steps": "many"}, "train.steps"),
        ("smoke", {"train.steps": None}, "train.steps must be text, a number, .* got None"),
        ("smok", {}, "did you mean 'smoke'"),
    ],
)
def test_settings_that_are_wrong_are_named(preset: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(stemline.InputError, match=message):
        stemline.configure(preset, given)


def test_a_plan_says_whether_a_training_fits(tmp_path: Path) -> None:
    config = stemline.configure("smoke", {"store.root": tmp_path})
    planned = stemline.plan(config, gpu="h200")
    assert planned.device == "h200"
    assert planned.fits
    small = stemline.plan(config, gpu="h200", memory_gib=0.1)
    assert (small.fits, small.advice != "") == (False, True)
    with pytest.raises(stemline.InputError, match="--gpu must be one of"):
        stemline.plan(config, gpu="abacus")


def test_a_run_without_songs_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = stemline.configure("smoke", {"store.root": tmp_path / "store"})
    with pytest.raises(stemline.InputError, match=r"corpus\.root"):
        stemline.train(config, progress=False)
    with pytest.raises(stemline.InputError, match="'first' not found"):
        stemline.compare(config, "first", "second", progress=False)
    assert not (tmp_path / "store" / "runs").exists()
