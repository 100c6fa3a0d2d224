"""Writing runs: immutable Parquet parts, each of which appears whole or not at all.

    runs/<run>/part-<digest>/trajectories.parquet
    runs/<run>/part-<digest>/messages.parquet
    runs/<run>/part-<digest>/SHA256SUMS

A part is written into a hidden folder and that folder is renamed, so a killed writer leaves
nothing that a reader takes for data. Reading is `trajkit.engines.duckdb`. In an object store, where nothing
can be renamed, each object appears whole, messages first, and messages alone are no part yet.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trajkit.errors import TrajkitError
from trajkit.runs.atomic import abandoned, make_folder, owner, rename
from trajkit.runs.atomic import whole as whole_file
from trajkit.runs.digests import SUMS, Hashed, sums
from trajkit.runs.object_store import Location, Url, locate
from trajkit.runs.records import Record, Row, to_json
from trajkit.runs.schema import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

PART_TRAJECTORIES = 20_000
PART_BYTES = 64 * 2**20

being_written: set[str] = set()  # the names of this process's own hidden parts


class Batch(NamedTuple):
    """Trajectories as the two tables' rows, in the same order; of each its number of messages and its size in bytes."""

    trajectories: pa.Table
    messages: pa.Table
    lengths: list[int]
    sizes: list[int]


def batch(records: Sequence[Record]) -> Batch:
    """The records as tables."""
    import pyarrow as pa

    lengths = [len(record.columns["seq"]) for record in records]
    rows = [record.trajectory for record in records]
    used = {name for record in records for name in record.columns}
    columns = {}
    for field in arrow_schema("messages"):
        if field.name == "trajectory_id":
            ids = (row["trajectory_id"] for row in rows)
            columns[field.name] = pa.array(list(chain.from_iterable(map(repeat, ids, lengths))), field.type)
        elif field.name not in used:
            columns[field.name] = pa.nulls(sum(lengths), field.type)
        else:
            own = [
                record.columns[field.name] if field.name in record.columns else repeat(None, n)
                for record, n in zip(records, lengths, strict=True)
            ]
            columns[field.name] = pa.array(list(chain.from_iterable(own)), field.type)
    messages = pa.table(columns, schema=arrow_schema("messages"))
    return Batch(_table("trajectories", rows), messages, lengths, [record.size for record in records])


class RunWriter:
    """Appends trajectories to the run folder `run`, a part at a time.

    `known` are ids that are already in the runs; `add` passes those over, so that writing the
    same thing twice changes nothing. Use it as a context manager: leaving it writes what is
    left, leaving it by an exception drops the part that was not yet written. With `behind` a full
    part is written by a thread while the next one is gathered.
    """

    def __init__(self, run: str | os.PathLike[str], known: Iterable[str] = (), behind: bool = False) -> None:
        self.run = locate(run)
        self._known = set(known)
        self._records: list[Record] = []
        self._batches: list[Batch] = []
        self._n = self._bytes = 0
        self._thread = ThreadPoolExecutor(1) if behind else None
        self._writing: Future[Location] | None = None
        if isinstance(self.run, Url):
            return  # a prefix need not be made
        try:
            make_folder(self.run)
            remove_leftovers(self.run)
        except OSError as error:
            raise TrajkitError(f"{self.run}: no run can be written there ({error.strerror or error}).") from error

    def add(self, record: Record) -> bool:
        """Take one trajectory. False when it is there already."""
        trajectory_id = record.trajectory["trajectory_id"]
        if trajectory_id in self._known:
            return False
        self._known.add(trajectory_id)
        self._records.append(record)
        if self._counts(record.size):
            self.flush()
        return True

    def pass_over(self, ids: Iterable[str]) -> None:
        """Take these as there already."""
        self._known.update(ids)

    def extend(self, batch: Batch) -> list[bool]:
        """`add` each trajectory of a batch in turn."""
        taken = []
        first = 0  # of those that are taken and not yet gathered
        for at, trajectory_id in enumerate(batch.trajectories["trajectory_id"].to_pylist()):
            new = trajectory_id not in self._known
            taken.append(new)
            if not new:
                self._gather(batch, first, at)
                first = at + 1
                continue
            self._known.add(trajectory_id)
            if self._counts(batch.sizes[at]):
                self._gather(batch, first, at + 1)
                first = at + 1
                self.flush()
        self._gather(batch, first, len(taken))
        return taken

    def _counts(self, size: int) -> bool:
        """Count one more. True when the part is full."""
        self._n += 1
        self._bytes += size
        return self._n >= PART_TRAJECTORIES or self._bytes >= PART_BYTES

    def _gather(self, batch: Batch, first: int, end: int) -> None:
        if first < end:
            before, own = sum(batch.lengths[:first]), sum(batch.lengths[first:end])
            trajectories, messages = batch.trajectories[first:end], batch.messages[before : before + own]
            self._batches.append(Batch(trajectories, messages, batch.lengths[first:end], batch.sizes[first:end]))

    def flush(self) -> None:
        """Write what was added so far as one part."""
        import pyarrow as pa

        if self._records:
            self._batches.append(batch(self._records))
        if self._batches:
            tables = {
                "trajectories": pa.concat_tables([one.trajectories for one in self._batches]),
                "messages": pa.concat_tables([one.messages for one in self._batches]),
            }
            self._records, self._batches, self._n, self._bytes = [], [], 0, 0
            if self._thread is None:
                write_part(self.run, tables)
            else:
                self._wait()
                self._writing = self._thread.submit(write_part, self.run, tables)

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        try:
            if kind is None:
                self.flush()
                self._wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()


def write_part(run: Location, tables: Mapping[str, list[Row] | pa.Table]) -> Location:
    """Write one part (rows or an Arrow table by table name) below `run` and return its folder.

    The part's name is a digest of its rows' keys: writing the same part again changes nothing.
    """
    import pyarrow.parquet as pq

    whole = {name: _table(name, rows) if isinstance(rows, list) else rows for name, rows in tables.items()}
    ids = (
        whole["trajectories"]["trajectory_id"].to_pylist() if "trajectories" in whole else map(to_json, tables["tasks"])
    )
    keys = "\n".join(ids)
    digest = hashlib.sha256(f"{sorted(tables)}\n{keys}".encode()).hexdigest()[:16]
    if isinstance(run, Url):
        return _write_objects(run / f"part-{digest}", whole)
    part = run / f"part-{digest}"
    if part.exists():
        return part
    hidden = hidden_part(run, digest)
    try:
        make_folder(run)
        hidden.mkdir()
        digests = {}
        for name, table in whole.items():
            with open(hidden / f"{name}.tmp", "wb") as file:
                hashed = Hashed(file)
                pq.write_table(table, hashed, compression="zstd", write_page_checksum=True)
                file.flush()
                os.fsync(file.fileno())
            digests[f"{name}.parquet"] = hashed.hexdigest()
        with open(hidden / SUMS, "wb") as file:
            file.write(sums(digests))
            file.flush()
            os.fsync(file.fileno())
        # Whole files get their names only now, for a foreign glob may look into hidden folders: it never meets a torn
        # file, and, as messages come first, no trajectory without its messages.
        for name in sorted(tables):
            rename(hidden / f"{name}.tmp", hidden / f"{name}.parquet")
        rename(hidden, part)
    except OSError as error:
        shutil.rmtree(hidden, ignore_errors=True)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and part.exists():  # another writer was first with the same
            return part
        raise TrajkitError(
            f"{part}: cannot be written ({error.strerror or error}). Nothing of this part was kept; "
            "mend that and run the command again, what is already written is not repeated."
        ) from error
    finally:
        being_written.discard(hidden.name)
    return part


def _write_objects(part: Url, tables: Mapping[str, pa.Table]) -> Url:
    import pyarrow.parquet as pq

    *_, last = order = sorted(tables)
    if not (part / f"{last}.parquet").exists():
        digests = {}
        for name in order:
            with whole_file(part / f"{name}.parquet") as file:
                hashed = Hashed(file)
                pq.write_table(tables[name], hashed, compression="zstd", write_page_checksum=True)
                digests[f"{name}.parquet"] = hashed.hexdigest()
                if name == last:  # before this file is there, which makes the part whole
                    with whole_file(part / SUMS) as beside:
                        beside.write(sums(digests))
    return part


def write_tasks(run: str | os.PathLike[str], tasks: list[Row]) -> None:
    """Write the `tasks` table (rows of task_id, env, split, meta) of a run. Nothing when empty."""
    if tasks:
        write_part(locate(run), {"tasks": tasks})


def hidden_part(run: Path, label: str) -> Path:
    """A name for a hidden folder in `run`, which says whose it is: `remove_leftovers` takes it once this process ended.

    Take the name out of `being_written` when the folder has got its name or is gone.
    """
    hidden = run / f".part-{label}-{secrets.token_hex(4)}.{owner()}.tmp"
    being_written.add(hidden.name)
    return hidden


def _table(name: str, rows: list[Row]) -> pa.Table:
    import pyarrow as pa

    schema = arrow_schema(name)
    return pa.table({field: _column(rows, field) for field in schema.names}, schema=schema)


def _column(rows: list[Row], field: str) -> list[Any]:
    try:
        return [row[field] for row in rows]
    except KeyError:
        return [row.get(field) for row in rows]


def remove_leftovers(run: Path) -> None:
    """Remove hidden parts of writers on this machine that no longer run."""
    for leftover in run.glob(".part-*.tmp"):
        _, _, whose = leftover.name.removesuffix(".tmp")[1:].partition(".")
        if leftover.name not in being_written and abandoned(whose):
            shutil.rmtree(leftover, ignore_errors=True)
