"""A layout of a corpus: songs in one folder, as `takes/Blue Hour__drums.wav`, their splits in `takes/splits.json`."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

FOLDER = "takes/"


def takes(files: Sequence[str], *, read: Callable[[str], bytes]) -> Mapping[str, Mapping[str, str]]:
    """{song: {path: kind}}: a kind is a source, a kind of the taxonomy, or "mixture"; "train/..." states a split."""
    splits = json.loads(read(f"{FOLDER}splits.json")) if f"{FOLDER}splits.json" in files else {}
    songs: dict[str, dict[str, str]] = defaultdict(dict)
    for path in files:
        title, mark, kind = path.removeprefix(FOLDER).removesuffix(".wav").rpartition("__")
        if path.startswith(FOLDER) and path.endswith(".wav") and mark:
            songs[f"{splits[title]}/{title}" if title in splits else title][path] = kind.lower()
    return songs
