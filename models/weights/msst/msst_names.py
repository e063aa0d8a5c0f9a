"""How Music-Source-Separation-Training names the weights of a network, and how ours does."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import ModelError
from ...networks.spectrogram.axial_transformer import rotations

# Patterns of their names and what stands for them in ours, tried in order; the first that fits the whole name counts.
SCNET = (
    (r"encoder\.(\d+)\.SDlayer\.convs\.(.+)", r"encoder.\1.convs.\2"),
    (r"encoder\.(\d+)\.globalconv\.(.+)", r"encoder.\1.mix_bands.\2"),
    *(
        (
            rf"encoder\.(\d+)\.conv_modules\.(\d+)\.layers\.(\d+)\.{place}\.(.+)",
            rf"encoder.\1.band_modules.\2.\3.{name}.\4",
        )
        for place, name in ((0, "norm_in"), (1, "squeeze"), (3, "depthwise"), (4, "norm"), (6, "expand"))
    ),
    (r"decoder\.(\d+)\.0\.conv\.(.+)", r"decoder.\1.fuse.\2"),
    (r"decoder\.(\d+)\.1\.convtrs\.(.+)", r"decoder.\1.convs.\2"),
    *(
        pattern
        for place, axis in enumerate(("rows", "frames"))
        for pattern in (
            (rf"separation_net\.dp_modules\.(\d+)\.norm_layers\.{place}\.(.+)", rf"dual_path.\1.norm_{axis}.\2"),
            (rf"separation_net\.dp_modules\.(\d+)\.lstm_layers\.{place}\.(.+)", rf"dual_path.\1.along_{axis}.lstm.\2"),
            (
                rf"separation_net\.dp_modules\.(\d+)\.linear_layers\.{place}\.(.+)",
                rf"dual_path.\1.along_{axis}.linear.\2",
            ),
        )
    ),
)
ROFORMER = (
    (r"band_split\.to_features\.(\d+)\.0\.gamma", r"band_split.norms.\1.weight"),
    (r"band_split\.to_features\.(\d+)\.1\.(.+)", r"band_split.maps.\1.\2"),
    (r"mask_estimators\.(\d+)\.to_freqs\.(\d+)\.0\.(.+)", r"masks.\1.bands.\2.\3"),
    (r"final_norm\.gamma", r"final_norm.weight"),
    *(
        pattern
        for place, axis in enumerate(("time", "freq"))
        for their, our in [(rf"layers\.(\d+)\.{place}\.", rf"transformer.layers.\1.{axis}.")]
        for pattern in (
            (rf"{their}norm\.gamma", rf"{our}norm_out.weight"),
            (rf"{their}layers\.0\.0\.norm\.gamma", rf"{our}attention.norm.weight"),
            (rf"{their}layers\.0\.0\.to_out\.0\.weight", rf"{our}attention.to_out.weight"),
            (rf"{their}layers\.0\.0\.(to_qkv|to_gates)\.(.+)", rf"{our}attention.\2.\3"),
            (rf"{their}layers\.0\.1\.net\.0\.gamma", rf"{our}feed_forward.norm.weight"),
            (rf"{their}layers\.0\.1\.net\.1\.(.+)", rf"{our}feed_forward.expand.\2"),
            (rf"{their}layers\.0\.1\.net\.4\.(.+)", rf"{our}feed_forward.contract.\2"),
        )
    ),
)
ROTARY = re.compile(r"layers\.\d+\.[01]\.layers\.0\.0\.rotary_embed\.freqs")  # constants, which we do not keep


def to_our_names(state: Mapping[str, Tensor], patterns: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """The weights by our names; a name that no pattern fits stays, for `load_state` to list it as surplus.

    ModelError where the rates of rotary positions are not those that every published network has.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        if ROTARY.fullmatch(name):
            _check_rates(name, value)
            continue
        fits = (re.sub(theirs, ours, name) for theirs, ours in patterns if re.fullmatch(theirs, name))
        renamed[next(fits, name)] = value
    return renamed


def _check_rates(name: str, rates: Tensor) -> None:
    """Of a second position the cosines and sines are those of the rates themselves."""
    if rates.ndim != 1:
        raise ModelError(f"{name}: expected a vector of rates, got {tuple(rates.shape)}")
    expected = rotations(2, 2 * rates.numel(), device=torch.device("cpu"))[:, 1]
    if not torch.allclose(torch.stack([rates.float().cos(), rates.float().sin()]), expected, atol=1e-3):
        raise ModelError(f"{name}: positions turn at other rates than 10000^(-2 i / D); only these can be built here")
