"""The names of all files below a corpus folder, on a disk or in S3; `layouts/find.py` finds songs among them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.errors import InputError, Unavailable
from datasets.store import storage

# Formats of audio and of music programs that are not read, and films, which are no stems by themselves: named where a
# stem is missing.
FOREIGN_SUFFIXES = (
    ".mov", ".mkv", ".avi", ".ts", ".m2ts", ".mpg", ".mpeg", ".vob", ".flv", ".3gp", ".ape", ".tak", ".dsf", ".dff",
    ".shn", ".mpc", ".ra", ".amr", ".sd2", ".rx2", ".rex", ".mid", ".midi", ".asd", ".pkf", ".reapeaks", ".als",
    ".flp", ".logicx", ".ptx", ".cpr", ".rpp", ".band", ".zip", ".rar", ".7z",
)  # fmt: skip
SUFFIXES = (
    ".wav", ".flac", ".aiff", ".aif", ".aifc", ".ogg", ".opus", ".mp3", ".m4a", ".caf", ".w64", ".rf64", ".au", ".aac",
    ".wma", ".mp4", ".mka", ".webm", ".wv", ".tta", ".ac3", ".eac3", ".mp2", ".oga", ".m4b", ".wave", ".bwf", ".snd",
)  # fmt: skip
LOSSY_SUFFIXES = (  # of what is usually in these
    ".mp3", ".mp2", ".aac", ".ac3", ".eac3", ".ogg", ".oga", ".opus", ".wma", ".mp4", ".m4a", ".m4b", ".webm",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The names of all visible files below a root, by folder in posix form; the root itself is the empty string."""

    root: str
    folders: Mapping[str, tuple[str, ...]]
    stamps: Mapping[str, storage.Stamp] = field(default_factory=dict)  # of objects in S3, by address
    unreadable: Mapping[str, str] = field(default_factory=dict)  # folder -> why it could not be looked into
    real: Mapping[str, str] = field(default_factory=dict)  # where folders and files that are reached by a link lie

    def real_path(self, path: str) -> str:
        """Where a folder or a file below the root lies; two names of one file have one such path."""
        if path in self.real:
            return self.real[path]
        folder, _, name = path.rpartition("/")
        return os.path.join(self.real.get(folder, self.address(folder)), name)

    def is_linked(self, path: str) -> bool:
        """Whether a path leads over a link below the root."""
        return any(above in self.real for above in upwards(path))

    def address(self, path: str) -> str:
        return storage.join(self.root, path)

    def content(self, path: str, limit: int | None = None) -> bytes:
        """The bytes of a small file, at most `limit` of them; Unavailable where it cannot be read."""
        try:
            return storage.read(self.address(path), limit)
        except OSError as error:
            raise Unavailable(f"{self.address(path)} cannot be read: {error.strerror or error}") from None


def list_folder(root: str) -> Listing:
    """All visible names below the root. Links are followed, though never round in a circle; stores are left out.

    A file that is a link to another file of its folder is left out. InputError when the root is no folder, or empty.
    """
    if storage.is_remote(root):
        return _list_objects(root)
    check_root(root)
    walk = _Walk(root)
    walk.enter("", (os.path.realpath(root),), linked=False)
    return Listing(root=root, folders=walk.folders, unreadable=walk.unreadable, real=walk.real)


class _Walk:
    """The names below a root, folder by folder, the first by name first."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.folders: dict[str, tuple[str, ...]] = {}
        self.unreadable: dict[str, str] = {}
        self.real: dict[str, str] = {}

    def enter(self, folder: str, inside: tuple[str, ...], *, linked: bool) -> None:
        """List a folder and all below it; `inside` are the real paths of it and the folders that lead to it."""
        if linked:
            self.real[folder] = inside[-1]
        files: list[str] = []
        below: list[os.DirEntry[str]] = []
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:
                for entry in entries:
                    if not _hidden(entry.name):
                        below.append(entry) if _is_folder(entry) else files.append(entry.name)
        except OSError as error:
            self.unreadable[folder] = error.strerror or str(error)
            return
        if {"chunks", "manifests"} <= {entry.name for entry in below}:
            return  # a store; stems separated into it are no songs of the corpus
        self.folders[folder] = tuple(sorted(self._without_second_names(folder, inside[-1], files)))
        for entry in sorted(below, key=lambda entry: entry.name):
            is_link = entry.is_symlink()
            real = os.path.realpath(entry.path) if is_link else os.path.join(inside[-1], entry.name)
            if real not in inside:
                self.enter(_joined(folder, entry.name), (*inside, real), linked=linked or is_link)

    def _without_second_names(self, folder: str, real: str, files: Sequence[str]) -> Iterator[str]:
        """The files but for links to others of them; where links lead is noted."""
        own = {os.path.join(real, name) for name in files if not os.path.islink(self._path(folder, name))}
        for name in files:
            path = self._path(folder, name)
            if not os.path.islink(path):
                yield name
            elif (leads_to := os.path.realpath(path)) not in own:
                self.real[_joined(folder, name)] = leads_to
                yield name

    def _path(self, folder: str, name: str) -> str:
        return os.path.join(self._root, folder, name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _list_objects(root: str) -> Listing:
    found = storage.files_below(root)
    if not found:
        raise InputError(f"there is nothing below {root}; set corpus.root to a folder with songs")
    holders: dict[str, set[str]] = {"chunks": set(), "manifests": set()}
    for path in found:
        parts = path.split("/")[:-1]
        for depth, part in enumerate(parts):
            if part in holders:
                holders[part].add("/".join(parts[:depth]))
    stores = holders["chunks"] & holders["manifests"]
    folders: dict[str, list[str]] = {"": []}
    for path in found:
        folder, _, name = path.rpartition("/")
        inside = any(not store or f"{folder}/".startswith(f"{store}/") for store in stores)
        if not inside and not any(map(_hidden, path.split("/"))):
            folders.setdefault(folder, []).append(name)
            for above in upwards(folder):
                folders.setdefault(above, [])  # as on a disk, where folders stand by themselves
    return Listing(
        root=root,
        folders={folder: tuple(names) for folder, names in folders.items()},
        stamps={storage.join(root, path): stamp for path, stamp in found.items()},
    )


def is_audio(name: str) -> bool:
    """Whether a file is read as audio, by its suffix; a .stem.mp4 holds a whole song, and is none of its stems."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.lower().endswith(".stem.mp4")


def is_foreign(name: str) -> bool:
    """Whether a file may hold a stem in a format that is not read, by its suffix."""
    return os.path.splitext(name)[1].lower() in FOREIGN_SUFFIXES


def is_lossy(name: str) -> bool:
    """Whether a file is coded with loss, as far as its suffix tells."""
    return os.path.splitext(name)[1].lower() in LOSSY_SUFFIXES


def without_suffix(path: str) -> str:
    """A path without the suffix of its file; a name that only begins with dots has none."""
    name = path.rpartition("/")[2]
    return path[: len(path) - len(name) + name.rfind(".")] if "." in name.lstrip(".") else path


def upwards(folder: str) -> Iterator[str]:
    """The folder itself, then those above it, without the root."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _hidden(name: str) -> bool:
    # "...Baby One More Time" is a song
    return (name.startswith(".") and not name.startswith("..")) or name == "__MACOSX"


def check_root(root: str) -> None:
    """InputError where a folder of this machine is missing, unreadable or empty; an address is not looked at."""
    if storage.is_remote(root):
        return
    folder = Path(root)
    if not folder.exists():
        raise InputError(f"the corpus folder {folder} does not exist; set corpus.root=DIR")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; set corpus.root to the folder that holds the songs")
    try:
        empty = not any(folder.iterdir())
    except OSError as error:
        raise InputError(f"the corpus folder {folder} cannot be read: {error.strerror}") from None
    if empty:
        raise InputError(f"the corpus folder {folder} is empty; set corpus.root to a folder with songs")
