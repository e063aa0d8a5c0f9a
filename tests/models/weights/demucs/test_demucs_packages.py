import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from demucs.apply import apply_model
from demucs.demucs import Demucs as ReferenceDemucs
from demucs.hdemucs import HDemucs as ReferenceHDemucs
from demucs.hf import load_safetensors_model
from demucs.htdemucs import HTDemucs as ReferenceHTDemucs
from demucs.pretrained import get_model
from demucs.states import save_with_checksum
from safetensors.torch import save_file
from torch import nn

from models.errors import ModelError
from models.inference.separate import separate
from models.networks.catalog import build, from_config, to_config
from models.weights.demucs.demucs_packages import export_bag, export_package, load_package
from models.weights.demucs.diffq import reference_shapes
from models.weights.loading import load_model
from tests.models.parity import forward_gap, noise

SOURCES = ["voice", "rest"]
LARGE, SHARED = torch.zeros(1).expand((7,) * 22), torch.zeros(1000)
HT_KWARGS: dict[str, Any] = {
    "sources": SOURCES,
    "channels": 8,
    "nfft": 2048,
    "dconv_comp": 4,
    "dconv_mode": 3,
    "bottom_channels": 16,
    "t_layers": 2,
    "t_heads": 2,
    "samplerate": 8000,
    "segment": Fraction(3, 4),
}
H_KWARGS = {"channels": 16, "nfft": 256, "depth": 4, "norm_starts": 2, "dconv_attn": 2, "dconv_lstm": 2}
PUBLISHED = {
    "htdemucs": (ReferenceHTDemucs, HT_KWARGS),
    "hdemucs": (ReferenceHDemucs, {"sources": SOURCES, "samplerate": 8000, "segment": 1.0, **H_KWARGS}),
    "demucs v3": (ReferenceDemucs, {"sources": SOURCES, "samplerate": 8000, "channels": 4, "depth": 5}),
    "maps around a transformer as wide as its U-Net": (ReferenceHTDemucs, HT_KWARGS | {"bottom_channels": 64}),
    "demucs v3 with an LSTM, without norms and gates": (
        ReferenceDemucs,
        {"sources": SOURCES, "samplerate": 8000, "channels": 4, "depth": 3, "segment": 1.0}
        | {"lstm_layers": 2, "norm_starts": 999, "rewrite": False},
    ),
    "demucs v3 with norms from the first layer on": (
        ReferenceDemucs,
        {"sources": SOURCES, "samplerate": 8000, "channels": 4, "depth": 2, "norm_starts": 0},
    ),
}
OURS = {
    "htdemucs": ("htdemucs-tiny", {"transformer_width": 16, "segment_s": 0.75}),
    "htdemucs as wide as its U-Net": ("htdemucs-tiny", {"depth": 5, "nfft": 8192, "transformer_width": 128}),
    "the same with maps": ("htdemucs-tiny", {"transformer_width": 64, "width_maps": True, "segment_s": 0.75}),
    "hdemucs": ("hdemucs-tiny", {"nfft": 256, "segment_s": 1.0}),
    "demucs v3": ("demucs-v3-tiny", {"segment_s": 1.0}),
}


def reference(name: str) -> nn.Module:
    torch.manual_seed(0)
    klass, kwargs = PUBLISHED[name]
    model: nn.Module = klass(**kwargs).eval()
    return model


def package_of(model: Any, **changes: Any) -> dict[str, Any]:
    """What the reference's training exports, weights in half precision."""
    args, kwargs = model._init_args_kwargs
    state = {key: value.half() for key, value in model.state_dict().items()}
    return {
        "klass": type(model),
        "args": args,
        "kwargs": kwargs,
        "state": state,
        "training_args": {"epochs": 360},
    } | changes


def published(model: Any, folder: Path, **changes: Any) -> Path:
    save_with_checksum(package_of(model, **changes), folder / "955717e8.th")
    (path,) = folder.glob("955717e8-*.th")
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_pickle_loads_and_gives_the_references_estimates(name: str, tmp_path: Path) -> None:
    theirs = reference(name)
    ours = load_package(published(theirs, tmp_path))
    theirs.load_state_dict({key: value.half().float() for key, value in theirs.state_dict().items()})
    assert not ours.training
    assert ours.config.sources == tuple(SOURCES)
    assert list(reference_shapes(ours)) == [key for key, _ in theirs.named_parameters()]
    assert forward_gap(ours, theirs, noise(1, 2, 6000)) < 1e-4


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_safetensors_load_and_give_the_references_estimates(name: str, tmp_path: Path) -> None:
    theirs = reference(name)
    package = package_of(theirs)
    kwargs = package["kwargs"] | (
        {"segment": {"_type": "fraction", "numerator": 3, "denominator": 4}} if "t_layers" in PUBLISHED[name][1] else {}
    )
    klass = f"{type(theirs).__module__}.{type(theirs).__name__}"
    metadata = {"klass": klass, "args": "[]", "kwargs": json.dumps(kwargs)}
    state = {key: value.detach() for key, value in theirs.state_dict().items()}
    save_file(state, tmp_path / "955717e8.safetensors", metadata=metadata)
    ours = load_package(tmp_path / "955717e8.safetensors")
    assert forward_gap(ours, theirs, noise(1, 2, 6000)) < 1e-4


@pytest.fixture(params=OURS.values(), ids=OURS.keys())
def ours(request: pytest.FixtureRequest) -> nn.Module:
    preset, options = request.param
    torch.manual_seed(0)
    model = build(preset, sources=SOURCES, sample_rate=8000, channels=8, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def apply_reference(model: nn.Module, mixture_CT: torch.Tensor) -> torch.Tensor:
    """What the stock command line does with a song, its random shift aside."""
    mono = mixture_CT.mean(0)
    mean, std = mono.mean(), mono.std() + 1e-8
    estimates: torch.Tensor = apply_model(model, ((mixture_CT - mean) / std)[None], shifts=0, overlap=0.25)[0]
    return estimates * std + mean


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def test_stock_demucs_separates_a_song_with_our_export_to_the_same_samples(ours: nn.Module, tmp_path: Path) -> None:
    export_bag([ours], tmp_path, name="mine")
    song = noise(2, 20_000)
    assert gap(separate(ours, song), apply_reference(get_model("mine", repo=tmp_path), song)) < 1e-4


def test_stock_demucs_loads_our_safetensors(ours: nn.Module, tmp_path: Path) -> None:
    path = export_package(ours, tmp_path, signature="mine", form="safetensors")
    assert forward_gap(ours, load_safetensors_model(path).eval(), noise(1, 2, 6000)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "presets", [["htdemucs-tiny"], ["hdemucs-tiny", "demucs-v3-tiny"]], ids=["HT Demucs", "a bag of hybrid and time"]
)
def test_the_stock_command_line_separates_with_our_export(presets: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    members = [build(preset, sources=SOURCES, segment_s=1.5).eval() for preset in presets]
    weights = [[1.0, 0.0], [1.0, 2.0]] if len(members) == 2 else None
    bag = load_model(export_bag(members, tmp_path, name="mine", weights=weights))
    song = noise(2, 2 * 44100)
    soundfile.write(tmp_path / "song.wav", song.T.numpy(), 44100, subtype="FLOAT")
    command = [sys.executable, "-m", "demucs", "--repo", tmp_path, "-n", "mine", "--shifts", "0", "--float32"]
    command += ["--clip-mode", "none", "-d", "cpu", "-o", tmp_path / "out", tmp_path / "song.wav"]
    subprocess.run(command, check=True, capture_output=True)
    for source, expected in zip(SOURCES, separate(bag, song), strict=True):
        found, _ = soundfile.read(tmp_path / "out" / "mine" / "song" / f"{source}.wav", dtype="float32")
        assert gap(torch.from_numpy(found.T), expected) < 1e-4


@pytest.mark.parametrize("form", ["th", "safetensors"])
def test_our_export_comes_back_whole(ours: nn.Module, form: Any, tmp_path: Path) -> None:
    again = load_package(export_package(ours, tmp_path, signature="mine", form=form))
    assert to_config(again) == to_config(ours)
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize("form", ["th", "safetensors"])
def test_a_checkpoint_may_also_be_a_published_package_or_a_bag(form: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build("demucs-v3-tiny", sources=SOURCES).eval()
    bag = load_model(export_bag([model, model], tmp_path, name="two", form=form))
    song = noise(2, 8000)
    assert gap(separate(bag, song), separate(model, song)) < 1e-6
    package = load_model(next(tmp_path.glob(f"two_0*.{form}")))
    assert to_config(package) == to_config(model)


def test_half_precision_export_is_half_as_large_and_near(tmp_path: Path) -> None:
    model = build("demucs-v3-tiny").eval()
    whole = export_package(model, tmp_path, signature="whole")
    half = export_package(model, tmp_path, signature="half", half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert forward_gap(load_package(half), model, noise(1, 2, 8000)) < 1e-2


def test_a_bag_of_two_travels_with_weights_and_segment_both_ways(tmp_path: Path) -> None:
    torch.manual_seed(0)
    members = [
        build("hdemucs-tiny", sources=SOURCES, sample_rate=8000, nfft=256).eval(),
        build("demucs-v3-tiny", sources=SOURCES, sample_rate=8000).eval(),
    ]
    path = export_bag(members, tmp_path, name="pair", weights=[[1, 0], [1, 2]], segment_s=1.5)
    bag, song = load_model(path), noise(2, 30_000)
    assert [member.config.segment_s for member in bag.models] == [1.5, 1.5]
    assert bag.shares == [(0.5, 0.0), (0.5, 1.0)]
    assert gap(separate(bag, song), apply_reference(get_model("pair", repo=tmp_path), song)) < 1e-4


def test_a_bags_segment_never_lengthens_ht_demucs(tmp_path: Path) -> None:
    export_bag([build("htdemucs-tiny")], tmp_path, name="one", segment_s=44)
    assert load_model(tmp_path / "one.yaml").models[0].config.segment_s == 3.0
    export_bag([build("htdemucs-tiny")], tmp_path / "short", name="one", segment_s=2)
    assert load_model(tmp_path / "short" / "one.yaml").models[0].config.segment_s == 2


def test_bare_weights_load_with_a_preset(tmp_path: Path) -> None:
    model = build("demucs-v3-tiny")
    torch.save(model.state_dict(), tmp_path / "weights.th")
    again = load_package(tmp_path / "weights.th", preset="demucs-v3-tiny")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    with pytest.raises(ModelError, match="name a preset"):
        load_package(tmp_path / "weights.th")
    with pytest.raises(ModelError, match="belongs to another configuration"):
        load_package(tmp_path / "weights.th", preset="hdemucs-tiny")


class Malice:
    """Runs a function when unpickled the ordinary way."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("where", ["klass", "args", "kwargs", "state", "training_args"])
def test_nothing_of_a_malicious_pickle_runs(where: str, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    package: dict[str, Any] = package_of(reference("demucs v3"))
    torch.save(package | {where: Malice(witness)}, tmp_path / "bad.th")
    with pytest.raises(ModelError, match="refused: its pickle asks for"):
        load_package(tmp_path / "bad.th")
    assert not witness.exists()
    torch.load(tmp_path / "bad.th", weights_only=False)
    assert witness.exists(), "the file must have been able to do harm"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"RIFF not a model", id="text"),
        pytest.param(b"cos\nsystem\n(S'touch witness'\ntR.", id="an old pickle that calls os.system"),
        pytest.param(b"cdemucs.demucs\nDemucs\n(I1\ntR.", id="a call of a class that is only a name"),
        pytest.param(b"cfractions\nFraction\n(S'1e999999999'\ntR.", id="a number too large to build"),
        pytest.param(b"cfractions\nFraction\n(I1\nI0\ntR.", id="a fraction by zero"),
        pytest.param(pickle.dumps([1, 2, 3], protocol=2), id="a list"),
    ],
)
def test_what_is_no_package_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.th").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.th"):
        load_package(tmp_path / "bad.th")


@pytest.mark.parametrize("name", ["args", "kwargs"])
@pytest.mark.parametrize(
    "text",
    ["{", '{"segment": {"_type": "fraction", "numerator": 1, "denominator": 0}}', '{"a": {"_type": "fraction"}}'],
)
def test_safetensors_with_broken_arguments_are_refused(name: str, text: str, tmp_path: Path) -> None:
    metadata = {"klass": "demucs.demucs.Demucs", "args": "[]", "kwargs": "{}"} | {name: text}
    save_file({"a": torch.zeros(1)}, tmp_path / "bad.safetensors", metadata=metadata)
    with pytest.raises(ModelError, match="arguments that cannot be read"):
        load_package(tmp_path / "bad.safetensors")


def test_a_truncated_or_altered_package_is_named(tmp_path: Path) -> None:
    path = published(reference("demucs v3"), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(ModelError, match="truncated or was altered"):
        load_package(path)
    (tmp_path / "unsigned.th").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="truncated or no torch file"):
        load_package(tmp_path / "unsigned.th")
    renamed = tmp_path / f"x-{hashlib.sha256(b'other').hexdigest()[:8]}.safetensors"
    shutil.copy(export_package(build("demucs-v3-tiny"), tmp_path, signature="mine", form="safetensors"), renamed)
    with pytest.raises(ModelError, match="truncated or was altered"):
        load_package(renamed)
    renamed = renamed.rename(tmp_path / "x.safetensors")
    renamed.write_bytes(renamed.read_bytes()[:1000])
    with pytest.raises(ModelError, match="truncated or no safetensors"):
        load_package(renamed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kwargs": HT_KWARGS | {"t_emb": "cape"}}, "t_emb='cape'; only 'sin'"),
        ({"kwargs": HT_KWARGS | {"cac": False}}, "cac=False; only True"),
        ({"kwargs": HT_KWARGS | {"dconv_mode": 2}}, "dconv_mode=2"),
        ({"kwargs": HT_KWARGS | {"norm_starts": 2}}, "norms into the U-Net"),
        ({"kwargs": HT_KWARGS | {"channels": "many"}}, "'many': want a whole number"),
        ({"kwargs": HT_KWARGS | {"segment": [1]}}, "option of the wrong kind"),
        ({"kwargs": HT_KWARGS | {"sources": None}}, "option of the wrong kind"),
        ({"kwargs": HT_KWARGS | {"t_layers": 4}}, "belongs to another configuration"),
        ({"kwargs": HT_KWARGS | {"sources": ["a", "b", "c"]}}, "belongs to another configuration"),
        ({"kwargs": HT_KWARGS | {"sources": "drums"}}, "option of the wrong kind: sources='drums'"),
        ({"kwargs": HT_KWARGS | {"sources": ["a", 3]}}, "option of the wrong kind: sources="),
        ({"kwargs": HT_KWARGS | {"sources": ["a", "a"]}}, "none twice"),
        ({"kwargs": HT_KWARGS | {"samplerate": 0}}, "sample_rate must be >= 1, got 0"),
        ({"kwargs": HT_KWARGS | {"samplerate": -8000}}, "from 0 to 1000000000"),
        ({"kwargs": HT_KWARGS | {"samplerate": float("nan")}}, "from 0 to 1000000000"),
        ({"kwargs": HT_KWARGS | {"segment": float("inf")}}, "from 0 to 1000000000"),
        ({"kwargs": HT_KWARGS | {"segment": float("nan")}}, "from 0 to 1000000000"),
        ({"kwargs": HT_KWARGS | {"segment": 0}}, "segment of 0 s"),
        ({"kwargs": HT_KWARGS | {"segment": "1"}}, "option of the wrong kind"),
        ({"kwargs": HT_KWARGS | {"t_heads": 0}}, "transformer_heads must be >= 1, got 0"),
        ({"kwargs": HT_KWARGS | {"t_heads": 10**400}}, "from 0 to 1000000000"),
        ({"kwargs": HT_KWARGS | {"t_dropout": 2}}, r"dropout must be in \[0, 1\), got 2.0"),
        ({"kwargs": HT_KWARGS | {"t_layers": 10**3}}, "larger network than its weights"),
        ({"kwargs": HT_KWARGS | {"channels": 10**6}}, "larger network than its weights"),
        ({"kwargs": HT_KWARGS | {"bottom_channels": 2 * 10**5}}, "larger network than its weights"),
        ({"kwargs": HT_KWARGS | {"nfft": 2048 * 10**5}}, "larger network than its weights"),
        ({"kwargs": HT_KWARGS | {"t_hidden_scale": 10**8}}, "larger network than its weights"),
        ({"kwargs": HT_KWARGS | {"depth": 10**6}}, "from 0 to 1000"),
        ({"kwargs": HT_KWARGS | {"depth": 0}}, "depth must be >= 1, got 0"),
        ({"kwargs": HT_KWARGS | {"t_emb": torch.zeros(3)}}, "option of the wrong kind"),
        # Of one number, but too large to be printed or compared
        ({"kwargs": HT_KWARGS | {"t_emb": LARGE}}, "option of the wrong kind: 't_emb' is a tensor"),
        ({"kwargs": HT_KWARGS | {"sources": LARGE}}, "option of the wrong kind: 'sources' is a tensor"),
        ({"kwargs": HT_KWARGS | {"channels": [LARGE]}}, r"an option \[<Tensor>\]: want a whole number"),
        ({"klass": LARGE}, "of class <Tensor>"),
        ({"state": {LARGE: torch.zeros(3)}}, "no table of weights"),
        ({"state": {"a": torch.zeros(2, 2).to_sparse()}}, "no plain numbers"),
        ({"state": {"a": torch.zeros(2, dtype=torch.complex64)}}, "no plain numbers"),
        ({"kwargs": {}}, "does not say which sources"),
        ({"klass": "demucs.htdemucs.HTDemucs"}, "of class 'demucs.htdemucs.HTDemucs'"),
        ({"state": {"__quantized": True}}, "DiffQ"),
        ({"state": [1]}, "no table of weights"),
        ({"state": {"a": torch.tensor(float("nan"))}}, "not finite"),
        ({"state": {"a": torch.zeros(1).expand(2**40)}}, "fewer numbers than their shape says"),
        ({"state": {str(copy): SHARED for copy in range(3)}}, "of 12000 bytes of weights only 4000 differ"),
    ],
)
def test_a_package_of_what_cannot_be_built_is_refused_by_name(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        load_package(published(reference("htdemucs"), tmp_path, **changes))


def test_an_option_that_no_class_has_is_passed_over_as_in_the_reference(tmp_path: Path) -> None:
    theirs = reference("htdemucs")
    load_package(published(theirs, tmp_path, kwargs=HT_KWARGS | {"no_longer_there": 3}))


@pytest.mark.parametrize("text", ["", "models: 3", "- a\n- b", "models: [a", "weights: [[1]]", "models: [../a]"])
def test_a_broken_bag_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "bag.yaml").write_text(text)
    with pytest.raises(ModelError, match=r"is no bag|want letters"):
        load_model(tmp_path / "bag.yaml")


def test_a_bag_names_the_package_it_lacks(tmp_path: Path) -> None:
    path = export_bag([build("demucs-v3-tiny")], tmp_path, name="one")
    next(tmp_path.glob("*.th")).unlink()
    with pytest.raises(ModelError, match=r"neither one_0\.safetensors nor one_0-CHECKSUM\.th"):
        load_model(path)
    with pytest.raises(ModelError, match="no model at"):
        load_model(tmp_path / "other.yaml")


def test_version_2_cannot_be_exported_and_says_why(tmp_path: Path) -> None:
    model = from_config(to_config(build("demucs-v3-tiny")) | {"version": 2})
    with pytest.raises(ModelError, match="pads the decoder's convolutions"):
        export_package(model, tmp_path, signature="mine")


def test_version_2_packages_load(tmp_path: Path) -> None:
    """Their class lived in a module that demucs 4.1.0 no longer has."""
    model = build("demucs-v3-tiny", version=2, segment_s=1.0, oversample=True)
    kwargs = {"channels": 8, "depth": 5, "segment_length": 44100, "sources": list(model.config.sources)}
    metadata = {"klass": "demucs.model.Demucs", "args": "[]", "kwargs": json.dumps(kwargs)}
    save_file(model.state_dict(), tmp_path / "v2.safetensors", metadata=metadata)
    assert load_package(tmp_path / "v2.safetensors").config == model.config
