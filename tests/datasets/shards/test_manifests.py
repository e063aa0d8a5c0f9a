"""Manifests say which settings decided on a table, wherever a version of this program has put them."""

import json
from pathlib import Path

import pytest

from datasets.schema import VERDICTS
from datasets.shards import arrow_tables, manifests

SETTINGS = {"corpus": {"root": "/songs", "sources": ["drums", "bass"]}, "ingest": {"bits": 24, "taxonomy": None}}
OF_0_1 = """
automix_weight = 1.0
[store]
root = "/store"
[corpus]
root = "/songs"
[ingest]
bits = 24
[curate]
min_presence = 0.2
[train]
steps = 9
"""


def test_the_settings_of_a_table_are_in_its_manifest(tmp_path: Path) -> None:
    chunks = manifests.write_manifest(
        tmp_path, table="chunks", step="ingest", key="k", shards=[], extra={"kept": 1}, settings=SETTINGS
    )
    verdicts = arrow_tables.write_table(tmp_path, "verdicts", VERDICTS.empty_table(), key="k", settings=SETTINGS)
    for address in (chunks, verdicts):
        Path(address.uri).with_suffix(".toml").write_text(OF_0_1)  # where both are, the manifest counts
        assert manifests.settings_of(manifests.read_manifest(address)) == SETTINGS


@pytest.mark.parametrize(
    ("step", "sections"),
    [("ingest", {"corpus", "ingest"}), ("curate", {"corpus", "ingest", "curate"}), ("unheard-of", set())],
)
def test_of_a_manifest_of_version_0_1_they_are_those_of_the_file_beside_it(
    tmp_path: Path, step: str, sections: set[str]
) -> None:
    address = manifests.write_manifest(tmp_path, table="chunks", step=step, key="k", shards=[])
    path = Path(address.uri)
    content = json.loads(path.read_text())
    del content["settings"]
    path.write_text(json.dumps(content))
    assert manifests.settings_of(manifests.read_manifest(address)) == {}
    path.with_suffix(".toml").write_text("not TOML")
    assert manifests.settings_of(manifests.read_manifest(address)) == {}
    path.with_suffix(".toml").write_text(OF_0_1)
    found = manifests.settings_of(manifests.read_manifest(address))
    assert found.keys() == sections
    assert found.get("corpus", {"root": "/songs"}) == {"root": "/songs"}
    assert manifests.find_manifest(tmp_path, step=step, key="k") == address
