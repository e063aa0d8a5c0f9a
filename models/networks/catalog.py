"""Every architecture and preset by name, and a model's configuration as JSON.

A family is an architecture; a preset is one configuration of it, published or `tiny`. What is saved beside weights
is `to_config(model)`: the family and every field, so a file never depends on a preset staying as it was.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..errors import ModelError, nearest
from .demucs import Demucs, DemucsConfig
from .hdemucs import HDemucs, HDemucsConfig
from .htdemucs import HTDemucs, HTDemucsConfig
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


def build(preset: str, **changes: Any) -> nn.Module:
    """A freshly initialised model of a preset, with some fields of its configuration changed."""
    if preset not in PRESETS:
        raise ModelError(f"no preset {preset!r}: {nearest(preset, PRESETS)}")
    config = PRESETS[preset]
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    family = _family_of(config)
    return FAMILIES[family].model_class(_configure(family, fields | changes, options=fields))


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
    return FAMILIES[_family_of(read)].model_class(read)


def read_config(config: Mapping[str, Any]) -> Any:
    """What `to_config` wrote as the configuration of its family, such as an `HTDemucsConfig`; no network is built."""
    fields = dict(config)
    family = fields.pop("family", None)
    if not isinstance(family, str) or family not in FAMILIES:
        raise ModelError(f"no family {family!r}: {nearest(str(family), FAMILIES)}")
    options = {field.name: None for field in dataclasses.fields(FAMILIES[family].config_class)}
    return _configure(family, fields, options=options)


def _family_of(config: object) -> str:
    for name, family in FAMILIES.items():
        if type(config) is family.config_class:
            return name
    raise ModelError(f"{type(config).__name__} belongs to no family: known: {', '.join(sorted(FAMILIES))}")


def _configure(family: str, fields: Mapping[str, Any], *, options: Mapping[str, object]) -> Any:
    for name in fields:
        if name not in options:
            raise ModelError(f"{family} has no option {name!r}: {nearest(name, options)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    try:
        return FAMILIES[family].config_class(**values)
    except (TypeError, ArithmeticError) as error:
        raise ModelError(f"an option of {family} has the wrong type or size: {error}") from error
