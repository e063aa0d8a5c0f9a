"""One description of a model: equal for equal models, another for every other, and nothing loaded for it."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.errors import ModelError
from models.networks.catalog import build, to_config
from models.weights import checkpoint, loading
from models.weights.bit_packing import uniform_packing
from models.weights.demucs import demucs_options, demucs_packages, diffq
from models.weights.loading import load_model
from models.weights.model_identity import ModelRef, describe, loaded_bytes
from models.weights.yaml_file import MAX_BYTES
from tests.models.weights.demucs.diffq_writer import quantized_state

SOURCES = ("voice", "rest")
WEIGHTS = [[1.0, 0.0], [0.0, 1.0]]


def network(seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    asked: dict[str, Any] = {"sources": SOURCES, "sample_rate": 8000, "segment_s": 1.0}
    return build("demucs-v3-tiny", **(asked | options)).eval()


def bag(folder: Path, seeds: tuple[int, ...] = (1, 2), **options: Any) -> Path:
    given: dict[str, Any] = {"name": "ft", "weights": WEIGHTS, **options}
    return demucs_packages.export_bag([network(seed) for seed in seeds], folder, **given)


def test_a_checkpoint_s_digest_is_that_of_its_weights_in_a_folder_or_alone(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "model", network(), extra={"step": 3})
    weights = folder / "weights.safetensors"
    found = describe(folder)
    assert found == ModelRef(
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
        size_bytes=weights.stat().st_size,
        sources=SOURCES,
        sample_rate=8000,
        audio_channels=2,
        normalize="track",
        origins=(str(folder),),
        learned=(hashlib.sha256(weights.read_bytes()).hexdigest(),),
    )
    alone = Path(shutil.copy(weights, tmp_path / "alone.safetensors"))
    assert describe(alone).digest == found.digest
    assert describe(alone).interface_key == found.interface_key
    moved = folder.rename(tmp_path / "elsewhere")
    assert describe(moved).digest == found.digest


def test_a_packed_checkpoint_is_described_from_its_header(tmp_path: Path) -> None:
    model = network()
    folder = checkpoint.save(tmp_path / "model", model, packing=uniform_packing(model, 4, min_mib=0.001))
    assert (
        describe(folder).interface_key
        == describe(folder / "weights.safetensors").interface_key
        == (SOURCES, 8000, 2, "track")
    )


def test_the_same_weights_under_another_configuration_are_another_model(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "model", network())
    before = describe(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model"]["sources"] = ["rest", "voice"]
    (folder / "config.json").write_text(json.dumps(config))
    after = describe(folder)
    assert after.digest != before.digest
    assert after.sources == ("rest", "voice")
    config["extra"] = {"step": 8}  # of no consequence for what it computes
    (folder / "config.json").write_text(json.dumps(config))
    assert describe(folder).digest == after.digest


@pytest.mark.parametrize("form", ["th", "safetensors"])
def test_a_package_is_described_as_the_model_that_it_is(tmp_path: Path, form: Any) -> None:
    path = demucs_packages.export_package(network(), tmp_path, signature="mine", form=form)
    found = describe(path)
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.interface_key == (SOURCES, 8000, 2, "track")
    assert found.size_bytes == path.stat().st_size


def test_weights_are_not_loaded_for_a_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to a tensor's numbers is barred but the mapped archive, of which no page is touched."""
    paths = [
        checkpoint.save(tmp_path / "model", network()),
        bag(tmp_path / "th"),
        bag(tmp_path / "safetensors", form="safetensors"),
    ]
    load = torch.load
    mapped: list[bool] = []

    def only_mapped(*args: Any, **options: Any) -> Any:
        mapped.append(options["mmap"])
        return load(*args, **options)

    def barred(*_: Any, **__: Any) -> Any:
        raise AssertionError("a network was built, or weights were read")

    monkeypatch.setattr(torch, "load", only_mapped)
    monkeypatch.setattr(demucs_packages.catalog, "from_config", barred)
    for module in (checkpoint, loading):
        monkeypatch.setattr(module, "read_weights", barred)
    monkeypatch.setattr(demucs_packages, "plain_tensors", barred)
    assert {describe(path).interface_key for path in paths} == {(SOURCES, 8000, 2, "track")}
    assert mapped == [True, True]


def test_bags_differ_in_members_their_order_weights_and_segment(tmp_path: Path) -> None:
    paths = [
        bag(tmp_path / "monday"),
        bag(tmp_path / "tuesday", (3, 4)),
        bag(tmp_path / "swapped", (2, 1)),
        bag(tmp_path / "evenly", weights=None),
        bag(tmp_path / "otherwise", weights=[[0.0, 1.0], [1.0, 0.0]]),
        bag(tmp_path / "shorter", segment_s=0.5),
    ]
    texts = {path.read_text() for path in paths[:3]}
    assert len(texts) == 1, "one name, one text: only the packages differ"
    assert len({describe(path).digest for path in paths}) == len(paths)
    assert describe(bag(tmp_path / "again")).digest == describe(paths[0]).digest
    assert describe(bag(tmp_path / "renamed", name="other")).digest == describe(paths[0]).digest


def test_a_bag_s_size_counts_every_member_and_its_origins_name_them(tmp_path: Path) -> None:
    path = bag(tmp_path)
    members = sorted(tmp_path.glob("*.th"))
    found = describe(path)
    assert found.size_bytes == sum(member.stat().st_size for member in members)
    assert found.origins == (str(path), *map(str, members))
    assert set(found.learned) == {describe(member).digest for member in members}


def test_weights_that_were_rounded_are_those_that_were_learned(tmp_path: Path) -> None:
    learned = describe(checkpoint.save(tmp_path / "model", network())).digest
    for rounded_from, expected in ((learned, learned), ("no digest", None), (7, None)):
        rounded = describe(checkpoint.save(tmp_path / "rounded", network(1), extra={"rounded_from": rounded_from}))
        assert rounded.learned == (expected or rounded.digest,)


def quantised(path: Path, seed: int) -> Path:
    """A package of demucs whose weights DiffQ stored in three bits each."""
    model = network(seed)
    parameters = dict(model.named_parameters())
    ordered = {name: parameters[name] for name in diffq.reference_shapes(model)}
    state, _ = quantized_state(ordered, min_size=0.002, bits=3)
    klass, kwargs = demucs_options.to_kwargs(model)
    package = {"klass": klass, "args": (), "kwargs": kwargs, "state": state, "training_args": {}}
    torch.save(package, path, pickle_module=demucs_packages._NAMING_PICKLE)
    return path


@pytest.mark.parametrize("stored", ["plain", "packed", "half", "diffq"])
def test_the_bytes_of_a_loaded_bag_are_known_before_it_is_loaded(tmp_path: Path, stored: str) -> None:
    models = [network(1), network(2, channels=12)]
    if stored == "diffq":
        members = [quantised(tmp_path / f"q{seed}.th", seed) for seed in (1, 2)]
        path = tmp_path / "bag.yaml"
        path.write_text("models: [q1, q2, q1]\n")
    else:
        packings = [uniform_packing(model, 2, min_mib=0.001) for model in models] if stored == "packed" else []
        path = demucs_packages.export_bag(models, tmp_path, name="ft", half=stored == "half", packings=packings)
        members = sorted({*tmp_path.iterdir()} - {path})
    model = load_model(path)
    expected = [sum(value.nbytes for value in member.state_dict().values()) for member in model.models]  # type: ignore[union-attr]
    assert loaded_bytes(path) == sum(expected)
    assert loaded_bytes(members[0]) == expected[0]
    if stored != "plain":
        assert describe(path).size_bytes < 0.7 * sum(expected)


def test_a_file_that_could_not_hold_the_weights_it_tells_of_is_not_believed(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "model", network())
    for told in ({"channels": 80}, {"channels": 10**4}):
        config = json.loads((folder / "config.json").read_text())
        config["model"] |= told
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=r"model: .*a larger network than its weights can fill"):
            loaded_bytes(folder)


def test_a_member_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    path = bag(tmp_path, form="safetensors")
    before = describe(path).digest
    demucs_packages.export_package(network(9), tmp_path, signature="ft_1", form="safetensors")
    assert describe(path).digest != before


def test_weights_that_are_not_those_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "model", network())
    other = checkpoint.save(tmp_path / "other", network(5))
    shutil.copy(other / "weights.safetensors", folder / "weights.safetensors")
    with pytest.raises(ModelError, match="truncated or was altered"):
        describe(folder)


def test_a_bag_may_hold_checkpoints_own_files_of_weights(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path / "model", network())
    shutil.copy(folder / "weights.safetensors", tmp_path / "mine.safetensors")
    (tmp_path / "bag.yaml").write_text("models: [mine, mine]\n")
    assert describe(tmp_path / "bag.yaml").size_bytes == 2 * describe(folder).size_bytes
    loaded = load_model(tmp_path / "bag.yaml")
    assert [to_config(member) for member in loaded.models] == [to_config(network())] * 2  # type: ignore[union-attr]


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    torch.save(network().state_dict(), tmp_path / "bare.th")
    for path, words in {
        "nothing": "no model at",
        "song.wav": "no safetensors file",
        "bare.th": "does not say of what",
        ".": "no config.json",
    }.items():
        with pytest.raises(ModelError, match=words):
            describe(tmp_path / path)


# --- what users write -----------------------------------------------------------------------------------------

DEEP = "[" * 5000
BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijklmnopqrstuvwxy", "bcdefghijklmnopqrstuvwxyz", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: 3", "a list of 1 to 64 signatures, got 3"),
        ("models: []", "a list of 1 to 64 signatures"),
        ("models: ft_0", "a list of 1 to 64 signatures"),
        ("models: {ft_0: 1}", "a list of 1 to 64 signatures"),
        (f"models: [{', '.join(['ft_0'] * 65)}]", "a list of 1 to 64 signatures"),
        ("models: [[ft_0]]", "a signature must be text"),
        ("models: [null]", "a signature must be text"),
        ("models: [01234567]", "put it in quotes"),
        ("models: [/etc/passwd]", "want letters"),
        ("models: [../ft_0]", "want letters"),
        ("models: ['ft_*']", "want letters"),
        (f"models: [{'x' * 5000}]", "want letters"),
        ("models: [ft_9]", "has neither ft_9.safetensors"),
        ("models: [ft_0]\nweights: 3", "weights must be 1 rows"),
        ("models: [ft_0]\nweights: [1, 1]", "weights must be 1 rows"),
        ("models: [ft_0]\nweights: [[1]]", "weights must be 1 rows .models. of 2"),
        ("models: [ft_0]\nweights: [[1, 1], [1, 1]]", "weights must be 1 rows"),
        ("models: [ft_0, ft_1]\nweights: [[1, 1], [1]]", "weights must be 2 rows"),
        ("models: [ft_0]\nweights: [[1, [1]]]", "each from 0"),
        ("models: [ft_0]\nweights: [[1, loud]]", "each from 0 to 1e30, got 'loud'"),
        ("models: [ft_0]\nweights: [[1, true]]", "each from 0 to 1e30, got True"),
        ("models: [ft_0]\nweights: [[1, .nan]]", "each from 0 to 1e30, got nan"),
        ("models: [ft_0]\nweights: [[1, .inf]]", "each from 0 to 1e30, got inf"),
        ("models: [ft_0]\nweights: [[1, -1]]", "each from 0 to 1e30, got -1"),
        (f"models: [ft_0]\nweights: [[1, 1{'0' * 400}]]", "each from 0 to 1e30"),
        ("models: [ft_0, ft_1]\nweights: [[1, 0], [1, 0]]", "every source needs a model with a weight above 0"),
        ("models: [ft_0]\nweights: {a: 1}", "weights must be"),
        ("models: [ft_0]\nsegment: long", "segment must be seconds above 0, at most 3600, got 'long'"),
        ("models: [ft_0]\nsegment: 0", "segment must be"),
        ("models: [ft_0]\nsegment: -1", "segment must be"),
        ("models: [ft_0]\nsegment: .nan", "segment must be"),
        ("models: [ft_0]\nsegment: .inf", "segment must be"),
        ("models: [ft_0]\nsegment: true", "segment must be"),
        ("models: [ft_0]\nsegment: [1]", "segment must be"),
        ("models: [ft_0]\nsegment: 1.0e-9", "less than a sample"),
        ("", "is no bag"),
        ("- ft_0", "is no bag"),
        ("models: [ft_0", "is no bag"),
        ("when: 2024-13-45\nmodels: [ft_0]", "is no bag"),
        ("models: !!python/object/apply:os.getcwd []", "is no bag"),
        (f"models: {DEEP}", "is no bag"),
        (f"{BOMB}models: *z\n", "has an alias"),
        ("models: &m [*m]", "has an alias"),
        ("models: [ft_0]\nrest: " + "x" * MAX_BYTES, "are the most that is read"),
    ],
)
@pytest.mark.parametrize("read", [describe, load_model], ids=["describe", "load"])
def test_a_bag_of_a_user_is_read_or_refused_by_name(tmp_path: Path, text: str, words: str, read: Any) -> None:
    bag(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ModelError, match=words) as seen:
        read(tmp_path / "mine.yaml")
    assert len(str(seen.value)) < 1000


@pytest.mark.parametrize("text", ["[" * 20_000, "{" * 20_000, "[" * 20_000 + "]" * 20_000, "a: [{" * 5000])
def test_a_bag_of_brackets_is_refused_before_it_is_parsed(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """YAML's reader would take seconds."""
    bag(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"models: {text}")
    monkeypatch.setattr("yaml.load", lambda *_: pytest.fail("it was parsed"))
    for read in (describe, load_model):
        with pytest.raises(ModelError, match="brackets, and 1000 are the most that is read"):
            read(tmp_path / "mine.yaml")


def test_bytes_that_are_no_text_are_no_bag(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00models")
    with pytest.raises(ModelError, match="is no bag"):
        describe(tmp_path / "mine.yaml")


def test_members_of_two_interfaces_are_no_bag(tmp_path: Path) -> None:
    demucs_packages.export_package(network(), tmp_path, signature="a")
    demucs_packages.export_package(network(sample_rate=16000), tmp_path, signature="b")
    (tmp_path / "mine.yaml").write_text("models: [a, b]")
    for read in (describe, load_model):
        with pytest.raises(ModelError, match="must share sources, sample rate, channels and normalization"):
            read(tmp_path / "mine.yaml")


# --- names that look like checksums ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["htdemucs-20240131", "mine-20240115", "x-31012024", "x-202401312359", "x-01312024"])
@pytest.mark.parametrize("form", ["th", "safetensors"])
def test_a_date_in_a_name_is_no_checksum(tmp_path: Path, name: str, form: Any) -> None:
    path = demucs_packages.export_package(network(), tmp_path, signature="mine", form=form)
    dated = path.rename(tmp_path / f"{name}.{form}")
    assert describe(dated).sources == SOURCES
    assert to_config(load_model(dated)) == to_config(network())


@pytest.mark.parametrize("ending", ["facade01", "99999999", "20241331", "20240230", "18890101", "0" * 64])
def test_what_is_no_date_is_a_checksum(tmp_path: Path, ending: str) -> None:
    path = demucs_packages.export_package(network(), tmp_path, signature="mine")
    named = path.rename(tmp_path / f"mine-{ending}.th")
    for read in (describe, load_model):
        with pytest.raises(ModelError, match=r"altered: its name says SHA-256 .*give it another end"):
            read(named)


def test_an_altered_package_with_a_checksum_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = demucs_packages.export_package(network(), tmp_path, signature="mine")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    for read in (describe, load_model):
        with pytest.raises(ModelError, match="altered"):
            read(path)
