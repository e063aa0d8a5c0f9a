"""Checkpoints of the trainer `msst` load, and separate as its own networks do; what cannot be built is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models.errors import ModelError
from models.networks.catalog import to_config
from models.weights import checkpoint
from models.weights.loading import ModelKind, kind_of, load_model
from models.weights.model_identity import describe
from tests.models.parity import noise

msst_settings = pytest.importorskip("msst.utils.settings", reason="msst has no release for this Python")

AUDIO = {"chunk_size": 2000, "num_channels": 2, "sample_rate": 8000, "min_mean_abs": 0.0}
TRAINING = {"instruments": ["voice", "rest"], "target_instrument": None, "batch_size": 4, "use_amp": True}
ROFORMER = {
    "dim": 16,
    "depth": 1,
    "stereo": True,
    "num_stems": 2,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "linear_transformer_depth": 0,
    "dim_head": 8,
    "heads": 2,
    "attn_dropout": 0.1,
    "ff_dropout": 0.1,
    "flash_attn": False,
    "dim_freqs_in": 129,
    "stft_n_fft": 256,
    "stft_hop_length": 50,
    "stft_win_length": 256,
    "stft_normalized": False,
    "multi_stft_resolutions_window_sizes": (4096, 2048),
}
FILES: dict[str, dict[str, Any]] = {
    "bs_roformer": ROFORMER | {"freqs_per_bands": (2,) * 10 + (50, 59), "mask_estimator_depth": 2},
    "mel_band_roformer": ROFORMER
    | {"num_bands": 6, "sample_rate": 8000, "mask_estimator_depth": 2, "mlp_expansion_factor": 2},
    "scnet": {
        "sources": ["voice", "rest"],
        "dims": [4, 8],
        "nfft": 256,
        "hop_size": 64,
        "win_size": 256,
        "normalized": True,
        "band_SR": [0.175, 0.392, 0.433],
        "num_dplayer": 2,
    },
}


def published(folder: Path, kind: str, *, state: Any = None, **sections: Any) -> Path:
    """The two files, with the trainer's own network of random weights; a section replaces or adds to some options."""
    content = {"audio": AUDIO, "model": FILES[kind], "training": TRAINING, "inference": {"num_overlap": 2}}
    text = yaml.dump({name: {**section, **sections.get(name, {})} for name, section in content.items()})
    (folder / "config_of_it.yaml").write_text(text)
    if state is None:
        state = network(folder, kind).state_dict()
    torch.save(state, folder / "model.ckpt")
    return folder / "model.ckpt"


def network(folder: Path, kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = msst_settings.get_model_from_config(kind, str(folder / "config_of_it.yaml"))[0]
    return model.eval()


@pytest.mark.filterwarnings("ignore:A window was not provided")
@pytest.mark.parametrize("kind", FILES)
def test_a_checkpoint_gives_the_trainers_own_estimates(kind: str, tmp_path: Path) -> None:
    path = published(tmp_path, kind)
    ours, theirs = load_model(path), network(tmp_path, kind)
    assert kind_of(path) is ModelKind.MSST
    assert ours.config.sources == ("voice", "rest")
    assert (ours.config.segment_samples, ours.config.normalize) == (2000, "none")
    mixture = noise(2, 2, 2000)
    with torch.no_grad():
        expected, estimates = theirs(mixture), ours(mixture)
    assert float((estimates - expected).abs().max() / expected.abs().max()) < 1e-4


def test_it_becomes_a_checkpoint_of_ours_and_its_yaml_is_part_of_what_it_is(tmp_path: Path) -> None:
    path = published(tmp_path, "bs_roformer", inference={"normalize": True})
    model = load_model(path)
    again = load_model(checkpoint.save(tmp_path / "saved", model))
    assert to_config(again) == to_config(model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    first = describe(path)
    assert (first.sources, first.normalize) == (("voice", "rest"), "track")
    assert [Path(origin).name for origin in first.origins] == ["model.ckpt", "config_of_it.yaml"]
    published(tmp_path, "bs_roformer", state=torch.load(path), audio={"chunk_size": 1000})
    assert describe(path).digest != first.digest


@pytest.mark.parametrize("wrapper", ["state", "state_dict", "model_state_dict"])
def test_weights_may_stand_beside_an_optimizers_state(wrapper: str, tmp_path: Path) -> None:
    path = published(tmp_path, "scnet")
    bare = load_model(path)
    published(tmp_path, "scnet", state={wrapper: torch.load(path), "epoch": 3, "optimizer": {"lr": 0.1}})
    assert all(torch.equal(value, bare.state_dict()[name]) for name, value in load_model(path).state_dict().items())


def test_one_target_is_one_source(tmp_path: Path) -> None:
    training = {"target_instrument": "voice"}
    published(tmp_path, "mel_band_roformer", state={}, model={"num_stems": 1}, training=training)
    state = network(tmp_path, "mel_band_roformer").state_dict()
    path = published(tmp_path, "mel_band_roformer", state=state, model={"num_stems": 1}, training=training)
    assert load_model(path).config.sources == ("voice",)


@pytest.mark.parametrize(
    ("kind", "sections", "message"),
    [
        ("scnet", {"training": {"model_type": "mdx23c"}}, "type 'mdx23c'; known: bs_roformer"),
        ("scnet", {"training": {"model_type": "sc_net"}}, "type 'sc_net'; did you mean 'scnet'"),
        ("scnet", {"training": {"instruments": ["rest", "voice"]}}, "sources differ: the network has .'voice', 'rest'"),
        ("bs_roformer", {"training": {"target_instrument": "voice"}}, r"num_stems=2, the training 1 \(voice\)"),
        ("bs_roformer", {"training": {"instruments": 3}}, "option of the wrong kind: sources=3"),
        ("bs_roformer", {"model": {"linear_transformer_depth": 1}}, "linear_transformer_depth=1; only 0"),
        ("bs_roformer", {"model": {"time_transformer_depth": 2}}, "time_transformer_depth=2; only 1"),
        ("bs_roformer", {"model": {"use_pope": True}}, "use_pope=True; only False"),
        ("bs_roformer", {"model": {"use_shared_bias": True}}, "use_shared_bias=True, which its network does not have"),
        ("bs_roformer", {"model": {"freqs_per_bands": [100, 28]}}, "band_rows are 128 rows in sum"),
        ("bs_roformer", {"model": {"stft_win_length": 200}}, "stft_win_length=200 with stft_n_fft=256"),
        ("bs_roformer", {"model": {"dim": "wide"}}, "'wide': want a whole number"),
        ("bs_roformer", {"audio": {"chunk_size": 100}}, "100 samples are too short for an STFT of 256"),
        ("bs_roformer", {"audio": {"chunk_size": 0}}, "segment of 0 s"),
        ("mel_band_roformer", {"audio": {"sample_rate": 44100}}, "sample rates differ: audio 44100, model 8000"),
        ("scnet", {"model": {"normalized": False}}, "normalized=False; only True"),
        ("scnet", {"model": {"dims": [2, 8]}}, "the first must be twice as many"),
        ("scnet", {"model": {"num_dplayer": 10**6}}, "from 0 to 1000"),
        # Of another size: names and shapes are listed.
        ("bs_roformer", {"model": {"depth": 2}}, r"layers.1.freq.attention.norm.weight: the model wants \(16,\)"),
        ("bs_roformer", {"model": {"heads": 4}}, r"to_out.weight: the model wants \(16, 32\), the file has \(16, 16\)"),
        ("scnet", {"model": {"dims": [4, 16]}}, "belongs to another configuration; [0-9]+ tensors differ"),
        ("bs_roformer", {"model": {"dim": 10**4}}, "larger network than its weights can fill"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(
    kind: str, sections: dict[str, Any], message: str, tmp_path: Path, states: dict[str, Any]
) -> None:
    path = published(tmp_path, kind, state=states[kind], **sections)
    with pytest.raises(ModelError, match=message) as error:
        load_model(path)
    assert str(tmp_path) in str(error.value)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("networks")
    return {kind: torch.load(published(folder, kind)) for kind in FILES}


def test_positions_that_turn_at_other_rates_are_refused(tmp_path: Path, states: dict[str, Any]) -> None:
    state = {name: value * (0.5 if "freqs" in name else 1) for name, value in states["bs_roformer"].items()}
    with pytest.raises(ModelError, match="positions turn at other rates"):
        load_model(published(tmp_path, "bs_roformer", state=state))
    state = {name: value[None] if "freqs" in name else value for name, value in states["bs_roformer"].items()}
    with pytest.raises(ModelError, match="expected a vector of rates"):
        load_model(published(tmp_path, "bs_roformer", state=state))


@pytest.mark.parametrize("text", ["", "models: [a]", "audio: {}\nmodel: [1]", "audio: {}\nmodel: {a: 1}\ntraining: {}"])
def test_a_yaml_of_something_else_is_refused(text: str, tmp_path: Path, states: dict[str, Any]) -> None:
    path = published(tmp_path, "scnet", state=states["scnet"])
    (tmp_path / "config_of_it.yaml").write_text(text)
    with pytest.raises(ModelError, match=r"config_of_it\.yaml: it (has no section|describes a network of an unknown)"):
        load_model(path)


def test_the_yaml_is_the_one_of_its_name_or_the_only_one(tmp_path: Path, states: dict[str, Any]) -> None:
    path = published(tmp_path, "scnet", state=states["scnet"])
    (tmp_path / "other.yml").write_text("a: 1")
    with pytest.raises(ModelError, match=r"2 YAML files lie beside .* as model\.yaml"):
        load_model(path)
    (tmp_path / "config_of_it.yaml").rename(tmp_path / "model.yaml")
    load_model(path)
    (tmp_path / "model.yaml").unlink()
    (tmp_path / "other.yml").unlink()
    with pytest.raises(ModelError, match="no YAML file lies beside"):
        load_model(path)


class Malice:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.witness,)


def test_nothing_of_a_malicious_file_runs(tmp_path: Path, states: dict[str, Any]) -> None:
    path = published(tmp_path, "scnet", state={"state": states["scnet"], "more": Malice(tmp_path / "witness")})
    with pytest.raises(ModelError, match=r"refused: .*more than weights"):
        load_model(path)
    path = published(tmp_path, "scnet", state=states["scnet"])
    (tmp_path / "config_of_it.yaml").write_text(f"!!python/object/apply:os.mkdir [{json.dumps(str(path))}x]")
    with pytest.raises(ModelError, match="no YAML of a training"):
        load_model(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config_of_it.yaml", "model.ckpt"]
