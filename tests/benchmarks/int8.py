"""`make bench-int8`: do int8 weights separate faster, beside ONNX Runtime on the same graph, and what do they lose?

`separate.precision=int8`: linear layers with int8 weights and inputs brought to uint8 at every call, by oneDNN, and all
else in float32. ONNX Runtime gets the exported graph, in float32 and as its `quantize_dynamic` makes it (products
alone). Time is CPU seconds of one thread for one segment, the best of some turns that the arms take one after the
other. Loss is that of a network that learnt something: the tiny preset after 48 steps of `make bench-speedrun`, on its
held-out songs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from models.inference.export import export_onnx
from models.networks.catalog import build
from models.networks.cpu_kernels.linear import Coded, int8_linears
from tests.benchmarks.models import toy_audio
from tests.benchmarks.speedrun import FAST, ours
from tests.benchmarks.table import Row, figure, show
from tests.benchmarks.training import RATE, SEGMENT_S, batch, gains, heard, read_songs

STEPS = 48
MAX_LOSS_DB = 0.05
TURNS = 3


def time_rows(preset: str, folder: Path) -> Iterator[Row]:
    """CPU seconds of one segment, in every arm."""
    torch.manual_seed(0)
    model = build(preset).eval()
    mixture_BCT = toy_audio(model.config.segment_samples, seed=1).sum(1)

    def segment() -> None:
        with torch.no_grad():
            model(mixture_BCT)

    coded: Coded = {}

    def in_int8() -> None:
        with int8_linears(coded):
            segment()

    arms: dict[str, Callable[[], object]] = {"ours, float32": segment, "ours, int8": in_int8}
    for name, path in onnx_files(model, folder).items():
        arms[name] = onnx_arm(path, mixture_BCT)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(TURNS + 1):  # the first warms up
        for name, run in arms.items():
            start = time.process_time()
            run()
            if turn:
                seconds[name].append(time.process_time() - start)
    base = min(seconds["ours, float32"])
    for name, turns in seconds.items():
        yield figure(
            f"{preset}, a segment, {name}", min(turns), "CPU s", baseline=base, spread=(min(turns), max(turns))
        )
    fastest = min(min(turns) for name, turns in seconds.items() if name.startswith("ONNX"))
    yield figure(
        "ours in int8, speed", fastest / min(seconds["ours, int8"]), "of ONNX Runtime's best", target=1, more=True
    )


def onnx_files(model: nn.Module, folder: Path) -> dict[str, Path]:
    """The exported graph, and that with int8 weights in its products."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped,unused-ignore]

    exact, coarse = export_onnx(model, folder / "float32.onnx"), folder / "int8.onnx"
    quantize_dynamic(exact, coarse, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    return {"ONNX Runtime, float32": exact, "ONNX Runtime, int8": coarse}


def onnx_arm(path: Path, mixture_BCT: Tensor) -> Callable[[], object]:
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["estimates"], {"mixture": mixture_BCT.numpy()})


def loss_rows() -> Iterator[Row]:
    """What a network that learnt something loses on held-out songs."""
    songs = read_songs()
    torch.manual_seed(0)
    arm = ours(build("htdemucs-tiny", sample_rate=RATE, segment_s=SEGMENT_S), FAST, STEPS)
    for step in range(STEPS):
        arm.step(batch(songs.learned, seed=0, step=step), step)

    def gain() -> float:
        return gains(songs.held_out, lambda song: heard(arm.model, song))

    exact = gain()
    with int8_linears():
        coarse = gain()
    yield figure("trained htdemucs-tiny, gain in int8", coarse, "dB", baseline=exact)
    yield figure("loss", exact - coarse, "dB", target=MAX_LOSS_DB)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="htdemucs", help="of the segment that is timed")
    parser.add_argument("--out", help="a JSON file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(loss_rows())
    with tempfile.TemporaryDirectory() as folder:
        rows += time_rows(options.preset, Path(folder))
    return show("Int8", rows, options.out, decimals=3)


if __name__ == "__main__":
    sys.exit(main())
