"""The file that `stemline init` writes, and the schema beside it."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flows import config as settings
from flows.__main__ import main
from flows.config.settings_schema import settings_schema
from tests.flows.command import asked, stemline


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    whole = settings_schema()
    jsonschema.Draft7Validator.check_schema(whole)
    return whole


@pytest.mark.parametrize("preset", settings.presets())
def test_a_run_with_the_file_is_one_with_the_preset(preset: str, folder: Path, schema: dict[str, Any]) -> None:
    overrides = ["train.steps=7", 'gate.slices={"Jazz" = ["*/Jazz*"]}', "store.root=kept"]
    assert stemline("init", "ours.toml", *overrides, "--preset", preset).code == 0
    assert settings.load("ours.toml") == settings.load(preset, overrides)
    jsonschema.validate(tomllib.loads(Path("ours.toml").read_text()), schema)


def test_every_setting_in_it_is_explained(folder: Path) -> None:
    answer = stemline("init")
    assert "corpus.root is empty" in answer.out
    lines = Path("stemline.toml").read_text().splitlines()
    assert lines[0] == "#:schema ./stemline.schema.json"
    assert json.loads(Path("stemline.schema.json").read_text())["$schema"].startswith("http://json-schema.org/draft-07")
    assert max(map(len, lines)) <= 120
    values = [place for place, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert len(values) > 20
    assert all(lines[place - 1].startswith("# ") for place in values)
    assert (
        "# Rows of the global batch, shared by the workers; a row is one segment of the model (int, >= 1"
        in "\n".join(lines)
    )


def test_the_songs_are_counted(folder: Path) -> None:
    for name in ("drums", "bass", "other", "vocals"):
        (folder / "songs" / "a").mkdir(parents=True, exist_ok=True)
        (folder / "songs" / "a" / f"{name}.wav").touch()
    (folder / "songs" / "b").mkdir()
    (folder / "songs" / "b" / "drums.wav").touch()
    assert asked("init", "corpus.root=songs")["songs"] == {"found": 2, "usable": 1}
    assert settings.load("stemline.toml").corpus.root == str(folder / "songs")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["settings.yaml"], "must end in .toml"),
        (["s3://songs/ours.toml"], "must be on this machine"),
        (["a.toml", "b.toml"], "name one"),
        (["corpus.root=missing"], "missing"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is(words: list[str], message: str, folder: Path) -> None:
    answer = stemline("init", *words)
    assert (answer.code, message in answer.err) == (2, True), answer.err
    assert list(folder.iterdir()) == []


def test_a_file_that_is_there_stays_unless_told(folder: Path) -> None:
    Path("stemline.toml").write_text("mine")
    refused = stemline("init")
    assert (refused.code, "--force" in refused.err) == (2, True)
    assert Path("stemline.toml").read_text() == "mine"
    assert main(["init", "--force"]) == 0
    assert settings.load("stemline.toml") == settings.load("smoke")


@pytest.mark.parametrize(
    ("tree", "wrong"),
    [
        ({"train": {"stesp": 3}}, "stesp"),
        ({"train": {"steps": 0}}, "minimum"),
        ({"train": {"steps": "many"}}, "integer"),
        ({"evaluate": {"overlap": 1.0}}, "1.0"),
        ({"model": {"preset": "htdemuks"}}, "htdemuks"),
        ({"ingest": {"resample_quality": "best"}}, "best"),
        ({"corpus": {"sources": "drums"}}, "array"),
    ],
)
def test_the_schema_refuses_what_the_program_refuses(tree: dict[str, Any], wrong: str, schema: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError, match=wrong):
        jsonschema.validate(tree, schema)
