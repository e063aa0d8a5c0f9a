"""`make bench-training`: does it learn? Held-out gain against step, for the four families and beside demucs 4.1.0.

The tiny preset of each family learns from the same songs, each at unit level as in published training: made-up ones,
and rendered ones where `../shared/data` has them. The reference is demucs' own class of the same size and names of
parameters, initialised by itself, with its L1 loss and torch's Adam, on the very same augmented batches; ours goes
through `Learner`, as in `stemline train`. Both begin from the weights that the reference drew, for three seeds
(`tests/models/networks/test_first_weights.py` holds that ours draws alike; `--own-weights` lets it), and take turns
step by step, so that a loaded machine does harm to both alike; time is CPU seconds of one thread. Sparse HT Demucs and
v2 have no counterpart in demucs 4.1.0 and stand beside nothing.

Gain is nSDR in dB above that of the unprocessed mixture, mean over songs nobody learned from and their sources; the
IRM2 oracle's stands beside it. Songs are at 8 kHz, so that all of it takes minutes; steps of the presets as they
are, 3 s at 44.1 kHz, are timed on their own. Each family's rows are told when it is done, and all in one table in the
end; `--families NAME` does one alone.

Ours may stay behind by no more than the deviation between seeds, the same for both arms. "In use" is the gain of whole
songs at a tenth of that level through `separate`: what was learnt at one level must hold at any.
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from datasets.audio.decoding import decode
from datasets.audio.resampling import resample
from datasets.corpus.synthetic import compose, perform
from datasets.schema import SOURCES
from datasets.seeding import row_rng
from models.errors import ModelError
from models.inference.separate import separate
from models.learner_config import AugmentConfig, LearnerConfig
from models.learning.augment import augment
from models.learning.learner import Learner
from models.networks.catalog import build
from models.networks.input_normalization import track_statistics
from models.scores.metrics import ideal_ratio_mask, nsdr
from models.weights.demucs.demucs_options import to_kwargs
from tests.benchmarks.table import Row, figure, show

ROOT = Path(__file__).resolve().parents[2]
RENDERED = ROOT.parent / "shared" / "data" / "rendered_stems" / "train"
PICTURE = ROOT / "docs" / "pictures" / "training-curves.svg"
FAMILIES = ("htdemucs", "hdemucs", "demucs-v3", "sparse-htdemucs", "demucs-v2")
RATE, SEGMENT_S, SONG_S = 8000, 2.0, 12.0
NUM_MADE_UP, HELD_OUT = 12, 3  # every third song, made up or rendered, is held out
BATCH, LEARNING_RATE = 4, 3e-3
MASK_NFFT = 1024  # 0.13 s
LEVEL = 0.1  # of songs in use
USE_TOLERANCE_DB = 0.5  # borders of segments fall elsewhere in use
AUGMENT = AugmentConfig(shift_s=0.1, remix_group=4)
AS_IT_IS = AugmentConfig(
    shift_s=0, flip_channels=False, flip_sign=False, scale_probability=0, remix_probability=0, remix_group=1
)
COLOURS = {"ours": "#2f6fb7", "reference": "#c2681c"}
INK = "#1d2126"


@dataclass(slots=True, kw_only=True)
class Arm:
    """A training: what it does with a batch, and what came of it."""

    model: nn.Module
    improve: Callable[[Tensor, int], object]  # batch, step
    cpu_s: list[float] = field(default_factory=list)  # of each step
    gains: list[float] = field(default_factory=list)  # at each look

    def step(self, batch_BSCT: Tensor, step: int) -> None:
        self.model.train()
        began = time.process_time()
        self.improve(batch_BSCT, step)
        self.cpu_s.append(time.process_time() - began)


def ours(preset: str, *, seed: int, sample_rate: int = RATE, segment_s: float = SEGMENT_S) -> Arm:
    torch.manual_seed(seed)
    model = build(preset, sample_rate=sample_rate, segment_s=segment_s)
    config = LearnerConfig(learning_rate=LEARNING_RATE, ema_decays=(), augment=AS_IT_IS)
    learner = Learner(model, config, normalized=True)
    return Arm(model=model, improve=lambda batch_BSCT, step: learner.step(batch_BSCT, step=step))


def reference(
    preset: str, *, seed: int, sample_rate: int = RATE, segment_s: float = SEGMENT_S, **options: Any
) -> Arm | None:
    """The same network as demucs 4.1.0 builds it, with options of the catalog changed; None where it has none."""
    try:
        klass, kwargs = to_kwargs(build(preset, sample_rate=sample_rate, segment_s=segment_s, **options))
    except ModelError:
        return None
    module, _, name = klass.path.rpartition(".")
    if name == "HDemucs":
        kwargs["dconv_init"] = 1e-3  # as its published recipes have it; 1e-4 is the class' own
    torch.manual_seed(seed)
    model: nn.Module = getattr(importlib.import_module(module), name)(**kwargs)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def improve(batch_BSCT: Tensor, step: int) -> None:
        loss = nn.functional.l1_loss(model(batch_BSCT.sum(dim=1)), batch_BSCT)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Arm(model=model, improve=improve)


# --- songs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Songs:
    """Stems (S, C, T) at `RATE`, all of one length, their mixtures at unit level."""

    learned: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]


def read_songs() -> Songs:
    made_up = [torch.from_numpy(perform(compose(0, str(number), SONG_S), RATE)) for number in range(NUM_MADE_UP)]
    folders = sorted(RENDERED.iterdir()) if RENDERED.is_dir() else []
    kinds = (made_up, [_rendered(folder) for folder in folders])
    return Songs(
        learned=tuple(_unit(song) for kind in kinds for place, song in enumerate(kind) if (place + 1) % HELD_OUT),
        held_out=tuple(_unit(song) for kind in kinds for song in kind[HELD_OUT - 1 :: HELD_OUT]),
    )


def _unit(song_SCT: Tensor) -> Tensor:
    _, std = track_statistics([song_SCT.sum(dim=0)])
    return song_SCT / std


def _rendered(folder: Path) -> Tensor:
    stems = []
    for source in SOURCES:
        samples_CT, rate = decode(folder / f"{source}.flac")
        stems.append(resample(samples_CT, source_rate=rate, target_rate=RATE)[:, : round(SONG_S * RATE)])
    return torch.from_numpy(np.stack(stems))


def batch(songs: Sequence[Tensor], *, seed: int, step: int) -> Tensor:
    """Augmented segments (B, S, C, T), the same for every arm."""
    num_samples = AUGMENT.input_samples(round(SEGMENT_S * RATE), RATE)
    rows = []
    for row in range(BATCH):
        rng = row_rng(seed, "row", step, row)
        song_SCT = songs[int(rng.integers(len(songs)))]
        start = int(rng.integers(song_SCT.shape[-1] - num_samples))
        rows.append(song_SCT[..., start : start + num_samples])
    shift_samples = num_samples - round(SEGMENT_S * RATE)
    return augment(
        torch.stack(rows), AUGMENT, seed=seed, step=step, rows=range(BATCH), shift_samples=shift_samples
    )  # fmt: skip


def gains(songs: Sequence[Tensor], separate: Callable[[Tensor], Tensor]) -> float:
    """Mean nSDR above the mixture's, in dB; `separate` gets a song's stems (S, C, T)."""
    found = [(nsdr(song, separate(song)) - nsdr(song, _mixture(song))).mean() for song in songs]
    return float(torch.stack(found).mean())


def _mixture(song_SCT: Tensor) -> Tensor:
    return song_SCT.sum(dim=0).expand_as(song_SCT)


@torch.no_grad()
def heard(model: nn.Module, song_SCT: Tensor) -> Tensor:
    """The song's estimates, segment by segment; songs here are whole numbers of them."""
    model.eval()
    mixture_BCT = torch.stack(song_SCT.sum(dim=0).split(round(SEGMENT_S * RATE), dim=-1))
    estimates_BSCT: Tensor = model(mixture_BCT)
    return torch.cat(list(estimates_BSCT), dim=-1)


@torch.no_grad()
def used(model: nn.Module, song_SCT: Tensor) -> Tensor:
    """The song's estimates as users get them, from a mixture at another level."""
    return separate(model.eval(), LEVEL * song_SCT.sum(dim=0)) / LEVEL


# --- learning -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One arm's training: one list of gains per seed, at the same steps."""

    looks: tuple[int, ...]
    gains: tuple[tuple[float, ...], ...]
    cpu_s: tuple[float, ...]  # of each step, seed after seed
    in_use: tuple[float, ...] = ()  # the gain of each seed in the end, as users have it

    def learned(self) -> list[float]:
        """For each seed the mean of the curve after its beginning, which says how fast it rose."""
        return [statistics.mean(of_seed[1:]) for of_seed in self.gains]

    def ends(self) -> list[float]:
        return [of_seed[-1] for of_seed in self.gains]


def learn(
    family: str, songs: Songs, *, num_steps: int, seeds: Sequence[int], num_looks: int, own_weights: bool
) -> dict[str, Curve]:
    """Every arm's curve, by its name."""
    looks = tuple(round(num_steps * place / num_looks) for place in range(num_looks + 1))
    trained: dict[str, list[Arm]] = {}
    for seed in seeds:
        arms = {"ours": ours(f"{family}-tiny", seed=seed)}
        if beside := reference(f"{family}-tiny", seed=seed):
            arms["reference"] = beside
            if not own_weights:
                arms["ours"].model.load_state_dict(beside.model.state_dict())
        for step in range(num_steps + 1):
            if step in looks:
                for arm in arms.values():
                    arm.gains.append(gains(songs.held_out, lambda song, model=arm.model: heard(model, song)))  # type: ignore[misc]
            if step < num_steps:
                batch_BSCT = batch(songs.learned, seed=seed, step=step)
                for arm in arms.values():
                    arm.step(batch_BSCT, step)
        for name, arm in arms.items():
            trained.setdefault(name, []).append(arm)
            print(f"  {family}, seed {seed}, {name}: {arm.gains[-1]:.2f} dB", file=sys.stderr, flush=True)
    return {
        name: Curve(
            looks=looks,
            gains=tuple(tuple(arm.gains) for arm in arms),
            cpu_s=tuple(seconds for arm in arms for seconds in arm.cpu_s),
            in_use=tuple(
                gains(songs.held_out, lambda song, model=arm.model: used(model, song))  # type: ignore[misc]
                for arm in (arms if name == "ours" else ())
            ),
        )
        for name, arms in trained.items()
    }


def learning_rows(family: str, curves: dict[str, Curve]) -> Iterator[Row]:
    """Gain and time beside the reference's; what seeds alone change is forgiven."""
    mine, theirs = curves["ours"], curves.get("reference")
    for what, of in (("mean gain on the way", Curve.learned), (f"gain after {mine.looks[-1]} steps", Curve.ends)):
        values = of(mine)
        there = of(theirs) if theirs else None
        target = statistics.mean(there) - _noise(values, there) if there and len(there) > 1 else None
        yield figure(
            f"{family}, {what}", statistics.mean(values), "dB",
            baseline=statistics.mean(there) if there else None, target=target, more=True,
            spread=(min(values), max(values)),
        )  # fmt: skip
    yield figure(
        f"{family}, gain in use", statistics.mean(mine.in_use), "dB", baseline=statistics.mean(mine.ends()),
        target=statistics.mean(mine.ends()) - USE_TOLERANCE_DB, more=True, spread=(min(mine.in_use), max(mine.in_use)),
    )  # fmt: skip
    yield from _seconds(f"{family}, a step at 8 kHz", mine.cpu_s, theirs.cpu_s if theirs else ())


def _noise(*arms: Sequence[float]) -> float:
    """The deviation between seeds, the same for all arms."""
    return statistics.mean(statistics.variance(values) for values in arms) ** 0.5


def _seconds(name: str, mine: Sequence[float], theirs: Sequence[float]) -> Iterator[Row]:
    """Medians, and that of the ratios of steps taken one after the other, which a loaded machine slows alike."""
    usual, there = 1000 * statistics.median(mine), 1000 * statistics.median(theirs) if theirs else None
    yield figure(name, usual, "CPU ms", baseline=there)
    if theirs:
        ratios = [beside / own for own, beside in zip(mine, theirs, strict=True)]
        yield figure(f"{name}, speed", statistics.median(ratios), "of the reference's", target=1, more=True)


def time_rows(family: str, *, num_turns: int) -> Iterator[Row]:
    """A step of the preset as it is: two segments of 3 s at 44.1 kHz."""
    arms = [
        arm
        for make in (ours, reference)
        if (arm := make(f"{family}-tiny", seed=0, sample_rate=44100, segment_s=3.0)) is not None
    ]
    noise = torch.randn(2, len(SOURCES), 2, 3 * 44100, generator=torch.Generator().manual_seed(0)) * 0.1
    for step in range(num_turns + 1):
        for arm in arms:
            arm.step(noise, step)
    mine, *theirs = (arm.cpu_s[1:] for arm in arms)
    yield from _seconds(f"{family}, a step at 44.1 kHz", mine, theirs[0] if theirs else ())


# --- the picture --------------------------------------------------------------------------------------------


def draw(learned: dict[str, dict[str, Curve]], marks: dict[str, float], path: Path) -> None:
    """Gain against step: every seed a thin line, their mean a bold one, ours upon the reference's; marks by name."""
    mpl.rcParams.update({"svg.hashsalt": "training", "svg.fonttype": "none", "font.size": 9})
    picture = Figure(figsize=(7.2, 2.6))
    panels = np.atleast_1d(picture.subplots(1, len(learned), sharey=True))
    widths = {"reference": 4.0, "ours": 1.4}
    shown = [gain for curves in learned.values() for curve in curves.values() for one in curve.gains for gain in one]
    low, high = min(shown) - 0.3, max(shown) + 0.3
    within = {name: gain for name, gain in marks.items() if low < gain < high}
    for axes, (family, curves) in zip(panels, learned.items(), strict=True):
        for name in (name for name in widths if name in curves):
            curve = curves[name]
            for of_seed in curve.gains:
                axes.plot(curve.looks, of_seed, color=COLOURS[name], linewidth=0.5, alpha=0.5)
            alpha = 0.35 if name == "reference" else 1
            mean = np.mean(curve.gains, axis=0)
            axes.plot(curve.looks, mean, color=COLOURS[name], linewidth=widths[name], alpha=alpha, label=name)
        for gain in within.values():
            axes.axhline(gain, color=INK, linewidth=0.6, linestyle=":")
        axes.set_title(family, fontsize=9)
        axes.set_ylim(low, high)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel("dB nSDR above the mixture")
    panels[0].legend(frameon=False, fontsize=8, loc="upper left")
    words = ", ".join(f"{name} {gain:.1f} dB{' (dotted)' if name in within else ''}" for name, gain in marks.items())
    picture.text(0.5, -0.06, f"steps; {words}", ha="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--own-weights", action="store_true", help="each arm draws its first weights itself")
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--quick", action="store_true", help="a sixth of the steps, one seed and no picture")
    parser.add_argument("--picture", default=str(PICTURE), help="where the curves are drawn")
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, songs = time.process_time(), read_songs()
    num_steps, seeds = (options.steps // 6, [0]) if options.quick else (options.steps, options.seeds)
    floor = statistics.mean(float(nsdr(song, _mixture(song)).mean()) for song in songs.held_out)
    silence = gains(songs.held_out, torch.zeros_like)
    oracle = gains(songs.held_out, lambda song: ideal_ratio_mask(song, nfft=MASK_NFFT))
    rows = [
        figure("songs to learn from", len(songs.learned), "songs"),
        figure("songs held out", len(songs.held_out), "songs"),
        figure("floor, the mixture's nSDR", floor, "dB"),
        figure("gain of silence", silence, "dB"),
        figure("gain of the IRM2 oracle", oracle, "dB"),
    ]
    learned = {}
    for family in options.families:
        learned[family] = learn(
            family, songs, num_steps=num_steps, seeds=seeds, num_looks=6, own_weights=options.own_weights
        )
        found = [*learning_rows(family, learned[family]), *time_rows(family, num_turns=2 if options.quick else 9)]
        if len(options.families) > 1:
            show(family, found)
            sys.stdout.flush()
        rows += found
    if not options.quick and len(learned) > 1:
        draw(learned, {"silence": silence, "IRM2 oracle": oracle}, Path(options.picture))
    rows.append(figure("all of it", time.process_time() - began, "CPU s"))
    return show("Learning", rows, options.out)


if __name__ == "__main__":
    sys.exit(main())
