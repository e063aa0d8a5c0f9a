"""`infra/prefect.yaml` against Prefect's own schema and the flows that it names; `make stack` sends it to a server."""

import copy
from pathlib import Path
from typing import Any

import pytest

from flows import config as door
from flows.__main__ import main
from flows.cli.operations import deploy

NAMES = {"build_corpus", "train_model", "evaluate", "full_run", "retrain"}


def filled(told: dict[str, Any], *overrides: str, cron: str = "", timezone: str = "") -> dict[str, Any]:
    config = door.load("smoke", overrides)
    return deploy.filled(told, config, "smoke", cron=cron, timezone=timezone, pool="gpus", directory="project")


def test_prefect_reads_the_file_as_its_own() -> None:
    from prefect.cli.deploy._models import PrefectYamlModel

    for told in (deploy.read(), filled(deploy.read())):
        model = PrefectYamlModel.model_validate(told)
        assert len(model.deployments) == len(NAMES)
        assert all(one.enforce_parameter_schema for one in model.deployments)
        assert all(one.schedules for one in model.deployments if one.entrypoint == "flows.deployments.retrain")
    wrong = copy.deepcopy(deploy.read())
    wrong["deployments"][0]["schedules"] = [{"cron": 3}]
    with pytest.raises(ValueError, match="schedules"):
        PrefectYamlModel.model_validate(wrong)


def test_every_deployment_names_a_flow_and_its_parameters_fit_the_form() -> None:
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    told = filled(deploy.read(), "corpus.root=music", "train.steps=4")
    assert {one["entrypoint"].rpartition(".")[2] for one in told["deployments"]} == NAMES
    for one in told["deployments"]:
        flow: Any = load_flow_from_entrypoint(one["entrypoint"], use_placeholder_flow=False)
        schema = parameter_schema(flow).model_dump()
        assert schema["properties"]["preset"]["enum"] == door.presets()
        assert all(said.get("description") for said in schema["properties"].values())
        validate(one["parameters"], schema, raise_on_error=True)
        with pytest.raises(ValidationError, match="smoky"):
            validate({**one["parameters"], "preset": "smoky"}, schema, raise_on_error=True)
        with pytest.raises(ValidationError, match="overrides"):
            validate({**one["parameters"], "overrides": [20]}, schema, raise_on_error=True)


def test_songs_and_store_are_fields_of_the_form_and_other_settings_a_list(tmp_path: Path) -> None:
    told = filled(deploy.read(), f"corpus.root={tmp_path}", "train.steps=4", f"store.root={tmp_path / 'store'}")
    assert told["deployments"][0]["parameters"] == {
        "preset": "smoke",
        "songs": str(tmp_path),
        "store": str(tmp_path / "store"),
        "overrides": ["train.steps=4"],
    }
    assert {one["work_pool"]["name"] for one in told["deployments"]} == {"gpus"}


def test_the_schedule_of_the_retraining_can_be_moved_and_switched_off() -> None:
    def schedules(cron: str, timezone: str = "") -> list[Any]:
        found = filled(deploy.read(), cron=cron, timezone=timezone)["deployments"]
        return [one["schedules"] for one in found if "schedules" in one]

    assert schedules("") == [[{"cron": "0 3 * * *", "timezone": "UTC"}]]
    assert schedules("0 5 * * 1") == [[{"cron": "0 5 * * 1", "timezone": "UTC"}]]
    assert schedules("0 5 * * 1", "Asia/Kolkata") == [[{"cron": "0 5 * * 1", "timezone": "Asia/Kolkata"}]]
    assert schedules("off") == [[]]


@pytest.mark.parametrize("preset", ["smoke", "htdemucs-musdb", "mine.toml"])
def test_a_worker_elsewhere_means_what_was_meant_here(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import deployments

    here, there = tmp_path / "he\N{GUITAR}re", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    relative = [f"{key}=of {key} \N{GUITAR}" for key in door.PATHS if key != "corpus.taxonomy"]
    mine = [
        "train.steps=7",
        "evaluate.full_bss_eval=true",
        'gate.slices={loud = ["a", "b"]}',
        "corpus.taxonomy=mine.toml",
    ]
    (here / "mine.toml").write_text(door.to_toml(door.load("hdemucs-repro", ["curate.max_clipped=0.25"])))
    config = door.load(preset, [*relative, *mine])
    told = deploy.filled(deploy.read(), config, preset, cron="", pool="gpus", directory="project")
    monkeypatch.chdir(there)
    for one in told["deployments"]:
        assert one["parameters"]["preset"] == {"mine.toml": "hdemucs-repro"}.get(preset, preset)
        assert deployments.resolved(**one["parameters"]) == config
    assert config.model.init_from == str(here / "of model.init_from \N{GUITAR}")


@pytest.mark.parametrize(
    "cron",
    [
        "daily", "0 3 * *", "99 3 * * *", "0 0 3 * * *", "0 3 31 2 *", "* * * * 8", "0 3 * * * Europe/Berlin",
        "R 3 * * *", "@every 5m", "TZ=UTC 0 3 * * *",
    ],
)  # fmt: skip
def test_a_schedule_that_is_none_is_refused_before_anything_is_deployed(
    cron: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert main(["deploy", "--cron", cron]) == 2
    assert f"got {cron!r}" in capsys.readouterr().err


@pytest.mark.parametrize("cron", ["0 3 * * *", "@daily", "*/5 2-4 * * MON", "0 3 29 2 *", "off", ""])
def test_a_schedule_that_is_one_is_let_through_to_the_server(
    cron: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert main(["deploy", "--cron", cron]) == 2
    assert "Nothing answers at http://127.0.0.1:1/api/health" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cron", "0 3 * * *", "--timezone", "Europe/Berlim"], "got 'Europe/Berlim'; did you mean 'Europe/Berlin'?"),
        (["--timezone", "Europe/Berlin"], "--timezone needs --cron, the schedule that it is for"),
    ],
)
def test_a_time_zone_that_is_none_or_of_no_schedule_is_refused_before_a_server_is_asked(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert main(["deploy", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_without_a_server_to_deploy_to_it_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert main(["deploy"]) == 2
    assert "prefect server start" in capsys.readouterr().err


def test_a_misspelt_setting_is_refused_before_anything_is_deployed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "train.stpes=4"]) == 2
    assert "did you mean 'train.steps'" in capsys.readouterr().err


def test_runs_are_named_for_people() -> None:
    from prefect._internal.engine import resolve_custom_flow_run_name

    from flows import build_corpus, deployments, full_run, report_model, train_model
    from flows.retraining import retrain_model

    config = door.load("smoke", ["corpus.root=/songs", "model.preset=htdemucs-tiny"])
    for flow in (
        build_corpus.build_corpus, train_model.train_model, train_model.compare_models, full_run.full_run,
        report_model.report_model, retrain_model.retrain_model,
    ):  # fmt: skip
        assert resolve_custom_flow_run_name(flow, {"config": config}) == "htdemucs-tiny, songs /songs"
    form = {"preset": "smoke", "songs": "/songs", "store": "/store", "overrides": []}
    assert resolve_custom_flow_run_name(deployments.retrain, form) == "smoke, store /store"
