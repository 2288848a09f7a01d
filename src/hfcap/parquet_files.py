"""Parquet files of rows, for outputs that other programs read as tables."""

import os
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from hfcap.errors import ConfigError


def is_parquet(path: str | os.PathLike) -> bool:
    """Whether the name of a file says that it is parquet."""
    return Path(path).suffix.lower() == ".parquet"


def parquet_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows, one at least, as a parquet file; a column for each key, null where a row lacks it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    file = BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def read_parquet(path: str | os.PathLike, needed: Sequence[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Read the rows of a parquet file, each with its place for messages, a batch at a time.

    Raises:
        ConfigError: it is no parquet file, or lacks a column of `needed`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ConfigError(f"it is no parquet file: {error}", option=str(path), fix="pass another file") from error
    with file:
        if missing := [name for name in needed if name not in file.schema_arrow.names]:
            raise ConfigError(f"it has no column {missing[0]!r}", option=str(path), fix="pass another file")
        rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
        yield from ((row, f"{path}, row {number}") for number, row in enumerate(rows, start=1))
