"""The generated reference leaves nothing out: every verb, argument, setting, table, column and public module."""

import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datasets import schema
from flows import config
from flows.__main__ import app
from flows.config import setting_descriptions
from models.networks.catalog import FAMILIES


def named_verbs(parent: Any = app, above: str = "") -> set[str]:
    """Every verb that answers, found without the reference."""
    found = set()
    for name in parent:
        if not name.startswith("-"):
            path = f"{above} {name}".strip()
            found |= {path} | named_verbs(parent[name], path)
    return found


def test_every_verb_is_there_with_what_it_does_and_its_arguments(reference: Any) -> None:
    listed = reference.verbs()
    shown = {verb.name for verb in listed}
    hidden = {name for name in named_verbs() if not _app_at(name).show}
    assert shown == named_verbs() - hidden
    assert len(shown) >= 28
    assert [verb.name for verb in listed if not verb.summary.endswith(".")] == []
    silent = [(verb.name, one.names) for verb in listed for one in verb.arguments if len(one.meaning.split()) < 2]
    assert silent == []
    text = reference.verbs_markdown()
    for verb in listed:
        assert re.search(rf"^##+ {verb.name}$", text, re.MULTILINE)
        assert all(f"`{name}`" in text for one in verb.arguments for name in one.names)


def _app_at(path: str) -> Any:
    found = app
    for name in path.split():
        found = found[name]
    return found


def test_every_example_is_a_command_of_its_verb_that_is_understood(reference: Any) -> None:
    for verb in reference.verbs():
        assert verb.example.startswith(f"stemline {verb.name}"), verb.name
        words = shlex.split(verb.example.partition(" > ")[0])[1:]
        command, bound, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
        assert command is _app_at(verb.name).default_command, verb.name
        overrides = [word for word in bound.args if re.match(r"\w+\.[\w.]+=", str(word))]
        config.build(config.RunConfig, {}, overrides)


def test_an_argument_says_whether_it_is_needed_and_what_it_is_otherwise(reference: Any) -> None:
    (compress,) = (verb for verb in reference.verbs() if verb.name == "compress")
    by_name = {one.names[0]: one for one in compress.arguments}
    assert by_name["--to"].required
    assert (by_name["--bits"].required, by_name["--bits"].default) == (False, 8)
    assert "--to TO" in reference.usage(compress)
    assert "[--bits BITS]" in reference.usage(compress)


def test_every_setting_is_there_with_type_default_range_and_meaning(reference: Any) -> None:
    rows = dict(re.findall(r"^\| \{setting-definition\}`([\w.]+)` \| (.*) \|$", reference.settings_markdown(), re.M))
    for setting in setting_descriptions.every(config.RunConfig):
        kind, default, limits, meaning = re.split(r" ?(?<!\\)\| ?", rows.pop(setting.name))
        assert kind == setting.type
        assert default == "" if setting.default is None else config.override("", setting.default)[1:] in default
        assert limits == f"{setting.range} {setting.unit}".strip()
        assert meaning.replace("\\|", "|").lower() == setting.meaning.lower() != ""
    assert rows == {}


def test_every_option_of_a_network_and_every_preset_is_there(reference: Any) -> None:
    text = reference.settings_markdown()
    for name, family in FAMILIES.items():
        section = text.partition(f"## model.options of {name}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| `model\.options\.(\w+)`", section, re.M) == [
            option.name for option in setting_descriptions.every(family.config_class)
        ]
    presets = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", reference.presets_markdown(), re.M))
    assert list(presets) == config.presets()
    assert all(presets.values())


def test_every_table_is_there_with_every_column(reference: Any) -> None:
    tables = [name for name, value in vars(schema).items() if isinstance(value, pa.Schema)]
    assert {"CHUNKS", *tables} == set(reference.tables())
    text = reference.tables_markdown()
    for name, (columns, _) in reference.tables().items():
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        rows = dict(re.findall(r"^\| `(\w+)` \| `[^`]+` \| (.*) \|$", section, re.M))
        assert list(rows) == columns.names
        assert [column for column, meaning in rows.items() if not meaning] == []
    assert all(f"| `{reason}` | {words} |" in text for reason, words in schema.REASONS.items())


def test_every_public_module_has_a_place_in_the_api(api: Any, repository: Path) -> None:
    written = {module for modules in api.packages().values() for module in modules}
    there = {
        ".".join(path.relative_to(repository).with_suffix("").parts)
        for room in api.ROOMS
        for path in (repository / room).rglob("*.py")
        if not any(part.startswith("_") for part in path.relative_to(repository).parts)
    }
    assert written == there


@pytest.mark.parametrize(
    ("docstring", "rst"),
    [
        ("Rows_ of `a*b`, |x| and *args.", "Rows\\_ of `a*b`, \\|x\\| and \\*args."),
        ("sources_BSCT is a shape", "sources_BSCT is a shape"),
        ("Such as\n\n    run(*rows)\n\nand more", "Such as\n\n.. code-block:: default\n\n    run(*rows)\n\nand more"),
        ("a `piece of\ncode` that goes on", "a `piece of code` that goes on"),
    ],
)
def test_docstrings_become_restructured_text(api: Any, docstring: str, rst: str) -> None:
    assert "\n".join(api.to_rst(api._joined_code(docstring.split("\n")))) == rst


def test_a_mark_that_nothing_generates_is_an_error(reference: Any) -> None:
    assert reference.fill("<!-- generated: presets -->") == reference.presets_markdown()
    with pytest.raises(KeyError, match="presents"):
        reference.fill("<!-- generated: presents -->")
