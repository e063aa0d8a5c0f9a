"""CSV files that list the files of songs, with the columns `instrum` and `path`, and `song` if need be."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from datasets.errors import InputError

_COLUMNS = {
    "instrum": "instrum", "instrument": "instrum", "type": "instrum", "stem": "instrum", "source": "instrum",
    "path": "path", "song": "song",
}  # fmt: skip


def read_rows(file: str, text: str) -> list[dict[str, str]]:
    """Different rows with the keys `instrum`, `path` and perhaps `song`; none where the columns are others."""
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    names: dict[str, str] = {}
    for column in header.split(delimiter):
        meaning = _COLUMNS.get(column.strip().strip('"').lower())
        if meaning and meaning not in names:
            names[meaning] = column.strip().strip('"')
    if not {"instrum", "path"} <= set(names):
        return []
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        rows = [{key: (row.get(name) or "").strip() for key, name in names.items()} for row in reader]
    except csv.Error as error:
        raise InputError(f"{file} in the corpus folder is no whole CSV file: {error}") from None
    return [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows) if dict(row)["path"]]


def group_rows(rows: Iterable[Mapping[str, str]]) -> dict[str, list[Mapping[str, str]]]:
    """Rows by song: by their column `song`, else by folder where one holds several instruments, else by file name."""
    rows = list(rows)
    instruments: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        instruments[str(PurePosixPath(row["path"]).parent)].add(row["instrum"])
    groups: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        path = PurePosixPath(row["path"])
        folder = str(path.parent)
        key = row.get("song") or (folder if len(instruments[folder]) > 1 and folder != "." else path.stem)
        groups[key.strip("/") or path.stem].append(row)
    return groups
