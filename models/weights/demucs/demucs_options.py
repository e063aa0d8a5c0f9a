"""What the reference's classes call their options, and how that reads as our configurations.

Of each class's options some vary between published models and became fields of ours, some have one value in all of
them, and some matter only before or during training. A package that sets one of the second kind otherwise is
refused by name, since its weights would load and sound wrong. The third kind, and options that a class of 4.1.0
does not have, are passed over; the reference drops the latter too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from ...errors import ModelError
from ...networks import catalog
from ...networks.demucs import INNER_LAYER, DemucsConfig
from ...networks.hdemucs import HDemucsConfig
from ...networks.htdemucs import HTDemucsConfig
from ..option_checks import brief, flag, names, num_layers, number, seconds, whole_number


@dataclass(frozen=True, slots=True)
class ClassName:
    """A class by its path alone; the class itself is never imported."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionTable:
    """The options of one of the reference's classes."""

    defaults: Mapping[str, Any]  # of options that vary; a package may leave them out
    fixed: Mapping[str, Any]  # options with one value, which is also their default
    read: Callable[[Mapping[str, Any]], dict[str, Any]]  # options that vary -> to_config's dict


def to_our_config(klass: Any, args: Any, kwargs: Any, *, origin: str) -> dict[str, Any]:
    """The configuration, as `catalog.from_config` takes it, of a package's class and arguments."""
    if not isinstance(klass, ClassName) or klass.path not in OPTIONS_OF:
        raise ModelError(
            f"{origin} is of class {brief(getattr(klass, 'path', klass))}: known: {', '.join(sorted(OPTIONS_OF))}"
        )
    table = OPTIONS_OF[klass.path]
    if not isinstance(args, Sequence) or len(args) > 1 or not isinstance(kwargs, Mapping):
        raise ModelError(f"{origin} has arguments that cannot be read: want at most the sources by position")
    options = dict(kwargs) | ({"sources": args[0]} if args else {})
    if "sources" not in options:
        raise ModelError(f"{origin} does not say which sources it separates")
    try:
        if tensors := [name for name, value in options.items() if isinstance(value, Tensor)]:
            # One of a few bytes can have a shape so large that merely comparing it fills the memory
            raise ModelError(f"has an option of the wrong kind: {brief(tensors[0])} is a tensor")
        strange = [
            f"sets {name}={brief(options[name])}; only {fixed!r} can be built here"
            for name, fixed in table.fixed.items()
            if not _same(options.get(name, fixed), fixed)
        ]
        if strange:
            raise ModelError(", and ".join(strange))
        config = table.read({**table.defaults, **options})
        catalog.read_config(config)  # in range as well
    except ModelError as error:
        raise ModelError(f"{origin} {error}") from error
    except Exception as error:  # values of any kind, made by strangers, meet every comparison here
        raise ModelError(f"{origin} has an option of the wrong kind: {str(error)[:200]}") from error
    return config


def to_kwargs(model: nn.Module) -> tuple[ClassName, dict[str, Any]]:
    """The class and arguments with which demucs 4.1.0 builds the same network as ours."""
    config = getattr(model, "config", None)
    if type(config) is HTDemucsConfig:
        return ClassName("demucs.htdemucs.HTDemucs"), _write_htdemucs(config)
    if type(config) is HDemucsConfig:
        return ClassName("demucs.hdemucs.HDemucs"), _write_hdemucs(config)
    if type(config) is DemucsConfig and config.version == 3:
        return ClassName("demucs.demucs.Demucs"), _write_demucs(config)
    if type(config) is DemucsConfig:
        raise ModelError(
            "Demucs v2 cannot be exported: demucs 4.1.0 pads the decoder's convolutions, so it would sound otherwise"
        )
    family = catalog.to_config(model)["family"]
    raise ModelError(f"{family} cannot be exported: demucs 4.1.0 has no network like it")


def _same(value: Any, fixed: Any) -> bool:
    return bool(value == fixed) or (not value and not fixed)  # None, [] and False all turn an option off


def _read_audio(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that all families share."""
    return {
        "sources": names(options["sources"]),
        "sample_rate": whole_number(options["samplerate"]),
        "audio_channels": whole_number(options["audio_channels"]),
        "segment_s": seconds(options["segment"]),
        "channels": whole_number(options["channels"]),
        "growth": whole_number(options["growth"]),
        "normalize": "track",  # no option: demucs normalizes songs before training and before separation
    }


def _write_audio(config: DemucsConfig | HDemucsConfig | HTDemucsConfig) -> dict[str, Any]:
    """The options that all classes share."""
    return {
        "sources": list(config.sources),
        "samplerate": config.sample_rate,
        "audio_channels": config.audio_channels,
        "segment": config.segment_s,
        "channels": config.channels,
        "growth": config.growth,
        "depth": config.depth,
    }


def _read_htdemucs(options: Mapping[str, Any]) -> dict[str, Any]:
    fields = _read_audio(options)
    depth = num_layers(options["depth"])
    if options["norm_starts"] < depth:
        raise ModelError(
            f"sets norm_starts={options['norm_starts']}, which puts norms into the U-Net; "
            f"only {depth} and more can be built here"
        )
    if options["dconv_mode"] not in (1, 3):
        raise ModelError(f"sets dconv_mode={options['dconv_mode']}; only 1 and 3 can be built here")
    inner = fields["channels"] * fields["growth"] ** (depth - 1)
    return {
        "family": "htdemucs",
        **fields,
        "depth": depth,
        "nfft": whole_number(options["nfft"]),
        "dconv_compress": whole_number(options["dconv_comp"]),
        "dconv_depth": num_layers(options["dconv_depth"]),
        "dconv_in_decoder": options["dconv_mode"] == 3,
        "transformer_width": whole_number(options["bottom_channels"]) or inner,
        "width_maps": whole_number(options["bottom_channels"]) == inner,
        "transformer_layers": num_layers(options["t_layers"]),
        "transformer_heads": whole_number(options["t_heads"]),
        "transformer_hidden_scale": number(options["t_hidden_scale"]),
        "dropout": number(options["t_dropout"]),
        "attention_dropout": number(options["t_dropout"]),
    }


def _write_htdemucs(config: HTDemucsConfig) -> dict[str, Any]:
    return {
        **_write_audio(config),
        "segment": Fraction(config.segment_samples, config.sample_rate),
        "norm_starts": max(4, config.depth),
        "nfft": config.nfft,
        "dconv_comp": config.dconv_compress,
        "dconv_depth": config.dconv_depth,
        "dconv_mode": 3 if config.dconv_in_decoder else 1,
        "bottom_channels": config.transformer_width if config.has_width_maps else 0,
        "t_layers": config.transformer_layers,
        "t_heads": config.transformer_heads,
        "t_hidden_scale": config.transformer_hidden_scale,
        "t_dropout": config.dropout,
    }


def _read_hdemucs(options: Mapping[str, Any]) -> dict[str, Any]:
    fields = {
        "family": "hdemucs",
        **_read_audio(options),
        "nfft": whole_number(options["nfft"]),
        "dconv_compress": whole_number(options["dconv_comp"]),
        "dconv_depth": num_layers(options["dconv_depth"]),
        "spectrum": "complex" if flag(options["cac"]) else "magnitude",
        "zero_padded": flag(options["hybrid_old"]),
        "band_limits": [number(limit) for limit in options["multi_freqs"] or ()],
        "banded_layers": num_layers(options["multi_freqs_depth"]),
    }
    merge, depth = HDemucsConfig(nfft=fields["nfft"]).merge_layer, num_layers(options["depth"])
    if depth <= merge:
        raise ModelError(
            f"sets depth={depth}; with nfft {fields['nfft']} only {merge + 1} and more layers let its branches meet"
        )
    norms, recurrent = num_layers(options["norm_starts"]), num_layers(options["dconv_lstm"])
    if options["dconv_attn"] != recurrent:
        raise ModelError(
            f"sets dconv_attn={options['dconv_attn']!r} with dconv_lstm={recurrent}; only equal ones can be built here"
        )
    return fields | {
        "shared_layers": depth - merge - 1,
        "norm_starts": None if norms == merge else norms,
        "recurrent_starts": None if recurrent == merge else recurrent,
    }


def _write_hdemucs(config: HDemucsConfig) -> dict[str, Any]:
    return {
        **_write_audio(config),
        "nfft": config.nfft,
        "cac": config.spectrum == "complex",
        "hybrid_old": config.zero_padded,
        "multi_freqs": list(config.band_limits) or None,
        "multi_freqs_depth": config.banded_layers,
        "norm_starts": config.first_norm,
        "dconv_attn": config.first_recurrent,
        "dconv_lstm": config.first_recurrent,
        "dconv_comp": config.dconv_compress,
        "dconv_depth": config.dconv_depth,
    }


def _read_demucs(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "family": "demucs",
        **_read_audio(options),
        "version": 3,
        "depth": num_layers(options["depth"]),
        "oversample": flag(options["resample"]),
        "lstm_layers": num_layers(options["lstm_layers"]) or None,
        "rewrite": flag(options["rewrite"]),
        "norm_starts": num_layers(options["norm_starts"]),
    }


def _write_demucs(config: DemucsConfig) -> dict[str, Any]:
    return {
        **_write_audio(config),
        "resample": config.oversample,
        "lstm_layers": config.lstm_layers or 0,
        "rewrite": config.rewrite,
        "norm_starts": config.norm_starts,
    }


def _read_demucs_v2(options: Mapping[str, Any]) -> dict[str, Any]:
    segment_s = whole_number(options["segment_length"]) / whole_number(options["samplerate"])
    of_version_3 = {"lstm_layers": 0, "norm_starts": INNER_LAYER, "rewrite": True}
    return _read_demucs({**options, "segment": segment_s} | of_version_3) | {"version": 2}


_AUDIO = {"audio_channels": 2, "samplerate": 44100, "segment": 40, "growth": 2}
_HYBRID_FIXED = {
    "channels_time": None,
    "cac": True,
    "rewrite": True,
    "multi_freqs": None,
    "freq_emb": 0.2,
    "emb_scale": 10,
    "kernel_size": 8,
    "stride": 4,
    "time_stride": 2,
    "context": 1,
    "context_enc": 0,
}

OPTIONS_OF = {
    "demucs.htdemucs.HTDemucs": OptionTable(
        defaults={
            **_AUDIO,
            "segment": 10,
            "channels": 48,
            "nfft": 4096,
            "depth": 4,
            "norm_starts": 4,
            "dconv_mode": 1,
            "dconv_depth": 2,
            "dconv_comp": 8,
            "bottom_channels": 0,
            "t_layers": 5,
            "t_heads": 8,
            "t_hidden_scale": 4.0,
            "t_dropout": 0.0,
        },
        fixed={
            **_HYBRID_FIXED,
            "t_emb": "sin",
            "t_norm_in": True,
            "t_norm_in_group": False,
            "t_group_norm": False,
            "t_norm_first": True,
            "t_norm_out": True,
            "t_max_period": 10000.0,
            "t_layer_scale": True,
            "t_gelu": True,
            "t_weight_pos_embed": 1.0,
            "t_sin_random_shift": 0,
            "t_sparse_self_attn": False,
            "t_sparse_cross_attn": False,
            "t_cross_first": False,
            "use_train_segment": True,
        },
        read=_read_htdemucs,
    ),
    "demucs.hdemucs.HDemucs": OptionTable(
        defaults={
            **_AUDIO,
            "channels": 48,
            "nfft": 4096,
            "depth": 6,
            "norm_starts": 4,
            "dconv_attn": 4,
            "dconv_lstm": 4,
            "dconv_depth": 2,
            "dconv_comp": 4,
            "cac": True,
            "hybrid_old": False,
            "multi_freqs": None,
            "multi_freqs_depth": 2,
        },
        fixed={
            **{name: value for name, value in _HYBRID_FIXED.items() if name not in ("cac", "multi_freqs")},
            "hybrid": True,
            "norm_groups": 4,
            "dconv_mode": 1,
            "wiener_iters": 0,
            "end_iters": 0,
            "wiener_residual": False,
        },
        read=_read_hdemucs,
    ),
    "demucs.demucs.Demucs": OptionTable(
        defaults={
            **_AUDIO,
            "channels": 64,
            "depth": 6,
            "resample": True,
            "lstm_layers": 0,
            "rewrite": True,
            "norm_starts": 4,
        },
        fixed={
            "kernel_size": 8,
            "stride": 4,
            "context": 1,
            "gelu": True,
            "glu": True,
            "norm_groups": 4,
            "dconv_mode": 1,
            "dconv_depth": 2,
            "dconv_comp": 4,
            "dconv_attn": 4,
            "dconv_lstm": 4,
            "normalize": True,
        },
        read=_read_demucs,
    ),
    # The class of the v2 release, before it grew into v3's under another name.
    "demucs.model.Demucs": OptionTable(
        defaults={**_AUDIO, "channels": 64, "depth": 6, "resample": True, "segment_length": 4 * 10 * 44100},
        fixed={
            "rewrite": True,
            "glu": True,
            "lstm_layers": 2,
            "kernel_size": 8,
            "stride": 4,
            "context": 3,
            "normalize": False,
        },
        read=_read_demucs_v2,
    ),
}
# Its name in the first packages of hybrid models.
OPTIONS_OF["demucs.wdemucs.WDemucs"] = OPTIONS_OF["demucs.hdemucs.HDemucs"]
