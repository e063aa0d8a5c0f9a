"""Rounding to a grid, learnt widths, and the packed file: what is scored is what is stored."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn

from models.errors import ModelError
from models.learner_config import AugmentConfig, LearnerConfig, QuantizeConfig, SpectralPenaltyConfig
from models.learning.augment import augment
from models.learning.bit_widths import BitWidths
from models.learning.learner import Learner, unwrap
from models.networks.catalog import build
from models.weights import checkpoint
from models.weights.loading import load_model
from models.weights.model_ref import describe
from models.weights.packing import MIB, QuantizationGrid, pack, packed_bytes, rounded, uniform_packing, unpack

PLAIN = AugmentConfig(shift_s=0.0, scale_probability=0.0, remix_probability=0.0, remix_group=1)
SMALL = {"sample_rate": 8000, "segment_s": 0.25, "nfft": 512, "depth": 2, "channels": 4, "transformer_layers": 1}
QUANTIZE = QuantizeConfig(penalty=0.1, min_mib=0.0005, learning_rate=0.05)
CONFIG = LearnerConfig(learning_rate=2e-3, ema_decays=(0.9,), augment=PLAIN, quantize=QUANTIZE)


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small() -> nn.Module:
    torch.manual_seed(0)
    return build("htdemucs-tiny", **SMALL)


def batch(step: int) -> Tensor:
    return 0.1 * torch.randn(2, 4, 2, 2000, generator=dice(step))


def grid(num_weights: int, bits: list[int], group_size: int, num_ranges: int = 1) -> QuantizationGrid:
    num_groups = -(-num_weights // group_size)
    widths = torch.tensor([bits[place % len(bits)] for place in range(num_groups)], dtype=torch.uint8)
    return QuantizationGrid(bits_G=widths, group_size=group_size, num_ranges=num_ranges)


def through_the_file(state: dict[str, Tensor], packing: dict[str, QuantizationGrid]) -> dict[str, Tensor]:
    return unpack(*pack(state, packing), origin="a file")[0]


@pytest.mark.parametrize("bits", range(2, 16))
def test_every_width_packs_and_unpacks_to_the_same_values_and_leaves_values_on_its_grid_alone(bits: int) -> None:
    state = {"weight": torch.randn(6, 35, generator=dice(bits))}
    packing = {"weight": grid(210, [bits], 8)}
    once = through_the_file(state, packing)["weight"]
    assert torch.equal(once, rounded(state, packing)["weight"])
    assert torch.equal(once, through_the_file({"weight": once}, packing)["weight"])
    spread = state["weight"].max() - state["weight"].min()
    assert (once - state["weight"]).abs().max() <= 0.501 * spread / (2**bits - 1)
    assert len(once.unique()) <= 2**bits
    assert torch.equal(torch.stack(once.aminmax()), torch.stack(state["weight"].aminmax()))


@pytest.mark.parametrize("num_weights", [1, 7, 8, 9, 63])
def test_a_last_group_that_is_not_full_and_widths_that_differ_survive(num_weights: int) -> None:
    state = {"weight": torch.randn(num_weights, 1, generator=dice())}
    packing = {"weight": grid(num_weights, [2, 15, 5], 8)}
    tensors, described = pack(state, packing)
    assert sum(tensor.nbytes for tensor in tensors.values()) == packed_bytes(state, packing)
    values, found = unpack(tensors, described, origin="a file")
    assert torch.equal(values["weight"], rounded(state, packing)["weight"])
    assert torch.equal(found["weight"].bits_G, packing["weight"].bits_G)
    assert (found["weight"].group_size, found["weight"].num_ranges) == (8, 1)


def test_a_range_per_row_keeps_a_quiet_row_that_one_range_would_lose() -> None:
    weight = torch.randn(2, 50, generator=dice()) * torch.tensor([[1.0], [1e-3]])
    shared, own = (
        rounded({"weight": weight}, {"weight": grid(100, [8], 100, num_ranges)})["weight"] for num_ranges in (1, 2)
    )
    assert (own - weight)[1].abs().max() < 0.01 * (shared - weight)[1].abs().max()


def test_equal_weights_and_vectors_and_integers_and_what_overflows_float16_come_back() -> None:
    state = {
        "constant": torch.full((4, 4), 0.3),
        "vector": torch.randn(5, generator=dice()),
        "steps": torch.tensor(7),
        "huge": torch.tensor([1e6, 1.0]),
    }
    packing = {"constant": grid(16, [4], 8)}
    back = through_the_file(state, packing)
    assert torch.equal(back["constant"], state["constant"])
    assert torch.equal(back["vector"], state["vector"].half())
    assert back["steps"] == 7
    assert torch.equal(back["huge"], state["huge"])
    with pytest.raises(ModelError, match="constant holds weights that are not finite"):
        pack({"constant": torch.full((4, 4), torch.nan)}, packing)


@pytest.mark.parametrize("bits", [2, 4, 8, 15, 16])
def test_the_file_is_as_large_as_predicted_and_loads_as_what_was_scored(bits: int, tmp_path: Path) -> None:
    model = small()
    packing = uniform_packing(model, bits, min_mib=0.0005)
    folder = checkpoint.save(tmp_path / "model", model, packing=packing)
    file = folder / "weights.safetensors"
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert describe(folder).size_bytes == file.stat().st_size
    assert file.stat().st_size - header == packed_bytes(model.state_dict(), packing)
    expected = rounded(model.state_dict(), packing)
    for place in (folder, file):
        loaded = load_model(place).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_the_same_weights_make_the_same_bytes_and_a_loaded_model_makes_them_again(tmp_path: Path) -> None:
    model, widths = small(), BitWidths(small(), QUANTIZE)
    with torch.no_grad():
        widths.logits_G.normal_(std=2.0, generator=dice())
    first = checkpoint.save(tmp_path / "a", model, packing=widths.packing())
    again = checkpoint.save(tmp_path / "b", load_model(first), packing=checkpoint.load_packing(first))
    assert describe(first).digest == describe(again).digest
    assert checkpoint.load_packing(checkpoint.save(tmp_path / "c", model)) is None


def test_widths_out_of_range_and_models_without_matrices_are_refused() -> None:
    for bits in (1, 17):
        with pytest.raises(ModelError, match=f"{bits} bits: give 2 to 15, or 16 for float16"):
            uniform_packing(small(), bits)
    with pytest.raises(ModelError, match=r"quantize\.min_mib must be at most .* got 9 MiB"):
        BitWidths(small(), replace(QUANTIZE, min_mib=9.0))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = small()
    widths = BitWidths(model, QUANTIZE)
    with torch.no_grad():
        widths.logits_G.normal_(std=2.0, generator=dice())
    folder = checkpoint.save(tmp_path_factory.mktemp("packed") / "model", model, packing=widths.packing())
    return folder / "weights.safetensors"


@pytest.mark.parametrize(
    "how", ["stream", "ranges", "no ranges", "widths", "shape", "group_size", "bits", "words", "list", "no json"]
)
def test_a_packed_file_whose_parts_do_not_fit_is_refused(packed: Path, tmp_path: Path, how: str) -> None:
    tensors = load_file(packed)
    with safe_open(packed, framework="pt") as file:
        described = json.loads(file.metadata()["packed"])
    name = next(iter(described["tensors"]))
    entry = described["tensors"][name]
    if how == "stream":
        tensors[name] = tensors[name][:-1]
    elif how == "ranges":
        tensors[name + "#ranges"] = tensors[name + "#ranges"].flip(1)
    elif how == "no ranges":
        del tensors[name + "#ranges"]
    elif how == "widths":
        tensors[name + "#widths"] = torch.full_like(tensors[name + "#widths"], 255)
    elif how in ("shape", "group_size", "bits"):
        entry[how] = {"shape": [10**9, 10**9], "group_size": 0, "bits": [2, 40]}[how]
    elif how == "words":
        described["tensors"][name] = "eight"
    elif how == "list":
        described = [described]
    text = "{" if how == "no json" else json.dumps(described)
    save_file(tensors, tmp_path / "weights.safetensors", metadata={"packed": text})
    with pytest.raises(ModelError, match="altered"):
        load_model(tmp_path / "weights.safetensors")


def test_a_truncated_packed_file_and_a_flipped_bit_in_a_folder_are_refused(packed: Path, tmp_path: Path) -> None:
    data = packed.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-10])
    with pytest.raises(ModelError, match="truncated"):
        load_model(tmp_path / "cut.safetensors")
    (tmp_path / "config.json").write_bytes(packed.with_name("config.json").read_bytes())
    (tmp_path / "weights.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError, match="truncated or was altered"):
        load_model(tmp_path)


class Matrix(nn.Module):
    """Every source is the mixture times one entry of a matrix; most entries do nothing."""

    def __init__(self, num_rows: int = 64) -> None:
        super().__init__()
        self.gain_SK = nn.Parameter(torch.linspace(-1, 1, 64 * num_rows).view(num_rows, 64))

    def forward(self, mixture_BCT: Tensor) -> Tensor:
        return self.gain_SK[:2, 0, None, None] * mixture_BCT[:, None]


def test_noise_is_uniform_within_half_a_grid_step_and_is_gone_afterwards() -> None:
    model = Matrix(512)
    widths = BitWidths(model, replace(QUANTIZE, penalty=1e-9))
    before = model.gain_SK.detach().clone()
    step = 2.0 / (2**8 - 1)  # widths start at 8 bits, and the range is 2
    with widths.noisy(seed=0, step=0):
        noise = model.gain_SK.detach() - before
    assert noise.abs().max() <= 0.5001 * step
    assert noise.var().item() == pytest.approx(step**2 / 12, rel=0.03)
    assert abs(noise.mean().item()) < 0.02 * step
    assert torch.equal(model.gain_SK, before)
    with widths.noisy(seed=0, step=1):
        assert not torch.equal(model.gain_SK.detach() - before, noise)
    with pytest.raises(ZeroDivisionError), widths.noisy(seed=0, step=2):
        _ = 1 / 0
    assert torch.equal(model.gain_SK, before)


def test_a_width_s_gradient_is_the_slope_of_the_loss_along_it() -> None:
    model = Matrix(2)
    widths = BitWidths(model, replace(QUANTIZE, penalty=1e-12, min_mib=0.0))
    target = torch.randn(2, 64, generator=dice())

    def loss_at(logits_G: Tensor) -> float:
        with torch.no_grad():
            widths.logits_G.copy_(logits_G)
        with widths.noisy(seed=3, step=5):
            model.gain_SK.grad = None
            loss = (model.gain_SK.double() * target).sum()  # linear, so a difference is exact
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    start = torch.linspace(-2, 0, len(widths.logits_G))
    loss_at(start)
    assert widths.logits_G.grad is not None
    gradient = widths.logits_G.grad.clone()
    for place in (0, 7, 15):
        nudge = torch.zeros_like(start)
        nudge[place] = 0.05
        slope = (loss_at(start + nudge) - loss_at(start - nudge)) / 0.1
        assert gradient[place].item() == pytest.approx(slope, rel=0.02, abs=1e-5)


def test_a_penalty_takes_bits_from_weights_that_do_not_matter_and_leaves_them_to_those_that_do() -> None:
    model = Matrix()
    learner = Learner(model, replace(CONFIG, quantize=replace(QUANTIZE, penalty=1e-3), learning_rate=1e-4))
    sources_BSCT = torch.randn(2, 2, 2, 800, generator=dice())
    sizes = [float(learner.step(sources_BSCT, step=step).size_mib or 0) for step in range(60)]
    assert sizes[-1] < 0.8 * sizes[0]
    assert learner.widths is not None
    bits_G = learner.widths.bits().view(64, 8)
    assert bits_G[:2, 0].min() > 6
    assert bits_G[2:].max() < 4
    packing = learner.packing()
    assert packing is not None
    file_mib = packed_bytes(model.state_dict(), packing) / MIB
    assert file_mib == pytest.approx(sizes[-1], rel=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_training_with_learnt_widths_equals_one_that_never_stopped(precision: str, tmp_path: Path) -> None:
    config = replace(CONFIG, precision=precision)

    def make(model: nn.Module) -> Learner:
        return Learner(model, config, sample_rate=8000, seed=3)

    whole, first = make(small()), make(small())
    for step in range(4):
        whole.step(batch(step), step=step)
    for step in range(2):
        first.step(batch(step), step=step)
    checkpoint.save(tmp_path / "model", first.model, learner=first.state())
    second = make(load_model(tmp_path / "model"))
    second.load_state(checkpoint.load_learner(tmp_path / "model"))
    for step in range(2, 4):
        second.step(batch(step), step=step)
    for learner in (whole, second):
        checkpoint.save(tmp_path / str(learner is whole), learner.model, packing=learner.packing())
    assert describe(tmp_path / "True").digest == describe(tmp_path / "False").digest
    assert torch.equal(whole.averages[0].average["freq_emb.embedding.weight"],
                       second.averages[0].average["freq_emb.embedding.weight"])  # fmt: skip
    with pytest.raises(ModelError, match=r"another quantize\.penalty"):
        Learner(small(), replace(config, quantize=QuantizeConfig())).load_state(first.state())


def test_inside_a_data_parallel_wrapper_a_step_is_the_same(tmp_path: Path) -> None:
    singular = SpectralPenaltyConfig(penalty=1e-3, min_mib=0.001)
    config = replace(CONFIG, spectral_penalty=singular)
    alone = Learner(small(), config)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = Learner(nn.parallel.DistributedDataParallel(small()), config)
        for learner in (alone, wrapped):
            for step in range(2):
                learner.step(batch(step), step=step)
        inside = unwrap(wrapped.model).state_dict()
    finally:
        torch.distributed.destroy_process_group()
    assert all(torch.equal(value, inside[name]) for name, value in alone.model.state_dict().items())
    assert alone.widths is not None
    assert wrapped.widths is not None
    assert torch.equal(alone.widths.logits_G, wrapped.widths.logits_G)


def test_without_penalties_a_step_is_what_it_was_and_nothing_more_is_stored() -> None:
    config = replace(CONFIG, quantize=QuantizeConfig(), ema_decays=())
    learner, model = Learner(small(), config, normalized=True), small()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    for step in range(2):
        learner.step(batch(step), step=step)
        # The same augmentation is drawn from (seed, step, row); here all of it is sign and channel flips.
        sources_BSCT = augment(batch(step), PLAIN, seed=0, step=step, rows=range(2), shift_samples=0)
        optimizer.zero_grad()
        (model.train()(sources_BSCT.sum(dim=1)) - sources_BSCT).abs().mean(dim=(0, 2, 3)).mean().backward()
        optimizer.step()
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert learner.state().keys() == {"optimizer", "averages"}
    assert learner.packing() is None


def test_inside_quantized_the_model_is_what_its_file_will_hold(tmp_path: Path) -> None:
    learner = Learner(small(), CONFIG)
    learner.step(batch(0), step=0)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    with learner.quantized():
        mixture_BCT = batch(1).sum(dim=1)
        with torch.no_grad():
            scored = learner.model.eval()(mixture_BCT)
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    saved = checkpoint.save(tmp_path / "model", learner.model, packing=learner.packing())
    with torch.no_grad():
        assert torch.equal(load_model(saved)(mixture_BCT), scored)


@pytest.mark.parametrize(
    "changes", [{"penalty": -1.0}, {"group_size": 0}, {"learning_rate": 0.0}, {"min_mib": -1.0}]
)  # fmt: skip
def test_a_knob_of_quantisation_out_of_range_is_named(changes: dict[str, float]) -> None:
    with pytest.raises(ModelError, match=next(iter(changes))):
        QuantizeConfig(**changes)  # type: ignore[arg-type]
