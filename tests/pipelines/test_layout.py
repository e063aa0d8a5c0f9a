"""The layout of `pipelines/`: small folders, and a test for each module where one would look for it."""

import re
from pathlib import Path

HERE = Path(__file__).parent
ROOM = HERE.parents[1] / "pipelines"
TABLE = dict(re.findall(r"\| `(.+?\.py)` \| `(.+?\.py)` \|", (HERE / "README.md").read_text(encoding="utf-8")))


def test_a_folder_has_at_most_twelve_entries() -> None:
    for folder in (ROOM, *(path for path in ROOM.rglob("*") if path.is_dir() and path.name != "__pycache__")):
        entries = [path.name for path in folder.iterdir() if path.name not in ("__pycache__", "__init__.py")]
        assert len(entries) <= 12, f"{folder.relative_to(ROOM)}: {sorted(entries)}"


def test_each_module_has_a_test_file_of_its_name_or_a_row_in_the_table() -> None:
    modules = {str(path.relative_to(ROOM)) for path in ROOM.rglob("*.py") if path.name != "__init__.py"}
    own = {module for module in modules if (HERE / module).with_name(f"test_{Path(module).name}").is_file()}
    assert TABLE.keys() == modules - own
    assert [test for test in TABLE.values() if not (HERE / test).is_file()] == []


def test_an_init_only_re_exports() -> None:
    for path in ROOM.rglob("__init__.py"):
        assert not re.search(r"^(def|class) ", path.read_text(encoding="utf-8"), re.MULTILINE), path
