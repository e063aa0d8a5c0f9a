"""Scores against museval 0.4.1's own: how far apart, how much faster, in how much memory.

`make bench-scoring`: parity on real excerpts beside the checkout (16 bits, and AAC as decoded to floats), on stems that
are mono, silent or short; the same of further scores beside torch-log-wmse and msst; then CPU seconds of one thread,
each arm in a process of its own and museval in the same run. Cold is the first call in a fresh process, after imports;
warm is the least of the calls after it, two or, of SDR, ten. museval is called once, and runs as it comes; ours in a
process that keeps freed memory, as an evaluation does. Of four minutes museval takes two CPU minutes and 5 GB, which
`--seconds 30 60` leaves out.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from tests.benchmarks.table import Row, figure, show
from tests.conftest import SHARED_DATA

Array = NDArray[np.float64]

RATE = 44100
SOURCES = ("drums", "bass", "other", "vocals")
SETS = ("cc0_album", "lmms_demos", "real_small", "rendered_stems")
TOLERANCES_DB = {"SDR": 1e-6, "ISR": 1e-3, "SIR": 1e-3, "SAR": 1e-3}
# log-WMSE's own unit, and shares of the others.
FURTHER_TOLERANCES = {"log-WMSE": 1e-6, "Aura MRSTFT": 1e-6, "bleedless": 1e-6, "fullness": 1e-6}
CALLS = {"museval": 1, "all four": 3, "SDR": 11}  # of each arm; the first is the cold one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--quick", action="store_true", help="one excerpt of each set")
    parser.add_argument("--seconds", type=int, nargs="+", default=[30, 60, 240], help="lengths to time")
    parser.add_argument("--part", choices=("all", "parity", "further", "speed"), default="all")
    parser.add_argument("--arm", nargs=2, metavar=("ARM", "SECONDS"), help="one arm, as JSON; for this bench itself")
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(_measure(arguments.arm[0], int(arguments.arm[1]))))
        return 0
    rows: list[Row] = []
    excerpts = 1 if arguments.quick else 2
    if arguments.part in ("all", "parity"):
        rows += _parity(excerpts)
    if arguments.part in ("all", "further"):
        rows += _further(excerpts)
    if arguments.part in ("all", "speed"):
        rows += _speed(arguments.seconds)
    return show("Scoring", rows, arguments.out, decimals=9)


# --- parity -------------------------------------------------------------------------------------------------


def _parity(excerpts: int) -> Iterator[Row]:
    """The largest difference from museval in any window, case by case; and which solver it took."""
    for name, stems_SCT, estimates_SCT in _cases(excerpts):
        began = time.monotonic()
        apart, solver = _apart(stems_SCT, estimates_SCT)
        worst = " ".join(f"{metric} {worst_db:.1e}" for metric, worst_db in apart.items())
        print(f"  {name}, {solver}: {worst} dB apart, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        for metric, worst_db in apart.items():
            yield figure(f"{name}, {solver}: {metric}", worst_db, "dB", target=TOLERANCES_DB[metric])


def _further(excerpts: int) -> Iterator[Row]:
    """The same of the scores of `evaluate.extra_metrics`, from the packages that define them."""
    for name, stems_SCT, estimates_SCT in _cases(excerpts):
        for metric, worst in _further_apart(stems_SCT, estimates_SCT).items():
            yield figure(f"{name}: {metric}", worst, "", target=FURTHER_TOLERANCES[metric])
    yield from _further_cost()


def _further_cost(seconds: int = 30) -> Iterator[Row]:
    """Processor time of each, of four stereo stems that are noise; the least of three."""
    import torch

    from models.scores.log_wmse import log_wmse
    from models.scores.mel_scores import aura_mrstft, bleedless_fullness
    from models.scores.scale_invariant import scale_invariant

    generator = torch.Generator().manual_seed(0)
    true_SCT, made_SCT = (0.1 * torch.randn(4, 2, seconds * RATE, generator=generator) for _ in range(2))
    mixture_CT = true_SCT.sum(dim=0)
    scores: dict[str, Callable[[], object]] = {
        "SI-SIR and SI-SAR": lambda: scale_invariant(true_SCT, made_SCT),
        "log-WMSE": lambda: log_wmse(true_SCT, made_SCT, mixture_CT, RATE),
        "Aura MRSTFT": lambda: aura_mrstft(true_SCT, made_SCT, RATE),
        "bleedless and fullness": lambda: bleedless_fullness(true_SCT, made_SCT, RATE),
    }
    for name, score in scores.items():
        spent_s = []
        for _ in range(3):
            began = time.process_time()
            score()
            spent_s.append(time.process_time() - began)
        yield figure(f"{name}, four stereo stems, for a second of song", 1000 * min(spent_s) / seconds, "CPU ms")


def _further_apart(stems_SCT: Array, estimates_SCT: Array) -> dict[str, float]:
    """The largest difference from torch-log-wmse of any source, and the largest share of what msst says."""
    import torch
    from msst.utils import metrics
    from torch_log_wmse import LogWMSE

    from models.scores.log_wmse import log_wmse
    from models.scores.mel_scores import aura_mrstft, bleedless_fullness

    true_SCT, made_SCT = torch.from_numpy(stems_SCT), torch.from_numpy(estimates_SCT)
    mixture_CT = true_SCT.sum(dim=0)
    stems = (signal_SCT.transpose(0, 1)[None] for signal_SCT in (made_SCT, true_SCT))
    weighted_S = LogWMSE(sample_rate=RATE).per_stem(mixture_CT[None], *stems)[0].mean(dim=0)
    pairs = list(zip(stems_SCT, estimates_SCT, strict=True))
    bleed_full = np.array([metrics.bleed_full(*pair) for pair in pairs])
    spectral = np.array([metrics.AuraMRSTFT_metric(*pair) for pair in pairs])
    bleedless_S, fullness_S = bleedless_fullness(true_SCT, made_SCT, RATE)
    shares = {
        "Aura MRSTFT": aura_mrstft(true_SCT, made_SCT, RATE).numpy() / spectral - 1,
        "bleedless": bleedless_S.numpy() / bleed_full[:, 0] - 1,
        "fullness": fullness_S.numpy() / bleed_full[:, 1] - 1,
    }
    apart = float((log_wmse(true_SCT, made_SCT, mixture_CT, RATE) - weighted_S).abs().max())
    return {"log-WMSE": apart, **{name: float(np.abs(share).max()) for name, share in shares.items()}}


def _apart(stems_SCT: Array, estimates_SCT: Array) -> tuple[dict[str, float], str]:
    import torch

    from models.scores.bsseval import bss_eval

    given = bss_eval(torch.from_numpy(stems_SCT), torch.from_numpy(estimates_SCT), RATE)
    expected = _museval(stems_SCT, estimates_SCT)
    ours = (given.sdr_SW, given.isr_SW, given.sir_SW, given.sar_SW)
    apart = {}
    for metric, mine, theirs in zip(TOLERANCES_DB, ours, expected, strict=True):
        same = (mine.numpy() == theirs) | (np.isnan(mine.numpy()) & np.isnan(theirs))
        apart[metric] = float(np.where(same, 0.0, np.abs(mine.numpy() - np.where(same, 0.0, theirs))).max())
    return apart, given.solver


def _cases(excerpts: int) -> Iterator[tuple[str, Array, Array]]:
    for name in SETS:
        folders = sorted((SHARED_DATA / name / "train").iterdir())
        for place, folder in enumerate(folders[:: max(1, len(folders) // excerpts)][:excerpts]):
            stems = _sounding(_stems(folder)[..., 2 * RATE : 8 * RATE + 1000])
            yield f"{name} {place + 1}, 16 bits", stems, _estimates(stems, bits=True)
    for path in sorted((SHARED_DATA / "musdb_stem_mp4").rglob("*.mp4")):
        stems = _decoded(path)
        yield f"{path.name.split('.')[0]}, AAC as floats", stems, _estimates(stems, bits=False)
        rounded = np.round(stems * 32768) / 32768
        yield f"{path.name.split('.')[0]}, AAC in 16 bits", rounded, _estimates(rounded, bits=True)
    stems = _stems(sorted((SHARED_DATA / "rendered_stems" / "train").iterdir())[0])[:3, :, 2 * RATE : 6 * RATE].copy()
    stems[1, 1] = stems[1, 0]
    yield "a stem of two equal channels", stems, _estimates(stems, bits=True)
    stems[0, :, RATE : 2 * RATE] = 0
    yield "a silent second", stems, _estimates(stems, bits=True)
    yield "shorter than a window", stems[..., -RATE // 2 :], _estimates(stems[..., -RATE // 2 :], bits=True)


def _sounding(stems_SCT: Array) -> Array:
    """Without sources that are silent throughout, which museval refuses."""
    return stems_SCT[stems_SCT.any(axis=(1, 2))]


def _stems(folder: Path) -> Array:
    return np.stack([soundfile.read(folder / f"{source}.flac", dtype="float64")[0].T for source in SOURCES])


def _decoded(path: Path) -> Array:
    from datasets.audio.decoding import decode

    stems = [decode(str(path), stream=stream)[0] for stream in range(1, 5)]
    length = min(stem.shape[-1] for stem in stems)
    return np.stack([stem[:, :length] for stem in stems]).astype(np.float64)


def _estimates(stems_SCT: Array, *, bits: bool) -> Array:
    """What a soft mask with leakage makes of the mixture: artifacts, interference and filtering at once."""
    import torch

    from models.scores.metrics import ideal_ratio_mask

    made = ideal_ratio_mask(torch.from_numpy(stems_SCT), exponent=1.0).numpy()
    return np.round(made * 32768) / 32768 if bits else made


def _museval(stems_SCT: Array, estimates_SCT: Array) -> list[Array]:
    from museval.metrics import bss_eval

    signals = (np.ascontiguousarray(signal.transpose(0, 2, 1)) for signal in (stems_SCT, estimates_SCT))
    with np.errstate(all="ignore"):
        return list(bss_eval(*signals, window=RATE, hop=RATE)[:4])


# --- speed --------------------------------------------------------------------------------------------------


def _speed(lengths_s: list[int]) -> Iterator[Row]:
    """Ratios of CPU seconds, and what memory a call adds."""
    for seconds in lengths_s:
        print(f"  timing {seconds} s of song", file=sys.stderr, flush=True)
        seen = {arm: _alone(arm, seconds) for arm in CALLS}
        theirs = seen["museval"]
        yield figure(f"{seconds} s: museval, first call", theirs["cold_s"], "CPU s")
        for arm, cold, warm in (("all four", 15.0, 30.0), ("SDR", None, 1000.0)):
            mine = seen[arm]
            yield figure(f"{seconds} s: {arm}, warm", mine["warm_s"], "CPU s")
            ratio = theirs["cold_s"] / mine["warm_s"]
            yield figure(f"{seconds} s: {arm} against museval, warm", ratio, "times", target=warm, more=True)
            ratio = theirs["cold_s"] / mine["cold_s"]
            yield figure(f"{seconds} s: {arm} against museval, cold", ratio, "times", target=cold, more=True)
            ratio = theirs["process_s"] / mine["process_s"]
            yield figure(f"{seconds} s: {arm}, whole processes with imports", ratio, "times")
        yield figure(f"{seconds} s: memory that museval adds", theirs["added_mib"], "MiB")
        yield figure(f"{seconds} s: memory that all four add", seen["all four"]["added_mib"], "MiB", target=200.0)


def _alone(arm: str, seconds: int) -> dict[str, Any]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "tests.benchmarks.scoring", "--arm", arm, str(seconds)]
    done = subprocess.run(command, env={**os.environ, **threads}, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _measure(arm: str, seconds: int) -> dict[str, float]:
    """CPU seconds of the first call and the least of two more, of the process, and MiB above what it had before."""
    stems_SCT, estimates_SCT = _long_song(seconds)
    made_s = time.process_time()
    call = _call(arm, stems_SCT, estimates_SCT)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the song
    before_mib = _peak_mib()
    took = []
    for _ in range(CALLS[arm]):
        began = time.process_time()
        call()
        took.append(time.process_time() - began)
    added_mib = _peak_mib() - before_mib
    process_s = time.process_time() - made_s - sum(took[1:])
    return {"cold_s": took[0], "warm_s": min(took[1:] or took), "process_s": process_s, "added_mib": added_mib}


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _call(arm: str, stems_SCT: Array, estimates_SCT: Array) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if arm == "museval":
            import museval.metrics  # noqa: F401

            return lambda: _museval(stems_SCT, estimates_SCT)
        import torch

        from models.scores.bsseval import bss_eval
        from models.scores.malloc_tuning import keep_freed_memory
        from models.scores.metrics import sdr_windows

    keep_freed_memory()  # as in an evaluation
    torch.set_num_threads(1)
    signals = torch.from_numpy(stems_SCT), torch.from_numpy(estimates_SCT)
    return (lambda: bss_eval(*signals, RATE)) if arm == "all four" else (lambda: sdr_windows(*signals, RATE))


def _long_song(seconds: int) -> tuple[Array, Array]:
    """Rendered songs one after the other, at another gain each time round, and estimates with leakage; 16 bits."""
    folders = sorted((SHARED_DATA / "rendered_stems" / "train").iterdir())
    whole = np.concatenate([_stems(folder) for folder in folders[: -(-seconds // 12)]], axis=-1)
    gain = 1.0
    stems = whole
    while stems.shape[-1] < seconds * RATE:
        gain *= 0.8
        stems = np.concatenate([stems, gain * whole], axis=-1)
    stems = np.ascontiguousarray(np.round(stems[..., : seconds * RATE] * 32768) / 32768)  # channel by channel
    rng = np.random.default_rng(0)
    estimates = np.empty_like(stems)
    mixture = stems.sum(axis=0)
    for place, stem in enumerate(stems):
        estimates[place] = 0.8 * stem + 0.1 * np.roll(mixture, 3, axis=-1) + 1e-3 * rng.standard_normal(stem.shape)
    return stems, np.round(estimates * 32768) / 32768


if __name__ == "__main__":
    sys.exit(main())
