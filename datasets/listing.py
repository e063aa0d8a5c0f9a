"""The names of all files below a corpus folder, on a disk or in S3; `layouts.py` finds songs among them."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets import storage
from datasets.errors import InputError

SUFFIXES = (
    ".wav", ".flac", ".aiff", ".aif", ".aifc", ".ogg", ".opus", ".mp3", ".m4a", ".caf", ".w64", ".rf64", ".au", ".aac",
    ".wma",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The names of all visible files below a root, by folder in posix form; the root itself is the empty string."""

    root: str
    folders: Mapping[str, tuple[str, ...]]
    stamps: Mapping[str, storage.Stamp] = field(default_factory=dict)  # of objects in S3, by address
    unreadable: Mapping[str, str] = field(default_factory=dict)  # folder -> why it could not be looked into

    def address(self, path: str) -> str:
        return storage.join(self.root, path)

    def text(self, path: str) -> str:
        """The text of a small file; empty where it cannot be read or is no text."""
        try:
            return storage.read(self.address(path)).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError):
            return ""


def list_folder(root: str) -> Listing:
    """All visible names below the root. Links are followed, though never round in a circle; stores are left out.

    InputError when the root is no folder, or an empty one.
    """
    if storage.is_remote(root):
        return _list_objects(root)
    _check_root(Path(root))
    folders: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    unreadable: dict[str, str] = {}

    def note(error: OSError) -> None:
        unreadable[os.path.relpath(error.filename, root)] = error.strerror or str(error)

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=note):
        real = os.path.realpath(folder)
        subfolders[:] = sorted(name for name in subfolders if not _hidden(name)) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        if {"chunks", "manifests"} <= set(subfolders):
            subfolders.clear()  # a store; stems separated into it are no songs of the corpus
            continue
        relative = os.path.relpath(folder, root)
        folders["" if relative == "." else relative] = tuple(sorted(name for name in files if not _hidden(name)))
    return Listing(root=root, folders=folders, unreadable=unreadable)


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
    """Whether a file is read as audio, by its suffix."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def upwards(folder: str) -> Iterator[str]:
    """The folder itself, then those above it, without the root."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _hidden(name: str) -> bool:
    # "...Baby One More Time" is a song
    return (name.startswith(".") and not name.startswith("..")) or name == "__MACOSX"


def _check_root(folder: Path) -> None:
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
