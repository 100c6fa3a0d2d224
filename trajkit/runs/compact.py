"""`trajkit compact`: the many small parts that exploring leaves become few large ones, with the same rows.

Parts of one run whose files have the same columns and types are put together, about 20,000 trajectories at a time.
It is safe at any moment, with explorers, readers and another `compact` beside it, because of one rule: a part is taken
away only after a part that holds all of its rows, whole and on the disk, has got its name. In between every trajectory
lies there twice, and counts once.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajkit.console import bar, clean
from trajkit.errors import BadData, TrajkitError, UsageError
from trajkit.rules import functions, rules
from trajkit.runs.atomic import hide, rename, sync
from trajkit.runs.digests import SUMS, Hashed, damage, damaged_page, read_sums, sums
from trajkit.runs.listing import is_folder, walk
from trajkit.runs.object_store import here
from trajkit.runs.parquet_sql import LOST, MEMORY_LIMIT, first_line, identifier, quoted
from trajkit.runs.temporary import TemporaryFolder
from trajkit.runs.writer import PART_TRAJECTORIES, being_written, hidden_part, remove_leftovers

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

PART_FILE_BYTES = 64 * 2**20  # on the disk: a part is full at this size or at PART_TRAJECTORIES
# A row group ends with the row that reaches one of these. (DuckDB reads row groups side by side.)
GROUP_ROWS = 122_880
GROUP_BYTES = 64 * 2**20
BATCH_ROWS = 2_048

# What a part is made of, in the order that the rows get, and that their files get their names and go in: at no moment
# is a trajectory there without its messages.
KEYS = {"messages": ("trajectory_id", "seq"), "tasks": ("task_id",), "trajectories": ("trajectory_id",)}
_PART = re.compile("part-[0-9a-f]{16}")
_PLACE = "trajkit_part"  # a column that no file has


@dataclass
class Run:
    """One run folder: how many parts it has and will have, and what those hold that can be put together.

    `bytes_after` is None in a dry run. `left` says which parts stay as they are whatever their size, and why.
    """

    folder: str
    parts_before: int = 0
    parts_after: int = 0
    trajectories: int = 0
    bytes_before: int = 0
    bytes_after: int | None = None
    left: dict[str, str] = field(default_factory=dict)


@dataclass
class Summary:
    """What became of what. Of a dry run nothing is known of the bytes and the repeated trajectories.

    `renewed` trajectories had an actions_digest of the first version and got this version's. `repeated` trajectories
    lay in several of the parts that became one, all alike, and are kept once; `differing` ones were not alike, and all
    are kept. `other_files` are Parquet files that do not lie in a part of a run.
    """

    runs: list[Run] = field(default_factory=list)
    renewed: int = 0
    repeated: int = 0
    differing: int = 0
    other_files: int = 0
    dry_run: bool = False

    def text(self) -> str:
        """The summary as people read it."""
        lines = []
        for run in self.runs:
            if run.parts_after < run.parts_before:
                size = f"{_mb(run.bytes_before)}{'' if run.bytes_after is None else f' to {_mb(run.bytes_after)}'}"
                verb = "would become" if self.dry_run else "became"
                lines.append(
                    f"{clean(run.folder)}: {run.parts_before:,} parts {verb} {run.parts_after:,} "
                    f"({run.trajectories:,} trajectories, {size})"
                )
            lines += [f"  {clean(part)} is left as it is: {clean(reason)}" for part, reason in run.left.items()]
        kept = sum(run.parts_after == run.parts_before for run in self.runs)
        if kept:
            lines.append(f"nothing to put together in {kept:,} {'run' if kept == 1 else 'runs'}")
        if self.renewed:
            verb = "is of an earlier version" if self.dry_run else "was renewed"
            lines.append(f"the actions_digest of {self.renewed:,} trajectories with tool calls {verb}")
        if self.repeated:
            lines.append(f"{self.repeated:,} trajectories lay there more than once, all alike: each is kept once")
        if self.differing:
            lines.append(
                f"{self.differing:,} trajectories lay there more than once and differ: all are kept "
                "(`trajkit validate` says where the difference matters)"
            )
        if self.other_files:
            lines.append(f"{self.other_files:,} other Parquet files are left as they are")
        return "\n".join(lines) or "there are no parts"


@dataclass(frozen=True)
class Part:
    """A part as it was found. `schemas` and `rows` are by table; parts of one `digest` (all columns) can become one."""

    path: Path
    schemas: dict[str, pa.Schema]
    digest: str
    rows: dict[str, int]
    bytes: int


def compact(
    runs: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    memory_limit: str | None = None,
    threads: int | None = None,
) -> Summary:
    """Put the small parts of each run below `runs` together. With `dry_run` only say what would become of what.

    All files are looked at before anything is written. `memory_limit` and `threads` are as in `DuckDBEngine`. Raises
    UsageError for a missing folder, BadData for a file that cannot be read, and TrajkitError where something cannot be
    written. Whatever stops it, nothing is lost, and running it again goes on from there.
    """
    root = here(runs, "compact it, and copy it back (`aws s3 sync --delete`)")
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder. Name the folder of runs.")
    summary = Summary(dry_run=dry_run)
    with _connection(memory_limit or MEMORY_LIMIT, threads) as con:
        planned: list[tuple[Run, list[Part]]] = []
        for folder, found in _find(root, summary):
            run = Run(str(folder), len(found), len(found))
            summary.runs.append(run)
            parts = _sound(found, run)
            run.trajectories = sum(part.rows.get("trajectories", 0) for part in parts)
            run.bytes_before = sum(part.bytes for part in parts)
            run.bytes_after = None if dry_run else run.bytes_before
            for group in _groups(con, parts, summary):
                planned.append((run, group))
                run.parts_after -= len(group) - 1
        if not dry_run:
            for run in summary.runs:
                remove_leftovers(Path(run.folder))
            with bar(desc="putting together", total=sum(len(group) for _, group in planned), unit=" parts") as shown:
                for run, group in planned:
                    assert run.bytes_after is not None
                    run.bytes_after += _merge(con, group, summary) - sum(part.bytes for part in group)
                    shown.update(len(group))
    return summary


@contextmanager
def _connection(memory_limit: str, threads: int | None) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    with TemporaryFolder() as spill:
        config: dict[str, Any] = {"memory_limit": memory_limit, "temp_directory": spill.name}
        config |= {"preserve_insertion_order": False} | ({"threads": threads} if threads else {})
        try:
            con = duckdb.connect(config=config)
        except duckdb.Error as error:
            raise UsageError(f"--memory-limit {memory_limit}: {error}") from error
        with con:
            con.execute("SET TimeZone = 'UTC'")
            for function in functions():
                con.execute(function)
            yield con


# --- what there is ---


def _find(root: Path, summary: Summary) -> Iterator[tuple[Path, list[Path]]]:
    """The run folders below `root` with their parts, sorted. Counts the Parquet files that lie elsewhere."""
    for folder, _, entries in walk(root, enter=lambda name: not name.startswith(".") and not _PART.fullmatch(name)):
        found = [Path(entry.path) for entry in entries if _PART.fullmatch(entry.name) and is_folder(entry)]
        summary.other_files += sum(entry.name.endswith(".parquet") and not is_folder(entry) for entry in entries)
        if found:
            yield Path(folder), found


def _sound(found: Sequence[Path], run: Run) -> list[Part]:
    """The parts that can be put together; the others are named in `run.left`. Raises BadData for a torn file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    known: dict[bytes, pa.Schema] = {}  # thousands of files have the same one
    parts = []
    for path in found:
        with _reading([path]):
            names = sorted(name for name in os.listdir(path) if name != SUMS)
        tables = [name.removesuffix(".parquet") for name in names]
        if path.is_symlink() or tables not in (["messages", "trajectories"], ["tasks"], sorted(KEYS)):
            run.left[path.name] = "it is a link" if path.is_symlink() else f"it holds {', '.join(names) or 'nothing'}"
            continue
        schemas, rows, size, digest = {}, {}, 0, hashlib.sha256()
        for table in tables:
            file = path / f"{table}.parquet"
            try:
                with _reading([path]):
                    footer = pq.read_metadata(file)
                    size += file.stat().st_size
                    schema = footer.schema.to_arrow_schema()
            except pa.ArrowException as error:
                raise BadData(f"{file}: is torn, or no Parquet file ({first_line(error)}). {LOST}") from error
            if missing := [key for key in KEYS[table] if key not in schema.names]:
                raise BadData(f"{file}: the column {missing[0]} of {table} is missing; it must be there. {LOST}")
            serialized = schema.serialize().to_pybytes()
            schemas[table], rows[table] = known.setdefault(serialized, schema), footer.num_rows
            digest.update(table.encode() + serialized)
        if strange := [column for schema in schemas.values() for column in schema if not _kept(column.type)]:
            run.left[path.name] = f"its column {strange[0].name} is {strange[0].type}, which might not stay the same"
        else:
            parts.append(Part(path, schemas, digest.hexdigest(), rows, size))
    return parts


def _kept(kind: pa.DataType) -> bool:
    """Whether values of this type come back the same from DuckDB."""
    import pyarrow.types as of

    if of.is_list(kind) or of.is_large_list(kind):
        return _kept(kind.value_type)
    if of.is_struct(kind):
        return kind.num_fields > 0 and all(_kept(kind.field(at).type) for at in range(kind.num_fields))
    if of.is_timestamp(kind):
        return kind.unit == "us" and kind.tz in (None, "UTC")
    plain = (of.is_boolean, of.is_integer, of.is_float32, of.is_float64, of.is_string, of.is_large_string)
    return any(is_it(kind) for is_it in (*plain, of.is_binary, of.is_large_binary, of.is_date32))


# --- what becomes one ---


def _groups(con: duckdb.DuckDBPyConnection, parts: Sequence[Part], summary: Summary) -> list[list[Part]]:
    """The parts that become one, in the order of their names: two or more at a time, and one where it holds digests of
    the first version."""
    old = {part.path: n for part in parts if (n := _n_old_digests(con, [part]))}
    summary.renewed += sum(old.values())
    found = []
    for _, alike in groupby(sorted(parts, key=lambda part: (part.digest, part.path)), key=lambda part: part.digest):
        group: list[Part] = []
        for together in _sharing(con, list(alike)):
            if len(together) > 1 or _size(together) < 0.5 or together[0].path in old:
                group += together
            if _size(group) >= 1:
                found.append(group)
                group = []
        found.append(group)
    return [group for group in found if len(group) > 1 or (group and group[0].path in old)]


def _n_old_digests(con: duckdb.DuckDBPyConnection, parts: Sequence[Part]) -> int:
    """How many trajectories have an actions_digest of the first version. Leaves these, with this version's, in the
    table `renewed`."""
    import pyarrow.types as of

    con.execute("CREATE OR REPLACE TEMP TABLE renewed (trajectory_id VARCHAR, digest VARCHAR)")
    texts = {"trajectories": ("actions_digest",), "messages": ("content", "reasoning", "tool_calls")}
    for table, names in texts.items():
        schema = parts[0].schemas.get(table)
        if schema is None or not all(name in schema.names and of.is_string(schema.field(name).type) for name in names):
            return 0
    if not {"role", "context"} <= {*parts[0].schemas["messages"].names}:
        return 0
    with _reading([part.path for part in parts]):
        calls = _read(parts, "messages")
        if not con.execute(f"SELECT 1 FROM ({calls}) WHERE tool_calls IS NOT NULL LIMIT 1").fetchall():
            return 0
        for table in texts:
            con.execute(f"CREATE OR REPLACE TEMP VIEW {table} AS {_read(parts, table)}")
        con.execute(
            f"INSERT INTO renewed SELECT DISTINCT trajectory_id, new_digest FROM ({rules()['call_digests'].sql}) "
            "WHERE actions_digest = old_digest AND old_digest != new_digest"
        )
        [(found,)] = con.execute("SELECT count(*) FROM renewed").fetchall()
        for table in texts:
            con.execute(f"DROP VIEW {table}")
    return int(found)


def _size(parts: Sequence[Part]) -> float:
    """How many full parts they would be."""
    rows = sum(max(part.rows.get("trajectories", 0), part.rows.get("tasks", 0)) for part in parts)
    return max(rows / PART_TRAJECTORIES, sum(part.bytes for part in parts) / PART_FILE_BYTES)


def _sharing(con: duckdb.DuckDBPyConnection, parts: list[Part]) -> list[list[Part]]:
    """The parts in their order, but those together that hold one trajectory, for only so can it be kept once."""
    if len(parts) < 2 or "trajectories" not in parts[0].schemas:
        return [[part] for part in parts]
    with _reading([part.path for part in parts]):
        shared = con.execute(
            f"SELECT DISTINCT list_sort(list(DISTINCT {_PLACE})) FROM ({_read_with_part(parts, 'trajectories')}) "
            f"SEMI JOIN ({_shared(parts)}) USING (trajectory_id) GROUP BY trajectory_id"
        ).fetchall()
    numbers = {str(part.path): number for number, part in enumerate(parts)}
    belongs = list(range(len(parts)))  # to an earlier part, or to itself

    def first(at: int) -> int:
        while belongs[at] != at:
            belongs[at] = at = belongs[belongs[at]]
        return at

    for (places,) in shared:
        for place in places[1:]:
            earlier, later = sorted((first(numbers[places[0]]), first(numbers[place])))
            belongs[later] = earlier
    together: dict[int, list[Part]] = {}
    for at, part in enumerate(parts):
        together.setdefault(first(at), []).append(part)
    return list(together.values())


def _read(parts: Sequence[Part], table: str) -> str:
    """The rows of a table in these parts, as SQL."""
    return f"SELECT * FROM read_parquet([{_files(parts, table)}], hive_partitioning = false)"


def _read_with_part(parts: Sequence[Part], table: str) -> str:
    """The same with the part that each row lies in."""
    columns = ", ".join(map(identifier, parts[0].schemas[table].names))
    return (
        f"SELECT {columns}, parse_dirpath({_PLACE}) AS {_PLACE} "
        f"FROM read_parquet([{_files(parts, table)}], hive_partitioning = false, filename = '{_PLACE}')"
    )


def _files(parts: Sequence[Part], table: str) -> str:
    return ", ".join(quoted(str(part.path / f"{table}.parquet")) for part in parts)


# --- putting together ---


def _merge(con: duckdb.DuckDBPyConnection, group: Sequence[Part], summary: Summary) -> int:
    """Write the rows of these parts as one, then take the parts away. Returns the bytes of the new one."""
    run, tables = group[0].path.parent, sorted(group[0].schemas)
    hidden = hidden_part(run, "compact")
    try:
        hidden.mkdir()
        with _reading([part.path for part in group]):
            for old in group:
                _verify(old)
            _n_old_digests(con, group)
            _find_repeated(con, group, summary)
            digests = {f"{table}.parquet": _write(con, group, table, hidden / f"{table}.tmp") for table in tables}
        for table in tables:
            rename(hidden / f"{table}.tmp", hidden / f"{table}.parquet")
        part, size = run / f"part-{_digest(hidden, digests)}", sum(file.stat().st_size for file in hidden.iterdir())
        (hidden / SUMS).write_bytes(sums(digests))
        sync(hidden / SUMS)
        try:
            rename(hidden, part)
        except OSError:
            if not all((part / name).is_file() and filecmp.cmp(hidden / name, part / name, shallow=False)
                       for name in digests):  # fmt: skip
                raise
            # It is there: its rows lay in it and in others, or another `compact` was first.
            sync(run)
    except OSError as error:
        raise TrajkitError(
            f"{error.filename or run}: cannot be written ({error.strerror or error}). The parts of {run} that were not "
            "yet put together are as they were; mend that and run this again."
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        being_written.discard(hidden.name)
    for old in group:
        if old.path != part:
            _take_away(old.path)
    return size


def _find_repeated(con: duckdb.DuckDBPyConnection, group: Sequence[Part], summary: Summary) -> None:
    """Make the table `repeated`: the trajectories, with the part, that lie just so in an earlier part as well."""
    con.execute("CREATE OR REPLACE TEMP TABLE repeated (trajectory_id VARCHAR, place VARCHAR)")
    if "trajectories" not in group[0].schemas:
        return
    con.execute(f"CREATE OR REPLACE TEMP TABLE shared AS {_shared(group)}")
    if not con.execute("FROM shared LIMIT 1").fetchall():
        return
    rows = []
    for table in ("trajectories", "messages"):
        fields = ", ".join(f"{name} := {name}" for name in map(identifier, group[0].schemas[table].names))
        rows.append(
            f"SELECT trajectory_id, {_PLACE} AS place, md5('{table}' || to_json(struct_pack({fields}))) AS digest "
            f"FROM ({_read_with_part(group, table)}) SEMI JOIN shared USING (trajectory_id)"
        )
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE copies AS SELECT trajectory_id, place, md5(string_agg(digest ORDER BY digest)) "
        f"AS content FROM ({' UNION ALL '.join(rows)}) GROUP BY ALL"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE repeated AS SELECT trajectory_id, place FROM copies "
        "QUALIFY row_number() OVER (PARTITION BY trajectory_id, content ORDER BY place) > 1"
    )
    [(repeated, differing)] = con.execute(
        "SELECT (SELECT count(DISTINCT trajectory_id) FROM repeated), (SELECT count(*) FROM (SELECT trajectory_id "
        "FROM copies GROUP BY trajectory_id HAVING count(DISTINCT content) > 1))"
    ).fetchall()
    summary.repeated += repeated
    summary.differing += differing


def _shared(parts: Sequence[Part]) -> str:
    """The trajectories that lie in several of these parts, as SQL."""
    return (
        f"SELECT trajectory_id FROM ({_read_with_part(parts, 'trajectories')}) WHERE trajectory_id IS NOT NULL "
        f"GROUP BY trajectory_id HAVING min({_PLACE}) < max({_PLACE})"
    )


def _verify(part: Part) -> None:
    """Raise BadData where a file is not what was written: the new part would be damaged, and the old one gone."""
    given = read_sums(part.path)
    for table in part.schemas:
        file = part.path / f"{table}.parquet"
        with file.open("rb") as opened:
            reason = damage(file, opened, given)
        if reason is None and file.name not in given:
            reason = damaged_page(file)
        if reason:
            raise BadData(f"{file}: {reason}. {LOST}")


def _write(con: duckdb.DuckDBPyConnection, group: Sequence[Part], table: str, file: Path) -> str:
    """Write the table's rows in a total order, and bring them to the disk. Returns the file's SHA-256."""
    import pyarrow.parquet as pq

    schema, keys = group[0].schemas[table], KEYS[table]
    rows = _read(group, table)
    if table == "tasks":
        rows = f"SELECT DISTINCT * FROM ({rows})"
    elif con.execute("FROM repeated LIMIT 1").fetchall():
        rows = (
            f"SELECT r.* EXCLUDE ({_PLACE}) FROM ({_read_with_part(group, table)}) AS r ANTI JOIN repeated AS t "
            f"ON r.trajectory_id = t.trajectory_id AND r.{_PLACE} = t.place"
        )
    if table == "trajectories" and con.execute("FROM renewed LIMIT 1").fetchall():
        rows = (
            "SELECT r.* REPLACE (coalesce(n.digest, r.actions_digest) AS actions_digest) "
            f"FROM ({rows}) AS r LEFT JOIN renewed AS n ON r.trajectory_id = n.trajectory_id"
        )
    [(n_rows,)] = con.execute(f"SELECT count(*) FROM ({rows})").fetchall()
    again = con.execute(f"SELECT 1 FROM ({rows}) GROUP BY {', '.join(keys)} HAVING count(*) > 1 LIMIT 1").fetchall()
    order = [*keys, *(name for name in schema.names if again and name not in keys)]  # all columns cost more
    reader = con.sql(f"{rows} ORDER BY {', '.join(map(identifier, order))}").to_arrow_reader(BATCH_ROWS)
    with file.open("wb") as handle:
        hashed = Hashed(handle)
        with pq.ParquetWriter(hashed, schema, compression="zstd", write_page_checksum=True) as writer:
            for chunk in _row_groups(reader):
                writer.write_table(chunk.cast(schema), row_group_size=chunk.num_rows)
                n_rows -= chunk.num_rows
        handle.flush()
        os.fsync(handle.fileno())
    assert n_rows == 0, f"{n_rows} rows of {table} were not written"
    return hashed.hexdigest()


def _row_groups(batches: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """The same rows, cut by what they hold alone."""
    import pyarrow as pa

    waiting: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    for batch in batches:
        start = 0
        for row, size in enumerate(_sizes(batch), 1):
            n_rows, n_bytes = n_rows + 1, n_bytes + size
            if n_rows == GROUP_ROWS or n_bytes >= GROUP_BYTES:
                yield pa.Table.from_batches([*waiting, batch.slice(start, row - start)]).combine_chunks()
                waiting, start, n_rows, n_bytes = [], row, 0, 0
        waiting.append(batch.slice(start))
    if n_rows:
        yield pa.Table.from_batches(waiting).combine_chunks()


def _sizes(batch: pa.RecordBatch) -> list[int]:
    """About how many bytes each row has: those of its texts and of its lists of numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as of

    total = pa.repeat(pa.scalar(0, pa.int64()), batch.num_rows)
    for column in batch.columns:
        if of.is_string(column.type) or of.is_binary(column.type):
            sizes = pc.binary_length(column)
        elif of.is_list(column.type):
            sizes = pc.multiply(pc.list_value_length(column), 4)
        else:
            continue
        total = pc.add(total, pc.fill_null(sizes, 0))
    found: list[int] = total.to_pylist()
    return found


def _digest(folder: Path, written: Mapping[str, str]) -> str:
    """The digest of all files in a folder. Raises TrajkitError where one does not hold what was written into it."""
    digest = hashlib.sha256()
    for name in sorted(written):
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256")
        if found.hexdigest() != written[name]:
            raise TrajkitError(
                f"{folder.parent}: the disk does not give back what was written. Nothing was taken away."
            )
        digest.update(found.digest())
    return digest.hexdigest()[:16]


def _take_away(part: Path) -> None:
    """Remove a part; at once for those who look at names."""
    hidden = hidden_part(part.parent, part.name.removeprefix("part-"))
    try:
        hide(part, hidden)
        for file in sorted(hidden.iterdir()):  # messages first: a foreign glob may look into hidden folders
            file.unlink()
        hidden.rmdir()
    except FileNotFoundError:
        pass  # another `compact` was first
    except OSError as error:
        raise TrajkitError(
            f"{part}: cannot be removed ({error.strerror or error}). Its rows are in another part as well, and count "
            "once; mend that and run this again."
        ) from error
    finally:
        being_written.discard(hidden.name)


@contextmanager
def _reading(parts: Sequence[Path]) -> Iterator[None]:
    """What can go wrong while these parts are read, as our errors."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise TrajkitError(f"{error}\nGive it more with --memory-limit, or a larger TMPDIR to spill to.") from error
    except (duckdb.Error, FileNotFoundError, NotADirectoryError) as error:
        if gone := [part for part in parts if not part.exists()]:
            raise TrajkitError(
                f"{gone[0]}: it went away meanwhile. If another `trajkit compact` runs on this folder, let it end and "
                "run this again; nothing is lost."
            ) from error
        damaged = (duckdb.DataError, duckdb.InvalidInputException, duckdb.SerializationException)
        if isinstance(error, damaged) or type(error) is duckdb.Error:  # the Parquet reader's own have no class
            raise BadData(
                f"{parts[0].parent}: a file is damaged: {first_line(error)}. `trajkit validate` finds it. "
                "The parts that were not yet put together are as they were."
            ) from error
        raise TrajkitError(f"{error}\nQueries spill to TMPDIR, which may be too small.") from error


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
