"""Each effect is measured by what it is for: where tones and hits end up, and how loud each band is."""

import math

import pytest
import torch
from torch import Tensor

from models.learning import effects

RATE = 44100
MARGIN = 2048


def tone(hertz: float, seconds: float = 2.0, level: float = 0.5) -> Tensor:
    time_T = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return (level * torch.sin(2 * math.pi * hertz * time_T)).float().expand(1, 2, -1).clone()


def noise(seconds: float = 1.0, rows: int = 1) -> Tensor:
    return 0.1 * torch.randn(rows, 2, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


def peak_hz(samples_T: Tensor) -> float:
    size = 8 * len(samples_T)
    spectrum = torch.fft.rfft(samples_T * torch.hann_window(len(samples_T)), size).abs()
    return spectrum.argmax().item() * RATE / size


def power(samples_KCT: Tensor, low_hz: float, high_hz: float) -> Tensor:
    spectrum = torch.fft.rfft(samples_KCT).abs().square()
    at = torch.arange(spectrum.shape[-1]) * RATE / samples_KCT.shape[-1]
    return spectrum[..., (at >= low_hz) & (at < high_hz)].sum(dim=(-1, -2))


@pytest.mark.parametrize(("tempo", "semitones"), [(1.1, 0), (0.9, 2), (1.0, -2), (1.0, 0)])
def test_repitch_moves_tones_by_semitones_whatever_the_tempo(tempo: float, semitones: int) -> None:
    bent = effects.repitch(tone(440.0), tempo=tempo, semitones=semitones, num_samples=60000, margin=MARGIN)
    assert bent.shape == (1, 2, 60000)
    assert abs(1200 * math.log2(peak_hz(bent[0, 0, 4000:-4000]) / 440.0) - 100 * semitones) < 2.0
    assert bent[0, 0, 4000:-4000].square().mean().sqrt().item() == pytest.approx(0.5 / math.sqrt(2), rel=0.05)


@pytest.mark.parametrize(("tempo", "semitones"), [(1.1, 0), (0.9, 2)])
def test_repitch_puts_hits_where_the_tempo_says_and_keeps_them_sharp(tempo: float, semitones: int) -> None:
    hit_T = torch.exp(-torch.arange(800) / 130.0) * torch.sin(torch.arange(800) * 0.13)
    places = range(20000, 80000, 11000)
    stems = torch.zeros(1, 2, 100000)
    for place in places:
        stems[..., place : place + 800] = hit_T
    bent = effects.repitch(stems, tempo=tempo, semitones=semitones, num_samples=70000, margin=MARGIN)[0, 0].abs()
    for place in places:
        expected = (place - MARGIN) / tempo
        if expected > 68000:
            continue
        window = bent[round(expected) - 1500 : round(expected) + 1500]
        found = (window > 0.5 * window.max()).float().argmax().item() - 1500
        assert abs(found) < 0.004 * RATE
        before, after = window[:1300].square().sum(), window[1300:].square().sum()
        assert 10 * math.log10(before / after) < -40  # -19 where phases are not taken afresh at hits


def band_of_voices(seed: int, seconds: float = 2.0) -> Tensor:
    """A mono stem of gliding harmonics and breath, (T,)."""
    generator = torch.Generator().manual_seed(seed)
    time_T = torch.arange(round(seconds * RATE)) / RATE
    pitch, glide = 150 + 300 * torch.rand(2, 1, generator=generator)
    phase_T = 2 * math.pi * (pitch * time_T + 0.02 * glide * torch.sin(2 * math.pi * 4 * time_T) / 4)
    tones = sum(torch.sin(k * phase_T + k * k) / k for k in range(1, 12))
    return 0.1 * (tones + 0.1 * torch.randn(len(time_T), generator=generator))


def decibels(found: Tensor, expected: Tensor) -> float:
    return 10 * math.log10(found.square().mean() / expected.square().mean())


@pytest.mark.parametrize(("tempo", "semitones"), [(1.07, 0), (0.95, -2), (1.0, 2)])
@pytest.mark.parametrize("gains", [(1.0, 1.0), (1.0, -1.0), (1.0, -0.97), (0.0, 1.0)], ids=str)
def test_repitch_keeps_the_level_whatever_the_polarity(
    gains: tuple[float, float], tempo: float, semitones: int
) -> None:
    voice_T = band_of_voices(1)
    stems = (torch.tensor(gains)[:, None] * voice_T)[None]
    options = {"tempo": tempo, "semitones": semitones, "num_samples": 70000, "margin": MARGIN}
    bent = effects.repitch(stems, **options)  # type: ignore[arg-type]
    source = stems[..., MARGIN : MARGIN + round(70000 * tempo)]
    assert abs(decibels(bent, source)) < 0.5
    in_phase = effects.repitch(voice_T.expand(1, 2, -1), **options)[0, 0]  # type: ignore[arg-type]
    torch.testing.assert_close(bent[0], torch.tensor(gains)[:, None] * in_phase, atol=2e-3, rtol=0)


def test_repitch_keeps_what_is_wide_and_where_it_stands() -> None:
    middle_T, left_T, right_T = (band_of_voices(seed) for seed in (2, 3, 4))
    stems = torch.stack([middle_T + left_T, middle_T - 0.8 * left_T + 0.3 * right_T])[None]
    bent = effects.repitch(stems, tempo=1.05, semitones=1, num_samples=70000, margin=MARGIN)
    source = stems[..., MARGIN : MARGIN + round(70000 * 1.05)]
    for one, other in ((1.0, 1.0), (1.0, -1.0), (1.0, 0.0), (0.0, 1.0)):
        mix = torch.tensor([one, other])[:, None]
        assert abs(decibels((mix * bent[0]).sum(0), (mix * source[0]).sum(0))) < 0.5


def pink_noise(seed: int, seconds: float = 3.0) -> Tensor:
    """Noise of equal power per octave down to 1 Hz, (T,)."""
    spectrum_F = torch.fft.rfft(torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed)))
    pink_T = torch.fft.irfft(spectrum_F / torch.arange(len(spectrum_F)).clamp(min=round(seconds)).sqrt())
    return 0.1 * pink_T / pink_T.std()


@pytest.mark.parametrize(("tempo", "semitones"), [(1.07, 0), (0.9, 0), (0.95, -2)])
@pytest.mark.parametrize("width", [1.0, 0.1, 0.003])
def test_repitch_keeps_the_level_of_noise_and_of_a_side_that_has_nothing_of_the_middle(
    width: float, tempo: float, semitones: int
) -> None:
    middle_T, side_T = pink_noise(5), width * pink_noise(6)
    stems = torch.stack([middle_T + side_T, middle_T - side_T])[None]
    bent = effects.repitch(stems, tempo=tempo, semitones=semitones, num_samples=90000, margin=MARGIN)
    source = stems[..., MARGIN : MARGIN + round(90000 * tempo)]
    for sign in (1.0, -1.0):
        mix = torch.tensor([1.0, sign])[:, None]
        assert abs(decibels((mix * bent[0]).sum(0), (mix * source[0]).sum(0))) < 0.35  # 1 to 2 dB were lost


@pytest.mark.parametrize("channels", [1, 3])
def test_repitch_keeps_the_level_of_any_number_of_channels(channels: int) -> None:
    stems = torch.stack([pink_noise(7 + channel) for channel in range(channels)])[None]
    bent = effects.repitch(stems, tempo=1.05, semitones=0, num_samples=90000, margin=MARGIN)
    assert bent.shape == (1, channels, 90000)
    assert abs(decibels(bent, stems[..., MARGIN : MARGIN + round(90000 * 1.05)])) < 0.35


def test_turns_add_up_frame_by_frame_as_they_do_all_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    step_KNF = torch.randn(2, 37, 20, generator=generator)
    peak_KNF = torch.randint(20, (2, 37, 20), generator=generator)
    is_hit_KN = torch.rand(2, 37, generator=generator) < 0.1
    is_hit_KN[:, 0] = True
    found_KNF = effects._accumulate(step_KNF, peak_KNF, is_hit_KN)
    turn_KF = torch.zeros(2, 20)
    for n in range(37):
        turn_KF = (turn_KF + step_KNF[:, n]).gather(-1, peak_KNF[:, n]) * ~is_hit_KN[:, n, None]
        torch.testing.assert_close(found_KNF[:, n], turn_KF)


def test_repitch_does_not_clip_what_is_beyond_full_scale() -> None:
    bent = effects.repitch(tone(220.0, level=3.0), tempo=1.05, semitones=1, num_samples=60000, margin=MARGIN)
    assert 2.8 < bent.abs().max().item() < 3.3


def test_an_equalizer_has_the_gain_it_was_given_and_no_delay() -> None:
    flat_db = torch.zeros(1, effects.EQ_OCTAVES)
    torch.testing.assert_close(effects.equalize(noise(), flat_db), noise(), atol=1e-5, rtol=0)
    lifted_db = flat_db.clone()
    lifted_db[:, -4] = 6.0  # an eighth of half the sample rate: 2756 Hz
    lifted = effects.equalize(noise(), lifted_db)
    gain_db = [
        10 * torch.log10(power(lifted, *band) / power(noise(), *band)).item() for band in ((2700, 2800), (60, 600))
    ]
    assert gain_db[0] == pytest.approx(6.0, abs=0.2)
    assert gain_db[1] == pytest.approx(0.0, abs=0.1)
    click = torch.zeros(1, 2, 8000)
    click[..., 4000] = 1.0
    assert effects.equalize(click, lifted_db)[0, 0].argmax().item() == 4000


def test_what_is_driven_gets_overtones_and_keeps_its_loudness() -> None:
    driven = effects.saturate(tone(500.0), torch.tensor([12.0]))
    assert driven.square().mean().item() == pytest.approx(tone(500.0).square().mean().item(), rel=1e-3)
    third_db = 10 * torch.log10(power(driven, 1490, 1510) / power(driven, 490, 510)).item()
    assert -30 < third_db < -10
    soft = effects.saturate(tone(500.0), torch.tensor([-40.0]))
    torch.testing.assert_close(soft, tone(500.0), atol=1e-3, rtol=0)


def test_width_scales_the_difference_of_the_channels_only() -> None:
    stems = noise()
    wide = effects.widen(stems, torch.tensor([1.5]))
    torch.testing.assert_close(wide.sum(dim=1), stems.sum(dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(wide[:, 0] - wide[:, 1], 1.5 * (stems[:, 0] - stems[:, 1]), atol=1e-6, rtol=0)
    mono = effects.widen(stems, torch.tensor([0.0]))
    assert torch.equal(mono[:, 0], mono[:, 1])
    assert effects.widen(stems[:, :1], torch.tensor([0.0])) is not None


def test_a_codec_cuts_treble_off_and_leaves_the_noise_it_was_given() -> None:
    stems = noise(rows=2)
    coded = effects.degrade(stems, torch.tensor([0.5, 0.8]), torch.tensor([10.0, 20.0]))
    assert coded.shape == stems.shape
    above = power(coded, 12500, 17000) / power(stems, 12500, 17000)
    assert above[0].item() < 1e-4
    assert above[1].item() > 0.9
    error_db = 10 * torch.log10(power(coded - stems, 500, 10000) / power(stems, 500, 10000))
    assert error_db[0].item() == pytest.approx(-10.0, abs=1.5)
    assert error_db[1].item() == pytest.approx(-20.0, abs=1.5)


def test_a_codec_without_loss_gives_back_what_it_got() -> None:
    stems = noise()[..., :10001]
    kept = effects.degrade(stems, torch.tensor([1.0]), torch.tensor([90.0]))
    torch.testing.assert_close(kept, stems, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["equalize", "saturate", "widen", "degrade"])
def test_silence_stays_silence(name: str) -> None:
    silent = torch.zeros(1, 2, 5000)
    parameters = {
        "equalize": [torch.ones(1, effects.EQ_OCTAVES)],
        "degrade": [torch.tensor([0.5]), torch.tensor([10.0])],
    }
    assert not getattr(effects, name)(silent, *parameters.get(name, [torch.tensor([1.0])])).any()
