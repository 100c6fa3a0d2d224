"""Rows of messages in order, where their texts together are more than DuckDB sorts.

DuckDB keeps the texts of the rows that it sorts in memory: 600 rows of 1 MB are too much for a limit of 1 GB. So the
long texts are written to a temporary file as they come, DuckDB sorts the rows without them, and each text is read back
behind the sort. The rows are the same, in the same order.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from trajkit.engines.duckdb import DuckDBEngine
from trajkit.runs.parquet_sql import quoted

if TYPE_CHECKING:
    from typing import BinaryIO

    import pyarrow as pa

COLUMNS = ("content", "reasoning", "tool_calls", "token_ids")
SHORT = 1024  # a row whose columns hold fewer bytes keeps them in the sort
ROWS_AT_ONCE = 128  # texts of a megabyte each
BYTES_AT_ONCE = 32 * 2**20
ROW_GROUP = 20_000


def in_order(runs: DuckDBEngine, query: str, keys: str, rows: int) -> Iterator[pa.RecordBatch]:
    """The answer to `query` ordered by `keys`, in batches of at most `rows` rows and about 32 MB.

    `query` has a column `rest` as sql/select/selected_messages.sql has it; the batches have that struct's fields as
    columns in its place. The temporary files hold the whole answer, not compressed: they lie where queries spill.
    """
    with TemporaryDirectory(prefix="texts-", dir=runs.temporary) as folder:
        texts, short = Path(folder, "texts"), Path(folder, "rows.parquet")
        with texts.open("wb") as file:
            _write_apart(runs.batches(query, ROWS_AT_ONCE, threads=1), file, short)
        ordered = f"SELECT * FROM read_parquet({quoted(str(short))}) ORDER BY {keys}"
        with texts.open("rb") as file:
            for batch in runs.batches(ordered, rows):
                yield from _restored(batch, file.fileno())


def flat(rows: pa.RecordBatch | pa.Table) -> Any:
    """The rows with the fields of the struct that `rest` holds as columns in its place."""
    import pyarrow.compute as pc

    if "rest" not in rows.schema.names:
        return rows
    rest = pc.list_element(rows["rest"], 0)
    for field in rest.type:
        rows = rows.append_column(field.name, pc.struct_field(rest, field.name))
    return rows.drop_columns("rest")


def _write_apart(batches: Iterator[pa.RecordBatch], texts: BinaryIO, short: Path) -> None:
    """Write the long texts to `texts`, and the rows without them, but with the place of each, to the Parquet file
    `short`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    waiting: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    try:
        for batch in batches:
            waiting.append(_apart(flat(batch), texts))
            writer = writer or pq.ParquetWriter(short, waiting[0].schema, compression="zstd")
            n_rows, n_bytes = n_rows + batch.num_rows, n_bytes + batch.nbytes  # each column of it keeps all in memory
            if n_rows >= ROW_GROUP or n_bytes >= BYTES_AT_ONCE:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting, n_rows, n_bytes = [], 0, 0
        if writer and waiting:
            writer.write_table(pa.Table.from_batches(waiting))
    finally:
        if writer:
            writer.close()


def _apart(batch: pa.RecordBatch, texts: BinaryIO) -> pa.RecordBatch:
    """The rows with nulls for what was written to `texts`. Of each column two more say where it is and how long."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = {name: _n_bytes(batch[name]) for name in COLUMNS}
    size = pa.repeat(pa.scalar(0, pa.int64()), batch.num_rows)
    for length in lengths.values():
        size = pc.add(size, pc.fill_null(length, 0))
    is_long = pc.greater_equal(size, SHORT)
    is_short = pc.invert(is_long)
    none = pa.nulls(batch.num_rows, pa.int64())
    short_rows = pc.subtract(pc.cumulative_sum(pc.cast(is_short, pa.int64())), 1).filter(is_short)
    for name in COLUMNS:
        column = batch[name]
        long = column.filter(is_long)
        length = lengths[name].filter(is_long)
        ends = pc.add(pc.cumulative_sum(pc.fill_null(length, 0)), texts.tell())
        places = pc.subtract(ends, pc.fill_null(length, 0))
        texts.write(_data(long))
        kept = column.filter(is_short).take(pc.replace_with_mask(none, is_short, short_rows))
        batch = batch.set_column(batch.schema.get_field_index(name), name, kept)
        batch = batch.append_column(f"{name}_at", pc.replace_with_mask(none, is_long, places))
        batch = batch.append_column(f"{name}_bytes", pc.replace_with_mask(none, is_long, length))
    return batch


def _n_bytes(column: pa.Array) -> pa.Array:
    """How many bytes each value takes; null for a null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_list(column.type):
        return pc.cast(pc.multiply(pc.list_value_length(column), column.type.value_type.bit_width // 8), pa.int64())
    return pc.cast(pc.binary_length(column), pa.int64())


def _data(column: pa.Array) -> memoryview | bytes:
    """The bytes of all values of a column, one after the other."""
    import pyarrow as pa

    if not len(column):
        return b""
    if pa.types.is_list(column.type):
        values = column.flatten()
        width = values.type.bit_width // 8
        first, n = values.offset * width, len(values) * width
    else:
        offsets = memoryview(column.buffers()[1]).cast("i")
        first, n = offsets[column.offset], offsets[column.offset + len(column)] - offsets[column.offset]
        values = column
    data = values.buffers()[-1]
    return b"" if data is None else memoryview(data)[first : first + n]


def _restored(batch: pa.RecordBatch, file: int) -> Iterator[pa.RecordBatch]:
    """The rows with their long texts, cut where these grow beyond 32 MB."""
    columns = [batch[f"{name}_bytes"].to_pylist() for name in COLUMNS]
    sizes = [sum(size or 0 for size in row) for row in zip(*columns, strict=True)]
    start = n_bytes = 0
    for end, size in enumerate(sizes, 1):
        n_bytes += size
        if n_bytes >= BYTES_AT_ONCE or end == len(sizes):
            yield _with_texts(batch.slice(start, end - start), file)
            start, n_bytes = end, 0


def _with_texts(batch: pa.RecordBatch, file: int) -> pa.RecordBatch:
    import pyarrow as pa

    for name in COLUMNS:
        places, sizes = batch[f"{name}_at"].to_pylist(), batch[f"{name}_bytes"].to_pylist()
        batch = batch.drop_columns([f"{name}_at", f"{name}_bytes"])
        long = [(place, size) for place, size in zip(places, sizes, strict=True) if size is not None]
        if not long:
            continue
        column = batch[name]
        data = b"".join(os.pread(file, size, place) for place, size in long)
        restored = _column(column.type, [size for _, size in long], data)
        numbers = iter(range(len(column), len(column) + len(long)))
        rows = array("q", (row if size is None else next(numbers) for row, size in enumerate(sizes)))
        taken = pa.concat_arrays([column, restored]).take(
            pa.Array.from_buffers(pa.int64(), len(rows), [None, _buffer(rows)])
        )
        batch = batch.set_column(batch.schema.get_field_index(name), name, taken)
    return batch


def _column(kind: pa.DataType, sizes: list[int], data: bytes) -> pa.Array:
    """An array of that type whose values' bytes lie one after the other in `data`."""
    import pyarrow as pa

    if not pa.types.is_list(kind):
        offsets = array("i", accumulate(sizes, initial=0))
        return pa.Array.from_buffers(kind, len(sizes), [None, _buffer(offsets), pa.py_buffer(data)])
    width = kind.value_type.bit_width // 8
    values = pa.Array.from_buffers(kind.value_type, len(data) // width, [None, pa.py_buffer(data)])
    offsets = array("i", accumulate((size // width for size in sizes), initial=0))
    return pa.ListArray.from_arrays(
        pa.Array.from_buffers(pa.int32(), len(offsets), [None, _buffer(offsets)]), values
    ).cast(kind)


def _buffer(numbers: array[int]) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(numbers)
