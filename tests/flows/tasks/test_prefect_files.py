"""No file of a folder redirects a run unseen; what it says is refused by name before anything starts."""

import re
from pathlib import Path

import pytest

from datasets.errors import InputError
from flows.tasks.prefect_files import require_none
from tests.flows.command import stemline

REFUSED = [
    (".env", "PREFECT_API_URL=http://127.0.0.1:9/api\n", "PREFECT_API_URL"),
    (".env", "export prefect_api_url='http://127.0.0.1:9/api'\nAWS_REGION=x\n", "PREFECT_API_URL"),
    (".env", "PREFECT_API_DATABASE_CONNECTION_URL=sqlite:////tmp/x.db\n", "PREFECT_API_DATABASE_CONNECTION_URL"),
    (".env", "PREFECT_HOME=/tmp/other\n", "PREFECT_HOME"),
    (".env", "PREFECT_PROFILES_PATH=/tmp/profiles.toml\n", "PREFECT_PROFILES_PATH"),
    ("prefect.toml", '[api]\nurl = "http://127.0.0.1:9/api"\n', "PREFECT_API_URL"),
    ("prefect.toml", '[server.database]\nconnection_url = "sqlite:////x"\n', "PREFECT_SERVER_DATABASE_CONNECTION_URL"),
    ("pyproject.toml", '[tool.prefect]\nprofiles_path = "x"\n[tool.prefect.api]\nkey = "k"\n', "PREFECT_API_KEY"),
]  # fmt: skip
LET_THROUGH = [
    (".env", "DATABASE_URL=x\nAWS_ACCESS_KEY_ID=k\nPREFECT_LOGGING_LEVEL=DEBUG\n"),
    (".env", "# PREFECT_API_URL=http://127.0.0.1:9/api\n"),
    ("prefect.toml", '[logging]\nlevel = "DEBUG"\n'),
    ("prefect.toml", "this is no TOML"),
    ("pyproject.toml", '[tool.prefect_like.api]\nurl = "x"\n[tool]\nprefect = 3\n'),
    ("pyproject.toml", "\x00"),
]


@pytest.mark.parametrize(("file", "content", "name"), REFUSED)
def test_a_file_that_prefect_would_obey_is_named(
    file: str, content: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    (tmp_path / file).write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"the file {re.escape(file)} in .* sets .*{name}"):
        require_none()
    names = ("PREFECT_API_URL", "PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_HOME", "PREFECT_PROFILES_PATH")
    for exported in (*names, "PREFECT_API_KEY", "PREFECT_SERVER_DATABASE_CONNECTION_URL"):
        monkeypatch.setenv(exported, "what the environment says")
    require_none()


@pytest.mark.parametrize(("file", "content"), LET_THROUGH)
def test_other_settings_and_other_files_are_no_matter(
    file: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_text(content)
    monkeypatch.chdir(tmp_path)
    require_none()


@pytest.mark.parametrize("verb", ["ingest", "run", "retrain", "deploy"])
def test_a_command_says_so_before_it_makes_a_store(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "songs" / "a song").mkdir(parents=True)
    (tmp_path / ".env").write_text("PREFECT_SERVER_API_HOST=0.0.0.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    answer = stemline(verb, "corpus.root=songs", "store.root=store")
    assert answer.code == 2
    assert "the file .env in" in answer.err
    assert "PREFECT_SERVER_API_HOST" in answer.err
    assert not (tmp_path / "store").exists()
