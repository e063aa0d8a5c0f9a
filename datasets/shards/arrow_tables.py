"""Small tables beside the audio (verdicts, profiles, plans, scores), and the rows of any finished table."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.errors import InputError
from datasets.schema import SCHEMA_VERSION, Part, ShardSet
from datasets.shards.manifests import Manifest, Shard, check_version, read_manifest, write_manifest
from datasets.shards.shards import DigestingFile, open_parquet
from datasets.store import storage

Row = TypeVar("Row")


def write_table(
    folder: str | Path,
    name: str,
    table: pa.Table,
    *,
    key: str,
    step: str | None = None,
    extra: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ShardSet:
    """Write a small table ("verdicts", "profiles", "plans", "scores") into the store `folder`, then its manifest.

    `key` digests everything the table was made from; `step` is the job's name where it is not the table's.
    """
    file_name = f"tables/{name}-{key}.parquet"
    with storage.replacing(storage.join(folder, file_name)) as file, DigestingFile(file) as measured:
        pq.write_table(table, measured, compression="zstd", version="2.6")
    shard = measured.shard(file_name, table.num_rows)
    return write_manifest(
        folder, table=name, step=step or name, key=key, shards=[shard], extra=extra, settings=settings
    )


def read_table(address: ShardSet) -> pa.Table:
    """A whole table other than CHUNKS."""
    assert address.table != "chunks", "chunk tables are read row by row"
    manifest = read_manifest(address)
    return pa.concat_tables(_open_shard(manifest, shard).read() for shard in manifest.shards)


def read_rows(
    address: ShardSet, *, columns: Sequence[str] | None = None, where: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows in stored order; `where` maps columns to the value, or the collection of values, that they must have.

    Rows of a chunk table carry the split, the title and the license that the manifest gives their song.
    """
    manifest = read_manifest(address)
    for shard in manifest.shards:
        try:
            yield from _rows_of(manifest, shard, columns=columns, where=where)
        except (OSError, pa.ArrowException, KeyError) as error:  # what pyarrow makes of a flipped bit
            path = storage.join(manifest.store, shard.file)
            raise InputError(f"shard {path} is damaged: {error}; delete it and run the step again") from None


def table_of(rows: Iterable[Any], schema: pa.Schema) -> pa.Table:
    """An Arrow table of border values (`Verdict`, `Profile`, `MixPlan`, `Score`), in the given order."""
    plain = []
    for row in rows:
        values = {name: list(v.items()) if isinstance(v, Mapping) else v for name, v in asdict(row).items()}
        plain.append({"schema_version": SCHEMA_VERSION, **values})
    return pa.Table.from_pylist(plain, schema=schema)


def read_objects(address: ShardSet, kind: type[Row]) -> list[Row]:
    """The rows of a small table as border values of class `kind`."""
    table = read_table(address)
    maps = {field.name for field in table.schema if pa.types.is_map(field.type)}
    # A column that is younger than the table is left to its default
    names = [field.name for field in fields(kind) if field.name in table.column_names]  # type: ignore[arg-type]
    objects = []
    for row in table.select(names).to_pylist():
        for name, value in row.items():
            if name in maps:
                row[name] = dict(value or ())
            elif isinstance(value, list):
                row[name] = tuple(_item(item) for item in value)
        objects.append(kind(**row))
    return objects


def verify(address: ShardSet) -> None:
    """Read every byte of a table; InputError that names the first shard that is not as it was written."""
    manifest = read_manifest(address)
    for shard in manifest.shards:
        path = storage.join(manifest.store, shard.file)
        try:
            with storage.open_reader(path) as file:
                seen = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"shard {path} cannot be read: {error}") from None
        if seen != shard.sha256:
            raise InputError(f"shard {path} is damaged: its checksum does not match; delete it and run the step again")


def _rows_of(
    manifest: Manifest, shard: Shard, *, columns: Sequence[str] | None, where: Mapping[str, Any] | None
) -> Iterator[dict[str, Any]]:
    file = _open_shard(manifest, shard)
    if absent := [name for name in (*(columns or ()), *(where or ())) if name not in file.schema_arrow.names]:
        raise InputError(f"the table {manifest.table} in {manifest.store} has no column {', '.join(absent)}")
    for group, facts in _groups_of(manifest, shard, file):
        if where:
            small = file.read_row_group(group, columns=list(where)).to_pylist()
            if not any(_matches({**row, **facts}, where) for row in small):
                continue
        wanted = None if columns is None else [*dict.fromkeys([*columns, *(where or {})])]
        for stored in file.read_row_group(group, columns=wanted).to_pylist():
            row = {**stored, **{name: fact for name, fact in facts.items() if name in stored}}
            if not where or _matches(row, where):
                yield row if columns is None else {name: row[name] for name in columns}


def _groups_of(manifest: Manifest, shard: Shard, file: pq.ParquetFile) -> Iterator[tuple[int, dict[str, str]]]:
    """The row groups of a shard that belong to the table, and what its manifest says of them."""
    if manifest.table != "chunks":
        yield from ((group, {}) for group in range(file.num_row_groups))
        return
    path = storage.join(manifest.store, shard.file)
    for song in sorted((song for song in manifest.songs if song.path == path), key=lambda song: song.first_row):
        facts = {"split": song.split, "title": song.title, "license": song.license}
        yield from ((group, facts) for group in range(song.first_row, song.first_row + song.num_chunks))


def _open_shard(manifest: Manifest, shard: Shard) -> pq.ParquetFile:
    path = storage.join(manifest.store, shard.file)
    try:
        seen = storage.stamp(path)
        if seen and seen.size != shard.num_bytes:
            raise InputError(
                f"shard {path} is damaged: it has {seen.size} bytes instead of {shard.num_bytes}; run the step again"
            )
        file = open_parquet(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"shard {path} cannot be read ({error}); run the step again") from None
    if file.num_row_groups and "schema_version" in file.schema_arrow.names:
        first = file.read_row_group(0, columns=["schema_version"]).column(0)
        if len(first):
            check_version(first[0].as_py(), path)
    return file


def _matches(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(
        row[name] in wanted if isinstance(wanted, Collection) and not isinstance(wanted, str) else row[name] == wanted
        for name, wanted in where.items()
    )


def _item(value: Any) -> Any:
    if isinstance(value, dict):
        return Part(**value)
    return tuple(value) if isinstance(value, list) else value
