"""Writing rows as JSON lines or as Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from trajkit.console import bar
from trajkit.errors import UsageError
from trajkit.exporters._rows import Row
from trajkit.runs.atomic import STDOUT, whole

if TYPE_CHECKING:
    from trajkit.exporters._format import Summary

GROUP_ROWS = 256  # of a Parquet file; as Python's objects rows are many times larger than in the file
# They are in no way special in JSON, but some readers take them for the end of a line.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def line(row: Row) -> bytes:
    """The row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS).encode() + b"\n"


def check_parent(out: Path) -> None:
    """Raise UsageError where there is no folder to write into."""
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}. Make it first (mkdir -p {out.parent}).")


def check_folder(out: Path) -> None:
    """Raise UsageError where a folder cannot be made."""
    if out == STDOUT:
        raise UsageError("--out -: what is written is a folder. Name it.")
    if out.exists() or out.is_symlink():
        raise UsageError(
            f"--out {out}: there is something of that name already. Name a new folder, or remove it first."
        )
    check_parent(out)


def write(out: Path, suffix: str, rows: Iterator[Row], schema: Any, summary: Summary) -> None:
    """Write the rows to a whole file, as `suffix` says; with no row at all, refuse and leave nothing.

    `schema` is a Parquet file's; None: all columns are lists of integers.
    """
    counted = _counted(rows, summary)
    with whole(out) as file:
        if suffix == ".parquet":
            _write_parquet(file, counted, schema)
        else:
            file.writelines(map(line, counted))
        if not summary.rows:
            raise summary.nothing()


def _counted(rows: Iterator[Row], summary: Summary) -> Iterator[Row]:
    with bar(desc="exporting", unit=f" {summary.kind}") as shown:
        for row in rows:
            summary.rows += 1
            shown.update()
            yield row


def _write_parquet(file: BinaryIO, rows: Iterator[Row], schema: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = next(rows, None)
    if first is None:
        return
    if schema is None:
        schema = pa.schema([(name, pa.list_(pa.int32())) for name in first])
    rows = chain([first], rows)
    with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
        while group := list(islice(rows, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
