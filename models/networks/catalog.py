"""Every architecture and preset by name, and a model's configuration as JSON.

A family is an architecture; a preset is one configuration of it, published or `tiny`. What is saved beside weights
is `to_config(model)`: the family and every field, so a file never depends on a preset staying as it was.

A plug-in is a family of its own: a torch module whose `config_class` is a dataclass with defaults, and whose only
argument is one of these. It is saved as `package.module:object`. A served model carries its source, which is looked
for in `carried` beside this package first.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from ..errors import ModelError, nearest
from ..plugins import MAX_FILES, Plugin, PluginKind, imports_of, load, names, source_files
from .demucs import Demucs, DemucsConfig
from .hdemucs import HDemucs, HDemucsConfig
from .htdemucs import HTDemucs, HTDemucsConfig
from .input_normalization import Normalization
from .sparse_htdemucs import SparseHTDemucs, SparseHTDemucsConfig
from .spectrogram.bs_roformer import BSRoFormer, BSRoFormerConfig
from .spectrogram.mel_band_roformer import MelBandRoFormer, MelBandRoFormerConfig
from .spectrogram.scnet import SCNet, SCNetConfig

SIX_SOURCES = ("drums", "bass", "other", "vocals", "guitar", "piano")


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    config_class: type[Any]
    model_class: Callable[[Any], nn.Module]


FAMILIES: dict[str, Family] = {
    "htdemucs": Family(HTDemucsConfig, HTDemucs),
    "sparse-htdemucs": Family(SparseHTDemucsConfig, SparseHTDemucs),
    "hdemucs": Family(HDemucsConfig, HDemucs),
    "demucs": Family(DemucsConfig, Demucs),
    "scnet": Family(SCNetConfig, SCNet),
    "bs-roformer": Family(BSRoFormerConfig, BSRoFormer),
    "mel-band-roformer": Family(MelBandRoFormerConfig, MelBandRoFormer),
}

TINY_HT: dict[str, Any] = {
    "segment_s": 3.0,
    "channels": 8,
    "nfft": 2048,
    "dconv_compress": 4,
    "dconv_depth": 1,
    "transformer_width": 64,
    "transformer_layers": 3,
    "transformer_heads": 2,
    "transformer_hidden_scale": 2.0,
    "dropout": 0.0,
}
TINY_ROFORMER: dict[str, Any] = {
    "segment_s": 3.0,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "head_width": 16,
    "nfft": 512,
    "hop_length": 128,
    "mask_expansion": 1,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
SCNET_XL: dict[str, Any] = {
    "block_channels": (64, 128, 256),
    "band_shares": (0.23, 0.37),
    "dual_path_layers": 8,
}
PRESETS: dict[str, Any] = {
    "htdemucs": HTDemucsConfig(),  # 955717e8 and, four times, htdemucs_ft
    "htdemucs-6s": HTDemucsConfig(sources=SIX_SOURCES, transformer_width=384),  # 5c90dfd2
    # The tables of the paper: residual branches in the encoder only.
    "htdemucs-384": HTDemucsConfig(transformer_width=384, dconv_in_decoder=False),
    "htdemucs-7layer": HTDemucsConfig(transformer_width=384, transformer_layers=7, dconv_in_decoder=False),
    "htdemucs-tiny": HTDemucsConfig(**TINY_HT, attention_dropout=0.0),
    "sparse-htdemucs": SparseHTDemucsConfig(),  # the paper's best; no weights were ever published
    "sparse-htdemucs-tiny": SparseHTDemucsConfig(**TINY_HT),
    # One architecture, trained on MUSDB18-HQ (fa0cb7f9, 902315c2) and on more songs (75fc33f5).
    "hdemucs-repro": HDemucsConfig(),
    "hdemucs-mmi": HDemucsConfig(),
    "hdemucs-tiny": HDemucsConfig(segment_s=3.0, channels=8, nfft=1024),
    "demucs-v2": DemucsConfig(),
    "demucs-v2-48": DemucsConfig(channels=48),
    "demucs-v2-tiny": DemucsConfig(segment_s=3.0, channels=8, depth=5, oversample=False),
    "demucs-v3-time": DemucsConfig(version=3, segment_s=44.0),
    "demucs-v3-tiny": DemucsConfig(version=3, segment_s=3.0, channels=8, depth=5, oversample=False),
    # The paper's two, the large one's bands split as its published weights have them.
    "scnet": SCNetConfig(),
    "scnet-large": SCNetConfig(block_channels=(64, 128, 256), band_shares=(0.225, 0.372)),
    # Sizes of later weights from MUSDB18-HQ alone; the second compresses high bands no more than middle ones.
    "scnet-xl": SCNetConfig(**SCNET_XL),
    "scnet-xl-ihf": SCNetConfig(**SCNET_XL, band_strides=(1, 4, 4), band_kernels=(3, 4, 4), conv_depths=(3, 3, 3)),
    "scnet-tiny": SCNetConfig(
        segment_s=3.0, block_channels=(8, 16, 32), nfft=1024, hop_length=256, conv_depths=(1, 1, 1), dual_path_layers=2
    ),
    # The papers' numbers of parameters are those of one source: 93.4 and 72.2 million, 105 and 84.2 million.
    "bs-roformer": BSRoFormerConfig(),
    "bs-roformer-6layer": BSRoFormerConfig(depth=6),
    # Two of the most-used published weights: four sources from MUSDB18-HQ alone, and a singer out of anything.
    "bs-roformer-8layer": BSRoFormerConfig(segment_s=11.0, depth=8, head_width=64, mask_expansion=2),
    "mel-band-roformer-vocals": MelBandRoFormerConfig(
        sources=("vocals",), depth=6, head_width=64, mask_hidden_layers=2, dropout=0.0, attention_dropout=0.0
    ),
    "mel-band-roformer": MelBandRoFormerConfig(),
    "mel-band-roformer-6layer": MelBandRoFormerConfig(depth=6),
    "bs-roformer-tiny": BSRoFormerConfig(**TINY_ROFORMER, band_rows=(4,) * 8 + (16,) * 6 + (64, 65)),
    "mel-band-roformer-tiny": MelBandRoFormerConfig(**TINY_ROFORMER, num_bands=16),
}


NETWORK = PluginKind(noun="network", group="stemline.networks", setting="model.preset", error=ModelError)
CARRIED = "carried"  # the package of a served model that holds the source of its plug-in
NEEDED = ("sources", "sample_rate", "audio_channels", "normalize", "segment_samples")  # of a configuration
# Packages that no process with a served model has
ABSENT = frozenset({"models", "datasets", "pipelines", "flows", "infra", "stemline"})
_PLUGINS: dict[type, Plugin] = {}  # by the class of the configuration


def build(preset: str, **changes: Any) -> nn.Module:
    """A freshly initialised model of a preset or a plug-in, with some fields of its configuration changed."""
    config = preset_config(preset)
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    family = _family_of(config)
    return _family(family).model_class(_configure(family, fields | changes, options=fields))


def preset_config(preset: str) -> Any:
    """The configuration of a preset, or of a plug-in with its defaults."""
    plugin = load(NETWORK, preset, builtin=PRESETS)
    if plugin is not None:
        config_class = _plugin_family(plugin).config_class
        try:
            return config_class()
        except Exception as error:
            raise plugin.failure(f"has no configuration of defaults: {type(error).__name__}: {error}") from error
    if preset not in PRESETS:
        raise ModelError(f"no preset {preset!r}: {nearest(preset, [*PRESETS, *names(NETWORK)])}")
    return PRESETS[preset]


def to_config(model: nn.Module) -> dict[str, Any]:
    """The family and configuration of a model as JSON can hold it; `from_config` takes it back."""
    config = getattr(model, "config", None)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ModelError(f"{type(model).__name__} is no model of this catalog: known: {', '.join(sorted(FAMILIES))}")
    fields = {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(config).items()
    }
    return {"family": _family_of(config), **fields}


def from_config(config: Mapping[str, Any]) -> nn.Module:
    """A freshly initialised model of the family and configuration that `to_config` wrote."""
    read = read_config(config)
    return _family(_family_of(read)).model_class(read)


def read_config(config: Mapping[str, Any]) -> Any:
    """What `to_config` wrote as the configuration of its family, such as an `HTDemucsConfig`; no network is built."""
    fields = dict(config)
    family = fields.pop("family", None)
    if not isinstance(family, str) or (family not in FAMILIES and ":" not in family):
        raise ModelError(f"no family {family!r}: {nearest(str(family), FAMILIES)}")
    options = {field.name: None for field in dataclasses.fields(_family(family).config_class)}
    return _configure(family, fields, options=options)


def plugin_of(model_or_config: Any) -> Plugin | None:
    """The plug-in that a model, or its configuration, belongs to; None for one of ours."""
    config = getattr(model_or_config, "config", model_or_config)
    return _PLUGINS.get(type(config))


def carried_source(plugin: Plugin) -> dict[str, Path]:
    """The files that a served model carries of a plug-in, by their paths below the package `CARRIED`.

    ModelError where one of them could not be imported there: the package has another name in a served model, and
    stemline is not installed beside it.
    """
    top, files = plugin.module.partition(".")[0], source_files(plugin.module)
    if plugin.module not in files:
        raise plugin.failure("has no source in Python, which a registered model carries")
    if len(files) > MAX_FILES:
        raise plugin.failure(
            f"imports more than {MAX_FILES} files of its package, and a registered model carries them: put the network "
            "into a package of its own"
        )
    for name, path in files.items():
        for imported, line, is_relative in imports_of(name, path):
            package = imported.partition(".")[0]
            if not is_relative and package in {top, *ABSENT}:
                remedy = f"import it relatively (from .{imported.partition('.')[2]} import ...)"
                raise plugin.failure(
                    f"imports {imported} in {path.name}, line {line}, and a registered model carries the code under "
                    f"another name, without stemline: {remedy if package == top else 'do without it'}"
                )
    suffix = {name: "/__init__.py" if path.name == "__init__.py" else ".py" for name, path in files.items()}
    return {name.replace(".", "/") + suffix[name]: path for name, path in files.items()}


def require_usable(model: nn.Module) -> None:
    """ModelError that names a plug-in that no registered model could carry, or whose network fails on one silent
    segment, or returns another shape than (B, S, C, T); nothing is asked of our own.
    """
    plugin = plugin_of(model)
    if plugin is None:
        return
    carried_source(plugin)
    config: Any = model.config
    wanted = (1, len(config.sources), config.audio_channels, config.segment_samples)
    with torch.no_grad():
        try:
            estimates = model(torch.zeros(1, config.audio_channels, config.segment_samples))
        except Exception as error:
            raise plugin.failure(f"raised {type(error).__name__} on a segment: {error}") from error
    shape = tuple(getattr(estimates, "shape", ()))
    if shape != wanted:
        raise plugin.failure(
            f"returned {shape or type(estimates).__name__} for a mixture (1, {wanted[2]}, {wanted[3]}): want {wanted}, "
            "(batch, sources, channels, samples)"
        )


def _family(name: str) -> Family:
    """A family by the name that is saved with its models."""
    if name in FAMILIES:
        return FAMILIES[name]
    plugin = load(NETWORK, name, carried_in=f"{__package__.rpartition('.')[0]}.{CARRIED}")
    assert plugin is not None
    return _plugin_family(plugin)


def _plugin_family(plugin: Plugin) -> Family:
    network, config_class = plugin.value, getattr(plugin.value, "config_class", None)
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise plugin.failure(f"must be a subclass of torch.nn.Module, got {network!r}")
    if not (isinstance(config_class, type) and dataclasses.is_dataclass(config_class)):
        raise plugin.failure(f"must have a dataclass as its config_class, got {config_class!r}")
    if missing := [name for name in NEEDED if not hasattr(config_class, name) and name not in _fields_of(config_class)]:
        raise plugin.failure(f"has a configuration without {', '.join(missing)}")
    ours = [of.model_class for of in FAMILIES.values() if of.config_class is config_class]
    others: list[Any] = [_PLUGINS[config_class].value] if config_class in _PLUGINS else ours
    if others and others[0] is not network:
        raise plugin.failure(
            f"has the config_class of {others[0].__name__}, by which models of that network are known: give it one "
            "of its own, such as a subclass"
        )
    _PLUGINS[config_class] = plugin

    def configured(config: Any) -> nn.Module:
        model: nn.Module = plugin.call(config)
        model.config = config
        return model

    return Family(config_class, configured)


def _fields_of(config_class: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(config_class)]


def _family_of(config: object) -> str:
    for name, family in FAMILIES.items():
        if type(config) is family.config_class:
            return name
    if type(config) in _PLUGINS:
        return _PLUGINS[type(config)].ref
    raise ModelError(f"{type(config).__name__} belongs to no family: known: {', '.join(sorted(FAMILIES))}")


def _configure(family: str, fields: Mapping[str, Any], *, options: Mapping[str, object]) -> Any:
    for name in fields:
        if name not in options:
            raise ModelError(f"{family} has no option {name!r}: {nearest(name, options)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    try:
        config = _family(family).config_class(**values)
    except ModelError:
        raise
    except (TypeError, ArithmeticError, ValueError) as error:
        raise ModelError(f"an option of {family} has the wrong type or size: {error}") from error
    except Exception as error:  # the configuration of a plug-in is code of others
        raise ModelError(f"an option of {family} is refused: {type(error).__name__}: {error}") from error
    plugin = plugin_of(config)
    if plugin is not None and config.normalize not in get_args(Normalization):
        raise plugin.failure(f"has normalize={config.normalize!r} and not one of {', '.join(get_args(Normalization))}")
    return config
