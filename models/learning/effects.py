"""What may be done to the sound of stems in training: pure functions on tensors, on whatever device they are.

Everything stays in float, and nothing is clipped. All take stems of shape (K, C, T), one parameter or one row of
parameters for each of the K, and keep the shape; `repitch` alone shortens. `augment.py` draws the parameters.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from ..host_to_device import upload

EQ_OCTAVES = 9  # below half the sample rate: from 43 Hz up at 44.1 kHz
CODEC_WINDOW = 2048
CODEC_BANDS = 24
CODEC_CUTOFF = 0.45, 0.82  # of half the sample rate, worst and best: 10 to 18 kHz at 44.1 kHz
CODEC_RATIO_DB = 8.0, 20.0  # how far the noise lies below each band, worst and best
VOCODER_WINDOW = 2048
PEAK_REACH = 2  # bins on either side that a spectral peak exceeds
ATTACK_RISE = 4.0  # growth of the energy from one frame to the next from which on it counts as a hit
LEVEL_BANDS = 24  # where the vocoder's output gets its input's level: 41 Hz apart in the bass, 0.3 octaves on top
LEVEL_REACH = 4  # frames of half a window on either side over which levels are averaged
MAX_LEVEL_GAIN = math.sqrt(2)  # frames of unrelated phases lose 3.1 dB in overlap-add


# torchaudio's `equalizer_biquad`s (2.11) in a row take 17 to 22 times as long for nine octaves, miss the gains by up to
# 1.9 dB where neighbours overlap, and turn phases by 0.9 radians.
def equalize(stems_KCT: Tensor, gain_db_KP: Tensor) -> Tensor:
    """The stems through a smooth filter without delay, whose gain goes through P points an octave apart.

    The last point is half the sample rate; below the first its gain goes on.
    """
    num_samples, num_points = stems_KCT.shape[-1], gain_db_KP.shape[-1]
    size = _fast_length(num_samples + 8192)  # what the filter spreads over the end must not come in at the start
    share_F = torch.arange(size // 2 + 1, device=stems_KCT.device) / (size / 2)
    place_F = (num_points - 1 + torch.log2(share_F.clamp(min=1e-9))).clamp(0, num_points - 1)
    low_F = place_F.floor().clamp(max=num_points - 2).long()
    part_F = 0.5 - 0.5 * torch.cos(math.pi * (place_F - low_F))
    gain_db_KF = gain_db_KP[:, low_F] * (1 - part_F) + gain_db_KP[:, low_F + 1] * part_F
    spectrum_KCF = torch.fft.rfft(stems_KCT, size) * (10 ** (gain_db_KF / 20)).to(stems_KCT.dtype)[:, None]
    filtered_KCT: Tensor = torch.fft.irfft(spectrum_KCF, size)
    return filtered_KCT[..., :num_samples]


def saturate(stems_KCT: Tensor, drive_db_K: Tensor) -> Tensor:
    """The stems driven this far into a soft limit (tanh) at their own peak, at the loudness they had."""
    drive_K11 = (10 ** (drive_db_K / 20))[:, None, None]
    peak_K11 = stems_KCT.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    driven_KCT = torch.tanh(stems_KCT / peak_K11 * drive_K11)
    before_K11, after_K11 = (x.square().mean(dim=(1, 2), keepdim=True) for x in (stems_KCT, driven_KCT))
    return driven_KCT * (before_K11 / after_K11.clamp(min=1e-12)).sqrt()


def widen(stems_KCT: Tensor, width_K: Tensor) -> Tensor:
    """The difference of left and right times the width: 0 is mono, 1 changes nothing. Only stereo is changed."""
    if stems_KCT.shape[1] != 2:
        return stems_KCT
    middle_K1T = stems_KCT.mean(dim=1, keepdim=True)
    return middle_K1T + width_K[:, None, None] * (stems_KCT - middle_K1T)


def degrade(stems_KCT: Tensor, cutoff_K: Tensor, ratio_db_K: Tensor) -> Tensor:
    """What a lossy codec leaves: nothing above the cut-off, a share of half the sample rate, and coarse steps below.

    Modified cosine transform of 2048 samples under a sine window, as in AAC; in each of 24 bands the coefficients
    are rounded to steps that make noise `ratio_db` below the band, so weak ones vanish. There is no model of
    hearing, no stereo coding and no block switching: noise spreads before hits over 23 ms at 44.1 kHz, as it
    does in the real thing where that is worst.
    """
    num_samples, half = stems_KCT.shape[-1], CODEC_WINDOW // 2
    basis_FT = _cosines(stems_KCT)
    padded_KCT = F.pad(stems_KCT, (half, half + -num_samples % half))
    coded_KCNF = padded_KCT.unfold(-1, CODEC_WINDOW, half) @ basis_FT.T
    edges = (half * (torch.arange(CODEC_BANDS + 1) / CODEC_BANDS) ** 2.5).round().long().tolist()  # narrow in the bass
    coarse = []
    for low, high in pairwise(edges):
        band_KCNF = coded_KCNF[..., low:high]
        level = band_KCNF.square().mean(dim=-1, keepdim=True).sqrt()
        step = (math.sqrt(12) * level * 10 ** (-ratio_db_K / 20)[:, None, None, None]).clamp(min=1e-9)
        coarse.append((band_KCNF / step).round() * step)
    kept_KF = torch.arange(half, device=stems_KCT.device) < half * cutoff_K[:, None]
    frames_KCNT = (torch.cat(coarse, dim=-1) * kept_KF[:, None, None]) @ basis_FT
    return _overlap_halves(frames_KCNT)[..., half : half + num_samples]


def _cosines(like: Tensor) -> Tensor:
    """Rows that give the cosine transform of a windowed frame, and, as columns, take it back; (F, T)."""
    half, device = CODEC_WINDOW // 2, like.device
    time_T = torch.arange(CODEC_WINDOW, dtype=torch.float64, device=device) + 0.5
    place_F = torch.arange(half, dtype=torch.float64, device=device) + 0.5
    turn_FT = torch.outer(place_F, time_T + half / 2) * (math.pi / half)
    basis_FT = torch.cos(turn_FT) * torch.sin(math.pi * time_T / CODEC_WINDOW) * math.sqrt(2 / half)
    return basis_FT.to(like)


def _overlap_halves(frames_KCNT: Tensor) -> Tensor:
    """Frames added up, each half a frame after the one before."""
    first, second = frames_KCNT.chunk(2, dim=-1)
    return (F.pad(first, (0, 0, 0, 1)) + F.pad(second, (0, 0, 1, 0))).flatten(-2)


def repitch(stems_KCT: Tensor, *, tempo: float, semitones: float, num_samples: int, margin: int) -> Tensor:
    """`num_samples` of the stems played `tempo` times as fast and transposed, from sample `margin` on.

    A phase vocoder that takes the phases afresh at hits, so drums stay sharp, turns all channels alike, so they
    keep their places and phases, and keeps the level of middle and side in each band; then resampling by a Fourier
    transform. Where the input ends the output is silent.
    """
    ratio = 2 ** (semitones / 12)
    wanted = math.ceil((num_samples + 1) * ratio) + 2 * VOCODER_WINDOW  # before resampling
    lead = VOCODER_WINDOW
    first = margin - lead * tempo / ratio
    stretched_KCT = _vocode(stems_KCT, speed=tempo / ratio, first=first, num_samples=wanted)
    if semitones:
        # torchaudio's resample (2.11) at the nearest ratio of small numbers takes 0.03 to 0.07 CPU s where this takes
        # 0.07 to 0.16, but tones come out at an SNR of 32 dB by default, and of 99 to 112 with 64 zero crossings under
        # a Kaiser window; here of 130.
        size = round(wanted / ratio)
        spectrum_KCF = torch.fft.rfft(stretched_KCT)
        kept = min(spectrum_KCF.shape[-1], size // 2 + 1)
        stretched_KCT = torch.fft.irfft(spectrum_KCF[..., :kept], size) * (size / wanted)
        lead = round(lead * size / wanted)
    return stretched_KCT[..., lead : lead + num_samples]


# torchaudio's phase vocoder (2.11) takes 14 to 18 % less time, but white noise loses 3.3 dB in it where ours keeps its
# level, the side of a narrow stem gains 5.9 to 8.6 dB, and a sine at 0.9 of its speed has an SNR of 33 dB (ours 78).
def _vocode(stems_KCT: Tensor, *, speed: float, first: float, num_samples: int) -> Tensor:
    """`num_samples` of the stems at another speed, their pitch kept; sample 0 is sample `first` of the input."""
    window, hop = VOCODER_WINDOW, VOCODER_WINDOW // 4
    num_frames = num_samples // hop + 6
    start_N = torch.round(first + (torch.arange(num_frames) - 2) * (hop * speed)).long() - window // 2
    reach = max(0, -int(start_N.min()) + hop), max(0, int(start_N.max()) + window - stems_KCT.shape[-1])
    rows_KCTW = F.pad(stems_KCT, reach).unfold(-1, window, 1)
    start_N = upload(start_N + reach[0], stems_KCT.device)
    hann_T = torch.hann_window(window, dtype=stems_KCT.dtype, device=stems_KCT.device)
    here_KCNF = torch.fft.rfft(rows_KCTW[..., start_N, :] * hann_T)
    before_KCNF = torch.fft.rfft(rows_KCTW[..., start_N - hop, :] * hann_T)
    turn_K1NF = _turns(here_KCNF, before_KCNF)
    frames_KCNT = torch.fft.irfft(here_KCNF * torch.polar(torch.ones_like(turn_K1NF), turn_K1NF), window) * hann_T / 1.5
    quarters = frames_KCNT.reshape(*frames_KCNT.shape[:-1], 4, hop).unbind(-2)
    summed = sum(F.pad(quarter, (0, 0, place, 3 - place)) for place, quarter in enumerate(quarters))
    assert isinstance(summed, Tensor)
    whole_KCT = summed[..., 3:num_frames, :].flatten(-2)  # where four frames overlap
    return _restore_level(whole_KCT, here_KCNF[..., 3:-3:2, :])[..., hop:][..., :num_samples]


def _restore_level(made_KCT: Tensor, wanted_KCNF: Tensor) -> Tensor:
    """The vocoder's output with the energy of the frames that it was made from, half a window apart.

    Where phases of neighbouring frames do not belong together (noise, a side that is weaker than the middle it turns
    with) overlap-add cancels up to 3.1 dB. Gains are taken per band and frame from energies averaged over 0.2 s, of
    middle and side rather than left and right, and interpolated over bins. Half a window is lost at either end.
    """
    is_stereo = made_KCT.shape[1] == 2
    made_KCT, wanted_KCNF = (_middle_and_side(x) if is_stereo else x for x in (made_KCT, wanted_KCNF))
    hann_T = torch.hann_window(VOCODER_WINDOW, dtype=made_KCT.dtype, device=made_KCT.device)
    made_KCNF = torch.fft.rfft(made_KCT.unfold(-1, VOCODER_WINDOW, VOCODER_WINDOW // 2) * hann_T)
    bands_FB = upload(_level_bands(made_KCNF.shape[-1]).to(made_KCT.dtype), made_KCT.device)
    made_KCNB, wanted_KCNB = (
        _moving_mean(_power(frames) @ bands_FB) for frames in (made_KCNF, wanted_KCNF[..., : made_KCNF.shape[-2], :])
    )
    floor_K111 = 1e-9 * wanted_KCNB.amax(dim=(1, 2, 3), keepdim=True) + 1e-20
    gain_KCNB = ((wanted_KCNB + floor_K111) / (made_KCNB + floor_K111)).sqrt()
    gain_KCNF = gain_KCNB.clamp(1 / MAX_LEVEL_GAIN, MAX_LEVEL_GAIN) @ bands_FB.T
    level_KCT = _overlap_halves(torch.fft.irfft(made_KCNF * gain_KCNF, VOCODER_WINDOW))
    return 0.5 * _middle_and_side(level_KCT) if is_stereo else level_KCT


def _middle_and_side(stereo_KCx: Tensor) -> Tensor:
    """Sum and difference of two channels; of those, twice the channels."""
    left_Kx, right_Kx = stereo_KCx.unbind(1)
    return torch.stack([left_Kx + right_Kx, left_Kx - right_Kx], dim=1)


def _level_bands(num_bins: int) -> Tensor:
    """Overlapping triangles, whose sum is 1 at each bin, (F, B)."""
    place_F = torch.log1p(torch.arange(num_bins) * (110 / num_bins))
    place_F = place_F * ((LEVEL_BANDS - 1) / place_F[-1])
    return (1 - (place_F[:, None] - torch.arange(LEVEL_BANDS)).abs()).clamp(min=0)


def _moving_mean(power_KCNB: Tensor) -> Tensor:
    """Over 2 * LEVEL_REACH + 1 frames, fewer at the ends."""
    rows_KNB = power_KCNB.flatten(0, 1)
    width = 2 * LEVEL_REACH + 1
    mean_KBN: Tensor = F.avg_pool1d(rows_KNB.mT, width, stride=1, padding=LEVEL_REACH, count_include_pad=False)
    return mean_KBN.mT.reshape(power_KCNB.shape)


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def _turns(here_KCNF: Tensor, before_KCNF: Tensor) -> Tensor:
    """How far each frame's phases must turn to go on from those of the frame before, in radians; (K, 1, N, F).

    `before` are the frames a hop earlier in the input. At hits the turn is zero: phases are those of the input.
    Elsewhere all bins around a peak turn as it does (identity phase locking, Laroche and Dolson 1999), or overlapping
    frames would cancel each other. Channels count by their power, whatever their polarity. Below 11 Hz nothing
    turns: bin 0 has no phase, and of bins that follow it half would be lost.
    """
    # What stands a hop before a frame in the input stands a hop before it in the output too, if it turns as that did.
    step_KNF = torch.angle((here_KCNF[..., :-1, :] * before_KCNF[..., 1:, :].conj()).sum(dim=1))
    power_KNF, earlier_KNF = (_power(frames).sum(dim=1) for frames in (here_KCNF, before_KCNF))
    peak_KNF = _nearest_peaks(power_KNF)
    turn_KNF = _accumulate(F.pad(step_KNF, (0, 0, 1, 0)), peak_KNF, _hits(power_KNF, earlier_KNF))
    turn_KNF[..., :4].masked_fill_(peak_KNF[..., :4] == 0, 0.0)
    turn_KNF[..., 0] = 0.0
    return turn_KNF[:, None]


def _hits(power_KNF: Tensor, earlier_KNF: Tensor) -> Tensor:
    """Where the energy above the bass grows at once, and the first frame; (K, N)."""
    energy_KN, earlier_KN = (power[..., power.shape[-1] // 16 :].sum(dim=-1) for power in (power_KNF, earlier_KNF))
    is_hit_KN = energy_KN > ATTACK_RISE * earlier_KN + 1e-3 * energy_KN.amax(dim=-1, keepdim=True)
    is_hit_KN[..., 0] = True
    return is_hit_KN


def _nearest_peaks(power_KNF: Tensor) -> Tensor:
    """The bin of the nearest peak, which none of the two bins on either side exceeds, for each bin; (K, N, F)."""
    size = power_KNF.shape[-1]
    highest_KNF = F.max_pool1d(power_KNF, 2 * PEAK_REACH + 1, stride=1, padding=PEAK_REACH)
    bin_F = torch.arange(size, device=power_KNF.device)
    below_KNF = torch.where(power_KNF >= highest_KNF, bin_F, -size).cummax(dim=-1).values
    above_KNF = torch.where(power_KNF >= highest_KNF, bin_F, 2 * size).flip(-1).cummin(dim=-1).values.flip(-1)
    return torch.where(bin_F - below_KNF <= above_KNF - bin_F, below_KNF, above_KNF)


def _accumulate(step_KNF: Tensor, peak_KNF: Tensor, is_hit_KN: Tensor) -> Tensor:
    """Turns (K, N, F): at a hit 0, else at each bin's peak the turn of the frame before and the step.

    A turn depends on one bin of the frame before, so on one bin of any earlier frame: this is computed for 1, 2,
    4, ... frames back, for all frames at once.
    """
    turn_KNF, bin_KNF = step_KNF.gather(-1, peak_KNF), peak_KNF
    turn_KNF = turn_KNF.masked_fill(is_hit_KN[..., None], 0.0)
    ends_KN, back = is_hit_KN, 1  # where no earlier frame counts
    # Only a CPU looks whether all have ended: a device is not waited for, and what has ended gains zeros.
    while back < ends_KN.shape[-1] and not (ends_KN.device.type == "cpu" and ends_KN.all()):
        then_KNF = turn_KNF[:, :-back].gather(-1, bin_KNF[:, back:])
        goes_on_KN1 = ~ends_KN[:, back:, None]
        turn_KNF = torch.cat([turn_KNF[:, :back], turn_KNF[:, back:] + then_KNF * goes_on_KN1], dim=1)
        bin_KNF = torch.cat([bin_KNF[:, :back], bin_KNF[:, :-back].gather(-1, bin_KNF[:, back:])], dim=1)
        ends_KN = torch.cat([ends_KN[:, :back], ends_KN[:, back:] | ends_KN[:, :-back]], dim=1)
        back *= 2
    return turn_KNF


def _fast_length(least: int) -> int:
    """The first length from here on that factors of 2, 3 and 5 make: transforms of others are slow."""
    size = least
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1
