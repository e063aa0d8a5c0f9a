"""Overlap-add against the reference implementation, and its own promises: no seam, constant memory, finite output."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

import pytest
import torch
from demucs.apply import BagOfModels, apply_model
from demucs.htdemucs import HTDemucs as Oracle
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.errors import ModelError
from models.inference import mixture_consistency, overlap_add
from models.inference.separate import separate, separate_stream
from models.mixed_precision import cpu_computes_bfloat16
from models.networks.bag import Bag, interface
from models.networks.htdemucs import HTDemucs, HTDemucsConfig
from models.networks.input_normalization import track_statistics

SOURCES = ("drums", "bass")


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    sources: tuple[str, ...] = SOURCES
    sample_rate: int = 1000
    audio_channels: int = 2
    segment_samples: int = 100


class Toy(nn.Module):
    """Gives its input `gain` times for every source, and wants `extra` more samples than it is asked for."""

    def __init__(self, *, gain: float = 1.0, extra: int = 0, config: ToyConfig | None = None) -> None:
        super().__init__()
        self.config = config or ToyConfig()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.extra = extra
        self.windows: list[tuple[int, ...]] = []

    def valid_length(self, num_samples: int) -> int:
        return num_samples + self.extra

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        self.windows.append(tuple(mixture_BCT.shape))
        return self.gain * torch.stack([mixture_BCT] * len(self.config.sources), dim=1)


class Smear(Toy):
    """A moving average over the window: its output shows what audio stood around a segment."""

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        smooth = nn.functional.avg_pool1d(mixture_BCT, 31, stride=1, padding=15, count_include_pad=True)
        return torch.stack([smooth, mixture_BCT - smooth], dim=1)


@pytest.fixture(scope="module")
def mixture_CT() -> Tensor:
    return torch.randn(2, 1234, generator=torch.Generator().manual_seed(0))


def tiny_pair(*, seed: int) -> tuple[HTDemucs, Oracle]:
    """Our HT Demucs and the reference's with the same random weights, half a second at 8 kHz per segment."""
    torch.manual_seed(seed)
    config = HTDemucsConfig(
        sources=SOURCES, sample_rate=8000, segment_s=0.5, channels=8, nfft=512, depth=2, transformer_width=32,
        transformer_layers=2, transformer_heads=2, transformer_hidden_scale=2.0, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    ours = HTDemucs(config)
    oracle = Oracle(
        list(SOURCES), samplerate=8000, segment=0.5, channels=8, nfft=512, depth=2, bottom_channels=32, t_layers=2,
        t_heads=2, t_hidden_scale=2.0, dconv_mode=3,
    )  # fmt: skip
    oracle.load_state_dict(ours.state_dict(), strict=True)
    return ours.eval(), oracle.eval()


@pytest.mark.parametrize("num_samples", [1, 900, 4000, 4001, 7000, 15_000])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_ht_demucs_gives_what_the_reference_apply_model_gives(num_samples: int, batch_size: int) -> None:
    ours, oracle = tiny_pair(seed=1)
    mixture_CT = torch.randn(2, num_samples, generator=torch.Generator().manual_seed(num_samples))
    expected = apply_model(oracle, mixture_CT[None], shifts=0, split=True, overlap=0.25)[0]
    given = separate(ours, mixture_CT, batch_size=batch_size, mean=0.0, std=1.0)
    assert (given - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_bag_gives_what_the_reference_bag_gives(mixture_CT: Tensor) -> None:
    pairs = [tiny_pair(seed=seed) for seed in (1, 2)]
    weights = [[1.0, 0.5], [0.0, 2.0]]
    expected = apply_model(BagOfModels([oracle for _, oracle in pairs], weights), mixture_CT[None], shifts=0)[0]
    given = separate(Bag([ours for ours, _ in pairs], weights), mixture_CT, mean=0.0, std=1.0)
    assert (given - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("shifts", [0, 3])
@pytest.mark.parametrize("num_samples", [1, 2, 99, 100, 101, 1234])
def test_overlap_add_of_identity_returns_the_mixture(
    mixture_CT: Tensor, overlap: float, shifts: int, num_samples: int
) -> None:
    mixture_CT = mixture_CT[:, :num_samples]
    estimates_SCT = separate(Toy(extra=7), mixture_CT, overlap=overlap, shifts=shifts, batch_size=4)
    assert estimates_SCT.shape == (2, 2, num_samples)
    torch.testing.assert_close(estimates_SCT[0], mixture_CT, atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", [1, 37, 100, 1000, 5000])
@pytest.mark.parametrize(("shifts", "consistency"), [(0, "residual"), (2, "residual"), (0, "mask")])
def test_streaming_gives_the_whole_track_s_samples_whatever_the_blocks(
    mixture_CT: Tensor, block: int, shifts: int, consistency: str
) -> None:
    model = Bag([Smear(extra=30), Toy(gain=0.5, extra=3)], [[1.0, 0.2], [0.3, 1.0]])
    mean, std = track_statistics(mixture_CT.split(block, dim=-1))
    expected = separate(model, mixture_CT, shifts=shifts, batch_size=2, seed=5, mixture_consistency=consistency)
    blocks = separate_stream(
        model,
        mixture_CT.split(block, dim=-1),
        mean=mean,
        std=std,
        shifts=shifts,
        batch_size=2,
        seed=5,
        mixture_consistency=consistency,
    )
    torch.testing.assert_close(torch.cat(list(blocks), dim=-1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("start", "end"), [(6000, 24_000), (0, 18_000), (6000, 18_000)])
def test_a_piece_of_a_track_is_separated_as_within_the_whole_wherever_a_full_overlap_covers(
    start: int, end: int
) -> None:
    ours, _ = tiny_pair(seed=3)  # segments of 4000 samples, 3000 apart; pieces begin where a segment does
    mixture_CT = torch.randn(2, 24_000, generator=torch.Generator().manual_seed(7))
    whole = separate(ours, mixture_CT, mean=0.0, std=1.0)
    piece = separate(ours, mixture_CT[:, start:end], mean=0.0, std=1.0)
    first = start + 1000 if start else 0  # before, the whole also has the end of an earlier segment
    last = end - 3000 if end < 24_000 else end  # the piece's last segment is shorter than the whole's
    assert last - first >= 8000
    gap = (piece[..., first - start : last - start] - whole[..., first:last]).abs().max()
    assert gap <= 1e-4 * whole.abs().max()


def test_memory_of_streaming_does_not_grow_with_the_track() -> None:
    def blocks(num: int) -> Iterator[Tensor]:
        for index in range(num):
            yield torch.full((2, 50), float(index % 7))

    model = Toy()
    held = []
    stream = separate_stream(model, blocks(400), mean=0.0, std=1.0)
    for out_SCT in stream:
        frame = stream.gi_frame
        lanes = frame.f_locals["lanes"]
        held.append(lanes[0].stream.input_CT.shape[-1] + lanes[0].done.num_samples + out_SCT.shape[-1])
    assert max(held) < 600


class LongTensors(TorchDispatchMode):
    """Counts pieces of memory of at least so many bytes that operators return."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self.num_bytes = num_bytes
        self.seen: list[Tensor] = []  # held, so that no two have one place

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.untyped_storage().nbytes() >= self.num_bytes:
            self.seen.append(result)
        return result

    @property
    def count(self) -> int:
        return len({tensor.untyped_storage().data_ptr() for tensor in self.seen})


@pytest.mark.parametrize("consistency", ["off", "residual", "mask"])
def test_a_whole_track_needs_no_second_copy_of_its_estimates(consistency: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture_consistency, "FRAMES_AT_ONCE", 4)
    model = Toy(config=ToyConfig(sources=("drums", "bass", "other", "vocals"), segment_samples=2000))
    mixture_CT = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(1))
    with LongTensors(4 * mixture_CT.nbytes) as long:
        estimates_SCT = separate(model, mixture_CT, mixture_consistency=consistency)
    assert estimates_SCT.nbytes == 4 * mixture_CT.nbytes
    assert long.count == 1


def test_segments_reach_the_model_in_batches(mixture_CT: Tensor) -> None:
    model = Toy()
    separate(model, mixture_CT, batch_size=4)
    assert model.windows[0] == (4, 2, 100)
    assert sum(shape[0] for shape in model.windows) == 17  # ceil(1234 / 75)


@pytest.fixture
def num_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's number of threads, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Meeting(Toy):
    """Returns only when two of its calls run at once, and notes how many threads each may use."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = Barrier(2)
        self.num_threads: list[int] = []

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        self.barrier.wait(timeout=300)
        self.num_threads.append(torch.get_num_threads())
        return super().forward(mixture_BCT)


def test_on_a_cpu_segments_are_computed_side_by_side(mixture_CT: Tensor, num_threads) -> None:
    num_threads(2)
    model = Meeting()
    separate(model, mixture_CT[:, :400], overlap=0.0)
    assert model.num_threads == [1, 1, 1, 1]
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2


def test_the_number_of_threads_does_not_change_the_samples(num_threads) -> None:
    ours, _ = tiny_pair(seed=2)
    mixture_CT = torch.randn(2, 15_000, generator=torch.Generator().manual_seed(3))
    results = []
    for threads in (1, 2, 3):  # five segments: one after the other, 2 + 2 + 1, and 3 + 2
        num_threads(threads)
        results.append(separate(ours, mixture_CT))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=0)


class Broken(Toy):
    """Fails at its third segment."""

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        if len(self.windows) >= 2:
            raise RuntimeError("no more")
        return super().forward(mixture_BCT)


def test_an_error_in_one_of_the_threads_reaches_the_caller(mixture_CT: Tensor, num_threads) -> None:
    num_threads(2)
    with pytest.raises(RuntimeError, match="no more"):
        separate(Broken(), mixture_CT)
    assert torch.get_num_threads() == 2


def test_a_segment_has_the_real_audio_around_it(mixture_CT: Tensor) -> None:
    expected = nn.functional.avg_pool1d(mixture_CT, 31, stride=1, padding=15)
    given = separate(Smear(extra=30), mixture_CT, mean=0.0, std=1.0)[0]
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


def test_the_shift_trick_repeats_under_its_seed_and_differs_under_another(mixture_CT: Tensor) -> None:
    first, again, other = (separate(Smear(), mixture_CT, shifts=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("consistency", ["residual", "mask"])
def test_stems_sum_to_the_mixture_when_asked(mixture_CT: Tensor, consistency: str) -> None:
    estimates_SCT = separate(Toy(gain=0.3), mixture_CT + 0.5, mixture_consistency=consistency)
    torch.testing.assert_close(estimates_SCT.sum(dim=0), mixture_CT + 0.5, atol=1e-6, rtol=0)


def test_the_mixture_and_the_model_are_left_as_they_were(mixture_CT: Tensor) -> None:
    before, model = mixture_CT.clone(), Toy().train()
    separate(model, mixture_CT)
    assert torch.equal(mixture_CT, before)
    assert model.training


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("num_samples", [1, 250])
def test_silence_and_samples_that_are_not_finite_give_finite_output(value: float, num_samples: int) -> None:
    ours, _ = tiny_pair(seed=1)
    assert separate(ours, torch.full((2, num_samples), value)).isfinite().all()


def test_one_sample_that_is_not_finite_leaves_the_rest_alone(mixture_CT: Tensor) -> None:
    broken = mixture_CT.clone()
    broken[0, 600] = float("nan")
    repaired = torch.nan_to_num(broken, nan=0.0)
    assert torch.equal(separate(Toy(), broken), separate(Toy(), repaired))


def test_bfloat16_and_int8_stay_near_float32() -> None:
    ours, _ = tiny_pair(seed=1)
    mixture_CT = torch.randn(2, 6000, generator=torch.Generator().manual_seed(0))
    exact = separate(ours, mixture_CT)
    for dtype, farthest in ((torch.bfloat16, 0.05), (torch.int8, 0.01)):
        rough = separate(ours, mixture_CT, dtype=dtype)
        assert rough.dtype == torch.float32
        assert (rough - exact).norm() / exact.norm() < farthest
        is_rough = dtype != torch.bfloat16 or cpu_computes_bfloat16()
        assert torch.equal(rough, exact) != is_rough


def test_int8_is_refused_elsewhere_than_on_a_cpu(mixture_CT: Tensor) -> None:
    with pytest.raises(ModelError, match="precision int8 must run on a CPU, got meta"):
        separate(Toy(), mixture_CT, dtype=torch.int8, device="meta")


def test_int8_is_refused_where_the_cpu_or_the_network_has_no_such_layers(
    mixture_CT: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"int8 changes nothing here, .*: give float32"):
        separate(Toy(), mixture_CT, dtype=torch.int8)
    monkeypatch.setattr(overlap_add, "onednn_has_int8", lambda: False)
    with pytest.raises(ModelError, match="no linear layers of 8-bit numbers for this CPU; give float32"):
        separate(Toy(), mixture_CT, dtype=torch.int8)


def test_statistics_of_blocks_are_those_of_the_whole(mixture_CT: Tensor) -> None:
    mono_T = mixture_CT.double().mean(dim=0)
    mean, std = track_statistics((mixture_CT + 0).split(101, dim=-1))
    assert mean == pytest.approx(mono_T.mean().item())
    assert std == pytest.approx(mono_T.std().item())
    assert track_statistics([torch.zeros(2, 0), torch.ones(2, 1)]) == (1.0, 0.0)


def test_what_cannot_be_separated_is_refused_by_name(mixture_CT: Tensor) -> None:
    with pytest.raises(ModelError, match="no samples"):
        separate(Toy(), torch.zeros(2, 0))
    with pytest.raises(ModelError, match="no samples"):
        list(separate_stream(Toy(), [], mean=0.0, std=1.0))
    with pytest.raises(ModelError, match=r"\(1, 1234\).*takes \(2, samples\)"):
        separate(Toy(), mixture_CT[:1])
    with pytest.raises(ModelError, match="overlap must be"):
        separate(Toy(), mixture_CT, overlap=1.0)
    with pytest.raises(ModelError, match="shifts must be >= 0, got -1"):
        separate(Toy(), mixture_CT, shifts=-1)


def test_a_bag_refuses_members_and_weights_that_do_not_fit() -> None:
    with pytest.raises(ModelError, match="share sources"):
        Bag([Toy(), Toy(config=ToyConfig(sources=("vocals",)))])
    with pytest.raises(ModelError, match="2 rows"):
        Bag([Toy(), Toy()], [[1.0, 1.0]])
    with pytest.raises(ModelError, match="weight above 0"):
        Bag([Toy()], [[1.0, 0.0]])
    assert interface(Bag([Toy()])).sources == SOURCES
