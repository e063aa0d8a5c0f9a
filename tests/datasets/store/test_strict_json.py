"""JSON that a strict reader takes: no NaN and no infinity, and the way back to what null stood for."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.store.strict_json import FORMER_NAME, NULL, dumps, restored


@dataclass(frozen=True)
class Bound:
    low: float = field(metadata={NULL: -math.inf})
    spread: float
    seen: float | None = None


@dataclass(frozen=True)
class Table:
    bounds: Mapping[str, Bound]
    points: tuple[float, ...]
    pair: tuple[str, float]
    best: Bound | None = None


def strictly(text: str) -> Any:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.inf, None),
        ({"a": [1.5, (math.nan, -math.inf)]}, {"a": [1.5, [None, None]]}),
        ({"a": np.float64("nan"), "b": np.float32(0.5), "c": np.int64(3)}, {"a": None, "b": 0.5, "c": 3}),
        (np.array([1.0, np.inf]), [1.0, None]),
        ({3: 1, math.inf: 2, ("a", "b"): 3}, {"3": 1, "inf": 2, "('a', 'b')": 3}),
        ({"b", "a"}, ["a", "b"]),
        (Path("here"), "here"),
        ([True, None, "nan"], [True, None, "nan"]),
        (Bound(low=-math.inf, spread=1.0), {"low": None, "spread": 1.0, "seen": None}),
    ],
)
def test_whatever_is_written_is_strict_json(value: Any, expected: Any) -> None:
    assert strictly(dumps(value)) == expected


def test_null_is_the_float_again_that_it_stood_for() -> None:
    bound = Bound(low=-math.inf, spread=math.nan)
    table = Table(bounds={"bass": bound}, points=(1.0, math.inf), pair=("a", math.nan), best=bound)
    tree = restored(Table, strictly(dumps(asdict(table))))
    assert tree["bounds"]["bass"]["low"] == tree["best"]["low"] == -math.inf
    assert math.isnan(tree["bounds"]["bass"]["spread"])
    assert tree["bounds"]["bass"]["seen"] is None
    assert tree["points"][0] == 1.0
    assert math.isnan(tree["points"][1])
    assert tree["pair"][0] == "a"
    assert math.isnan(tree["pair"][1])


def test_the_words_of_an_older_stemline_are_read() -> None:
    tree = restored(Bound, {"low": "-inf", "spread": "nan", "unknown": "inf"})
    assert tree["low"] == -math.inf
    assert math.isnan(tree["spread"])
    assert tree["unknown"] == "inf"


def test_a_renamed_field_is_read_under_both_of_its_names() -> None:
    @dataclass(frozen=True)
    class Renamed:
        gain: float | None = field(default=None, metadata={FORMER_NAME: "visible"})
        name: str = ""

    for stored in (
        {"visible": 1.5, "name": "a"},
        {"gain": 1.5, "name": "a"},
        {"gain": 1.5, "visible": 2.5, "name": "a"},
    ):
        tree = restored(Renamed, stored)
        assert (tree["gain"], tree["name"]) == (1.5, "a")
    assert restored(list[Renamed], [{"visible": 1.5}]) == [{"gain": 1.5}]
