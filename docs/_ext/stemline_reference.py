"""Reference pages from the code: every verb, every setting, every table.

A page of docs/reference names what it wants in a comment, `<!-- generated: verbs -->`, and gets it as Markdown when it
is read; nothing generated is committed. The functions return Markdown and know nothing of Sphinx, so tests call them.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import stemline_api
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from datasets import schema
from flows import config as configuration
from flows.__main__ import app
from flows.config import setting_descriptions
from models.networks.catalog import FAMILIES

MARK = re.compile(r"<!-- generated: ([\w-]+) -->")
COMMON = ("--preset", "--print-config", "--json", "--log-file", "--debug")


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of a verb."""

    names: tuple[str, ...]
    required: bool
    default: Any
    meaning: str
    flag: bool  # takes no value
    many: bool


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of the command line, as its `--help` has it."""

    name: str  # with the verb that it is below, such as "datasets diff"
    group: str
    summary: str
    example: str  # "" where its docstring has none
    arguments: tuple[Argument, ...]


# Verbs


def verbs() -> list[Verb]:
    """Every verb, in the order of `stemline --help`."""
    return list(_verbs_of(app, ()))


def _verbs_of(parent: Any, above: tuple[str, ...]) -> Iterator[Verb]:
    children = [(name, parent[name]) for name in parent if not name.startswith("-")]
    for name, child in sorted(children, key=lambda one: (one[1].sort_key or 0, one[0])):
        path = (*above, name)
        if child.default_command is not None and child.show:
            yield _verb(child, path)
        yield from _verbs_of(child, path)


def _verb(child: Any, path: tuple[str, ...]) -> Verb:
    text = child.default_command.__doc__ or child.help or ""
    words, _, example = text.partition("Example:")
    group = next((one.name for one in child.group if getattr(one, "name", "")), "") if child.group else ""
    return Verb(
        name=" ".join(path),
        group=group,
        summary=re.sub(r"\s*\n\s*(?!\n)", " ", re.sub(r"\n\s*\n", "\0", words.strip())).replace("\0", "\n\n"),
        example=example.strip().strip("`"),
        arguments=tuple(_argument(one) for one in child.assemble_argument_collection() if one.show),
    )


def _argument(one: Any) -> Argument:
    default = one.field_info.default
    named = one.names[0].startswith("-")
    return Argument(
        names=tuple(one.names),
        required=one.required,
        default=None if default is one.field_info.empty else default,
        meaning=one.parameter.help or "",
        flag=one.hint is bool,
        many=not named and str(one.hint).startswith("tuple"),
    )


def verbs_markdown() -> str:
    """All verbs, and first what each of them understands."""
    known = verbs()
    lines = ["## Options of every verb", "", *_arguments_table(common(known)), ""]
    groups = list(dict.fromkeys(verb.group for verb in known))
    level = "##" if len(groups) < 2 else "###"
    for group in groups:
        lines += [f"## {group}", ""] if len(groups) > 1 else []
        for verb in (verb for verb in known if verb.group == group):
            lines += _verb_lines(verb, level)
    return "\n".join(lines)


def common(known: Sequence[Verb]) -> list[Argument]:
    """The arguments that every verb has."""
    found = {one.names[0]: one for verb in known for one in verb.arguments if is_common(one)}
    return [found[name] for name in ("KEY=VALUE", *COMMON)]


def is_common(one: Argument) -> bool:
    """Whether it is one of those."""
    return one.names[0] == "KEY=VALUE" or one.names[0] in COMMON


def _verb_lines(verb: Verb, level: str) -> list[str]:
    own = [one for one in verb.arguments if not is_common(one)]
    lines = [f"{level} {verb.name}", "", verb.summary, "", "```text", usage(verb), "```", ""]
    lines += [*_arguments_table(own), ""] if own else []
    return [*lines, "Example:", "", "```shell", verb.example, "```", ""]


def usage(verb: Verb) -> str:
    """How a verb is called, in a line."""
    words = ["stemline", verb.name]
    for one in verb.arguments:
        if one.names[0] in COMMON:
            continue
        name = one.names[0]
        if name.startswith("-") and not one.flag:
            name += f" {name.strip('-').replace('-', '_').upper()}"
        name += " ..." if one.many else ""
        words.append(name if one.required else f"[{name}]")
    return " ".join([*words, "[OPTIONS]"])


def _arguments_table(arguments: Sequence[Argument]) -> list[str]:
    rows = [(", ".join(f"`{name}`" for name in one.names), _default_text(one), one.meaning) for one in arguments]
    return _table(("argument", "default", "meaning"), rows)


def _default_text(one: Argument) -> str:
    if one.required:
        return "required"
    return "" if one.flag or one.default in (None, "") else f"`{one.default}`"


# Settings


def settings_markdown() -> str:
    """All settings, a table for each section; then the options of each family of networks."""
    lines = [*_sections(configuration.RunConfig)]
    for name, family in FAMILIES.items():
        lines += [f"## model.options of {name}", "", setting_descriptions.summary(family.config_class), ""]
        lines += [*_settings_table(list(setting_descriptions.every(family.config_class)), prefix="model.options."), ""]
    return "\n".join(lines)


def _sections(kind: type) -> Iterator[str]:
    by_section: dict[str, list[setting_descriptions.Setting]] = {}
    for one in setting_descriptions.every(kind):
        by_section.setdefault(one.name.rpartition(".")[0], []).append(one)
    for section in dict.fromkeys(["", *by_section]):
        yield from (f"## {section or 'At the top'}", "", setting_descriptions.summary(kind, section), "")
        yield from _settings_table(by_section[section], define=True)
        yield ""


def _settings_table(
    listed: Sequence[setting_descriptions.Setting], *, prefix: str = "", define: bool = False
) -> list[str]:
    role = "{setting-definition}" if define else ""
    rows = [
        (
            f"{role}`{prefix}{one.name}`",
            one.type,
            f"`{_toml(one.default)}`" if one.default is not None else "",
            " ".join(filter(None, (one.range, one.unit))),
            one.meaning[:1].upper() + one.meaning[1:],
        )
        for one in listed
    ]
    return _table(("setting", "type", "default", "range, unit", "meaning"), rows)


def _toml(value: Any) -> str:
    return configuration.override("", value).removeprefix("=")


def presets_markdown() -> str:
    """The presets that ship, with the first words of each."""
    rows = [(f"`{name}`", configuration.description(name)) for name in configuration.presets()]
    return "\n".join(_table(("preset", "for"), rows))


# Tables


def tables() -> dict[str, tuple[pa.Schema, Mapping[str, str]]]:
    """Every table that we write: its columns, and what is said of them in the code."""
    return {
        "CHUNKS": (schema.chunks_schema(schema.SOURCES), _of_chunks()),
        "VERDICTS": (schema.VERDICTS, setting_descriptions.meanings(schema.Verdict)),
        "LANDMARKS": (schema.LANDMARKS, setting_descriptions.meanings(schema.Landmarks)),
        "PROFILES": (schema.PROFILES, setting_descriptions.meanings(schema.Profile)),
        "PLANS": (schema.PLANS, setting_descriptions.meanings(schema.MixPlan)),
        "SCORES": (schema.SCORES, setting_descriptions.meanings(schema.Score)),
    }


def _of_chunks() -> dict[str, str]:
    """What the comments in `chunks_schema` say, of columns that every source has for each of them."""
    source_text = inspect.getsource(schema.chunks_schema)
    said = dict(re.findall(r"""\(f?"([\w{}]+)", pa\.\w+\(\)\), *# (.*)""", source_text))
    for words, name in re.findall(r"""# (.*)\n +fields \+= \[\((?:f"([\w{}]+)"|source)""", source_text):
        said[name or "{source}"] = words
    return {name.replace("{source}", source): words for name, words in said.items() for source in schema.SOURCES}


def tables_markdown() -> str:
    """The columns of every table, the fields of a part, and the reasons of verdicts."""
    lines = []
    for name, (columns, meant) in tables().items():
        lines += [f"## {name}", "", *_columns_table(columns, meant), ""]
    lines += ["## Parts of a plan", "", *_columns_table(schema.PART, setting_descriptions.meanings(schema.Part)), ""]
    reasons = [(f"`{reason}`", words) for reason, words in schema.REASONS.items()]
    return "\n".join([*lines, "## Reasons of verdicts", "", *_table(("reason", "meaning"), reasons)])


def _columns_table(columns: Any, meant: Mapping[str, str]) -> list[str]:
    meant = {"schema_version": "raised when a column is renamed", **meant}
    rows = [(f"`{one.name}`", f"`{_kind(one.type)}`", meant[one.name]) for one in columns]
    return _table(("column", "type", "meaning"), rows)


def _kind(kind: pa.DataType) -> str:
    return "list of parts" if pa.types.is_list(kind) and kind.value_type == schema.PART else str(kind)


# Markdown and Sphinx


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *escaped)]


GENERATED: Mapping[str, Callable[[], str]] = {
    "verbs": verbs_markdown,
    "settings": settings_markdown,
    "presets": presets_markdown,
    "tables": tables_markdown,
    "python-api": stemline_api.python_api,
}


def fill(text: str) -> str:
    """A page with its marks replaced by what they name; KeyError for an unknown one."""
    return MARK.sub(lambda mark: GENERATED[mark[1]](), text)


class SettingDefinition(SphinxRole):
    """The name of a setting, where links and the search find it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        place = f"setting-{self.text.replace('.', '-').replace('_', '-')}"
        shown = nodes.literal(self.text, self.text, ids=[place])
        self.env.domains["std"].note_object("setting", self.text, place, location=shown)
        return [shown], []


def _on_source_read(_: Sphinx, docname: str, source: list[str]) -> None:
    if docname.startswith("reference/"):
        source[0] = fill(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_object_type("setting", "setting", objname="setting")
    app.add_role("setting-definition", SettingDefinition())
    app.connect("source-read", _on_source_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
