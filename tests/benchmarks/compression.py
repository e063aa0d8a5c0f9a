"""`make bench-compression`: what a small trained model loses in nSDR for how many bytes less.

HT Demucs' tiny preset, at half its sample rate, is trained on toy songs three times with the same seeds: plainly, and
with differentiable quantisation at two penalties. The plain one is also rounded after training. All are scored on
held-out toy songs as they come back from their files. About four minutes on one core; `--steps` makes it shorter or
longer.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets.corpus.synthetic import compose, perform
from datasets.seeding import row_rng
from models.inference.separate import separate
from models.learner_config import AugmentConfig, LearnerConfig, QuantizeConfig
from models.learning.learner import Learner
from models.networks.bag import interface
from models.networks.catalog import build
from models.scores.metrics import nsdr
from models.weights import checkpoint
from models.weights.bit_packing import MIB, Packing, packed_bytes, uniform_packing
from models.weights.loading import load_model
from models.weights.model_identity import describe
from tests.benchmarks.table import Row, figure, show

RATE, SONG_S = 22050, 12.0
BATCH_SIZE = 4
TRAIN_SONGS, TEST_SONGS = 8, 4
PENALTIES = (1e-4, 1e-3)
WIDTHS_RATE = 0.05  # fifty times the published one: widths have to get where they belong within some hundred steps
TOLERATED_DB = {"float16": 0.01, "int8": 0.05, "learnt": 0.2}  # nSDR lost against the plain training's float32
MIN_MIB = 0.002  # the network is small: at the default, 9 % of its weights would stay float16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="a JSON file for the rows")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--penalties", type=float, nargs="*", default=PENALTIES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-compression-") as folder:
        rows = measure(Path(folder), arguments.steps, arguments.penalties)
    return show("Compression", rows, arguments.out, decimals=3)


def measure(folder: Path, steps: int, penalties: list[float]) -> list[Row]:
    songs = [torch.from_numpy(perform(compose(0, f"song-{i}", SONG_S), RATE)) for i in range(TRAIN_SONGS + TEST_SONGS)]
    train, test = songs[:TRAIN_SONGS], songs[TRAIN_SONGS:]
    plain = _train(train, steps, penalty=0.0).model
    arms: dict[str, tuple[nn.Module, Packing | None]] = {"float32": (plain, None)}
    for name, bits in (("float16", 16), ("int8", 8), ("int4", 4), ("int3", 3), ("int2", 2)):
        arms[name] = plain, uniform_packing(plain, bits, min_mib=MIN_MIB)
    for penalty in penalties:
        learner = _train(train, steps, penalty=penalty)
        arms[f"learnt, penalty {penalty:g}"] = learner.model, learner.packing()
        arms[f"its float32, penalty {penalty:g}"] = learner.model, None
    rows: list[Row] = []
    for name, (model, packing) in arms.items():
        saved = checkpoint.save(folder / "model", model, packing=packing)
        score, size = _score(load_model(saved), test), describe(saved).size_bytes / MIB
        full_size, full_score = (rows[0]["value"], rows[1]["value"]) if rows else (None, None)
        rows.append(figure(f"{name}: size", size, "MiB", baseline=full_size))
        lost = TOLERATED_DB.get(name.split(",")[0])
        target = None if lost is None or full_score is None else full_score - lost
        rows.append(figure(f"{name}: nSDR", score, "dB", baseline=full_score, target=target, more=True))
    return rows + _full_size()


def _full_size() -> list[Row]:
    """What the packed weights of the published HT Demucs take; that depends on shapes alone."""
    model = build("htdemucs")
    state = model.state_dict()
    plain = sum(value.nbytes for value in state.values()) / MIB
    sizes = {
        f"int{bits}" if bits < 16 else "float16": packed_bytes(state, uniform_packing(model, bits))
        for bits in (16, 8, 4)
    }
    return [figure(f"HT Demucs, {name}: size", size / MIB, "MiB", baseline=plain) for name, size in sizes.items()]


def _train(songs: list[Tensor], steps: int, *, penalty: float) -> Learner:
    """A short training on songs held in memory, with or without learnt widths."""
    torch.manual_seed(0)
    model = build("htdemucs-tiny", segment_s=1.0, sample_rate=RATE)
    quantize = QuantizeConfig(penalty=penalty, min_mib=MIN_MIB, learning_rate=WIDTHS_RATE)
    config = LearnerConfig(
        learning_rate=3e-3,
        warmup_steps=20,
        min_lr_ratio=0.05,
        ema_decays=(),
        quantize=quantize,
        augment=AugmentConfig(shift_s=0.25, remix_group=2),
    )
    learner = Learner(model, config, sample_rate=RATE, total_steps=steps)
    for step in range(steps):
        metrics = learner.step(_batch(songs, learner, step, BATCH_SIZE), step=step)
    size = "" if metrics.size_mib is None else f", {float(metrics.size_mib):.3f} MiB"
    print(f"penalty {penalty:g}: {steps} steps, loss {float(metrics.loss):.4f}{size}", flush=True)
    return learner


def _batch(songs: list[Tensor], learner: Learner, step: int, num_rows: int) -> Tensor:
    length = interface(learner.model).segment_samples + learner.shift_samples
    rows = []
    for row in range(num_rows):
        rng = row_rng(0, step, row)
        song = songs[rng.integers(len(songs))]
        start = rng.integers(song.shape[-1] - length)
        rows.append(song[..., start : start + length])
    return torch.stack(rows)


def _score(model: nn.Module, songs: list[Tensor]) -> float:
    """Mean nSDR over songs and sources, in dB."""
    scores = [nsdr(stems_SCT, separate(model, stems_SCT.sum(dim=0))).mean() for stems_SCT in songs]
    return float(np.mean([float(score) for score in scores]))


if __name__ == "__main__":
    raise SystemExit(main())
