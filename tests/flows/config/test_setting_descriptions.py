"""Each number of the configuration has a range that is declared with it, checked when settings are read, and listed."""

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from datasets.errors import InputError
from datasets.loading.loader import LoaderConfig
from datasets.mixing.mixplan import MixRules
from flows import config as door
from flows.cli.planning.plan import Hardware
from flows.config import RunConfig, setting_descriptions
from flows.config.setting_descriptions import Setting
from models.networks.catalog import FAMILIES
from pipelines.evaluation.evaluate_config import EvaluateConfig

NUMBERS = [setting for setting in setting_descriptions.numeric(RunConfig) if setting.type != "choice"]


def with_numbers(kind: type, at: str = "") -> Iterator[str]:
    """Names of fields in whose types int or float occurs, found without what declares ranges."""
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from with_numbers(hint, f"{at}{item.name}.")
        elif hint in (int, float) or {int, float} & {*typing.get_args(hint)}:
            yield f"{at}{item.name}"


def test_each_number_says_which_values_will_do() -> None:
    assert len(NUMBERS) > 110
    assert [setting.name for setting in NUMBERS] == list(with_numbers(RunConfig))
    assert [setting.name for setting in NUMBERS if not setting.declared.stated] == []


def outside(setting: Setting) -> list[float]:
    """Values on the wrong side of each bound, and what is no number."""
    range, step = setting.declared.range, 1 if setting.type.endswith("int") else 1e-9
    found = [math.nan, math.inf, -math.inf]
    found += [bound - step for bound in (range.ge,) if bound is not None] + [range.gt] * (range.gt is not None)
    found += [bound + step for bound in (range.le,) if bound is not None] + [range.lt] * (range.lt is not None)
    return [int(value) if setting.type.endswith("int") and math.isfinite(value) else value for value in found]


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
def test_a_number_outside_its_range_is_refused_by_its_full_name(setting: Setting) -> None:
    for bad in outside(setting):
        written = f"[{bad}]" if setting.type.startswith("list") else str(bad)
        with pytest.raises(InputError) as caught:
            door.build(RunConfig, {}, [f"{setting.name}={written}"])
        message = str(caught.value)
        wanted = "a finite number" if setting.range == "finite" else setting.range
        assert f"{setting.name} must be {wanted}, got {bad!r}" in message
        assert "would do" not in message


@pytest.mark.parametrize("setting", list(setting_descriptions.numeric(RunConfig)), ids=lambda setting: setting.name)
def test_the_default_and_a_bound_that_belongs_to_the_range_are_inside(setting: Setting) -> None:
    for bound in (setting.default, setting.declared.range.ge, setting.declared.range.le):
        if bound is not None:
            value = (bound,) if setting.declared.many and not isinstance(bound, tuple) else bound
            assert setting_descriptions.complain(setting.name, value, setting.declared) == ""


@pytest.mark.parametrize(
    ("name", "range", "unit"),
    [
        ("evaluate.overlap", "in [0, 1)", ""), ("train.learner.augment.repitch_semitones", "in [0, 6]", "semitones"),
        ("ingest.min_song_s", ">= 0", "s"), ("gate.margin", "finite", "dB"),
        ("retrain.gpu_hours_per_month", ">= 0", "h"),
        ("ingest.bits", "one of source, 16, 24", ""), ("train.learner.ema_decays", "in (0, 1)", ""),
    ],
)  # fmt: skip
def test_the_list_says_range_and_unit(name: str, range: str, unit: str) -> None:
    listed = {setting.name: setting for setting in setting_descriptions.numeric(RunConfig)}
    assert (listed[name].range, listed[name].unit) == (range, unit)


def leaves(kind: type, at: str = "") -> Iterator[str]:
    """Names of all settings, found without what lists them."""
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from leaves(hints[item.name], f"{at}{item.name}.")
        else:
            yield f"{at}{item.name}"


def test_every_setting_is_listed_with_type_default_and_meaning() -> None:
    listed = {setting.name: setting for setting in setting_descriptions.every(RunConfig)}
    assert list(listed) == list(leaves(RunConfig))
    assert len(listed) > 150
    assert [name for name, setting in listed.items() if not setting.type] == []
    assert [name for name, setting in listed.items() if len(setting.meaning.split()) < 2] == []
    for name, setting in listed.items():
        if setting.default is not None and setting.type != "table":  # what is listed is a value that is taken
            door.build(RunConfig, {}, [door.override(name, setting.default)])


def test_every_option_of_every_network_has_a_meaning() -> None:
    for family in FAMILIES.values():
        assert [option.name for option in setting_descriptions.every(family.config_class) if not option.meaning] == []


@dataclasses.dataclass
class _Base:
    # A paragraph about something else.

    #
    # of two lines,
    # above the field
    first: int = 1
    second: int = 2  # beside it
    third: tuple[int, ...] = (
        1,  # inside
        2,
    )
    fourth: str = "# no comment"


@dataclasses.dataclass
class _Derived(_Base):
    # not this one
    second: int = 3  # otherwise


def test_a_meaning_is_the_comment_beside_a_field_or_else_above_it() -> None:
    assert setting_descriptions.meanings(_Derived) == {
        "first": "of two lines, above the field", "second": "otherwise", "third": "inside", "fourth": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EvaluateConfig(overlap=2), r"evaluate\.overlap must be in \[0, 1\), got 2"),
        (lambda: EvaluateConfig(shifts=-4), r"evaluate\.shifts must be >= 0, got -4"),
        (lambda: EvaluateConfig(window_s=math.nan), r"evaluate\.window_s must be > 0, got nan"),
        (lambda: LoaderConfig(cache_gb=math.inf), r"train\.loader\.cache_gb must be >= 0, got inf"),
        (lambda: MixRules(max_semitones=7), r"automix\.rules\.max_semitones must be in \[0, 6\], got 7"),
        (lambda: Hardware(mfu=1.5), r"--mfu must be in \[0, 1\], got 1\.5"),
        (lambda: Hardware(memory_gib=-1.0), r"--memory-gib must be >= 0, got -1\.0"),
        (lambda: Hardware(price=math.nan), r"--price must be >= 0, got nan"),
    ],
)
def test_what_is_made_without_the_command_line_is_checked_as_well(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    "override", ["ingest.min_song_s=0", "corpus.valid_fraction=0", "train.num_workers=0", "gate.min_improvement=-99"]
)
def test_zero_and_less_are_values_where_they_mean_something(override: str) -> None:
    door.build(RunConfig, {}, [override])
