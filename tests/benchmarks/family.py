"""`make bench-family`: every published preset side by side, the reference beside it where demucs 4.1.0 has the network.

Parameters; arithmetic per second of audio; CPU seconds of one thread for 7.8 s of stereo in float32, the best of
some runs; the peak of a process that does nothing else, about 0.5 GiB of which is the interpreter and torch; and the
score that its authors published. Each arm runs in a process of its own. Weights are random: neither time nor memory
depends on them. Then what each family learns at equal arithmetic, in its tiny preset: `family_curves.py`.
"""

import argparse
import importlib
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import nn

from models.errors import ModelError
from models.networks import compute_cost
from models.networks.catalog import PRESETS, build
from models.weights.demucs.demucs_options import to_kwargs
from tests.benchmarks import family_curves
from tests.benchmarks.models import SEGMENT_SAMPLES, toy_audio
from tests.benchmarks.table import Row, figure, show

SEGMENT_S = 7.8
PARTS = ("sizes", "curves")
PUBLISHED = [name for name in PRESETS if not name.endswith("tiny") and name != "hdemucs-repro"]  # that is hdemucs-mmi
# dB on MUSDB18-HQ's test songs, as printed by the authors: docs/results.md has songs, statistics and sources.
SCORES = {
    "demucs-v2": 6.28, "demucs-v2-48": 6.20, "demucs-v3-time": 7.27, "hdemucs-mmi": 8.34, "htdemucs": 8.80,
    "htdemucs-384": 8.70, "sparse-htdemucs": 8.94, "scnet": 9.00, "scnet-large": 9.69, "scnet-xl": 9.80,
    "scnet-xl-ihf": 10.08, "bs-roformer-6layer": 9.80, "bs-roformer-8layer": 9.65, "mel-band-roformer-6layer": 9.64,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="one of the two; by default both")
    parser.add_argument("--presets", nargs="*", choices=PUBLISHED, default=PUBLISHED, help="of sizes")
    parser.add_argument("--turns", type=int, default=2, help="of each forward pass, of which the faster counts")
    parser.add_argument(
        "--families", nargs="*", choices=family_curves.FAMILIES, default=family_curves.FAMILIES, help="of curves"
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=family_curves.SEEDS, help="of curves")
    parser.add_argument(
        "--gflop", type=float, default=family_curves.BUDGET_GFLOP, help="a family may spend on learning"
    )
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    rows = list[Row]()
    if options.part != "curves":
        rows += [row for preset in options.presets for row in preset_rows(preset, options.turns)]
    if options.part != "sizes":
        rows += family_curves.curve_rows(options.families, budget_gflop=options.gflop, seeds=options.seeds)
    return show("The families", rows, options.out)


def preset_rows(preset: str, num_turns: int) -> Iterator[Row]:
    print(f"  {preset}", file=sys.stderr, flush=True)
    row = compute_cost.of(lambda: build(preset, segment_s=SEGMENT_S), num_channels=2, num_samples=SEGMENT_SAMPLES)
    yield figure(f"{preset}, parameters", row.parameters / 1e6, "M")
    yield figure(f"{preset}, arithmetic per second of audio", row.forward_flop / SEGMENT_S / 1e9, "GFLOP")
    ours, theirs = (in_own_process(preset, whose, num_turns) for whose in ("ours", "reference"))
    assert ours is not None
    baseline = theirs or (None, None)
    yield figure(f"{preset}, {SEGMENT_S} s", ours[0], "CPU s", baseline=baseline[0])
    yield figure(f"{preset}, peak", ours[1], "GiB", baseline=baseline[1])
    if preset in SCORES:
        yield figure(f"{preset}, published score", SCORES[preset], "dB")
    if theirs:
        yield figure(f"{preset}, reference, {SEGMENT_S} s", theirs[0], "CPU s")
        yield figure(f"{preset}, reference, peak", theirs[1], "GiB")


def in_own_process(preset: str, whose: str, num_turns: int) -> tuple[float, float] | None:
    """CPU seconds and peak GiB; None where demucs 4.1.0 has no such network."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measure, preset, whose, num_turns).result()


def _measure(preset: str, whose: str, num_turns: int) -> tuple[float, float] | None:
    torch.set_num_threads(1)
    model, mixture = _model(preset, whose), toy_audio(SEGMENT_SAMPLES, seed=1).sum(1)
    if model is None:
        return None
    seconds = []
    with torch.no_grad():
        for _ in range(num_turns):
            start = time.process_time()
            model(mixture)
            seconds.append(time.process_time() - start)
    return min(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _model(preset: str, whose: str) -> nn.Module | None:
    with torch.device("meta" if whose == "reference" else "cpu"):
        ours = build(preset, segment_s=SEGMENT_S).eval()
    if whose == "ours":
        return ours
    try:
        klass, kwargs = to_kwargs(ours)
    except ModelError:
        return None
    module, _, name = klass.path.rpartition(".")
    reference: nn.Module = getattr(importlib.import_module(module), name)(**kwargs).eval()
    return reference


if __name__ == "__main__":
    sys.exit(main())
