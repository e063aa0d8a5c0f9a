"""`stemline compare`: both models are held against the songs before hours are spent on one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.errors import InputError
from flows import config as door
from flows import train_model
from models.networks.catalog import build
from models.weights import checkpoint
from pipelines.evaluation import evaluate, evaluate_config
from tests.pipelines.songs import RATE, SOURCES, write_songs


def test_the_second_model_is_refused_before_the_first_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = write_songs(tmp_path / "store", {"a": "train", "b": "test", "c": "test"})
    refs = []
    for name, sources in (("good", SOURCES), ("strange", ("speech", "music"))):
        torch.manual_seed(0)
        model = build("demucs-v3-tiny", sources=sources, sample_rate=RATE)
        refs.append(str(checkpoint.save(tmp_path / name, model)))
    config = door.RunConfig()
    config = replace(config, store=replace(config.store, root=str(tmp_path / "store")))

    def scored(*_: Any, **__: Any) -> Any:
        raise AssertionError("a song was about to be computed")

    monkeypatch.setattr(evaluate, "run", scored)
    with pytest.raises(InputError, match="strange separates speech, music, but songs such as 'b' have drums, bass"):
        train_model.score_both(config, songs, refs[0], refs[1])


def test_no_models_museval_files_replace_anothers() -> None:
    asked = evaluate_config.EvaluateConfig(full_bss_eval=True, museval_json="scores")
    assert evaluate_config.with_subfolder(asked, "") == asked
    folders = {
        evaluate_config.with_subfolder(asked, place).museval_json for place in ("", "champion", "first", "second")
    }
    assert folders == {"scores", "scores/champion", "scores/first", "scores/second"}
    assert (
        evaluate_config.with_subfolder(evaluate_config.EvaluateConfig(), "champion") == evaluate_config.EvaluateConfig()
    )
