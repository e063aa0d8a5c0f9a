"""`make cases`: holds every case of ../shared/cases against what is right, and prints what was seen of each.

Those in audio/ are folders of songs; `operations_cases` runs those in ops/. They are made elsewhere and stand beside
the checkout; without them there is nothing to do. The check of those in audio/ was written for older names of modules.
`stand_in` puts today's modules under those names into `sys.modules`, here and in the programs that the check starts,
and nowhere else; a name that has no counterpart any more is told.

    python -m tests.drills.cases [CASE...]
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.drills import operations_cases

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "audio"
# Name in the check -> today's module.
MODULES = {
    "flows.screen": "flows.console.progress_display",
    "pipelines.curate": "pipelines.preparation.curate",
    "pipelines.ingest": "pipelines.preparation.ingest",
    "pipelines.scoring": "pipelines.evaluation.song_scoring",
    "pipelines.cluster": "pipelines.runtime.cluster",
    "models.catalog": "models.networks.catalog",
    "models.checkpoint": "models.weights.checkpoint",
    "tests.bench": "tests.benchmarks",
    "tests.bench.road": "tests.benchmarks.road",
}
# Module in the check -> what it takes from there, and where that is today.
NAMES = {
    "datasets.audio": {name: "datasets.audio.decoding" for name in ("probe", "decode", "decode_blocks")},
    "datasets.shards": {"read_objects": "datasets.shards.arrow_tables"},
    "pipelines.evaluate": {
        "EvaluateConfig": "pipelines.evaluation.evaluate_config",
        "summarize": "pipelines.evaluation.summary",
    },
}


def stand_in() -> list[str]:
    """Make the older names importable in this process; those without a counterpart."""
    missing = []
    for old, new in MODULES.items():
        try:
            module = sys.modules[old] = importlib.import_module(new)
        except ImportError as error:
            missing.append(f"{old}: {error}")
            continue
        parent, _, name = old.rpartition(".")
        setattr(importlib.import_module(parent), name, module)
    for old, names in NAMES.items():
        try:
            target = importlib.import_module(old)
        except ImportError:
            target = sys.modules[old] = ModuleType(old)
        for name, new in names.items():
            try:
                setattr(target, name, getattr(importlib.import_module(new), name))
            except (ImportError, AttributeError) as error:
                missing.append(f"{old}.{name}: {error}")
    return missing


@contextlib.contextmanager
def older_names() -> Iterator[list[str]]:
    """The older names in this process, and in those that it starts by a `sitecustomize`; what has no counterpart."""
    before = os.environ.get("PYTHONPATH", "")
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        hook = "import sys\nsys.path.insert(0, {!r})\nfrom tests.drills.cases import stand_in\nstand_in()\n"
        Path(folder, "sitecustomize.py").write_text(hook.format(str(root)), encoding="utf-8")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, before)))
        try:
            yield stand_in()
        finally:
            os.environ["PYTHONPATH"] = before


def load_check(folder: Path) -> ModuleType:
    """The check beside the cases, as a module."""
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("check", folder / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    told, words = module.Told, module.Told.words

    def words_or_error(self: Any, song: str) -> str:
        """What is told of a song; where no song could be used the error tells, which the check takes a blank for."""
        said = str(words(self, song))
        return said if said.strip() else str(self.error)

    told.words = words_or_error
    return module


def what_is_right(folder: Path) -> str:
    """The sentence of a case's README that says what is right."""
    readme = folder / "README.md"
    found = re.search(r"^RIGHT: (.+)$", readme.read_text(encoding="utf-8"), re.M) if readme.is_file() else None
    return found[1] if found else ""


def run_case(check: Callable[[], None]) -> tuple[str, bool]:
    """What was seen of one case, in a few words, and whether all of it is right."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            check()
    except ImportError as error:
        return f"not run, a name is missing: {error}", False
    except Exception as error:
        return f"{type(error).__name__}: {error}", False
    lines = [line.strip() for line in out.getvalue().splitlines()]
    right = sum(line.startswith("right ") for line in lines)
    wrong = [line.removeprefix("WRONG").strip() for line in lines if line.startswith("WRONG ")]
    seen = f"{right} of {right + len(wrong)} right" + "".join(f"\nnot: {line}" for line in wrong)
    return seen, bool(right) and not wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0 where all is right, or where there are no cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="names of cases; all without")
    asked = parser.parse_args(arguments).cases
    console = Console()
    if not (CASES / "check.py").is_file():
        console.print(f"There is no {CASES}; nothing was checked.")
        return 0
    scripts = [name for name in operations_cases.case_names() if not asked or name in asked]
    names = asked or sorted(path.name for path in CASES.iterdir() if (path / "README.md").is_file())
    names = [name for name in names if name not in scripts]
    table = Table("case", "seen", "right", show_lines=True)
    with older_names() as missing:
        for name in missing:
            console.print(f"missing: {name}")
        check = load_check(CASES)
        all_right = True
        try:
            for name in names:
                run = getattr(check, name, None)
                seen, is_right = (f"no such case in {CASES}", False) if run is None else run_case(run)
                all_right &= is_right
                table.add_row(name, f"{'✓' if is_right else '✗'} {seen}", what_is_right(CASES / name))
                console.print(f"{'✓' if is_right else '✗'} {name}")
        finally:
            for folder in getattr(check, "dirs", ()):
                with contextlib.suppress(OSError):
                    shutil.rmtree(folder)
    for name in scripts:
        seen, is_right = operations_cases.run_case(name)
        all_right &= is_right
        table.add_row(name, f"{'✓' if is_right else '✗'} {seen}", operations_cases.what_is_right(name))
        console.print(f"{'✓' if is_right else '✗'} {name}")
    console.print(table)
    return 0 if all_right else 1


if __name__ == "__main__":
    sys.exit(main())
