"""Code of others under a name: an entry point of an installed distribution, or `package.module:object`.

What is found is imported once, named with where it came from in every message, and known by a version: that of its
distribution, and a digest of its module's source with all that this imports of its own package. What each kind is
called with is said beside the code that calls it; this module imports nothing but Python's own.
"""

import ast
import difflib
import hashlib
import importlib
import importlib.util
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

MAX_FILES = 200  # of a package, that one plug-in may be made of


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginKind:
    """What may be plugged in at one place, and the setting that names it."""

    noun: str  # such as "network"
    group: str  # of entry points, such as "stemline.networks"
    setting: str  # such as "model.preset"
    error: type[ValueError]  # what a broken one raises


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plugin:
    """An object that was found under a name, and where."""

    kind: PluginKind
    name: str  # in the settings
    ref: str  # package.module:object
    origin: str  # the entry point and its distribution, for messages
    distribution: str  # name and version; empty where the module belongs to none
    imported: str  # the digest of its source when it was imported
    value: Any

    @property
    def module(self) -> str:
        return self.ref.partition(":")[0]

    @property
    def source(self) -> str:
        """The digest of the source of what runs; its error where the files have changed since they were imported."""
        if source_digest(self.module) != self.imported:
            raise self.failure(
                "was changed after this process had imported it, and what runs is what it was: start the process again"
            )
        return self.imported

    @property
    def version(self) -> str:
        """What keys and lineage say of its code: equal where nothing has changed."""
        parts = filter(None, (self.distribution, f"source {self.source}"))
        return f"{self.ref} ({', '.join(parts)})"

    def failure(self, message: str) -> ValueError:
        """The error that names it, and what to do."""
        return self.kind.error(f"{self.origin} {message}; mend it, or name another with {self.kind.setting}")

    def call(self, *arguments: Any, **named: Any) -> Any:
        """What it returns; whatever it raises becomes an error that names it."""
        try:
            return self.value(*arguments, **named)
        except Exception as error:
            raise self.failure(f"raised {type(error).__name__}: {error}") from error


def load(kind: PluginKind, name: str, *, builtin: Collection[str] = (), carried_in: str = "") -> Plugin | None:
    """The plug-in of a name; None where there is none, as for names of our own, `builtin`.

    `package.module:object` needs no entry point. A package `carried_in` a served model comes before installed ones.

    Raises:
        kind.error: It cannot be imported, or more than one has this name.
    """
    return _load(kind, name, name in builtin, carried_in)


@cache
def _load(kind: PluginKind, name: str, is_builtin: bool, carried_in: str) -> Plugin | None:
    if ":" in name:
        return _import(kind, name, name, "", carried_in)
    points = [point for point in _entry_points(kind.group) if point.name == name]
    if not points:
        return None
    described = " and ".join(f"{point.value} of {_distribution(point)}" for point in points)
    if is_builtin or len(points) > 1:
        others = "stemline has one of its own" if is_builtin else "only one may"
        raise kind.error(
            f"{kind.noun} plug-in {name!r} collides: {described} has this name in {kind.group}, and {others}; "
            f"rename or uninstall one, or set {kind.setting} to its package.module:object"
        )
    return _import(kind, name, points[0].value, _distribution(points[0]), carried_in)


def require(kind: PluginKind, name: str, *, builtin: Collection[str] = ()) -> Plugin | None:
    """The same for what is called; the error says what there is where the name is neither ours nor a plug-in's."""
    plugin = load(kind, name, builtin=builtin)
    if plugin is None and name not in builtin:
        have = [*builtin, *names(kind)]
        near = difflib.get_close_matches(name, have, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}" if near else f"there are: {', '.join(have) or 'none'}"
        raise kind.error(f"{kind.setting}: no {kind.noun} {name!r}; {hint}; a plug-in may be package.module:object too")
    if plugin is not None and not callable(plugin.value):
        raise plugin.failure(f"must be a function or a class, got {type(plugin.value).__name__}")
    return plugin


def names(kind: PluginKind) -> list[str]:
    """The names of installed entry points."""
    return sorted({point.name for point in _entry_points(kind.group)})


@cache
def _entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=group))


def _distribution(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "a distribution without a name"


def _import(kind: PluginKind, name: str, ref: str, distribution: str, carried_in: str) -> Plugin:
    module, _, path = ref.partition(":")
    origin = f"{kind.noun} plug-in {name!r} ({f'{ref} of {distribution}' if distribution else ref})"
    try:
        value: Any = importlib.import_module(_place(module, carried_in))
        for attribute in path.split("."):
            value = getattr(value, attribute)
        imported = _digest_at_import(module)
    except Exception as error:
        raise kind.error(
            f"{origin} cannot be imported: {type(error).__name__}: {error}; {_remedy(module)}, or name another with "
            f"{kind.setting}"
        ) from error
    owner = distribution or _owner(module)
    return Plugin(kind=kind, name=name, ref=ref, origin=origin, distribution=owner, imported=imported, value=value)


def _remedy(module: str) -> str:
    """What to do about a module that cannot be imported; one in the working folder Python does not look for."""
    top = module.partition(".")[0]
    here = [path for path in (Path(f"{top}.py"), Path(top)) if top and path.exists()]  # ".lab" has no top
    if here and importlib.util.find_spec(top) is None:
        return f"{here[0]} is in this folder, where Python, and workers, look with PYTHONPATH={Path.cwd()}"
    return "install or mend it"


def _place(module: str, carried_in: str) -> str:
    """The name to import a module by."""
    carried = f"{carried_in}.{module}"
    top = carried.removesuffix(module) + module.partition(".")[0]
    return carried if carried_in and importlib.util.find_spec(carried_in) and importlib.util.find_spec(top) else module


@cache
def _owner(module: str) -> str:
    """The distribution that brought a module, with its version; empty for one that lies about."""
    owners = metadata.packages_distributions().get(module.partition(".")[0], ())
    return f"{owners[0]} {metadata.version(owners[0])}" if owners else ""


# --- its source ---------------------------------------------------------------------------------------------


def source_digest(module: str) -> str:
    """Twelve hex digits over the source of a module and of all that it imports of its own package.

    Of one that imports more than `MAX_FILES` its own file alone counts: its distribution's version says the rest.
    """
    files = source_files(module)
    if len(files) > MAX_FILES:
        files = {module: files[module]}
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        total.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:12]


@cache
def _digest_at_import(module: str) -> str:
    """Remembered from the first time on: a module is imported once, by whatever names its objects are asked for."""
    return source_digest(module)


def source_files(module: str) -> dict[str, Path]:
    """Source by the name of the module: of this one, and of all that it imports of its own top-level package.

    No more than `MAX_FILES` and one. Nothing is imported to find them.
    """
    files: dict[str, Path] = {}
    waiting = [module]
    while waiting and len(files) <= MAX_FILES:
        name = waiting.pop()
        path = _source_of(name)
        if path is None or name in files:
            continue
        files[name] = path
        parent = name.rpartition(".")[0]
        waiting += [parent] if parent else []
        waiting += [used for used, _, _ in imports_of(name, path) if used.split(".")[0] == module.split(".")[0]]
    return files


def imports_of(name: str, path: Path) -> tuple[tuple[str, int, bool], ...]:
    """What a module imports, by absolute names, with the line and whether it is imported relatively.

    Of `from a import b` both a and a.b, which may be a module.
    """
    status = path.stat()
    return _imports_of(name, path, status.st_mtime_ns, status.st_size)


@cache
def _imports_of(name: str, path: Path, _modified_ns: int, _size: int) -> tuple[tuple[str, int, bool], ...]:
    """The same of a file that is as it was: to parse a large package takes seconds, and it is asked for many times."""
    return tuple(_read_imports(name, path))


def _read_imports(name: str, path: Path) -> Iterator[tuple[str, int, bool]]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base, node.lineno, bool(node.level)
            yield from ((f"{base}.{alias.name}", node.lineno, bool(node.level)) for alias in node.names)


def _source_of(name: str) -> Path | None:
    """The file of a module; None where there is none, or it is not Python."""
    try:
        spec = _spec_of(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _spec_of(name: str) -> ModuleSpec | None:
    """As importlib's `find_spec`, which imports the packages above, and so runs what may never have been imported."""
    parent = name.rpartition(".")[0]
    if not parent:
        return importlib.util.find_spec(name)
    above = _spec_of(parent)
    if above is None or above.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, list(above.submodule_search_locations))
