"""Arrays and files through a model: their kind, shape, length and rate come back, and what is wrong is named."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import stemline
from models.inference.separate import separate
from models.networks import catalog
from models.weights import checkpoint

RATE = 8000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = catalog.build("demucs-v2-tiny", segment_s=0.5, sample_rate=RATE, depth=2)
    return checkpoint.save(tmp_path_factory.mktemp("models") / "model", network)


@pytest.fixture(scope="module")
def model(folder: Path) -> stemline.Model:
    return stemline.load_model(folder, device="cpu")


def song(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.1).astype(np.float32)


def test_an_array_is_separated_as_the_network_does_by_itself(model: stemline.Model) -> None:
    mixture_CT = song(2, 9_000)
    stems = model.separate(mixture_CT, sample_rate=RATE, overlap=0.5)
    assert tuple(stems) == model.sources == ("drums", "bass", "other", "vocals")
    expected_SCT = separate(model.network, torch.from_numpy(mixture_CT), overlap=0.5).numpy()
    np.testing.assert_array_equal(np.stack(list(stems.values())), expected_SCT)
    assert (model.sample_rate, model.audio_channels, len(model.digest)) == (RATE, 2, 64)


def test_a_batch_gives_what_its_songs_give_alone_and_a_tensor_gives_tensors(model: stemline.Model) -> None:
    batch_BCT = song(2, 2, 5_000)
    stems = model.separate(torch.from_numpy(batch_BCT).double(), sample_rate=RATE)
    alone = model.separate(batch_BCT[1], sample_rate=np.int64(RATE))  # type: ignore[arg-type]
    assert {(type(stem), stem.dtype, tuple(stem.shape)) for stem in stems.values()} == {
        (torch.Tensor, torch.float32, (2, 2, 5_000))
    }
    for source, stem_BCT in stems.items():
        np.testing.assert_array_equal(stem_BCT[1].numpy(), alone[source])


def test_another_rate_is_resampled_and_the_stems_have_its_length(model: stemline.Model) -> None:
    seconds = np.arange(11_027) / 11_025
    tone_CT = np.stack([np.sin(2 * np.pi * 440 * seconds)] * 2).astype(np.float32) * 0.1
    stems = model.separate(tone_CT, sample_rate=11_025, mixture_consistency="residual")
    assert {stem.shape for stem in stems.values()} == {tone_CT.shape}
    middle = slice(1_000, -1_000)  # resampled there and back, the sum of the stems is still the tone
    np.testing.assert_allclose(sum(stems.values())[:, middle], tone_CT[:, middle], atol=2e-3)


def test_mono_is_taken_by_a_stereo_model(model: stemline.Model) -> None:
    mono_CT = song(1, 3_000)
    stereo = model.separate(np.repeat(mono_CT, 2, axis=0), sample_rate=RATE)
    for source, stem_CT in model.separate(mono_CT, sample_rate=RATE).items():
        np.testing.assert_array_equal(stem_CT, stereo[source])


@pytest.mark.parametrize(
    ("audio", "options", "message"),
    [
        (np.zeros((2, 100), np.int16), {}, "must be floating point with full scale at 1, got int16"),
        (np.zeros(100, np.float32), {}, r"shape \(channels, samples\) or .* got \(100,\)"),
        ([[0.0] * 100] * 2, {}, "must be an array or a tensor, got list"),
        (np.zeros((2, 0), np.float32), {}, r"none of them 0, got \(2, 0\)"),
        (np.zeros((6, 100), np.float32), {}, "must have 2 channels, 1 or 2, got 6; mix it down"),
        (np.full((2, 100), np.nan, np.float32), {}, "must be finite"),
        (np.zeros((2, 100), np.float32), {"sample_rate": 44.1}, "whole number of Hz, from 1 to 1000000, got 44.1"),
        (np.zeros((2, 100), np.float32), {"overlap": 1.5}, "overlap"),
    ],
)
def test_what_cannot_be_separated_is_named(
    model: stemline.Model, audio: Any, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(stemline.InputError, match=message):
        model.separate(audio, **{"sample_rate": RATE, **options})


def test_a_file_becomes_stem_files_with_the_samples_that_its_array_gives(model: stemline.Model, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", song(2, 6_000).T, RATE, subtype="FLOAT")
    audio, sample_rate = stemline.read_audio(tmp_path / "song.wav")
    assert (audio.shape, audio.dtype, sample_rate) == ((2, 6_000), np.float32, RATE)
    written = model.separate_file(tmp_path / "song.wav", tmp_path / "out", format="float")
    stems = model.separate(audio, sample_rate=sample_rate)
    assert written.files.keys() == stems.keys()
    for source, path in written.files.items():
        np.testing.assert_allclose(soundfile.read(path)[0].T, stems[source], atol=1e-5)
    assert model.separate_file(tmp_path / "song.wav", tmp_path / "out", format="float").reused


def test_beside_the_stems_stands_which_weights_made_them_before_they_were_rounded(tmp_path: Path) -> None:
    network = catalog.build("demucs-v2-tiny", segment_s=0.5, sample_rate=RATE, depth=2)
    rounded = checkpoint.save(tmp_path / "rounded", network, extra={"bits": 8, "rounded_from": "a" * 64})
    soundfile.write(tmp_path / "song.wav", song(2, 6_000).T, RATE, subtype="FLOAT")
    stemline.load_model(rounded, device="cpu").separate_file(tmp_path / "song.wav", tmp_path / "out")
    noted = json.loads((tmp_path / "out" / "song" / "separation.json").read_text())["model"]
    assert (noted["weights"], noted["name"]) == (["a" * 64], "rounded")


def test_files_that_are_missing_or_no_audio_are_named(model: stemline.Model, tmp_path: Path) -> None:
    (tmp_path / "words.wav").write_text("no audio")
    for read in (stemline.read_audio, lambda path: model.separate_file(path, tmp_path / "out")):
        with pytest.raises(stemline.InputError, match=r"words\.wav"):
            read(tmp_path / "words.wav")
        with pytest.raises(stemline.InputError, match=r"gone\.wav: no such file"):
            read(tmp_path / "gone.wav")
        with pytest.raises(stemline.InputError, match="a folder, not a song"):
            read(tmp_path)


def test_every_kind_of_reference_is_loaded(folder: Path) -> None:
    by_path = stemline.load_model(str(folder))
    by_file = stemline.load_model(folder / "weights.safetensors")
    assert by_path.digest == by_file.digest
    untrained = [stemline.load_model("htdemucs-tiny", init_seed=seed) for seed in (1, 1, 2)]
    first, second, third = (next(iter(one.network.state_dict().values())) for one in untrained)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert untrained[0].digest == untrained[1].digest != untrained[2].digest


def test_a_reference_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(stemline.InputError, match=r"htdemucs is a network of the catalog .* init_seed=0"):
        stemline.load_model("htdemucs")
    with pytest.raises(stemline.InputError, match="model 'nothing' not found: give models:/"):
        stemline.load_model("nothing")
    with pytest.raises(stemline.InputError, match="no model is registered"):
        stemline.load_model("models:/stemline@champion", store=str(tmp_path))
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(stemline.InputError, match=r"broken\.safetensors"):
        stemline.load_model(tmp_path / "broken.safetensors")
    with pytest.raises(stemline.InputError, match="device"):
        stemline.load_model("htdemucs-tiny", init_seed=0, device="abacus")
