"""Other distributions with packages of our names, such as Hugging Face's `datasets`: pip mixes their files with ours.

No installer looks: the files of whichever comes second lie over those of the first, and to uninstall one takes the
other's away. The build refuses to go into such an environment, and commands and the Python API refuse to run in
it. This module imports nothing but Python's own: what else it would import may be theirs.
"""

import functools
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

PACKAGES = ("models", "datasets", "pipelines", "flows", "infra", "stemline")
OURS = "stemline"


def name_clash(paths: Sequence[str] | None = None) -> str:
    """What is wrong with an environment and what to do; empty where no other distribution has a package of our names.

    Args:
        paths: folders of packages, all of whose distributions are read; without, those that are called as one of our
            packages are looked for where this process imports from, which takes milliseconds.
    """
    clashes = list(_clashes(paths))
    if not clashes:
        return ""
    distribution, package, folder = clashes[0]
    return (
        f"{distribution} and stemline both have a package {package!r}, and cannot be in one environment: pip would mix "
        f"their files in {folder}. Install stemline into an environment of its own: python3 -m venv stemline-env && "
        "stemline-env/bin/pip install ... (or `pip uninstall` the other one and stemline, then install stemline again)"
    )


@functools.cache
def refuse_name_clashes() -> None:
    """ImportError where this process would import packages of somebody else's."""
    if clash := name_clash():
        raise ImportError(clash)


def _clashes(paths: Sequence[str] | None) -> Iterator[tuple[str, str, Path]]:
    """Distribution with version, a package of ours that it has, and where that lies."""
    for distribution in _distributions(paths):
        name = distribution.metadata["Name"] or ""
        if name.lower() != OURS:
            for package in sorted(_top_level(distribution).intersection(PACKAGES)):
                yield f"{name} {distribution.version}", package, Path(str(distribution.locate_file(package)))


def _distributions(paths: Sequence[str] | None) -> Iterator[metadata.Distribution]:
    if paths is not None:
        yield from metadata.distributions(path=list(dict.fromkeys(paths)))
        return
    for package in PACKAGES:
        yield from metadata.distributions(name=package)


def _top_level(distribution: metadata.Distribution) -> set[str]:
    """The packages of a distribution; builders other than setuptools list its files alone."""
    listed = distribution.read_text("top_level.txt")
    return set(listed.split()) if listed else {file.parts[0] for file in distribution.files or ()}
