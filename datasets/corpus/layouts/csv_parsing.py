"""A CSV file as people save it: its encoding, its delimiter, and the columns that say what a stem is and where."""

import codecs
import csv
import io
from dataclasses import dataclass

from datasets.errors import InputError

_COLUMNS = {
    "instrum": "instrum", "instrument": "instrum", "type": "instrum", "stem": "instrum", "source": "instrum",
    "path": "path", "song": "song",
}  # fmt: skip
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
WINDOWS = "cp1252"


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvRow:
    """One file that a CSV lists."""

    file: str  # the CSV
    instrum: str
    path: str
    song: str  # empty where there is no such column


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvTable:
    """What a CSV file holds: different rows with a path, or the reason why it is no list of stems."""

    file: str
    rows: tuple[CsvRow, ...] = ()
    why_not: str = ""
    encoding: str = "utf-8"
    bad_byte: str = ""  # the first that is not UTF-8, and its line


def read_table(file: str, data: bytes) -> CsvTable:
    """The rows of a CSV file; InputError where it has the columns of a list and cannot be read to its end."""
    encoding, bad_byte = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        # The names of the columns are ASCII: they tell whether this is a list that its owner wants read.
        if _columns(data.decode(encoding, "replace"))[1].keys() >= {"instrum", "path"}:
            wrong = f"not UTF-8 (byte {bad_byte}) and not Windows-1252" if bad_byte else f"damaged, as {encoding}"
            raise InputError(f"{file} in the corpus folder is {wrong}: save it as CSV UTF-8") from None
        return CsvTable(file=file, why_not="it is no text in UTF-8, UTF-16 or Windows-1252")
    if not text.strip():
        return CsvTable(file=file, why_not="it is empty")
    delimiter, columns, body = *_columns(text), _without_separator_line(text)
    if not columns.keys() >= {"instrum", "path"}:
        return CsvTable(file=file, why_not="it has no columns instrum and path")
    try:
        reader = csv.DictReader(io.StringIO(body, newline=""), delimiter=delimiter, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        cells = [{key: (row.get(name) or "").strip() for key, name in columns.items()} for row in reader]
    except csv.Error as error:
        raise InputError(f"{file} in the corpus folder is no whole CSV file: {error}") from None
    rows = [CsvRow(file=file, instrum=row["instrum"], path=row["path"], song=row.get("song", "")) for row in cells]
    return CsvTable(
        file=file, rows=tuple(dict.fromkeys(row for row in rows if row.path)), encoding=encoding, bad_byte=bad_byte
    )


def _encoding(data: bytes) -> tuple[str, str]:
    """The encoding that the bytes show, and the first byte that is not UTF-8 where that decided."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding, ""
    for half, encoding in ((data[1::2], "utf-16-le"), (data[::2], "utf-16-be")):
        if half.count(0) > len(data) / 4:  # of Latin letters in UTF-16 one byte is zero
            return encoding, ""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return WINDOWS, f"0x{data[error.start]:02x} in line {line}"
    return "utf-8", ""


def _columns(text: str) -> tuple[str, dict[str, str]]:
    """The delimiter, and the names of the columns by their meaning."""
    lines = _without_separator_line(text).splitlines()
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    names: dict[str, str] = {}
    for column in header.split(delimiter):
        name = column.strip().strip('"')
        meaning = _COLUMNS.get(name.lower())
        if meaning and meaning not in names:
            names[meaning] = name
    return delimiter, names


def _without_separator_line(text: str) -> str:
    """Without the line "sep=;" that Excel puts before the header."""
    first, _, rest = text.partition("\n")
    return rest if first.strip().lower().startswith("sep=") and len(first.strip()) == len("sep=") + 1 else text
