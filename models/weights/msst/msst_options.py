"""What Music-Source-Separation-Training writes into the YAML beside a checkpoint, and how that reads as our options.

Of a network's options some vary and became fields of ours, some have one value in all published weights, and some
matter only to a trainer. A file that sets one of the second kind otherwise is refused by name, as is an option that
the trainer's class does not have: its weights would load and sound wrong.
"""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ModelError, nearest
from ...networks import catalog
from ...networks.spectrogram.bs_roformer import PAPER_BANDS
from ..option_checks import flag, names, num_layers, number, seconds, whole_number
from .msst_names import ROFORMER, SCNET

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One of the trainer's networks."""

    mark: str  # an option that no other network has
    defaults: Options  # of options that vary; a file may leave them out
    fixed: Options  # options with one value, which is also their default
    without_effect: frozenset[str]  # on what comes out
    read: Callable[[Options], dict[str, Any]]  # options that vary -> some of to_config's fields
    patterns: tuple[tuple[str, str], ...]  # of names of weights


def to_our_config(content: Any, *, origin: str) -> tuple[dict[str, Any], Architecture]:
    """The configuration, as `catalog.from_config` takes it, that a file's content describes, and how weights are named.

    ModelError, with the file's name, for an architecture or option that cannot be built, and sources that differ.
    """
    try:
        sections = {name: _section(content, name) for name in ("audio", "model", "training", "inference")}
        architecture = _architecture(sections["model"], sections["training"])
        options = sections["model"]
        _check_options(options, architecture)
        fields = architecture.read({**architecture.defaults, **options})
        config = {**fields, **_audio_fields(sections, fields)}
        catalog.read_config(config)  # in range as well
    except ModelError as error:
        raise ModelError(f"{origin}: {error}") from error
    except Exception as error:  # values of any kind, made by strangers, meet every comparison here
        raise ModelError(f"{origin} has an option of the wrong kind: {str(error)[:200]}") from error
    return config, architecture


def _section(content: Any, name: str) -> Options:
    section = content.get(name, {} if name == "inference" else None) if isinstance(content, dict) else None
    if not isinstance(section, dict) or not all(isinstance(key, str) for key in section):
        raise ModelError(f"it has no section {name!r} with options by name, as the trainer's files have")
    return section


def _architecture(options: Options, training: Options) -> Architecture:
    stated = training.get("model_type")
    if stated is not None and stated not in ARCHITECTURES:
        raise ModelError(f"it describes a network of type {stated!r}; {nearest(str(stated), ARCHITECTURES)}")
    for name, architecture in ARCHITECTURES.items():
        if name == stated or (stated is None and architecture.mark in options):
            return architecture
    marks = ", ".join(f"{entry.mark} ({name})" for name, entry in ARCHITECTURES.items())
    raise ModelError(f"it describes a network of an unknown architecture: its section 'model' has none of {marks}")


def _check_options(options: Options, architecture: Architecture) -> None:
    allowed = architecture.defaults.keys() | architecture.fixed.keys() | architecture.without_effect
    for name in options.keys() - allowed:
        raise ModelError(f"it sets {name}={reprlib.repr(options[name])}, which its network does not have")
    strange = [
        f"it sets {name}={reprlib.repr(options[name])}; only {fixed!r} can be built here"
        for name, fixed in architecture.fixed.items()
        if options.get(name, fixed) != fixed and (options.get(name) or fixed)  # None and False turn an option off
    ]
    if strange:
        raise ModelError(", and ".join(strange))


def _audio_fields(sections: Mapping[str, Options], fields: Options) -> dict[str, Any]:
    """Sources, rate, segment and level, which stand outside the section of the network."""
    audio, training = sections["audio"], sections["training"]
    target, instruments = training.get("target_instrument"), names(training.get("instruments"))
    sources = names([target]) if target else instruments
    if "sources" in fields and fields["sources"] != sources:
        raise ModelError(f"its sources differ: the network has {fields['sources']}, the training {sources}")
    stems = whole_number(sections["model"].get("num_stems", 1)) if "sources" not in fields else len(sources)
    if stems != len(sources):
        raise ModelError(
            f"its sources differ: the network has num_stems={stems}, the training {len(sources)} ({', '.join(sources)})"
        )
    sample_rate = whole_number(audio.get("sample_rate", 44100))
    if whole_number(sections["model"].get("sample_rate", sample_rate)) != sample_rate:
        raise ModelError(f"its sample rates differ: audio {sample_rate}, model {sections['model']['sample_rate']}")
    return {
        "sources": sources,
        "sample_rate": sample_rate,
        "segment_s": seconds(whole_number(audio.get("chunk_size")) / max(1, sample_rate)),
        "normalize": "track" if flag(sections["inference"].get("normalize", False)) else "none",
    }


def _read_scnet(options: Options) -> dict[str, Any]:
    channels, dims = whole_number(options["audio_channels"]), [whole_number(width) for width in options["dims"]]
    if dims[0] != 2 * channels:
        raise ModelError(f"it sets dims={dims} for {channels} channels: the first must be twice as many")
    if options["win_size"] != options["nfft"]:
        raise ModelError(f"it sets win_size={options['win_size']} with nfft={options['nfft']}: they must be equal")
    return {
        "family": "scnet",
        "sources": names(options["sources"]),
        "audio_channels": channels,
        "block_channels": dims[1:],
        "nfft": whole_number(options["nfft"]),
        "hop_length": whole_number(options["hop_size"]),
        "band_shares": [number(share) for share in options["band_SR"][:2]],
        "band_strides": [whole_number(stride) for stride in options["band_stride"]],
        "band_kernels": [whole_number(kernel) for kernel in options["band_kernel"]],
        "conv_depths": [num_layers(depth) for depth in options["conv_depths"]],
        "conv_compress": whole_number(options["compress"]),
        "conv_kernel": whole_number(options["conv_kernel"]),
        "dual_path_layers": num_layers(options["num_dplayer"]),
        "rnn_expand": whole_number(options["expand"]),
    }


def _read_roformer(options: Options) -> dict[str, Any]:
    for name in ("time_transformer_depth", "freq_transformer_depth"):
        if options[name] != 1:  # as in every published file
            raise ModelError(f"it sets {name}={reprlib.repr(options[name])}; only 1 can be built here")
    if options["stft_win_length"] != options["stft_n_fft"]:
        raise ModelError(
            f"it sets stft_win_length={options['stft_win_length']} with stft_n_fft={options['stft_n_fft']}: "
            "they must be equal"
        )
    return {
        "audio_channels": 2 if flag(options["stereo"]) else 1,
        "width": whole_number(options["dim"]),
        "depth": num_layers(options["depth"]),
        "heads": whole_number(options["heads"]),
        "head_width": whole_number(options["dim_head"]),
        "nfft": whole_number(options["stft_n_fft"]),
        "hop_length": whole_number(options["stft_hop_length"]),
        "mask_expansion": whole_number(options["mlp_expansion_factor"]),
        "sum_layers": flag(options["skip_connection"]),
        "zero_dc": flag(options["zero_dc"]),
        "dropout": number(options["ff_dropout"]),
        "attention_dropout": number(options["attn_dropout"]),
    }


def _read_bs_roformer(options: Options) -> dict[str, Any]:
    return {
        "family": "bs-roformer",
        **_read_roformer(options),
        "band_rows": [whole_number(rows) for rows in options["freqs_per_bands"]],
        "mask_hidden_layers": num_layers(options["mask_estimator_depth"]) - 1,
    }


def _read_mel_band_roformer(options: Options) -> dict[str, Any]:
    return {
        "family": "mel-band-roformer",
        **_read_roformer(options),
        "num_bands": whole_number(options["num_bands"]),
        "mask_hidden_layers": num_layers(options["mask_estimator_depth"]),
    }


_ROFORMER_DEFAULTS = {
    "dim": None, "depth": None, "stereo": False, "num_stems": 1, "dim_head": 64, "heads": 8, "stft_n_fft": 2048,
    "stft_hop_length": 512, "stft_win_length": 2048, "mlp_expansion_factor": 4, "skip_connection": False,
    "zero_dc": True, "time_transformer_depth": 2, "freq_transformer_depth": 2,
}  # fmt: skip
_ROFORMER_FIXED = {"linear_transformer_depth": 0, "use_pope": False, "stft_window_fn": None}
# Bands are brought to one level, and masks scale with the mixture: a transform's own scale cancels.
_ROFORMER_WITHOUT_EFFECT = frozenset({
    "stft_normalized", "flash_attn", "sage_attention", "dim_freqs_in", "use_torch_checkpoint",
    "match_input_audio_length", "multi_stft_resolution_loss_weight", "multi_stft_resolutions_window_sizes",
    "multi_stft_hop_size", "multi_stft_normalized", "multi_stft_window_fn",
})  # fmt: skip

ARCHITECTURES = {
    "bs_roformer": Architecture(
        mark="freqs_per_bands",
        defaults={
            **_ROFORMER_DEFAULTS, "freqs_per_bands": PAPER_BANDS, "mask_estimator_depth": 2, "attn_dropout": 0.0,
            "ff_dropout": 0.0,
        },
        fixed=_ROFORMER_FIXED,
        without_effect=_ROFORMER_WITHOUT_EFFECT,
        read=_read_bs_roformer,
        patterns=ROFORMER,
    ),
    "mel_band_roformer": Architecture(
        mark="num_bands",
        defaults={
            **_ROFORMER_DEFAULTS, "num_bands": 60, "mask_estimator_depth": 1, "attn_dropout": 0.1, "ff_dropout": 0.1,
            "sample_rate": 44100,
        },
        fixed=_ROFORMER_FIXED,
        without_effect=_ROFORMER_WITHOUT_EFFECT,
        read=_read_mel_band_roformer,
        patterns=ROFORMER,
    ),
    "scnet": Architecture(
        mark="band_SR",
        defaults={
            "sources": ["drums", "bass", "other", "vocals"], "audio_channels": 2, "dims": [4, 32, 64, 128],
            "nfft": 4096, "hop_size": 1024, "win_size": 4096, "band_SR": [0.175, 0.392, 0.433],
            "band_stride": [1, 4, 16], "band_kernel": [3, 4, 16], "conv_depths": [3, 2, 1], "compress": 4,
            "conv_kernel": 3, "num_dplayer": 6, "expand": 1,
        },
        fixed={"normalized": True},
        without_effect=frozenset(),
        read=_read_scnet,
        patterns=SCNET,
    ),
}  # fmt: skip
