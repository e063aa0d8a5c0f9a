"""Mutants: does a test fail when one operator, constant or condition of a core module is another?

`make mutants MODULE=models/scores/metrics.py` draws some of the mutants that cosmic-ray knows of a module, by a seed,
runs the module's quick tests against each, and prints the diffs of those that no test notices. The files are a copy of
this checkout: what is mutated stands in a temporary folder. cosmic-ray is no dependency; `uvx` brings it.
"""

import argparse
import ast
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
UVX = shutil.which("uvx") or str(ROOT / ".uv" / "bin" / "uvx")
TOOL = (UVX, "--from", "cosmic-ray==8.7.0", "cosmic-ray")
# The modules whose mutants are hunted, and the tests that hold each.
TESTS: dict[str, tuple[str, ...]] = {
    "datasets/corpus/file_listing.py": ("datasets/corpus/test_scan.py", "datasets/corpus/test_layouts.py"),
    "datasets/corpus/scan.py": ("datasets/corpus/test_scan.py",),
    "datasets/corpus/splits.py": ("datasets/corpus/test_splits.py",),
    "datasets/corpus/stem_names.py": ("datasets/corpus/test_stem_names.py", "datasets/corpus/test_scan.py"),
    "datasets/loading/crop_reader.py": (
        "datasets/loading/test_crop_reader.py",
        "datasets/loading/test_segment_sampler.py",
    ),
    "datasets/loading/segment_sampler.py": (
        "datasets/loading/test_segment_sampler.py",
        "datasets/loading/test_loader.py",
    ),
    "datasets/loading/shard_layout.py": ("datasets/loading/test_crop_reader.py", "datasets/loading/test_row_cache.py"),
    "datasets/mixing/mixplan.py": ("datasets/mixing/test_mixplan.py",),
    "datasets/quality/fingerprint.py": ("datasets/quality/test_fingerprint.py",),
    "datasets/shards/chunks.py": ("datasets/shards/test_chunks.py",),
    "datasets/store/ownership.py": ("datasets/store/test_ownership.py",),
    "flows/cli/store/gc.py": ("flows/cli/store/test_gc.py",),
    "flows/config/toml_config.py": ("flows/test_config.py",),
    "flows/config/presets.py": ("flows/test_config.py", "flows/test_presets.py"),
    "flows/config/setting_names.py": ("flows/test_config.py",),
    "flows/config/setting_overrides.py": ("flows/test_config.py",),
    "flows/retrain_policy.py": ("flows/test_retrain_policy.py",),
    "flows/retraining/retrain_log.py": ("flows/retraining/test_retrain_log.py",),
    "models/inference/separate.py": ("models/inference/test_separate.py",),
    "models/learning/augment.py": ("models/learning/test_augment.py",),
    "models/learning/ema.py": ("models/learning/test_ema.py",),
    "models/learning/learner.py": ("models/learning/test_learner.py",),
    "models/learning/losses.py": ("models/learning/test_losses.py",),
    "models/scores/metrics.py": ("models/scores/test_metrics.py",),
    "models/weights/checkpoint.py": ("models/weights/test_checkpoint.py",),
    "pipelines/evaluation/gate/decision.py": (
        "pipelines/evaluation/test_gate.py",
        "pipelines/evaluation/test_seed_noise.py",
    ),
    "pipelines/evaluation/gate/rules.py": (
        "pipelines/evaluation/test_gate.py",
        "pipelines/evaluation/test_seed_noise.py",
    ),
    "pipelines/evaluation/paired_bootstrap.py": (
        "pipelines/evaluation/test_paired_bootstrap.py",
        "pipelines/evaluation/test_seed_noise.py",
    ),
    "pipelines/lineage/contamination.py": ("pipelines/lineage/test_contamination.py",),
    "pipelines/registry/promotion/promotion_log.py": ("pipelines/registry/promotion/test_promotion_log.py",),
    "pipelines/runs/run_folder.py": ("pipelines/runs/test_run_folder.py",),
}
QUICK = "not ray and not gpu and not browser"  # slow ones may run: the only test of a module is at times among them


def _copy(folder: Path) -> None:
    """What git tracks, and what it would, as it stands here; compiled, so that no run does it again."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "."], cwd=folder, check=True)


def _untested_places(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where stands what other checks hold: annotations, decorators, `VERSION`, and `strict` of a zip."""
    for node in ast.walk(ast.parse(source)):
        found = [*getattr(node, "decorator_list", ())]
        found += [getattr(node, name, None) for name in ("annotation", "returns")]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "zip":
            found += [keyword.value for keyword in node.keywords]
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSION":
            found.append(node.value)  # tests/pipelines/runtime/test_step_results.py
        for part in found:
            if isinstance(part, ast.expr):
                # A decorator starts at its @, one column before its expression.
                yield (part.lineno, part.col_offset - 1), (part.end_lineno or 0, part.end_col_offset or 0)


def _binary_operators(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where the operator stands of each expression of two operands; cosmic-ray takes any star for one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp):
            left, right = node.left, node.right
            yield (left.end_lineno or 0, left.end_col_offset or 0), (right.lineno, right.col_offset)


def draw(session: sqlite3.Connection, source: str, count: int, seed: int) -> int:
    """Leave `count` mutants in a session of cosmic-ray, at most one at each place; returns how many are left.

    An operator has eleven mutants and a constant two, so places are drawn first.
    """
    skipped, operators = list(_untested_places(source)), list(_binary_operators(source))
    places: dict[tuple[int, int], list[tuple[str, int, str]]] = defaultdict(list)
    for name, occurrence, row, column, job in session.execute(
        "SELECT operator_name, occurrence, start_pos_row, start_pos_col, job_id FROM mutation_specs"
    ):
        at = row, column
        is_star = "BinaryOperator" in name and not any(start <= at < end for start, end in operators)
        if not is_star and not any(start <= at < end for start, end in skipped):
            places[row, column].append((name, occurrence, job))
    rng = random.Random(f"{seed}")
    drawn = rng.sample(sorted(places), min(count, len(places)))
    kept = [rng.choice(sorted(places[place]))[2] for place in drawn]
    marks = ",".join("?" * len(kept))
    for table in ("mutation_specs", "work_items"):
        session.execute(f"DELETE FROM {table} WHERE job_id NOT IN ({marks})", kept)
    session.commit()
    return len(kept)


def test_command(module: str) -> str:
    """What runs the tests of a module until the first that fails, at the root of a checkout."""
    tests = " ".join(f"tests/{name}" for name in TESTS[module])
    return f"{sys.executable} -m pytest -x -q -p no:cacheprovider -m '{QUICK}' {tests}"


def hunt(module: str, count: int, seed: int) -> tuple[int, list[str]]:
    """Run the tests of a module against some mutants of it.

    Returns:
        How many mutants ran, and the diffs of those that survived.

    Raises:
        RuntimeError: The tests fail without any mutant.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folder = Path(temporary) / "checkout"
        folder.mkdir()
        _copy(folder)
        command = test_command(module)
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        bare = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        if bare.returncode:
            raise RuntimeError(f"the tests of {module} fail without a mutant:\n{bare.stdout[-3000:]}")
        # A mutant that makes a loop endless is a mutant that is noticed.
        timeout = 20 + 5 * (time.perf_counter() - start)
        database = Path(temporary) / "session.sqlite"
        settings = Path(temporary) / "session.toml"
        settings.write_text(
            f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {timeout:.1f}\nexcluded-modules = []\n'
            f'test-command = """{command}"""\n[cosmic-ray.distributor]\nname = "local"\n'
        )
        subprocess.run([*TOOL, "init", settings, database], cwd=folder, check=True, capture_output=True)
        with sqlite3.connect(database) as session:
            drawn = draw(session, (folder / module).read_text(encoding="utf-8"), count, seed)
        subprocess.run([*TOOL, "exec", settings, database], cwd=folder, env=environment, check=True)
        with sqlite3.connect(database) as session:
            rows = session.execute("SELECT diff FROM work_results WHERE test_outcome = 'SURVIVED'").fetchall()
            outcomes = session.execute("SELECT count(*) FROM work_results WHERE test_outcome IS NOT NULL").fetchone()[0]
    if outcomes != drawn:
        raise RuntimeError(f"{module}: {drawn} mutants were drawn and {outcomes} have a result")
    return drawn, sorted(str(diff) for (diff,) in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=[], help="paths of modules in TESTS; none means all")
    parser.add_argument("--count", type=int, default=16, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.modules) - TESTS.keys())
    if unknown:
        parser.error(f"{unknown[0]} has no line in TESTS of {Path(__file__).name}; it has {', '.join(TESTS)}")
    for module in arguments.modules or TESTS:
        drawn, survivors = hunt(module, arguments.count, arguments.seed)
        died = f"{module}: {drawn - len(survivors)} of {drawn} mutants die (seed {arguments.seed})"
        Console(highlight=False).print(*survivors, died, sep="\n", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
