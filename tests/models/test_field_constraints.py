import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import pytest

from models.errors import ModelError
from models.field_constraints import NonNegativeInt, Probability, Range, check_ranges, declarations
from models.learner_config import AugmentConfig, LearnerConfig, QuantizeConfig, SpectralPenaltyConfig
from models.networks.catalog import FAMILIES, PRESETS, build, read_config, to_config

TINY = [name for name in PRESETS if name.endswith("tiny")]
RECIPES: list[type[Any]] = [LearnerConfig, AugmentConfig, QuantizeConfig, SpectralPenaltyConfig]


@dataclass(frozen=True, kw_only=True)
class Example:
    count: NonNegativeInt = 0
    share: Probability = 0.5
    gain: float = 1.0
    limit: Annotated[float, Range(lt=3)] | None = None
    decays: tuple[Annotated[float, Range(gt=0, lt=1)], ...] = ()
    version: Literal["one", "two"] = "one"
    name: str = "anything"
    on: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, ModelError)


@pytest.mark.parametrize(
    "values",
    [
        {"count": 0, "share": 0.0},
        {"share": 1, "gain": -1e30, "limit": 2.9},
        {"limit": None, "decays": (0.1, 0.999), "version": "two"},
    ],
)
def test_what_is_inside_passes(values: dict[str, Any]) -> None:
    Example(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": -1}, "count must be >= 0, got -1"),
        ({"count": 1.5}, "count must be a whole number, got 1.5"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"share": 1.01}, r"share must be in \[0, 1\], got 1.01"),
        ({"share": "half"}, "share must be a number, got 'half'"),
        ({"share": math.nan}, "share must be .*got nan"),
        ({"gain": math.inf}, "gain must be a finite number, got inf"),
        ({"limit": 3.0}, "limit must be < 3, got 3"),
        ({"limit": -math.inf}, "limit must be .*got -inf"),
        ({"decays": (0.5, 1.0)}, r"each number of decays must be in \(0, 1\), got 1.0"),
        ({"decays": 0.5}, "decays must be a list of numbers, got 0.5"),
        ({"on": "false"}, "on must be true or false, got 'false'"),
        ({"on": None}, "on must be true or false, got None"),
        ({"on": 1}, "on must be true or false, got 1"),
        ({"version": "three"}, "version must be one of 'one', 'two', got 'three'"),
    ],
)
def test_what_is_outside_is_named_with_its_bounds(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Example(**values)


@pytest.mark.parametrize("kind", RECIPES)
def test_no_number_of_a_recipe_is_below_0_or_not_finite(kind: type[Any]) -> None:
    declared = declarations(kind)
    assert declared
    for name, entry in declared.items():
        for bad in (-1, math.nan, math.inf, -math.inf):
            with pytest.raises(ModelError, match=rf"\b{name} must be"):
                kind(**{name: (bad,) if entry.many else bad})


@pytest.mark.parametrize("preset", TINY)
def test_no_number_of_a_network_is_below_0_or_not_finite(preset: str) -> None:
    family = next(family for family in FAMILIES.values() if family.config_class is type(PRESETS[preset]))
    for name in declarations(family.config_class):
        if name != "hash_seed":
            for bad in (-1, math.nan, math.inf):
                with pytest.raises(ModelError, match=rf"\b{name} must be"):
                    build(preset, **{name: bad})
    numeric = {item.name for item in fields(family.config_class) if isinstance(item.default, int | float)}
    booleans = {item.name for item in fields(family.config_class) if isinstance(item.default, bool)}
    assert numeric - booleans <= set(declarations(family.config_class))


@pytest.mark.parametrize("preset", TINY)
@pytest.mark.parametrize("huge", [10**9, 10**30])
def test_an_option_that_would_take_hours_or_all_memory_is_refused_at_once(preset: str, huge: int) -> None:
    """Also where the value is only read: powers and lists of layers must not be made first."""
    config = to_config(build(preset))
    harmless = {"hash_seed", "version", "normalize", "family", "sources"}
    harmless |= {name for name, value in config.items() if isinstance(value, bool)}
    for name in config.keys() - harmless:
        for make in (lambda: build(preset, **{name: huge}), lambda: read_config(config | {name: huge})):  # noqa: B023
            with pytest.raises(ModelError, match=name):
                make()


def test_a_seed_that_no_generator_takes_is_refused() -> None:
    with pytest.raises(ModelError, match="hash_seed must be in"):
        build("sparse-htdemucs-tiny", hash_seed=10**30)


def test_widths_that_grow_beyond_all_bounds_are_refused() -> None:
    for preset in ("htdemucs-tiny", "demucs-v2-tiny", "hdemucs-tiny"):
        with pytest.raises(ModelError, match=r"channels=262144 and growth=16 make \d+ features in"):
            build(preset, channels=2**18, growth=16)


@pytest.mark.parametrize("sources", ["vocals", "x", [1, 2], [None]])
def test_sources_are_a_list_of_names(sources: Any) -> None:
    """The letters of a text are none."""
    with pytest.raises(ModelError, match="sources must be a list of names"):
        build("htdemucs-tiny", sources=sources)


@pytest.mark.parametrize(
    "option",
    [
        {"dropout": 1.0},
        {"attention_dropout": 1.0},
        {"growth": 0},
        {"transformer_heads": 0},
        {"dconv_compress": 0},
        {"sample_rate": 44100.5},
        {"transformer_hidden_scale": 0.0},
        {"transformer_width": 0},
        {"nfft": 0},
        {"dconv_in_decoder": "false"},
        {"sources": ()},
    ],
)
def test_a_network_that_could_not_run_is_not_built(option: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=next(iter(option))):
        build("htdemucs-tiny", **option)


@pytest.mark.parametrize(
    "option", [{"dropout": 0.0}, {"attention_dropout": 0.0}, {"dconv_depth": 0}, {"transformer_layers": 0}]
)
def test_zero_is_a_value(option: dict[str, Any]) -> None:
    build("htdemucs-tiny", **option)
    LearnerConfig(weight_decay=0.0, max_grad_norm=0.0, warmup_steps=0, trim_loss_drop=0.0)
