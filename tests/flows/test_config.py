"""Presets, overrides and the refusal of everything that is misspelt."""

import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from datasets.errors import InputError
from datasets.shards import manifests
from flows import config as door
from flows.__main__ import main
from flows.config import RunConfig, setting_descriptions, setting_names
from pipelines.runtime import renamed_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    root: str = ""
    sources: tuple[str, ...] = ("drums", "bass")


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    steps: int = 100
    rate: float = 1e-3
    clip: float | None = None
    resume: bool = True
    groups: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"steps is {self.steps}; zero or more would do")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    preset: str = "tiny"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    seed: int = 0
    corpus: Corpus = Corpus()
    model: Model = Model()
    train: Train = Train()


def made(*overrides: str, tree: Mapping[str, Any] | None = None) -> Tree:
    return door.build(Tree, tree or {}, overrides)


def test_nothing_given_is_all_defaults() -> None:
    assert made() == Tree()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=20", Tree(train=Train(steps=20))),
        ("train.rate=1", Tree(train=Train(rate=1.0))),
        ("train.rate=3e-4", Tree(train=Train(rate=3e-4))),
        ("train.clip=0.5", Tree(train=Train(clip=0.5))),
        ("train.resume=false", Tree(train=Train(resume=False))),
        ('corpus.sources=["bass"]', Tree(corpus=Corpus(sources=("bass",)))),
        ("corpus.root=/some/dir", Tree(corpus=Corpus(root="/some/dir"))),
        ("corpus.root=a = b", Tree(corpus=Corpus(root="a = b"))),
        ("corpus.root=2024", Tree(corpus=Corpus(root="2024"))),
        ("corpus.root=2024-01-01", Tree(corpus=Corpus(root="2024-01-01"))),
        ("corpus.root=x\ny=1", Tree(corpus=Corpus(root="x\ny=1"))),
        ("corpus.root='it''s'", Tree(corpus=Corpus(root="'it''s'"))),
        ('corpus.root="quoted"', Tree(corpus=Corpus(root="quoted"))),
        ("model.options.depth=3", Tree(model=Model(options={"depth": 3}))),
        ("model.options={depth = 3}", Tree(model=Model(options={"depth": 3}))),
        ('train.groups=[["a", 1], ["b", 0.5]]', Tree(train=Train(groups=(("a", 1.0), ("b", 0.5))))),
    ],
)
def test_an_override_is_read_in_toml_syntax_and_bare_words_are_strings(override: str, expected: Tree) -> None:
    assert made(override) == expected


def test_the_last_override_wins_over_the_preset() -> None:
    assert made("train.steps=2", "train.steps=3", tree={"train": {"steps": 1}}).train.steps == 3


def test_the_given_tree_is_left_as_it_was() -> None:
    tree = {"train": {"steps": 1}}
    made("train.steps=2", tree=tree)
    assert tree == {"train": {"steps": 1}}


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("train.stpes=20", "train.steps"),
        ("trian.steps=20", "train.steps"),
        ("steps=20", "train.steps"),
        ("corpus.source=1", "corpus.sources"),
        ("sed=1", "seed"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_real_one(override: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{nearest}'"):
        made(override)


def test_a_key_like_nothing_known_is_refused_with_what_is_known() -> None:
    with pytest.raises(InputError, match=r"train\.steps, train\.rate"):
        made("train.xyzzyq=1")


def test_an_unknown_key_of_a_preset_file_is_refused_too() -> None:
    with pytest.raises(InputError, match=r"did you mean 'train\.steps'"):
        made(tree={"train": {"step": 1}})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.steps=many", r'train\.steps is "many", but should be a valid integer'),
        ("train.steps=größer", r'train\.steps is "größer", but should be a valid integer'),
        ('corpus.sources=["bass", 3]', r"corpus\.sources\.1 is 3, but should be a valid string"),
        ('train.steps="20"', r"should be a valid integer"),
        ("train.steps=2.5", r"should be a valid integer"),
        ("train.steps=true", r"should be a valid integer"),
        ("train.clip=[1]", r"train\.clip is \[1\], but should be a valid number"),
        ("train.steps=-1", r"train: steps is -1; zero or more would do"),
        ("train=3", r"'train' is a section with settings of its own, such as train\.steps"),
        ("train.steps", r"'train\.steps' is not an override; write it as key=value"),
        ("=3", r"is not an override"),
        ("seed.x=3", r"seed"),
        ("corpus.sources=[bass", r"not valid TOML"),
    ],
)
def test_a_wrong_value_is_refused_in_plain_words(override: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        made(override)


@pytest.mark.parametrize("value", [
    True, 3, -2.5, float("inf"), 1e-9, "", 'a "b" \\ c\n\x7f', "ends in ]", "[[", ", ]", "\u2028\x85 x", " a ", (),
    (1, "b,"), (("a", 1.0), ()), {}, {"odd key": [1, {"x": "]"}], "nested": {"deep": [[]]}}, [{"a": 1}, {"a": 2}],
])  # fmt: skip
def test_an_override_of_any_value_is_one_line_that_reads_back(value: Any) -> None:
    key, _, text = door.override("a.b", value).partition("=")
    assert key == "a.b"
    assert "\n" not in text
    assert tomllib.loads(f"value = {text}")["value"] == json.loads(json.dumps(value))


def test_overrides_of_arrays_read_as_one_would_write_them() -> None:
    assert door.override("a", (0.9, 1, "b")) == 'a=[0.9, 1, "b"]'
    assert door.override("a", [[1, 2], []]) == "a=[[1, 2], []]"


def test_the_written_configuration_builds_an_equal_one() -> None:
    odd = Tree(
        seed=7,
        corpus=Corpus(root='a "b" \\ c\n\x7f ü 𝄞', sources=()),
        model=Model(options={"odd key": [1, 2.5, "x"], "on": True, "nested": {"deep": 1e-9}}),
        train=Train(rate=float("inf"), clip=0.1, groups=(("a", 1.0),)),
    )
    assert door.build(Tree, tomllib.loads(door.to_toml(odd))) == odd


def test_writing_leaves_what_is_there_and_no_temporary_file(tmp_path: Path) -> None:
    door.write(Tree(seed=1), tmp_path / "sub" / "run.toml")
    door.write(Tree(seed=2), tmp_path / "sub" / "run.toml")
    assert tomllib.loads((tmp_path / "sub" / "run.toml").read_text())["seed"] == 1
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["run.toml"]


def test_an_unknown_preset_is_refused_with_the_nearest_real_one() -> None:
    with pytest.raises(InputError, match=r"no preset 'smok'; did you mean 'smoke'\?"):
        door.read_preset("smok")


def test_a_missing_or_broken_preset_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        door.read_preset(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("a = = 1")
    with pytest.raises(InputError, match="not valid TOML"):
        door.read_preset(str(broken))


def test_asdict_of_the_tree_is_json_sized() -> None:
    assert set(asdict(Tree())) == {"seed", "corpus", "model", "train"}


def test_folders_are_those_of_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = door.load("smoke", ["store.root=here", "train.loader.cache=rows"])
    assert config.store.root == str(tmp_path / "here")
    assert config.train.loader.cache == str(tmp_path / "rows")
    assert door.load("smoke").train.loader.cache == ""


# Text that is no path. A new setting has to stand here or in `presets.PATHS`.
WORDS = {
    "train.compile",
    "train.tf32",
    "corpus.unknown", "corpus.license", "model.preset", "train.learner.loss", "train.learner.optimizer",
    "train.learner.weight_decay_under", "train.learner.precision",
    "train.loader.cache_form", "evaluate.split", "evaluate.scorer", "evaluate.precision", "registry.name",
    "registry.experiment", "separate.format", "separate.two_stems", "separate.device", "separate.filename",
    "separate.precision", "separate.mixture_consistency",
    "notify.block", "registry.license", "train.wandb",
}  # fmt: skip


def texts(kind: Any, at: tuple[str, ...] = ()) -> Iterator[str]:
    """The keys of all settings that are plain text."""
    for name, hint in typing.get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from texts(hint, (*at, name))
        elif hint is str or (
            str in typing.get_args(hint) and typing.get_origin(hint) in (types.UnionType, typing.Union)
        ):
            yield ".".join((*at, name))


def test_every_setting_that_is_text_is_a_path_or_known_not_to_be() -> None:
    assert set(texts(door.RunConfig)) == WORDS | set(door.PATHS)
    assert not WORDS & set(door.PATHS)


@pytest.mark.parametrize("key", door.PATHS)
def test_a_path_is_that_of_where_the_command_was_given_and_an_address_stays(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(text: str) -> str:
        value: Any = door.load("smoke", ["evaluate.full_bss_eval=true", f"{key}={text}"])
        for name in key.split("."):
            value = getattr(value, name)
        return str(value)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/homes/ada")
    assert read("here/it.toml") == str(tmp_path / "here" / "it.toml")
    assert read("/there/it.toml") == "/there/it.toml"
    assert read("~/it.toml") == "/homes/ada/it.toml"
    if key not in ("train.loader.cache", "store.scratch"):  # which are on this machine
        for address in ("s3://songs/it.toml", "models:/stemline@champion", "gs://b/c/d", "file:///x/y"):
            assert read(address) == address


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(InputError, match=r"there is no such user; a folder that is called so is \./~nobody-here"):
        door.load("smoke", ["store.root=~nobody-here/store"])


@pytest.mark.parametrize("name", ["~", "~nobody-here", "~root/x"])
def test_a_folder_that_is_called_as_a_home_is_named_from_here(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert door.load("smoke", [f"store.root=./{name}"]).store.root == str(tmp_path / name)


@pytest.mark.parametrize("key", ["store.root", "store.data", "corpus.root"])
@pytest.mark.parametrize(
    ("name", "words"), [("\N{GUITAR}" * 64, "<= 255 bytes"), ("x" * 256, "<= 255"), ("a\\u0000b", "null character")]
)
def test_a_name_that_no_file_system_takes_is_refused(key: str, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        door.load("smoke", [f'{key}="songs/{name}/x"'])
    door.load("smoke", [f'{key}="songs/{"x" * 255}/x"'])


@pytest.mark.parametrize(("name", "is_file"), [("mine.toml", True), ("words/mine", True), ("mine", False)])
def test_a_taxonomy_is_a_file_by_its_ending_or_its_folder_and_else_one_that_ships(
    name: str, is_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / name) if is_file else name
    assert door.load("smoke", [f"corpus.taxonomy={name}"]).corpus.taxonomy == expected


@pytest.mark.parametrize("name", ["root", "data"])
def test_a_file_is_no_store(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=rf"^store\.{name}=.*/file is a file; give a folder, store\.{name}=DIR$"):
        door.load("smoke", [f"store.{name}={tmp_path}/file"])
    for folder in ("folder", "none yet"):
        assert getattr(door.load("smoke", [f"store.{name}={tmp_path}/{folder}"]).store, name) == f"{tmp_path}/{folder}"


AWKWARD = (
    "/m\N{MULTIPLE MUSICAL NOTES}/a",
    "/\N{GUITAR}=\N{DRUM WITH DRUMSTICKS}/x.y",
    "/e\N{COMBINING ACUTE ACCENT}",
    '/a "b"\\c\td',
)


@pytest.mark.parametrize("path", AWKWARD)
def test_any_character_of_a_path_survives_every_way_in_and_out(path: str, tmp_path: Path) -> None:
    config = door.load("smoke", [f"corpus.root={path}", door.override("store.root", path)])
    assert (config.corpus.root, config.store.root) == (path, path)
    file = tmp_path / "\N{GUITAR}.toml"
    door.write(config, file)
    assert door.load(str(file)) == config
    assert tomllib.loads(file.read_text(encoding="utf-8"))["corpus"]["root"] == path
    assert door.parse(door.RunConfig, json.dumps(asdict(config))) == config
    assert door.load("smoke", door.differences(config, "smoke")) == config


def test_a_name_that_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"corpus\.root=/caf\\udce9.*not valid UTF-8"):
        door.load("smoke", [f"corpus.root={os.fsdecode(b'/caf' + bytes([0xE9]))}"])


def test_what_differs_from_a_preset_is_told_as_overrides() -> None:
    wanted = door.load("htdemucs-musdb", ["train.steps=9", "store.root=/s", 'corpus.sources=["a", "b"]'])
    assert door.differences(wanted, "htdemucs-musdb") == [
        'store.root="/s"', 'corpus.sources=["a", "b"]', "train.steps=9",
    ]  # fmt: skip
    assert door.nearest_preset(wanted) == "htdemucs-musdb"
    for name in door.presets():
        assert door.load(name, door.differences(wanted, name)) == wanted


def test_the_settings_in_a_manifest_run_its_step_again(tmp_path: Path) -> None:
    wanted = door.build(RunConfig, {}, ["corpus.root=/songs", "curate.min_presence=0.5", "ingest.bits=24"])
    settings = {name: asdict(getattr(wanted, name)) for name in ("corpus", "ingest", "curate")}
    kept = manifests.write_manifest(tmp_path, table="chunks", step="curate", key="k", shards=[], settings=settings)
    assert door.build(RunConfig, door.read_preset(kept.uri)) == wanted
    bare = manifests.write_manifest(tmp_path, table="chunks", step="curate", key="none", shards=[])
    with pytest.raises(InputError, match=r"curate-none\.json holds no settings; give the TOML file"):
        door.read_preset(bare.uri)


def test_settings_are_told_from_songs_and_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.wav=").write_bytes(b"")
    words = ["a.wav", "store.root=x=y", "drums=runs/KEY/model", "train.wav=", "train.loader.cache=/c", "x" * 9000]
    assert door.split_overrides(words) == (
        ["store.root=x=y", "train.loader.cache=/c"],
        [words[0], *words[2:4], words[5]],
    )


def test_a_value_out_of_range_is_refused_by_its_full_name_however_deep_it_is() -> None:
    for key, value, bound in (
        ("train.learner.learning_rate", "0", "> 0"),
        ("automix.rules.max_semitones", "-1", "in [0, 6]"),
    ):
        with pytest.raises(InputError, match=rf"^{re.escape(key)} must be {re.escape(bound)}"):
            door.load("smoke", [f"{key}={value}"])


@pytest.mark.parametrize("value", ["fast", "true", '["0.1"]'])
def test_what_is_no_number_is_not_compared_with_a_range(value: str) -> None:
    with pytest.raises(InputError, match=r"^train\.learner\.learning_rate is .*, but should be a valid number\.$"):
        door.load("smoke", [f"train.learner.learning_rate={value}"])


def test_a_stored_value_has_its_type_or_is_refused() -> None:
    assert door.parse(Train, '{"steps": 3, "rate": 1}') == Train(steps=3, rate=1.0)
    for text in ('{"steps": "3"}', '{"steps": 2.0}', '{"resume": 1}', '{"rate": true}'):
        with pytest.raises(ValueError, match="valid"):
            door.parse(Train, text)


def test_what_a_person_wrote_is_told_the_new_names_also_where_no_section_of_its_own_is_old(tmp_path: Path) -> None:
    old = next(key for key in renamed_settings.RENAMED if "." in key)
    section, _, name = old.rpartition(".")
    (tmp_path / "mine.toml").write_text(f"automix_weight = 2.0\n[{section}]\n{name} = 1\n")
    with pytest.raises(InputError, match=r"is called .* now"):
        door.load(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(("old", "new"), renamed_settings.RENAMED.items())
def test_a_setting_of_before_answers_with_its_name_of_today_and_is_read_where_a_run_stored_it(
    old: str, new: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaf = next(
        setting.name for setting in setting_descriptions.every(RunConfig) if f"{setting.name}.".startswith(f"{new}.")
    )
    before = old + leaf.removeprefix(new)
    changed = door.override(before, setting_names.value_at(RunConfig(), leaf))
    assert main(["train", changed, "--print-config"]) == 2
    assert f"{before!r} is called {leaf!r} now" in capsys.readouterr().err
    name = old.rpartition(".")[2]
    above, _, last = before.rpartition(".")
    (tmp_path / "mine.toml").write_text(f"[{above}]\n{last} = 1\n")
    assert main(["train", "--preset", str(tmp_path / "mine.toml"), "--print-config"]) == 2
    assert f"is called {leaf!r} now" in capsys.readouterr().err
    wanted = door.load("hdemucs-repro", ["train.steps=7", "model.init_from=m", "retrain.min_interval_h=3"])
    text = door.to_toml(wanted)
    if leaf == new:  # a setting, else a section
        stored = re.sub(rf"^{new.rpartition('.')[2]} = ", f"{name} = ", text, flags=re.M)
    else:
        stored = text.replace(f"[{new}]", f"[{old}]")
    assert stored != text
    (tmp_path / "stored.toml").write_text(stored)
    assert door.load(str(tmp_path / "stored.toml")) == wanted
