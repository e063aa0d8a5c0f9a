"""Drills by hand name modules and tests that are there; mutants are drawn where one says something."""

import importlib
import importlib.util
import sqlite3
from pathlib import Path

from tests.drills import cases
from tests.drills.mutants import TESTS, draw

SOURCE = """
VERSION = 3
LIMIT = 5


def area(width: int | None, *, height: float = 2.0) -> float:
    return sum(a * b for a, b in zip([width], [height], strict=True))
"""


def session(places: list[tuple[str, int, int]]) -> sqlite3.Connection:
    """A session of cosmic-ray with mutants of these operators at these rows and columns."""
    made = sqlite3.connect(":memory:")
    made.execute("CREATE TABLE work_items (job_id)")
    made.execute("CREATE TABLE mutation_specs (operator_name, occurrence, start_pos_row, start_pos_col, job_id)")
    for number, (name, row, column) in enumerate(places):
        made.execute("INSERT INTO work_items VALUES (?)", (f"{number}",))
        made.execute("INSERT INTO mutation_specs VALUES (?, ?, ?, ?, ?)", (name, number, row, column, f"{number}"))
    return made


def test_every_module_and_every_test_of_the_drill_is_there(repository: Path) -> None:
    assert [module for module in TESTS if not (repository / module).is_file()] == []
    assert [test for tests in TESTS.values() for test in tests if not (repository / "tests" / test).is_file()] == []


def test_mutants_are_drawn_by_their_seed_one_of_each_place_and_none_where_other_checks_look() -> None:
    lines = SOURCE.splitlines()

    def at(row: int, text: str) -> tuple[int, int]:
        return row, lines[row - 1].index(text)

    kept = [
        ("core/NumberReplacer", *at(3, "5")),
        ("core/NumberReplacer", *at(6, "2.0")),
        ("core/ReplaceBinaryOperator_Mul_Add", *at(7, "* b")),
    ]
    left = [
        ("core/NumberReplacer", *at(2, "3")), ("core/ReplaceBinaryOperator_BitOr_Add", *at(6, "|")),
        ("core/ReplaceBinaryOperator_Mul_Add", *at(6, "*")), ("core/ReplaceTrueWithFalse", *at(7, "True")),
    ]  # fmt: skip
    twice = [("core/ReplaceBinaryOperator_Mul_Sub", *kept[2][1:])]
    all_of_them = session([*left, *kept, *twice])
    assert draw(all_of_them, SOURCE, 10, seed=0) == 3
    found = {row for row in all_of_them.execute("SELECT start_pos_row, start_pos_col FROM mutation_specs")}
    assert found == {(row, column) for _, row, column in kept}
    assert all_of_them.execute("SELECT count(*) FROM work_items").fetchone() == (3,)

    def one(seed: int) -> tuple[str, int]:
        drawn = session([*left, *kept, *twice])
        assert draw(drawn, SOURCE, 1, seed=seed) == 1
        (row,) = drawn.execute("SELECT operator_name, start_pos_row FROM mutation_specs")
        return row  # type: ignore[no-any-return]

    assert one(1) == one(1)
    assert len({one(seed) for seed in range(30)}) == 4


def test_every_name_that_the_cases_ask_for_has_a_counterpart() -> None:
    assert [module for module in cases.MODULES.values() if importlib.util.find_spec(module) is None] == []
    wanted = [(module, name) for names in cases.NAMES.values() for name, module in names.items()]
    assert [pair for pair in wanted if not hasattr(importlib.import_module(pair[0]), pair[1])] == []
