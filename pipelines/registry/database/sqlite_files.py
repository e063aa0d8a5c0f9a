"""SQLite files and their addresses for SQLAlchemy, whatever characters a path has."""

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from datasets.errors import InputError

# What an address may give a meaning to: SQLAlchemy 2.1 takes `%2F` for `/`, any version what follows a `?` for options.
SPECIAL = frozenset("%?#")
_URI = "file:"  # the names of files that SQLite itself unquotes


def sqlite_address(file: Path, *, driver: str = "pysqlite") -> str:
    """The address of a SQLite file by its absolute path.

    With special characters it names the driver and holds a URI as SQLite reads it; MLflow makes folders for addresses
    that begin with `sqlite:///`, and would take the URI for the name of one.
    """
    text = str(file.absolute())
    if driver == "pysqlite" and not SPECIAL & set(text):
        return f"sqlite:///{text}"
    from sqlalchemy import URL

    # Only SQLAlchemy knows what it will unquote: 2.1 does so to the path of an address, 2.0 does not.
    address = URL.create(f"sqlite+{driver}", database=f"{_URI}{quote(text)}", query={"uri": "true"})
    return address.render_as_string()


def sqlite_file(address: str) -> Path | None:
    """The file of a SQLite address, None for an address of something else; InputError where it names no file."""
    if urlsplit(address).scheme.partition("+")[0] != "sqlite":
        return None
    path = address.partition("://")[2].partition("?")[0].removeprefix("/")
    if "%" in path or path.startswith(_URI):
        from sqlalchemy import make_url

        path = make_url(address).database or ""
    if path.startswith(_URI):
        path = unquote(path.removeprefix(_URI))
    if path in ("", ":memory:"):
        raise InputError(f"{address!r} names no file: write sqlite:////FOLDER/FILE.db, with four slashes")
    return Path(path)
