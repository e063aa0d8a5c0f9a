"""Quantised states, as DiffQ wrote them and as a writer of the tests' own does: every weight to the last bit."""

import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models.errors import ModelError
from models.inference.separate import separate
from models.weights.demucs.demucs_options import ClassName
from models.weights.demucs.demucs_packages import _read_pickle, export_bag, load_package
from models.weights.demucs.diffq import read_quantized
from models.weights.loading import load_model
from models.weights.model_identity import describe
from tests.models.parity import noise
from tests.models.weights.demucs.diffq_writer import quantized_state, write_package
from tests.models.weights.demucs.test_demucs_packages import reference

GOLDEN = Path(__file__).parent / "diffq_golden"  # written by diffq 0.2.4 of random weights, and packed by xz
# Shapes of the parameters, and how the SHA-256 of the weights begins that diffq 0.2.4 restores.
RESTORED = {
    "uniform7_const": {  # of 7 bits; the weights of `ones` are all equal
        "ones.weight": ((24, 24), "a735b75e524b5275"),
        "ones.bias": ((24,), "9fe0657a97ed922d"),
        "rnd.weight": ((24, 24), "05fe41497eeb6732"),
        "rnd.bias": ((24,), "e1bf86e99ca6a9d5"),
    },
    "diffq_minbits1_f16": {  # groups of 1, 2 or 8 bits, and what is not quantised in float16
        "conv.weight": ((40, 3, 7), "825f54048ba4add7"),
        "conv.bias": ((40,), "5bca7cb755334eaa"),
        "lin.weight": ((19, 37), "03fed2498a2e8562"),
        "lin.bias": ((19,), "33077f6ba8429ca5"),
        "up.weight": ((40, 8, 8), "aad4970823a35b3d"),
        "up.bias": ((8,), "28fc2750ede06582"),
        "emb.weight": ((40, 20), "6a23890056103be5"),
    },
}
SHAPES = {"conv": (64, 40), "bias": (40,), "linear": (601, 8)}
MIN_SIZE = 0.002  # of which 524 weights are the limit
LARGE = torch.zeros(1).expand((7,) * 22)


def unpack(state: dict[str, Any], shapes: Any = SHAPES, file_bytes: int = 10**6) -> dict[str, torch.Tensor]:
    return read_quantized(state, file_bytes=file_bytes, origin="mine.th").unpack(shapes)


def small_state(**options: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return quantized_state(weights, min_size=MIN_SIZE, **options)


@pytest.mark.parametrize("name", RESTORED)
def test_what_diffq_wrote_is_restored_to_the_last_bit(name: str, tmp_path: Path) -> None:
    (tmp_path / "golden.th").write_bytes(lzma.decompress((GOLDEN / f"{name}.th.xz").read_bytes()))
    state = _read_pickle(tmp_path / "golden.th")
    restored = unpack(state, {key: shape for key, (shape, _) in RESTORED[name].items()})
    digests = {
        key: hashlib.sha256(value.float().numpy().astype("<f4").tobytes()).hexdigest()[:16]
        for key, value in restored.items()
    }
    assert digests == {key: digest for key, (_, digest) in RESTORED[name].items()}


def test_numbers_lie_where_the_format_says() -> None:
    """The format's worked examples: 5 numbers of 2 bits, the border of two blocks, groups of 2 and 4 bits."""
    words = torch.zeros(1, 2, 32, dtype=torch.int64)
    words[0, 0, [1, 3]], words[0, 1, [2, 3, 4]] = 1, 1
    state, _ = small_state(bits=2)
    state |= {"quantized": [(words, (-0.5, 1.0))], "others": []}
    state["meta"]["init_kwargs"]["min_size"] = 0
    assert unpack(state, {"a": (5,)})["a"].tolist() == [-0.5, 0.0, 0.5, 1.0, 0.5]

    words = torch.zeros(2, 1, 32, dtype=torch.int64)
    words[0, 0, 31], words[1, 0, 0] = -(2**63), 1
    state["meta"]["init_kwargs"]["bits"] = 1
    state["quantized"] = [(words, (0.0, 1.0))]
    assert unpack(state, {"a": (2049,)})["a"].nonzero().ravel().tolist() == [2047, 2048]

    state, _ = small_state(group_size=2)
    state["meta"]["init_kwargs"]["min_size"] = 0
    by_width: list[Any] = [None] * 14
    by_width[1] = torch.zeros(1, 2, 32, dtype=torch.int64)
    by_width[1][0, 0, [1, 2]], by_width[1][0, 1, [1, 3]] = 1, 1
    by_width[3] = torch.zeros(1, 4, 32, dtype=torch.int64)
    by_width[3][0, :, 0], by_width[3][0, [0, 2], 1] = 1, 1
    widths = torch.zeros(1, 2, 32, dtype=torch.int64)
    widths[0, 1, 1] = 1
    state |= {"quantized": [(by_width, (-1.0, 2.0), widths)], "others": []}
    assert unpack(state, {"a": (3, 2)})["a"].tolist() == [[-1, 2], [2, 0], [0, 1]]


@pytest.mark.parametrize(
    "options",
    [
        *({"bits": bits} for bits in (1, 8, 9, 15)),
        {"widths": tuple(range(2, 15))},
        {"widths": (2,)},  # widths of groups take no bits at all
        {"group_size": 1},
    ],
    ids=str,
)
def test_every_width_is_read_to_the_last_bit(options: dict[str, Any]) -> None:
    state, expected = small_state(**options)
    restored = unpack(state)
    assert list(restored) == list(expected)
    for name, value in expected.items():
        assert torch.equal(restored[name], value), name


def test_small_parameters_may_be_in_half_precision() -> None:
    state, expected = small_state()
    state |= {"float16": [value.half() for value in state["others"]], "others": []}
    state["meta"]["init_kwargs"]["float16"] = True
    assert torch.equal(unpack(state)["bias"], expected["bias"].half())


@pytest.mark.parametrize(
    ("name", "options", "suffix"),
    [
        ("htdemucs", {"group_size": 8}, ".safetensors"),
        ("hdemucs", {"group_size": 8}, ".th"),
        ("hdemucs", {"bits": 5}, ".safetensors"),
        ("demucs v3", {"bits": 8}, ".th"),
    ],
    ids=str,
)
def test_a_quantised_package_fills_our_network_with_the_same_weights(
    name: str, options: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    theirs = reference(name)
    state, expected = quantized_state(dict(theirs.named_parameters()), min_size=MIN_SIZE, **options)
    assert len(state["quantized"]) >= 10
    ours = load_package(write_package(theirs, state, tmp_path / f"mine{suffix}"))
    assert not ours.training
    restored = ours.state_dict()
    assert restored.keys() == expected.keys()
    assert [key for key, value in expected.items() if not torch.equal(restored[key], value)] == []


def test_a_bag_of_quantised_packages_separates_as_one_of_plain_ones(tmp_path: Path) -> None:
    paths, members = [], []
    for index, (name, suffix) in enumerate([("hdemucs", ".th"), ("demucs v3", ".safetensors")]):
        theirs = reference(name)
        state, _ = quantized_state(dict(theirs.named_parameters()), min_size=MIN_SIZE, bits=4)
        paths.append(write_package(theirs, state, tmp_path / f"q{index}{suffix}"))
        members.append(load_package(paths[-1]))
    (tmp_path / "mdx_q.yaml").write_text("models: [q0, q1]\nsegment: 1\n")
    described = describe(tmp_path / "mdx_q.yaml")
    assert described.sources == ("voice", "rest")
    assert described.size_bytes == sum(path.stat().st_size for path in paths)
    plain = load_model(export_bag(members, tmp_path / "plain", name="plain", segment_s=1.0))
    song = noise(2, 9000)
    assert torch.equal(separate(load_model(tmp_path / "mdx_q.yaml"), song), separate(plain, song))


def first(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    """Replaces parts of the first quantised tensor: its planes by width, its range or its groups' widths."""

    def change(state: dict[str, Any]) -> None:
        by_width, limits, widths = state["quantized"][0]
        state["quantized"][0] = tuple(({"planes": by_width, "limits": limits, "widths": widths} | changes).values())

    return change


def plane_of(width: int, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state["quantized"][0][0].__setitem__(width - 1, value)


def option(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state["meta"]["init_kwargs"].update(changes)


def words(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("meta"), "its quantiser is None"),
        (lambda state: state["meta"].update(klass=ClassName("diffq.lsq.LSQ")), "its quantiser is 'diffq.lsq.LSQ'"),
        (lambda state: state["meta"].update(packed=False), "sets packed=False; only True is read"),
        (lambda state: state["meta"].update(torch_pack=True), "sets torch_pack=True; only False is read"),
        (lambda state: state["meta"].update(init_kwargs=None), "does not say with which options"),
        (option(block=3), "has an option that is not known: 'block'"),
        (option(exclude=["*.bias"]), r"sets exclude=\['\*.bias'\]; only \[\] is read"),
        (option(exclude=words(1)), "sets exclude=<Tensor>"),
        *(
            (change, "<Tensor>")
            for change in (  # of one number, and too large to be printed
                option(exclude=LARGE),
                option(group_size=LARGE),
                option(min_size=LARGE),
                option(float16=LARGE),
                lambda state: state["meta"]["init_kwargs"].update({LARGE: 1}),
                lambda state: state["meta"].update(packed=LARGE),
                lambda state: state["meta"].update(klass=LARGE),
                lambda state: state.update(quantized=LARGE),
                first(limits=(LARGE, 1.0)),
            )
        ),
        (option(group_size=0), "sets group_size=0; want 1 to"),
        (option(group_size=10**400), "want a whole number, from 0 to"),
        (option(group_size=7), "has groups of 7 weights, of which 2560 are no multiple, in conv"),
        (option(group_size=4), r"numbers take \d+ blocks, it has \d+, in linear"),
        (option(min_bits=1.5), "has an option 1.5: want a whole number"),
        (option(min_bits=12), "has groups of 15 bits, and its format stores no more than 14"),
        (option(min_size=float("nan")), "want a number from 0"),
        (option(min_size=-1), "want a number from 0"),
        (option(min_size=1), "holds 2 quantised tensors and 1 others, the model wants 0 and 3"),
        (option(float16=True), r"1 tensors of another precision than it says \(float16=True\)"),
        (lambda state: state.update(quantized=words(1)), "quantized must be a list"),
        (lambda state: state["quantized"].pop(), "holds 1 quantised tensors and 1 others, the model wants 2 and 1"),
        (lambda state: state["others"].append(torch.zeros(40)), "holds 2 quantised tensors and 2 others"),
        (lambda state: state.update(others=[torch.zeros(1)]), r"bias: the model wants \(40,\), the file has \(1,\)"),
        (lambda state: state.update(others=[words(40)]), "no plain numbers"),
        (lambda state: state.update(others=[[0.0] * 40]), "no plain numbers"),
        (lambda state: state.update(quantized=[3, 3]), "a quantised tensor must be 3 values, got 3"),
        (lambda state: state["quantized"][0][0].pop(), "planes of each width must be 14 values"),
        (plane_of(2, None), r"groups have 2 bits, and others are stored, in conv"),
        (plane_of(14, words(1, 14, 32)), "0 groups have 14 bits, and others are stored"),
        (plane_of(2, words(1, 3, 32)), "2 bits were to be stored of each number, got 3"),
        (plane_of(2, words(7, 2, 32)), "numbers take 1 blocks, it has 7"),
        (plane_of(2, words(1, 2, 31)), "bits must be whole numbers of shape"),
        (plane_of(2, torch.zeros(1, 2, 32)), "bits must be whole numbers of shape"),
        (plane_of(2, words(1, 1, 1).expand(1, 2, 32)), "bits must be whole numbers of shape"),
        (plane_of(2, words(1, 2, 32).to_sparse()), "bits must be whole numbers of shape"),
        (plane_of(2, words(1, 2, 32).to("meta")), "bits must be whole numbers of shape"),
        (plane_of(2, [1, 2]), "bits must be whole numbers of shape"),
        (first(widths=None), "bits must be whole numbers of shape"),
        (first(widths=words(1, 5, 32)), "at most 4 bits were to be stored of each number, got 5"),
        (first(widths=words(9, 2, 32)), "320 numbers take 1 blocks, it has 9"),
        (first(limits=(0.0,)), "a range must be 2 values"),
        (first(limits=(0, 1)), "two finite numbers that rise"),
        (first(limits=(1.0, 0.0)), "two finite numbers that rise"),
        (first(limits=(float("nan"), 1.0)), "two finite numbers that rise"),
        (first(limits=(0.0, float("inf"))), "two finite numbers that rise"),
        (first(limits=(-3e38, 3e38)), "wider than float32 holds"),
        (lambda state: state["quantized"].extend(state["quantized"] * 10**4), r"its tensors are \d+ bytes, the file"),
        (lambda state: state["others"].append(torch.zeros(1).expand(2**40)), r"its tensors are \d+ bytes, the file"),
    ],
)
def test_a_state_that_is_inconsistent_is_refused_by_name(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    state, _ = small_state()
    change(state)
    with pytest.raises(ModelError, match=rf"mine.th is quantised with DiffQ and .*({message}).*unquantised model"):
        unpack(state)


@pytest.mark.parametrize("bits", [0, 7.5, 16, True, "8", None])
def test_uniform_bits_that_no_file_can_have_are_refused(bits: Any) -> None:
    state, _ = small_state(bits=3)
    option(bits=bits)(state)
    with pytest.raises(ModelError, match=r"want a whole number|sets bits=0"):
        unpack(state)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    theirs = reference("demucs v3")
    state, _ = quantized_state(dict(theirs.named_parameters()), min_size=MIN_SIZE, bits=2)
    state["others"][0] = torch.full_like(state["others"][0], float("nan"))
    with pytest.raises(ModelError, match="weights that are not finite"):
        load_package(write_package(theirs, state, tmp_path / "mine.th"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2**14}, "larger network than its weights can fill"),
        ({"depth": 4}, "another configuration: it holds"),
    ],
)
def test_options_of_another_network_than_the_numbers_fill_are_refused(
    changes: dict[str, int], message: str, tmp_path: Path
) -> None:
    theirs = reference("demucs v3")
    state, _ = quantized_state(dict(theirs.named_parameters()), min_size=MIN_SIZE, bits=2)
    args, kwargs = theirs._init_args_kwargs
    theirs._init_args_kwargs = args, kwargs | changes
    with pytest.raises(ModelError, match=message):
        load_package(write_package(theirs, state, tmp_path / "mine.th"))


def test_the_compressed_states_of_demucs_2_are_refused_by_name(tmp_path: Path) -> None:
    theirs = reference("demucs v3")
    with pytest.raises(ModelError, match="compressed in the way of demucs 2"):
        load_package(write_package(theirs, {"compressed": b"x"}, tmp_path / "mine.th"))


@pytest.mark.parametrize(
    "structure",
    [
        "{",
        "[]",
        '{"_tensor": "gone"}',
        '{"_tensor": [1]}',
        '{"_code": "1"}',
        '{"_dict": 3}',
        '{"_dict": [["a"]]}',
        "[" * 10**5,
        '{"_list": [' * 10**4 + "1" + "]}" * 10**4,
        "{}",
    ],
    ids=lambda text: text[:16],
)
def test_safetensors_with_a_broken_structure_are_refused(structure: str, tmp_path: Path) -> None:
    kwargs = json.dumps({"sources": ["voice"]})
    metadata = {"klass": "demucs.demucs.Demucs", "args": "[]", "kwargs": kwargs, "structure": structure}
    save_file({"a": torch.zeros(1)}, tmp_path / "bad.safetensors", metadata=metadata)
    with pytest.raises(ModelError, match="has a structure that cannot be read"):
        load_package(tmp_path / "bad.safetensors")
