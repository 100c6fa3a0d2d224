"""Writing runs: immutable Parquet parts, each of which appears whole or not at all.

    runs/<run>/part-<digest>/trajectories.parquet
    runs/<run>/part-<digest>/messages.parquet
    runs/<run>/part-<digest>/SHA256SUMS

A part is written into a hidden folder and that folder is renamed, so a killed writer leaves
nothing that a reader takes for data. Reading is `trajkit.engine`. In an object store, where nothing
can be renamed, each object appears whole, messages first, and messages alone are no part yet.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trajkit.digests import SUMS, Hashed, sums
from trajkit.errors import TrajkitError
from trajkit.files import abandoned, make_folder, owner, rename
from trajkit.files import whole as whole_file
from trajkit.listing import is_folder, refuse_irregular, walk
from trajkit.object_store import Location, Url, locate, side_by_side
from trajkit.records import Record, Row, to_json
from trajkit.schema import TABLES, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

PART_TRAJECTORIES = 20_000
PART_BYTES = 64 * 2**20

being_written: set[str] = set()  # the names of this process's own hidden parts


def parts(runs: str | os.PathLike[str], table: str) -> list[Location]:
    """All files of `table` below `runs`, sorted: `**/<table>*.parquet`, hidden folders left out.

    `runs` may also be a single Parquet file of that table, and a URL. Links are followed, and each file is there once.
    Empty when there is none. Raises BadData for a folder that cannot be read and for what is no regular file.
    """
    return all_parts(runs)[table]


def all_parts(runs: str | os.PathLike[str]) -> dict[str, list[Location]]:
    """`parts` of every table, as they lay there at one moment."""
    root = locate(runs)
    single = root.is_file()
    listed = [str(root)] if single else _listed(root)
    while not single and (again := _listed(root)) != listed:
        listed = again  # parts came and went while they were listed (`compact`): what came may have been missed
    return {table: [locate(file) for file in listed if os.path.basename(file).startswith(table)] for table in TABLES}


def _listed(root: Location) -> list[str]:
    if isinstance(root, Url):
        return [f"{root}/{name}" for name in of_whole_parts(root.below())]
    found: list[tuple[bool, str, str]] = []
    for _, real, entries in walk(root, enter=lambda name: not name.startswith(".")):
        for entry in entries:
            if _of_a_table(entry.name) and not is_folder(entry):
                refuse_irregular(entry)
                linked = entry.is_symlink()
                lies = os.path.realpath(entry.path) if linked else os.path.join(real, entry.name)
                found.append((linked, entry.path, lies))
    once: dict[str, str] = {}  # a link to a file that lies below the folder as well is passed over
    for _, path, lies in sorted(found):
        once.setdefault(lies, path)
    return sorted(once.values())


def _of_a_table(name: str) -> bool:
    return name.endswith(".parquet") and name.startswith(tuple(TABLES))


def of_whole_parts(names: Iterable[str]) -> list[str]:
    """The Parquet files among the names below a store's prefix, sorted: none in hidden folders, and no messages of a
    part whose trajectories are still to come (they are uploaded last)."""
    files = {name for name in names if name.endswith(".parquet") and not re.search(r"(^|/)\.[^/]*/", name)}
    waiting = {
        name
        for name in files
        if re.search(r"(^|/)part-[0-9a-f]{16}/messages\.parquet$", name)
        and name.removesuffix("messages.parquet") + "trajectories.parquet" not in files
    }
    return sorted(files - waiting)


def existing_ids(runs: str | os.PathLike[str]) -> set[str]:
    """The ids already in `runs`: of trajectories, and of the records that corrected one."""
    import pyarrow.parquet as pq

    def ids_of(part: Location) -> list[str] | None:
        try:
            # pyarrow's own file of an object: none of its threads may need Python when the process ends
            source = part.open().opened if isinstance(part, Url) else part
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                table = file.read(columns=["trajectory_id", "import_id"])  # the latter where it is
            ids: list[str] = [id for column in table.columns for id in column.to_pylist() if id is not None]
        except Exception as error:
            if not part.exists() and part not in parts(runs, "trajectories"):
                return None
            way_out = "Make it readable" if isinstance(error, OSError) and error.errno else "Move it out of the runs"
            raise TrajkitError(f"{part}: cannot be read ({error}). {way_out}, then run this command again.") from error
        return ids

    ids: set[str] = set()
    for found in side_by_side(ids_of, parts(runs, "trajectories")):
        if found is None:
            return existing_ids(runs)  # `compact` has put it into another part
        ids.update(found)
    return ids


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
