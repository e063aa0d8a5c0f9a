import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from datasets.corpus import musdb18_metadata
from datasets.corpus.splits import assign_splits
from datasets.schema import SOURCES


def _package() -> Path:
    found = importlib.util.find_spec("musdb")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


def test_lists_are_those_of_the_installed_package() -> None:
    settings = yaml.safe_load((_package() / "configs" / "mus.yaml").read_text())
    assert musdb18_metadata.validation_songs() == set(settings["validation_tracks"])
    assert len(musdb18_metadata.validation_songs()) == 14
    assert list(musdb18_metadata.stem_streams()) == list(SOURCES)
    assert {"mixture": 0, **musdb18_metadata.stem_streams()} == settings["stem_ids"]


@pytest.mark.filterwarnings("ignore")
def test_lists_are_those_that_musdb_uses_itself() -> None:
    if not shutil.which("ffmpeg"):
        pytest.skip("musdb cannot be imported without an ffmpeg program")
    import musdb

    database = musdb.DB.__new__(musdb.DB)
    with open(_package() / "configs" / "mus.yaml") as file:
        database.setup = yaml.safe_load(file)
    database.tracks = [type("Track", (), {"name": name})() for name in sorted(musdb18_metadata.validation_songs())]
    assert sorted(database.get_validation_track_indices()) == list(range(14))


def test_musdb_itself_is_not_imported() -> None:
    program = (
        "import sys; from datasets.corpus import musdb18_metadata as m; m.validation_songs(); m.stem_streams(); "
        "print('musdb' in sys.modules, 'stempeg' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.split() == ["False", "False"]


def test_validation_songs_of_a_train_folder_stand_in_valid() -> None:
    published = sorted(musdb18_metadata.validation_songs())
    names = [f"train/{name}" for name in [*published, "Nobody - Another Song", "Someone - A Third"]] + [
        "test/Else - Song"
    ]
    sides = assign_splits(names, seed=0, valid_fraction=0.1, test_fraction=0.2, titles={})
    assert sorted(name for name, (side, _) in sides.items() if side == "valid") == [f"train/{n}" for n in published]
