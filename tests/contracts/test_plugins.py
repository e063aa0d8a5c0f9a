"""The whole way of a plug-in: named in the settings, trained, registered, loaded, and separated without its package."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import stemline
from datasets.errors import InputError
from datasets.schema import SCORES, Score
from datasets.shards.arrow_tables import read_objects, table_of, write_table
from flows.config.notify_config import NotifyConfig
from flows.console.notifications import Notice, send
from models.learner_config import AugmentConfig, LearnerConfig
from models.networks import catalog
from models.plugins import source_files
from models.weights import checkpoint
from models.weights.state_dict import build_for
from pipelines.evaluation import extra_metrics, song_scoring
from pipelines.evaluation.evaluate_config import EvaluateConfig
from pipelines.evaluation.gate import decide
from pipelines.evaluation.summary import extra_scores, summarize
from pipelines.preparation.song_rules import curation_rules, objection
from pipelines.registry import Candidate, RegistryConfig, register
from pipelines.training import train, train_result
from pipelines.training.train_config import ModelConfig, TrainConfig
from tests.contracts import song_lab
from tests.contracts.test_registered_model_travels import consume
from tests.pipelines.evaluation.test_gate import CONFIG as GATE
from tests.pipelines.evaluation.test_gate import summary as gate_summary
from tests.pipelines.runs.test_curve_export import scalars
from tests.pipelines.songs import RATE, SOURCES, write_songs

pytestmark = pytest.mark.slow

MODEL = ModelConfig(preset="mask-net", options={"segment_s": 0.25, "width": 4})
LEARNER = LearnerConfig(
    learning_rate=1e-3, loss="log-l1", optimizer="sign-sgd", ema_decays=(),
    augment=AugmentConfig(shift_s=0.05, remix_group=2, plugins=("gain-ramp",)),
)  # fmt: skip
CONFIG = TrainConfig(
    steps=4, batch_size=4, checkpoint_every=2, log_every=1, num_workers=0, valid_s=1.0, learner=LEARNER
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with song_lab.installed(tmp_path_factory.mktemp("song-lab")) as folder:
        yield folder


def job_of(config: TrainConfig, chunks: Any, store: str) -> Any:
    return train.job_of(config, MODEL, chunks, sources=SOURCES, store=store)


def test_a_plug_in_is_trained_registered_and_served_without_its_package(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = str(tmp_path / "store")
    chunks = [(write_songs(tmp_path / "songs", {"a": "train", "b": "train", "c": "valid"}), 1.0)]
    config = replace(CONFIG, tensorboard=str(tmp_path / "curves"))
    trained = train.run(config, MODEL, chunks, sources=SOURCES, store=store)
    assert {step for step, *_ in scalars(tmp_path / "curves" / train.key_of(job_of(CONFIG, chunks, store)))} == {
        1,
        2,
        3,
        4,
    }
    assert checkpoint.read_config(trained.checkpoint)["model"]["family"] == "song_lab.networks:MaskNet"
    by_ref = replace(MODEL, preset="song_lab.networks:MaskNet")
    assert train.plugin_versions(CONFIG, by_ref) == train.plugin_versions(CONFIG, MODEL)
    (lineage,) = train.plugin_versions(CONFIG, MODEL).values()
    assert [version.partition(" (song-lab 1.0, source ")[0] for version in lineage] == [
        "network song_lab.networks:MaskNet", "loss song_lab.learning:log_l1", "optimizer song_lab.learning:SignSGD",
        "augmentation song_lab.learning:gain_ramp",
    ]  # fmt: skip
    curve = [point["loss"] for point in train_result.read_history(trained) if "loss" in point]
    assert len(curve) == CONFIG.steps
    assert max(curve) < 0  # decibels, of song_lab's loss

    candidate = Candidate(
        run_key=trained.run_key, checkpoint=trained.checkpoint, dataset=chunks[0][0], config={},
        history=train_result.read_history(trained), scores={}, lineage={"plugins": "; ".join(lineage)}, documents={},
    )  # fmt: skip
    version = register(RegistryConfig(), candidate, store=store)
    mixture = np.random.default_rng(0).normal(0, 0.1, (1, 2, RATE)).astype(np.float32)
    ours = stemline.load_model(version.uri, store=store).separate(mixture[0], sample_rate=RATE)
    (package,) = consume(tmp_path / "consumer", store, mixture, {"stems": (version.uri, {})})
    assert package.startswith("stem_separator_")
    np.testing.assert_allclose(
        np.load(tmp_path / "consumer" / "stems.npy")[0], np.stack(list(ours.values())), rtol=0, atol=1e-6
    )


def test_other_source_is_another_training_and_another_process(site: Path) -> None:
    """What a process has imported it goes on to run: that is not what its files say by now."""
    before = train.plugin_versions(CONFIG, MODEL)
    layers = site / "song_lab" / "layers.py"
    text = layers.read_text()
    try:
        layers.write_text(text.replace("GELU", "ReLU"))
        with pytest.raises(ValueError, match=r"'mask-net'.*was changed after this process had imported it"):
            train.plugin_versions(CONFIG, MODEL)
        song_lab.forget(site)
        changed = train.plugin_versions(CONFIG, MODEL)
    finally:
        layers.write_text(text)
        song_lab.forget(site)
    assert changed["plugins"][1:] == before["plugins"][1:]
    assert changed["plugins"][0] != before["plugins"][0]


def test_what_a_plug_in_may_import_one_day_is_part_of_its_source_and_does_not_run(tmp_path: Path) -> None:
    package = tmp_path / "lab_lazy"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "metrics.py").write_text(
        "def one(r, e, sample_rate): ...\ndef show():\n    from .window import Window\n    Window()\n"
    )
    (package / "window.py").write_text("raise SystemExit('no display')\n")
    with song_lab.on_path(tmp_path):
        (metric,) = extra_metrics.plugin_metrics(["lab_lazy.metrics:one"])
        assert "source " in metric.version
        assert source_files(metric.module).keys() == {"lab_lazy", "lab_lazy.metrics", "lab_lazy.window"}


def test_a_network_whose_source_cannot_be_carried_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = catalog.plugin_of(catalog.preset_config("mask-net"))
    assert plugin is not None
    assert "song_lab/layers.py" in catalog.carried_source(plugin)
    with pytest.raises(ValueError, match=r"'mask-net'.*has no source in Python"):
        catalog.carried_source(replace(plugin, ref="itertools:count"))
    monkeypatch.setattr(catalog, "MAX_FILES", 2)
    with pytest.raises(ValueError, match=r"'mask-net'.*imports more than 2 files of its package"):
        catalog.carried_source(plugin)


def test_two_networks_have_not_one_class_of_configurations(tmp_path: Path) -> None:
    """A saved model says which network it is by the class of its configuration."""
    (tmp_path / "lab_twins.py").write_text(f"{HEAD}class Heir(Whole): ...\n")
    with song_lab.on_path(tmp_path):
        first = catalog.build("lab_twins:Whole")
        with pytest.raises(ValueError, match=r"'lab_twins:Heir'.*has the config_class of Whole"):
            catalog.build("lab_twins:Heir")
        assert catalog.to_config(first)["family"] == "lab_twins:Whole"


def test_an_option_that_a_plug_in_stumbles_over_is_no_stack_trace(tmp_path: Path) -> None:
    fields = "width: str = 'a'\n def __post_init__(self): {'a': 1}[self.width].real"
    (tmp_path / "lab_options.py").write_text(f"{HEAD}@dataclass\nclass C(Config):\n {fields}\n")
    with (tmp_path / "lab_options.py").open("a") as file:
        file.write("class Net(Whole): config_class = C\n")
    with song_lab.on_path(tmp_path), pytest.raises(InputError, match=r"option of lab_options:Net is refused: KeyError"):
        ModelConfig(preset="lab_options:Net", options={"width": "b"}).check()


def test_a_larger_network_than_the_weights_is_not_built(site: Path) -> None:
    model = {"family": "song_lab.networks:MaskNet", "width": 10**9}
    with pytest.raises(ValueError, match="belongs to another configuration"):
        build_for(model, {"weight": torch.zeros(4)}, origin="a file")


BROKEN = {
    "raises": ("import nowhere_to_be_found", "cannot be imported: ModuleNotFoundError: No module named 'nowhere"),
    "function": ("def Net(config): ...", "must be a subclass of torch.nn.Module, got <function"),
    "unconfigured": ("class Net(nn.Module): ...", "must have a dataclass as its config_class, got None"),
    "lacking": (
        "@dataclass\nclass C:\n a: int = 1\nclass Net(nn.Module): config_class = C",
        "without sources, sample_rate",
    ),
    "shape": ("class Net(Whole):\n def forward(self, x): return x", r"returned \(1, 2, 2000\) for a mixture"),
    "call": ("class Net(Whole):\n def forward(self, x): return 1 / 0", "raised ZeroDivisionError on a segment"),
    "absolute": (
        "import models.rng\nclass Net(Whole):\n def forward(self, x): return x",
        "imports models.rng in .*line",
    ),
    "lookup": (
        "@dataclass\nclass C(Config):\n def __post_init__(self): {}['rate']\nclass Net(Whole): config_class = C",
        "has no configuration of defaults: KeyError: 'rate'",
    ),
    "own": ("from lab_own import BROKEN\nclass Net(Whole): ...", "cannot be imported: ImportError"),
    "ours": (
        "from models.networks.htdemucs import HTDemucsConfig\nclass Net(nn.Module): config_class = HTDemucsConfig",
        "has the config_class of HTDemucs",
    ),
    "level": (
        "@dataclass\nclass Loud(Config):\n normalize: str = 'batch'\nclass Net(Whole): config_class = Loud",
        "has normalize='batch' and not one of track, none",
    ),
}
HEAD = """
from dataclasses import dataclass
from torch import nn
@dataclass
class Config:
    sources: tuple = ("drums", "bass")
    sample_rate: int = 8000
    audio_channels: int = 2
    normalize: str = "none"
    segment_samples: int = 2000
class Whole(nn.Module):
    config_class = Config
    def __init__(self, config):
        super().__init__()
        self.weight = nn.Linear(2, 2)
"""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_network_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    source, message = BROKEN[name]
    (tmp_path / f"lab_{name}.py").write_text(HEAD + source + "\n")
    chunks = [(write_songs(tmp_path / "songs", {"a": "train", "b": "valid"}), 1.0)]
    model = ModelConfig(preset=f"lab_{name}:Net")
    config = replace(CONFIG, learner=LearnerConfig(augment=LEARNER.augment))
    config = replace(config, learner=replace(config.learner, augment=AugmentConfig(shift_s=0.05, remix_group=2)))
    with (
        song_lab.on_path(tmp_path),
        pytest.raises(ValueError, match=rf"network plug-in 'lab_{name}:Net'.*{message}") as caught,
    ):
        train.run(config, model, chunks, sources=SOURCES, store=str(tmp_path / "store"))
    assert "name another with model.preset" in str(caught.value)


def test_a_loss_that_returns_another_shape_or_no_gradient_is_named(tmp_path: Path) -> None:
    (tmp_path / "lab_loss.py").write_text(
        "import torch\ndef total(e, s): return (e - s).abs().mean()\n"
        "def constant(e, s): return torch.zeros(s.shape[:2])\ndef gain(s, generator): return s[:1]\n"
    )
    chunks = [(write_songs(tmp_path / "songs", {"a": "train", "b": "valid"}), 1.0)]
    model = ModelConfig(preset="htdemucs-tiny", options={"segment_s": 0.25, "nfft": 512, "depth": 2})
    augment = AugmentConfig(shift_s=0.0, remix_group=2)
    cases = {
        "loss 'lab_loss:total'": ({"loss": "lab_loss:total"}, r"returned \(\): want a tensor \(4, 2\), \(rows, "),
        "loss 'lab_loss:constant'": ({"loss": "lab_loss:constant"}, "no gradient leads to"),
        "augmentation 'lab_loss:gain'": (
            {"augment": replace(augment, plugins=("lab_loss:gain",))}, r"returned \(1, 2, 2000\): want a tensor \(2, "
        ),
        "optimizer 'lab_loss:total'": ({"optimizer": "lab_loss:total"}, "raised TypeError"),
        "no loss 'l2'": ({"loss": "l2"}, "did you mean 'l1'"),
    }  # fmt: skip
    with song_lab.on_path(tmp_path):
        for named, (changes, message) in cases.items():
            kind, _, name = named.partition(" ")
            expected = named if kind == "no" else f"{kind} plug-in {name}"
            config = replace(CONFIG, learner=replace(LearnerConfig(augment=augment), **changes))
            with pytest.raises(ValueError, match=f"{expected}.*{message}"):
                train.run(config, model, chunks, sources=SOURCES, store=str(tmp_path / "store"))


def test_a_name_that_two_distributions_have_or_we_is_a_collision(site: Path, tmp_path: Path) -> None:
    for name in ("mask-net", "htdemucs-tiny"):
        song_lab.write_distribution(
            tmp_path, f"rival-{name}", f"[stemline.networks]\n{name} = rival:Net\n", version="2.0"
        )
    with song_lab.on_path(tmp_path):
        with pytest.raises(InputError, match=r"'mask-net' collides: .*song-lab 1\.0.*; rename or uninstall one"):
            ModelConfig(preset="mask-net").check()
        with pytest.raises(InputError, match="'htdemucs-tiny' collides: rival:Net of rival-htdemucs-tiny"):
            ModelConfig(preset="htdemucs-tiny").check()


def test_rules_of_curation_and_gate_decide_under_their_names(site: Path) -> None:
    song = SimpleNamespace(track_id="train/a", title="A")
    (rule,) = curation_rules(["short-songs"])
    assert rule.version.startswith("song_lab.rules:short_songs (song-lab 1.0, source ")
    assert objection([rule], song, {"duration_s": 2.0}) == "short-songs: A has 2.0 s, and 3 are wanted"
    assert objection([rule], song, {"duration_s": 4.0}) == ""
    config = replace(GATE, plugins=("no-silent-vocals",))
    for vocals, met in ((4.0, True), (-4.0, False)):
        candidate = gate_summary(9.0, vocals)
        candidate = replace(
            candidate, sources={"drums": candidate.sources["drums"], "vocals": candidate.sources["bass"]}
        )
        (check,) = (check for check in decide(candidate, None, config).checks if check.rule == "no-silent-vocals")
        assert check.met == met
        assert f"Vocals score {vocals:+.2f} dB nSDR" in check.message
        assert "[song_lab.rules:no_silent_vocals (song-lab 1.0, source " in check.message
    assert not decide(candidate, None, config).promote


def test_rules_that_return_anything_else_are_named(tmp_path: Path) -> None:
    (tmp_path / "lab_rules.py").write_text("def number(*a): return 1\ndef fails(*a): return a[9]\nvalue = 3\n")
    song, candidate = SimpleNamespace(track_id="train/a", title="A"), gate_summary(9.0, 9.0)
    with song_lab.on_path(tmp_path):
        for name, message in (
            ("number", "returned 1 for 'train/a': want a sentence"), ("fails", "raised IndexError"),
            ("value", "must be a function"), ("gone", "cannot be imported: AttributeError"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=f"curation rule plug-in 'lab_rules:{name}'.*{message}"):
                objection(curation_rules([f"lab_rules:{name}"]), song, {})
        with pytest.raises(InputError, match=r"gate rule plug-in 'lab_rules:number'.*want \(met, sentence\)"):
            decide(candidate, None, replace(GATE, plugins=("lab_rules:number",)))
    with pytest.raises(InputError, match=r"curate\.plugins: no curation rule 'nothing'"):
        curation_rules(["nothing"])


def test_a_file_of_the_working_folder_says_how_python_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab_here.py").write_text("def rule(song, measures): return None\n")
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(tmp_path))])
    with pytest.raises(
        InputError, match=r"No module named 'lab_here'; lab_here\.py is in this folder, .* PYTHONPATH=/"
    ):
        curation_rules(["lab_here:rule"])
    with pytest.raises(InputError, match=r"relative import for '\.lab_here'; install or mend it"):
        curation_rules([".lab_here:rule"])


def test_a_metric_scores_songs_under_a_protocol_that_names_its_version(site: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(plugins=("envelope",))
    assert "; plug-ins song_lab.metrics:envelope (song-lab 1.0, source " in config.protocol
    assert config.protocol.startswith(EvaluateConfig().protocol)
    stems_SCT = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (3, 2, 2 * RATE)).astype(np.float32))
    stems_SCT = stems_SCT * torch.linspace(0.1, 1, 2 * RATE)
    stems_SCT[2] = 0
    about = {"sources": ("drums", "bass", "vocals"), "sample_rate": RATE, "seconds": 1.0}
    songs = [
        song_scoring.score_song(config.measures, stems_SCT, made_SCT, track_id=name, title=name, **about)
        for name, made_SCT in (("a", stems_SCT * 0.5), ("b", stems_SCT.flip(-1)))
    ]
    scores = [score for song in songs for score in song.scores]
    arrays = dict(zip(about["sources"], stems_SCT, strict=True))
    by_name = stemline.score(arrays, arrays, sample_rate=RATE, plugins=["envelope"])
    assert by_name["drums"].plugin_scores == pytest.approx({"envelope": 1.0})
    assert [score.plugin_scores for score in scores[:3]] == [pytest.approx({"envelope": 1.0})] * 2 + [{}]
    assert scores[3].plugin_scores["envelope"] < 0
    song_scoring.keep(str(tmp_path), "k", songs[0])
    assert song_scoring.find(str(tmp_path), "k", track_id="a", title="a") == songs[0]
    table = write_table(str(tmp_path), "scores", table_of(scores, SCORES), key="k", step="evaluate")
    assert read_objects(table, Score) == scores
    before = SCORES.remove(SCORES.get_field_index("plugin_scores"))
    plain = [replace(score, plugin_scores={}) for score in scores]
    rows = table_of(plain, SCORES).select(before.names)
    assert read_objects(write_table(str(tmp_path), "scores", rows, key="old", step="evaluate"), Score) == plain
    summary = summarize(scores, "m", "d")
    expected = (1.0 + scores[3].plugin_scores["envelope"]) / 2
    assert summary.sources["drums"].plugin_scores == {"envelope": pytest.approx(expected, abs=1e-6)}
    assert extra_scores(summary)["vocals"] == {}
    assert extra_scores(summary)["mean"] == {"envelope": pytest.approx(expected, abs=0.1)}


def test_a_metric_that_returns_anything_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "lab_metrics.py").write_text(
        "def one(r, e, sample_rate): return 1.0\ndef text(r, e, sample_rate): return 'x'"
    )
    stems_SCT = torch.zeros(2, 2, 100)
    with song_lab.on_path(tmp_path):
        for name, returned in (("one", r"\(\)"), ("text", "str")):
            with pytest.raises(
                InputError, match=rf"metric plug-in 'lab_metrics:{name}'.*returned {returned}: want 2 numbers"
            ):
                extra_metrics.compute_plugins([f"lab_metrics:{name}"], stems_SCT, stems_SCT, RATE)


def test_a_metric_has_not_the_name_of_a_score_of_ours(tmp_path: Path) -> None:
    (tmp_path / "lab_sdr.py").write_text("def sdr(r, e, sample_rate): return [1.0] * len(r)\n")
    song_lab.write_distribution(tmp_path, "lab-sdr", "[stemline.metrics]\nsdr = lab_sdr:sdr\n")
    with song_lab.on_path(tmp_path):
        with pytest.raises(InputError, match=r"has the name of a score .*: set evaluate\.plugins to lab_sdr:sdr"):
            extra_metrics.plugin_metrics(["sdr"])
        assert extra_metrics.plugin_metrics(["lab_sdr:sdr"])[0].name == "lab_sdr:sdr"


def test_a_notifier_is_told(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEMLINE_NOTIFY", raising=False)
    monkeypatch.setenv("SONG_LAB_NOTICES", str(tmp_path / "notices"))
    notice = Notice(event="refusal", model="stemline", sentence="0.2 dB worse.")
    assert send(NotifyConfig(plugins=("lines",)), notice) == ""
    assert (tmp_path / "notices").read_text() == "refusal\tstemline stemline: not promoted\n"
