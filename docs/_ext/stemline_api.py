"""API pages: one for the facade, and one for each package of the three lower rooms with autodoc for its modules.

The pages are written to docs/reference/api/ when a build begins, and are not committed. Docstrings here are plain text
with `code` in single backticks, which is made reStructuredText of; fields of dataclasses come from their comments.
"""

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import stemline
from flows.config import setting_descriptions

ROOMS = ("models", "datasets", "pipelines")
INTRODUCTION = [
    "# Modules", "",
    "What the [Python API](../python.md) is made of, by package: it may change in every release.",
    "Pipelines use datasets and models; these two do not know each other.", "",
]  # fmt: skip
_SPECIAL = re.compile(r"(\\|\*|\||(?<=\w)_(?!\w))")  # what reStructuredText takes for markup outside of code


def packages() -> dict[str, list[str]]:
    """Each package of the rooms, and its public modules; packages without any are left out."""
    found: dict[str, list[str]] = {}
    for room in ROOMS:
        found[room] = []
        for info in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
            if any(part.startswith("_") for part in info.name.split(".")):
                continue
            if info.ispkg:
                found[info.name] = []
            else:
                found[info.name.rpartition(".")[0]].append(info.name)
    return found


def page(package: str, modules: list[str]) -> str:
    """The page of one package, as Markdown."""
    lines = [f"# {package}", "", *_automodule(package)]
    for module in modules:
        lines += [f"## {module.rpartition('.')[2]}", "", f"`{module}`", "", *_automodule(module)]
    return "\n".join(lines)


def _automodule(name: str) -> list[str]:
    return ["```{eval-rst}", f".. automodule:: {name}", "   :members:", "   :ignore-module-all:", "```", ""]


def write_pages(folder: Path) -> None:
    """All pages and their list; a page that is right already is not touched, so the next build reads less."""
    wanted = {f"{package}.md": page(package, modules) for package, modules in packages().items()}
    toctree = ["```{toctree}", ":maxdepth: 1", "", *(name.removesuffix(".md") for name in wanted), "```", ""]
    wanted["index.md"] = "\n".join([*INTRODUCTION, *toctree])
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")


def python_api() -> str:
    """Every public name of `stemline`, as Markdown: what docs/reference/python.md is filled with."""
    lines = []
    for name in stemline.__all__:
        value = getattr(stemline, name)
        kind, members = ("class", ["   :members:"]) if isinstance(value, type) else ("function", [])
        if isinstance(value, type) and issubclass(value, Exception):
            kind, members = "exception", []
        lines += [f"## {name}", "", "```{eval-rst}", f".. auto{kind}:: stemline.{name}", *members, "```", ""]
    return "\n".join(lines)


# Docstrings


def to_rst(lines: list[str]) -> list[str]:
    """A docstring of ours as reStructuredText: indented blocks are literal, marks outside of `code` are escaped."""
    made: list[str] = []
    for index, line in enumerate(lines):
        indented = line.startswith("    ")
        if indented and index and not lines[index - 1].strip():
            made += [".. code-block:: default", ""]  # Python, or plain where it is none
        made.append(line if indented else _escaped(line))
    return made


def _escaped(line: str) -> str:
    parts = line.split("`")
    if len(parts) % 2 == 0:  # code goes on in the next line
        return line
    return "`".join(
        part.replace("\\", "\\\\") if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts)
    )


def _joined_code(lines: list[str]) -> list[str]:
    """Lines joined where a `piece of code` is broken between them."""
    made: list[str] = []
    for line in lines:
        if made and made[-1].count("`") % 2 and not line.startswith("    "):
            made[-1] += " " + line.strip()
        else:
            made.append(line)
    return made


def _fields(kind: Any) -> Iterator[str]:
    meant = setting_descriptions.meanings(kind)
    for item in dataclasses.fields(kind):
        if meant.get(item.name) and item.init:
            yield f":param {item.name}: {_escaped(meant[item.name])}"


def _on_docstring(_: Sphinx, what: str, name: str, shown: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(_joined_code(lines))
    if what == "class" and dataclasses.is_dataclass(shown) and shown.__module__.split(".")[0] in (*ROOMS, "stemline"):
        lines += ["", *_fields(shown), ""]


def _on_begin(app: Sphinx) -> None:
    write_pages(Path(app.srcdir) / "reference" / "api")


def _on_end(app: Sphinx, exception: Exception | None) -> None:
    """Pages of an earlier build that are no more are removed; Sphinx leaves them."""
    made = {"search", "genindex", "py-modindex", *app.env.found_docs}
    for path in Path(app.outdir).rglob("*.html"):
        if path.relative_to(app.outdir).with_suffix("").as_posix() not in made and "_static" not in path.parts:
            path.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _on_begin)
    app.connect("build-finished", _on_end)
    app.connect("autodoc-process-docstring", _on_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
