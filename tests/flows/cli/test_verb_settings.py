"""The help of a verb lists the settings that act in it, and no others."""

import ast
import dataclasses
from pathlib import Path

import pytest

import flows.cli
from flows.__main__ import VERB_NAMES, VERBS, WITHOUT_SETTINGS, main
from flows.cli import verb_settings
from flows.cli.models.outliers import _scoring
from flows.config import RunConfig
from flows.config.setting_descriptions import every
from pipelines.evaluation.evaluate_config import EvaluateConfig

UNUSUAL = EvaluateConfig(
    full_bss_eval=True, scorer="museval", museval_json="scores", extra_metrics=("bleedless",), plugins=("lab:metric",),
    overlap=0.5, shifts=2, window_s=2.0, max_song_s=60.0, precision="bfloat16", batch_size=2, num_workers=3,
    use_gpu=True,
)  # fmt: skip
SETTINGS = [setting.name for setting in every(RunConfig)]
SECTIONS = {field.name for field in dataclasses.fields(RunConfig)}


def test_each_section_and_setting_that_a_verb_lists_is_one() -> None:
    for verb in VERB_NAMES:
        assert [place for place in verb_settings.own(verb) if not _inside(place)] == []
    tables = {**verb_settings.STEPS, **verb_settings.WHOLE_PIPELINE, **verb_settings.OTHERS}
    assert tables.keys() <= {*VERB_NAMES} - {*WITHOUT_SETTINGS}


def _inside(place: str) -> list[str]:
    return [name for name in SETTINGS if f"{name}.".startswith(f"{place}.")]


def test_a_verb_lists_each_section_that_its_file_reads() -> None:
    for package, verbs in VERBS.values():
        for verb in {*verbs} - {*WITHOUT_SETTINGS}:
            places = {*verb_settings.own(verb)}
            for step in verb_settings.before(verb):
                places |= {*verb_settings.own(step)}
            listed = {place.split(".")[0] for place in places}
            assert _sections_read(Path(flows.cli.__path__[0], package, f"{verb}.py")) <= listed, verb


def test_verbs_of_the_whole_pipeline_list_each_section_that_its_flows_read() -> None:
    read_by_flows = {
        name: _sections_read(Path(flows.__path__[0], f"{name}.py"))
        for name in ("build_corpus", "train_model", "report_model")
    }
    assert all(read_by_flows.values())
    for verb in verb_settings.WHOLE_PIPELINE:
        steps = verb_settings.before(verb)
        listed = {place.split(".")[0] for step in (verb, *steps) for place in verb_settings.own(step)}
        assert set().union(*read_by_flows.values()) <= listed, verb


def test_a_verb_that_finds_the_curated_songs_names_the_steps_that_do() -> None:
    for package, verbs in VERBS.values():
        for verb in {*verbs} - {*WITHOUT_SETTINGS}:
            finds_them = 'until="curate"' in Path(flows.cli.__path__[0], package, f"{verb}.py").read_text()
            assert not finds_them or {"ingest", "curate"} <= {*verb_settings.before(verb)}, verb


def test_outliers_lists_no_setting_that_it_sets_itself() -> None:
    changed = [
        field.name
        for field in dataclasses.fields(EvaluateConfig)
        if getattr(_scoring(UNUSUAL, "train"), field.name) != getattr(UNUSUAL, field.name)
    ]
    assert {"split", "scorer", "plugins"} <= {*changed}
    assert not {f"evaluate.{name}" for name in changed} & {*verb_settings.own("outliers")}


def _sections_read(path: Path) -> set[str]:
    """Attributes of `config` in a verb's file that are sections of the configuration."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "config"
    } & SECTIONS


def test_the_help_of_train_has_the_settings_of_training_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    output = capsys.readouterr().out
    output = " ".join(output.split())
    assert "train.steps=" in output
    assert "Optimization steps of the whole training" in output
    assert "max_rollbacks" in output
    assert "min_improvement" not in output
    assert "registry: experiment, artifacts" in output  # MLflow has the curve while it grows
    assert "gate: refuse_non_commercial" in output  # before hours of training
    assert "stemline {ingest,curate,analyze,automix} --help" in output
    assert main(["sbom", "--help"]) == 0
    assert "Settings, as KEY=VALUE" not in capsys.readouterr().out
