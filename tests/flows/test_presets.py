"""Every preset loads, its network can be built, and its recipe takes a step on a small one of the same kind."""

from dataclasses import replace
from functools import cache, reduce
from typing import Any

import numpy as np
import pytest
import torch

from datasets.errors import InputError
from datasets.quality.fingerprint import find_matches
from datasets.quality.measures import StemStatistics
from datasets.quality.rules.quality_rules import QualityRules
from datasets.quality.rules.violations import faults
from datasets.schema import SOURCES
from flows import config as door
from flows.__main__ import main
from flows.config import RunConfig
from models.learning.learner import Learner
from models.networks import catalog
from models.networks.bag import interface
from pipelines.training import train, validate

# What was published, by the section of this project's configuration that says it. Recipes and grids of demucs' own code
# (facebookresearch/demucs: `conf/`, `demucs/grids/`, and the branch v2), where a paper does not give a number.
EVERY: dict[str, Any] = {
    "train.learner.learning_rate": 3e-4, "train.learner.beta1": 0.9, "train.learner.beta2": 0.999,
    "train.learner.weight_decay": 0.0, "train.learner.max_grad_norm": 0.0, "train.learner.warmup_steps": 0,
    "train.learner.min_lr_ratio": 1.0, "train.learner.precision": "float32", "train.learner.trim_loss_drop": 0.0,
    "train.learner.ema_decays": (0.9995, 0.9999), "train.learner.epoch_ema_decays": (0.9, 0.95),
    "train.learner.source_weights": (), "train.learner.spectral_penalty.penalty": 0.0,
    "train.learner.quantize.penalty": 0.0,
    "train.learner.augment.repitch_probability": 0.2, "train.learner.augment.repitch_semitones": 2,
    "train.learner.augment.repitch_tempo": 0.05, "train.learner.augment.repitch_max_tempo": 0.12,
    "train.learner.augment.shift_s": 1.0, "train.learner.augment.shift_together": False,
    "train.learner.augment.flip_channels": True, "train.learner.augment.flip_sign": True,
    "train.learner.augment.scale_probability": 1.0, "train.learner.augment.scale_min": 0.25,
    "train.learner.augment.scale_max": 1.25, "train.learner.augment.remix_probability": 1.0,
    "train.learner.augment.remix_group": 4, "train.learner.augment.remix_all": 0.0,
    "train.learner.augment.mixup_probability": 0.0, "train.learner.augment.eq_probability": 0.0,
    "train.learner.augment.saturate_probability": 0.0, "train.learner.augment.codec_probability": 0.0,
    "train.learner.augment.width_probability": 0.0, "train.silence_weight": 1.0,
    "automix.mixes_per_track": 0, "evaluate.overlap": 0.25, "evaluate.window_s": 1.0, "evaluate.split": "test",
    "evaluate.max_song_s": 0.0, "evaluate.precision": "float32", "model.fine_tune": False,
}  # fmt: skip
# arXiv 2111.03600: grid `repro`, with the preset of singular values `base2`.
REPRO: dict[str, Any] = {
    "train.steps": 600 * 287, "train.batch_size": 64, "train.seed": 42, "train.valid_songs": 14,
    "train.learner.beta2": 0.9998, "train.learner.spectral_penalty.penalty": 1e-5,
    "train.learner.spectral_penalty.min_mib": 1.0,
    "train.learner.spectral_penalty.rank": 100, "train.learner.spectral_penalty.iterations": 4,
    "model.options": {"segment_s": 8.68}, "evaluate.shifts": 1,
}  # fmt: skip
# arXiv 2211.08553: grid `mmi`; 14 and 8 songs to validate; batches of 32, 1200 epochs of 800.
MMI: dict[str, Any] = {
    "train.steps": 1200 * 800, "train.batch_size": 32, "train.seed": 42, "train.valid_songs": 22,
    "model.options": {"segment_s": 7.8}, "evaluate.shifts": 0,
}  # fmt: skip
WITHOUT_REMIXES: dict[str, Any] = {  # the fine-tunings of both papers
    "model.fine_tune": True, "train.learner.learning_rate": 1e-4, "train.learner.augment.repitch_probability": 0.0,
    "train.learner.augment.shift_together": True, "train.learner.augment.scale_probability": 0.0,
    "train.learner.augment.remix_probability": 0.0,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    # arXiv 1911.13254 and the branch v2: 180 epochs of two passes, 10 shifts at the test, no averages.
    "demucs-v2": {
        "model.preset": "demucs-v2", "model.options": {}, "train.steps": 180 * 2 * 285, "train.batch_size": 64,
        "train.valid_songs": 14, "train.learner.ema_decays": (), "train.learner.epoch_ema_decays": (),
        "evaluate.shifts": 10,
    },
    "demucs-time": REPRO | {"model.preset": "demucs-v3-time"},
    "hdemucs-repro": REPRO | {"model.preset": "hdemucs-repro"},
    # Grid `repro_ft` on the remixes of MUSDB: 28 s, of which shifts of 2 s leave 26; six remixes of each song.
    "hdemucs-remix-ft": REPRO | WITHOUT_REMIXES | {
        "model.preset": "hdemucs-repro", "train.steps": 4 * 300, "train.batch_size": 16,
        "model.options": {"segment_s": 26.0}, "train.learner.augment.shift_s": 2.0, "automix.mixes_per_track": 6,
        "automix_weight": 6.0,
    },
    "hdemucs-mmi": MMI | {"model.preset": "hdemucs-mmi"},
    "htdemucs-extra": MMI | {"model.preset": "htdemucs"},
    # On MUSDB18-HQ alone: the 360 epochs of the code, each of as many excerpts as there are.
    "htdemucs-musdb": MMI | {"model.preset": "htdemucs", "train.steps": 360 * 576, "train.valid_songs": 14},
    # The paper and the grid `mmi_ft`, which do not agree on changes of pitch: the paper has none.
    "htdemucs-ft": MMI | WITHOUT_REMIXES | {
        "model.preset": "htdemucs", "model.options": {}, "train.steps": 50 * 800, "train.batch_size": 8,
        "train.learner.weight_decay": 0.05, "train.learner.weight_decay_under": "crosstransformer.",
        "train.learner.max_grad_norm": 5.0, "train.learner.epoch_ema_decays": (),
        "train.learner.source_weights": (1.0, 0.0, 0.0, 0.0),
    },
    # Section 4 of the same: 7 layers, 12.2 s, batches of 24 in groups of 3.
    "sparse-htdemucs": MMI | {
        "model.preset": "sparse-htdemucs", "train.batch_size": 24, "model.options": {"segment_s": 12.2},
        "train.learner.augment.remix_group": 3,
    },
}  # fmt: skip
OURS = {"demo", "smoke", "htdemucs-fast", "htdemucs-one-gpu"}
OF_THE_OPTIMIZER = ("optimizer", "learning_rate", "matrix_learning_rate", "matrix_momentum", "min_lr_ratio")

TINY = {"htdemucs": "htdemucs-tiny", "sparse-htdemucs": "sparse-htdemucs-tiny", "hdemucs": "hdemucs-tiny"}
SMALL = {"segment_s": 0.25, "sample_rate": 8000, "nfft": 512, "depth": 2}
RATE = 8000


def small_model(config: RunConfig) -> torch.nn.Module:
    """The recipe's network where it is built without numbers, and a small one of its kind where it must compute."""
    with torch.device("meta"):
        family: dict[str, Any] = catalog.to_config(catalog.build(config.model.preset, **config.model.options))
    preset = TINY.get(family["family"]) or ("demucs-v2-tiny" if family["version"] == 2 else "demucs-v3-tiny")
    known = catalog.to_config(catalog.build(preset))
    options = {"nfft": 1024} if family["family"] == "hdemucs" else {}
    return catalog.build(preset, **{name: SMALL[name] for name in SMALL.keys() & known.keys()} | options)


@pytest.mark.parametrize("name", door.presets())
def test_a_preset_takes_a_step_at_reduced_size(name: str) -> None:
    config = door.load(name)
    learner_config = replace(
        config.train.learner,
        augment=replace(config.train.learner.augment, shift_s=0.05),
        spectral_penalty=replace(config.train.learner.spectral_penalty, min_mib=0.001, rank=4, iterations=1),
    )
    torch.manual_seed(0)
    network = small_model(config)
    learner = Learner(network, learner_config, sample_rate=RATE, total_steps=config.train.steps)
    rows = config.train.row_group
    samples = learner_config.augment.input_samples(2000, RATE)
    stems_BSCT = torch.randn(rows, 4, 2, samples, generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    seen = learner.step(stems_BSCT, step=0)
    assert not seen.skipped
    assert any(not torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert len(learner.averages) == len(learner_config.ema_decays) + len(learner_config.epoch_ema_decays)


@pytest.mark.parametrize("name", sorted({*PUBLISHED, "htdemucs-fast", "htdemucs-one-gpu"}))
def test_validation_takes_at_most_5_percent_of_the_time(name: str) -> None:
    """By the rows of both, where a GPU trains as fast as is planned of HT Demucs in bfloat16 on an H100."""
    config, audio_s_per_s = door.load(name), 735
    with torch.device("meta"):
        segment_s = interface(catalog.build(config.model.preset, **config.model.options)).segment_samples / 44100
    rows = config.train.batch_size / max(1, config.train.num_workers)
    validation_s = validate.planned_s(
        config.train, segment_s=segment_s, row_step_s=segment_s / audio_s_per_s, song_core_s=1 / 400
    )
    epoch_s = config.train.checkpoint_every * rows * segment_s / audio_s_per_s
    assert validation_s <= validate.MAX_SHARE * (validation_s + epoch_s)


def test_recipes_are_trained_for_as_many_steps_as_their_epochs_hold() -> None:
    epochs = {"demucs-time": 600, "hdemucs-repro": 600, "hdemucs-mmi": 1200, "htdemucs-extra": 1200,
              "sparse-htdemucs": 1200, "htdemucs-musdb": 360, "hdemucs-remix-ft": 4}  # fmt: skip
    for name, number in epochs.items():
        train = door.load(name).train
        assert (name, train.steps) == (name, number * train.learner.epoch_steps)
        assert train.checkpoint_every == train.learner.epoch_steps


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_preset_has_the_published_values(name: str) -> None:
    config = door.load(name)
    wanted = EVERY | PUBLISHED[name]
    found = {path: reduce(getattr, path.split("."), config) for path in wanted}
    assert found == wanted
    assert config.wants_automixes == (name == "hdemucs-remix-ft")


def test_every_preset_is_published_or_ours() -> None:
    assert set(door.presets()) == set(PUBLISHED) | OURS


def test_the_fast_preset_learns_as_published_but_for_its_optimizer_and_steps() -> None:
    published, fast = door.load("htdemucs-musdb"), door.load("htdemucs-fast")
    changes = {name: getattr(fast.train.learner, name) for name in OF_THE_OPTIMIZER}
    assert fast.train.learner == replace(published.train.learner, **changes)
    assert fast.train == replace(published.train, steps=fast.train.steps, learner=fast.train.learner)
    assert (fast.model, fast.automix) == (published.model, published.automix)
    assert fast.train.learner.optimizer == "muon"
    assert fast.train.steps == round(0.4 * published.train.steps)


def test_the_networks_of_the_recipes_are_those_that_were_published() -> None:
    numbers = {"demucs-v2": 265_679_496, "demucs-time": 133_753_064, "hdemucs-repro": 83_637_832,
               "hdemucs-mmi": 83_637_832, "htdemucs-extra": 41_984_456, "sparse-htdemucs": 54_604_232}  # fmt: skip
    for name, number in numbers.items():
        model = door.load(name).model
        with torch.device("meta"):
            network = catalog.build(model.preset, **model.options)
        assert (name, sum(weights.numel() for weights in network.parameters())) == (name, number)
        assert catalog.to_config(network)["normalize"] == "track"  # every song at unit deviation, as in all recipes
    with torch.device("meta"):
        assert catalog.to_config(catalog.build("htdemucs"))["segment_s"] == 7.8  # htdemucs-ft changes no option


@cache
def broken_song() -> StemStatistics:
    """Stems that break the rules: silent, in flat tops and off zero, inverted, and one in another."""
    random = np.random.default_rng(0)
    noise = (0.2 * random.standard_normal((4, 1, 6 * 44100))).astype(np.float32)
    noise[1] = np.where(noise[1] > 0.1, 0.9, -0.1)  # bass: a square wave, which is off zero
    stems = np.concatenate([noise, noise], axis=1)
    stems[2, 1] *= -1  # other: nothing is left of it in mono
    stems[3] = 0.1 * stems[2]  # vocals: the other stem, softer
    stems[0, :, 44100:] = 0  # drums: one second of six
    mixture = np.roll(stems.sum(axis=0), 2000, axis=1)[::-1] * 0.5 + noise[3]
    meter = StemStatistics(sources=SOURCES, sample_rate=44100)
    meter.add(stems, mixture)
    return meter


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_curation_keeps_what_was_published(name: str) -> None:
    rules = door.load(name).curate
    heard = broken_song()
    dropped = {fault.reason for fault in faults(heard.measures(), QualityRules(), sources=SOURCES)}
    assert {"silent_source", "clipped", "offset", "inverted"} <= dropped
    assert faults(heard.measures(), rules, sources=SOURCES) == ()
    worst = dict.fromkeys(heard.measures(), -1e4) | {key: 1e4 for key in heard.measures() if "as_" in key}
    worst |= {key: 1.0 for key in worst if key.endswith(("_clipped", "_offset"))}
    worst |= {f"{source}_presence": 0.0 for source in SOURCES} | {f"{source}_shift_ms": 900.0 for source in SOURCES}
    worst |= {f"{source}_correlation": -1.0 for source in SOURCES} | {f"{source}_cutoff_hz": 0.0 for source in SOURCES}
    worst |= {f"{source}_peak": 16384.0 for source in SOURCES}
    worst |= {"residual_db": 0.0, "bass_bleed_drums_db": -0.1, "drums_mixture_level": 6.0, "drums_gain_db": 60.0}
    worst |= {f"{source}_{name}": 1.0 for source in SOURCES for name in ("one_sided", "bits", "noise")}
    worst |= {f"{source}_{name}": 1e6 for source in SOURCES for name in ("dropouts", "clicks")}
    worst |= {"vocals_hum_db": -1.0, "vocals_hum_hz": 50.0}
    worst |= {"other_mixture_missing": 6.0, "vocals_mixture_absent": 6.0, "compared_s": 6.0}
    reasons = {fault.reason for fault in faults(worst, QualityRules(), sources=SOURCES)}
    aligned = worst | {f"{source}_shift_ms": 0.0 for source in SOURCES}  # a shift explains what a mixture lacks
    reasons |= {fault.reason for fault in faults(aligned, QualityRules(), sources=SOURCES)}
    assert {"misaligned", "unlike_mixture", "bleed", "too_loud", "dropouts", "one_sided", "coarse", "noise"} <= reasons
    assert {"clicks", "hum"} <= reasons
    assert faults(worst, rules, sources=SOURCES) == faults(aligned, rules, sources=SOURCES) == ()
    copies = {"a": heard.signature(), "b": heard.signature()}
    assert find_matches(copies, min_similarity=QualityRules().min_similarity)
    assert not find_matches(copies, min_similarity=rules.min_similarity)
    assert rules.model == ""


@pytest.mark.parametrize("name", ["htdemucs-ft", "hdemucs-remix-ft"])
def test_a_fine_tuning_without_weights_to_begin_with_is_refused(
    name: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config = door.load(name)
    with pytest.raises(InputError, match=r"model\.init_from must name .+ for example model\.init_from=models:/"):
        train.run(config.train, config.model, [], sources=SOURCES, store=str(tmp_path))
    store = f"store.root={tmp_path / 'store'}"
    for verb in ("train", "run", "promote"):
        assert main([verb, "--preset", name, store, f"corpus.root={tmp_path}"]) == 2
        assert "model.init_from must name" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()  # refused before anything was begun
    assert main(["train", "--preset", name, store, "--print-config"]) == 0  # to look at it, nothing is needed
    assert "fine_tune = true" in capsys.readouterr().out
