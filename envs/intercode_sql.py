"""InterCode-SQL on SQLite: upstream's tasks and reward, MySQL's dialect and answers, no Docker and no server.

InterCode is Yang et al., 2023 (https://arxiv.org/abs/2306.14898, https://github.com/princeton-nlp/intercode); its SQL
tasks are those of Spider's dev set on a MySQL server. Here every episode has its own copy, in memory, of the same
database as a SQLite file. A query is read as MySQL (sqlglot), written for SQLite, and its rows are given the types
that MySQL would give them (SUM of an int is a Decimal, a datetime a datetime), since observations are Python's text
of those rows and the reward compares that text. SHOW, DESC and errors are worded as MySQL's.

    InterCodeSQL   the environment          Prober    a scripted policy: looks around, guesses simple queries

The parts, top to bottom: environment, reward, reading actions, the database, types, policy.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
import sqlite3
import struct
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from trajkit.exploration.env import Message, Task

TASKS, DUMP, DATABASES = "ic_spider_dev.json", "ic_spider_dbs.sql", "sqlite"

# An untrusted query must neither hang nor eat the memory. The bound on work counts SQLite's own instructions, not
# seconds, so that the same query is cut, or not, on every machine; seconds are the net below it.
MAX_INSTRUCTIONS = 30_000_000
MAX_SECONDS = 10.0
MAX_MEMORY = 256 << 20  # bytes that SQLite may hold in this process, all databases together
MAX_ROWS = 10_000
MAX_TEXT = 4_000_000  # characters of one result
MAX_VALUE = 65_536  # bytes of one value
MAX_QUERY = 20_000  # characters
MAX_NESTING = 40  # parentheses within each other

RETRY = "Format your SQL command as follows:\n```SQL\nYour SQL code here\n```\n"  # upstream's answer to what is no SQL

Rows = list[tuple[Any, ...]]
Node = Any  # of sqlglot's tree; its base class has another name from version to version

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns, on stderr, of every statement that it finds odd


class InterCodeSQL:
    """The SQL tasks of a folder.

    `data` holds ic_spider_dev.json and sqlite/<database>.sqlite. Where upstream's MySQL dump ic_spider_dbs.sql lies
    beside them, column types, keys and defaults are read from it; without it DESC answers with SQLite's types and
    dates stay text. A task's id is `intercode_sql/` and its index in ic_spider_dev.json, as in imported logs; reset
    and gold take the bare index too. Upstream has no splits: every task is of split train.

    The action `submit` ends the episode; its reward compares the last observation with the gold query's rows. With
    `submit_each` every action is submitted as well, as upstream's evaluation loop does, whose logs hold no submit:
    the episode ends at reward 1, and the score is the largest reward so far.

    Raises ValueError where the folder lacks a file.
    """

    def __init__(self, data: str, submit_each: bool = False) -> None:
        self._folder = Path(data).expanduser()
        self._submit_each = submit_each
        path = self._folder / TASKS
        if not path.is_file():
            raise ValueError(f"data={data}: there is no {TASKS} in it")
        self._tasks: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        files = {file.stem.lower(): file for file in sorted((self._folder / DATABASES).glob("*.sqlite"))}
        missing = sorted(
            {task["db"] for task in self._tasks} - {t["db"] for t in self._tasks if t["db"].lower() in files}
        )
        if missing:
            raise ValueError(f"data={data}: there is no {DATABASES}/{missing[0].lower()}.sqlite in it")
        dump = self._folder / DUMP
        text = dump.read_text(encoding="utf-8", errors="replace") if dump.is_file() else ""
        self._schemas, self._keys = read_dump(text), read_keys(text)
        self._files = files
        self._templates: dict[str, sqlite3.Connection] = {}
        self._gold: dict[int, Rows] = {}
        self._database: Database | None = None
        self._task = 0
        self._rows: Rows | None = None  # the last observation, where it is rows
        self._observation = ""
        self._best = 0.0
        self._over = False

    def tasks(self, split: str) -> list[Task]:
        """All tasks for split train, none for others."""
        if split != "train":
            return []
        return [
            Task(f"intercode_sql/{i}", "intercode_sql", "train", {"db": t["db"], "hardness": t.get("hardness")})
            for i, t in enumerate(self._tasks)
        ]

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        """A fresh copy of the task's database. Nothing is random, so `seed` changes nothing."""
        self._task = self._number(task_id)
        if self._database:
            self._database.close()
        self._database = self._fresh(self._task)
        self._rows, self._best, self._over = None, 0.0, False
        self._observation = str(self._tasks[self._task]["query"])
        return [{"role": "user", "content": self._observation}], {"score": 0.0, "success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Run the action's SQL, or submit."""
        if self._database is None:
            raise RuntimeError("step before reset")
        if self._over:
            raise RuntimeError("the episode is over: reset first")
        command = parse_action(action)
        before = self._best
        if command == "submit":
            self._over = True
            self._best = max(self._best, self.submission()) if self._submit_each else self.submission()
        elif command is None:
            self._observation, ok = RETRY, False
        else:
            answer = self._database.run(command)
            self._rows = answer if isinstance(answer, list) else None
            self._observation, ok = str(answer), not isinstance(answer, str)
            if self._submit_each:
                self._best = max(self._best, self.submission())
                self._over = self._best == 1.0
        info: dict[str, Any] = {"score": self._best, "success": self._over and self._best == 1.0}
        if command != "submit":
            info["action_executed"] = ok
        return self._observation, self._best - before, self._over, False, info

    def submission(self) -> float:
        """The reward that a submit would get now. Changes nothing."""
        return 0.0 if self._rows is None else reward(self._rows, self._gold_rows(self._task))

    def close(self) -> None:
        """Close every database."""
        if self._database:
            self._database.close()
            self._database = None
        for template in self._templates.values():
            template.close()
        self._templates.clear()

    def snapshot(self) -> Any:
        """The state. The database is in it only where a statement has changed it."""
        if self._database is None:
            raise RuntimeError("snapshot before reset")
        return self._task, self._database.contents(), self._rows, self._observation, self._best, self._over

    def restore(self, token: Any) -> None:
        """Go back to the state of `token`."""
        task, contents, self._rows, self._observation, self._best, self._over = token
        untouched = self._database is not None and task == self._task and self._database.contents() is None
        if contents is not None or not untouched:
            if self._database:
                self._database.close()
            self._task = task
            self._database = self._fresh(task, contents)

    def gold(self, task_id: str) -> list[str]:
        """The gold query, and submit."""
        return [str(self._tasks[self._number(task_id)]["gold"]), *([] if self._submit_each else ["submit"])]

    def _number(self, task_id: str) -> int:
        text = str(task_id).removeprefix("intercode_sql/")
        if not re.fullmatch(r"[0-9]+", text) or int(text) >= len(self._tasks):
            raise KeyError(f"there is no task {task_id} in {TASKS}, which has {len(self._tasks)}")
        return int(text)

    def _fresh(self, task: int, contents: bytes | None = None) -> Database:
        name = str(self._tasks[task]["db"]).lower()
        if name not in self._templates:
            template = sqlite3.connect(":memory:", check_same_thread=False)
            file = sqlite3.connect(f"{self._files[name].resolve().as_uri()}?mode=ro&immutable=1", uri=True)
            file.backup(template)
            file.close()
            template.create_collation("NOCASE", _compare)
            for number, (table, columns) in enumerate(self._keys.get(name, [])):
                listed = ", ".join(f'"{column}"' for column in columns)
                template.execute(f'CREATE INDEX "key_{number}" ON "{table}" ({listed})')
            template.create_function("four_bytes", 1, four_bytes)
            for table, described in self._schemas.get(name, {}).items():  # SQLite's numbers have eight
                for column in described:
                    if column.kind.name == "float":
                        template.execute(f'UPDATE "{table}" SET "{column.name}" = four_bytes("{column.name}")')
            template.commit()
            self._templates[name] = template
        return Database(name, self._templates[name], self._schemas.get(name, {}), sorted(self._files), contents)

    def _gold_rows(self, task: int) -> Rows:
        """The gold query's rows, on a database that nobody has touched."""
        if task not in self._gold:
            database = self._fresh(task)
            rows = database.run(str(self._tasks[task]["gold"]))
            database.close()
            if not isinstance(rows, list):
                raise RuntimeError(f"the gold query of task {task} does not run: {rows}")
            self._gold[task] = rows
        return self._gold[task]


# --- reward ------------------------------------------------------------------------------------


def reward(rows: Rows, gold: Rows) -> float:
    """Upstream's reward: the multiset IoU of the rows' texts times Kendall's tau-b between the orders of the rows that
    both have, rounded to 2 digits. Where tau is undefined (one row, or all alike) the IoU alone, not rounded.

    In [-1, 1]: the right rows in reverse order give -1. Two empty results give 1.
    """
    ours, wanted = [str(row) for row in rows], [str(row) for row in gold]
    both = Counter(ours) & Counter(wanted)
    union = (Counter(ours) | Counter(wanted)).total()
    if not union:
        return 1.0
    overlap = both.total() / union
    tau = kendall_tau(_common(ours, both), _common(wanted, both))
    return overlap if tau is None else round(tau * overlap, 2)


def _common(texts: Iterable[str], both: Mapping[str, int]) -> list[str]:
    """Of `texts` the first ones that are in `both`, as often as there."""
    left = dict(both)
    found = []
    for text in texts:
        if left.get(text):
            left[text] -= 1
            found.append(text)
    return found


def kendall_tau(x: Sequence[Any], y: Sequence[Any]) -> float | None:
    """Kendall's tau-b of two sequences of the same length, None where it is undefined (one has a single value).

    Knight's O(n log n) way: discordant pairs are the inversions of y after sorting by (x, y).
    """
    order = sorted(range(len(x)), key=lambda i: (x[i], y[i]))
    pairs = len(x) * (len(x) - 1) // 2
    ties_x, ties_y = _tied(Counter(x)), _tied(Counter(y))
    if pairs in (ties_x, ties_y):
        return None
    ties_both = _tied(Counter(zip(x, y, strict=True)))
    discordant = _inversions([y[i] for i in order])[1]
    difference = pairs - ties_x - ties_y + ties_both - 2 * discordant
    # The order of scipy's divisions, so that a rounding falls as upstream's does.
    return float(max(-1.0, min(1.0, difference / (pairs - ties_x) ** 0.5 / (pairs - ties_y) ** 0.5)))


def _tied(counts: Counter[Any]) -> int:
    return sum(n * (n - 1) // 2 for n in counts.values())


def _inversions(values: list[Any]) -> tuple[list[Any], int]:
    """`values` sorted, and the number of pairs that stood in the wrong order."""
    if len(values) < 2:
        return values, 0
    middle = len(values) // 2
    left, a = _inversions(values[:middle])
    right, b = _inversions(values[middle:])
    merged, count, i = [], a + b, 0
    for value in right:
        while i < len(left) and left[i] <= value:
            merged.append(left[i])
            i += 1
        count += len(left) - i
        merged.append(value)
    return merged + left[i:], count


# --- reading actions ---------------------------------------------------------------------------

STATEMENTS = (
    "SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "USE", "INSERT", "UPDATE", "DELETE", "REPLACE", "ALTER",
    "CREATE", "DROP", "TRUNCATE", "SET",
)  # fmt: skip


def parse_action(text: str) -> str | None:
    """The SQL of an assistant message, `submit`, or None where it has neither.

    Taken are, after the last "Action:" if there is one: execute[SQL], a ```sql block, "SQL: ...", the bare statement.
    Of several statements the first, as upstream.
    """
    marks = list(re.finditer(r"^[ \t]*Action(?: \d+)?:", text, re.MULTILINE))
    text = text[marks[-1].end() :].strip() if marks else text.strip()
    found = re.fullmatch(r"execute\[(.*)\].*", text, re.DOTALL) or re.search(
        r"```(?:sql|SQL)?\s(.*?)```", text, re.DOTALL
    )
    text = (found[1] if found else text.removeprefix("SQL:")).strip()
    if text.rstrip(".;").lower() in ("submit", "submit[]"):
        return "submit"
    statement = re.match(r"(?:[^;'\"`]|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`)*", text)
    text = (statement[0] if statement else text).strip() or text
    first = re.match(r"\(*\s*([A-Za-z]+)", text)
    return text if first and first[1].upper() in STATEMENTS else None


# --- the database ------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A column's type as MySQL's client shows it: int, double, decimal, float, text, date, datetime or unknown.

    `scale`: digits after the point; None: not fixed.
    """

    name: str
    scale: int | None = None


UNKNOWN, INT, DOUBLE, TEXT, DATE, DATETIME = (Kind(n) for n in ("unknown", "int", "double", "text", "date", "datetime"))


@dataclass(frozen=True)
class Column:
    """A column as DESC shows it. `default` None: it has none."""

    name: str
    type: str
    null: str = "YES"
    key: str = ""
    default: bytes | None = None
    extra: str = ""

    @property
    def kind(self) -> Kind:
        """What its values are."""
        found = re.match(r"(\w+)(?:\((\d+)(?:,(\d+))?\))?", self.type.lower().replace(" ", ""))
        word, scale = (found[1], found[3]) if found else ("", None)
        if word in ("int", "integer", "bigint", "smallint", "tinyint", "mediumint", "year"):
            return INT
        if word in ("double", "real", "float"):
            return Kind("float" if word == "float" else "double", int(scale) if scale else None)
        if word in ("decimal", "numeric"):
            return Kind("decimal", int(scale or 0))
        return {"date": DATE, "datetime": DATETIME, "timestamp": DATETIME}.get(word, TEXT)


Schema = dict[str, list[Column]]
"""A database's tables, lower case, in the dump's order."""


def read_dump(text: str) -> dict[str, Schema]:
    """The databases of a mysqldump file, lower case, with their tables' columns."""
    found: dict[str, Schema] = {}
    tables: Schema = {}
    for use, table, body in re.findall(r"^USE `(\w+)`;|^CREATE TABLE `(\w+)` \(\n(.*?)\n\) ENGINE", text, re.M | re.S):
        if use:
            tables = found.setdefault(use.lower(), {})
        else:
            tables[table.lower()] = _read_table(body)
    return found


def read_keys(text: str) -> dict[str, list[tuple[str, list[str]]]]:
    """The keys of the same databases: (table, its columns in order). Where no ORDER BY decides, they order the rows."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    keys: list[tuple[str, list[str]]] = []
    for use, table, body in re.findall(r"^USE `(\w+)`;|^CREATE TABLE `(\w+)` \(\n(.*?)\n\) ENGINE", text, re.M | re.S):
        if use:
            keys = found.setdefault(use.lower(), [])
        for names in re.findall(r"^  (?:PRIMARY KEY|UNIQUE KEY|KEY)(?: `[^`]*`)? \((.*?)\),?$", body, re.MULTILINE):
            keys.append((table.lower(), re.findall(r"`([^`]*)`", names)))
    return found


def _read_table(body: str) -> list[Column]:
    keys: dict[str, str] = {}
    for kind, names in re.findall(r"^  (PRIMARY KEY|UNIQUE KEY|KEY)(?: `[^`]*`)? \((.*?)\),?$", body, re.MULTILINE):
        parts = re.findall(r"`([^`]*)`", names)
        if kind == "PRIMARY KEY":
            keys |= dict.fromkeys(parts, "PRI")
        elif keys.get(parts[0], "") in ("", "MUL"):
            keys[parts[0]] = "UNI" if kind == "UNIQUE KEY" and len(parts) == 1 else "MUL"
    columns = []
    for name, kind, rest in re.findall(r"^  `([^`]*)` (\w+(?:\([^)]*\))?)(.*?),?$", body, re.MULTILINE):
        default = re.search(r"DEFAULT (?:'([^']*)'|(CURRENT_TIMESTAMP))", rest)
        extra = "auto_increment" if "AUTO_INCREMENT" in rest else "DEFAULT_GENERATED" if default and default[2] else ""
        value = None if default is None else (default[1] if default[2] is None or default[1] else default[2]).encode()
        null = "NO" if "NOT NULL" in rest else "YES"
        columns.append(Column(name, kind, null, keys.get(name, ""), value, extra))
    return columns


class Database:
    """One copy of a database, and the statements run on it."""

    def __init__(
        self,
        name: str,
        template: sqlite3.Connection,
        schema: Schema,
        databases: Sequence[str],
        contents: bytes | None = None,
    ) -> None:
        self.name = name
        self._schema = schema
        self._databases = databases
        self._connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        if contents is None:
            template.backup(self._connection)
        else:
            self._connection.deserialize(contents)
        self._changed = contents is not None
        self._connection.execute("PRAGMA temp_store = MEMORY")  # else a large sort would fill the disk
        self._connection.execute(f"PRAGMA hard_heap_limit = {MAX_MEMORY}")
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._connection.create_collation("NOCASE", _compare)
        for function, (arguments, body) in FUNCTIONS.items():
            self._connection.create_function(function, arguments, body, deterministic=True)
        self._tables = self._read_tables()

    def close(self) -> None:
        """Free it."""
        self._connection.close()

    def contents(self) -> bytes | None:
        """The database as bytes. None: no statement has changed it."""
        return self._connection.serialize() if self._changed else None

    def run(self, query: str) -> Rows | str | None:
        """The statement's rows, None where it has none (an UPDATE), or MySQL's error message."""
        query = query.encode("utf-8", "replace").decode()  # SQLite takes no lone surrogates
        if len(query) > MAX_QUERY or _nesting(query) > MAX_NESTING:
            return _error("the query is too long or too deeply nested")
        try:
            asked = self._inspect(query)
            return self._execute(query) if asked is NotImplemented else asked
        except Refused as refused:
            return _error(str(refused))
        except (SqlglotError, RecursionError) as error:
            return _error(_syntax(query, _rest(query, error)))

    def _inspect(self, query: str) -> Any:
        """SHOW, DESC and USE, answered from the schema. NotImplemented: it is none of them."""
        words = query.replace("`", "").split()
        upper = [word.upper() for word in words]
        if upper[0] == "USE" and len(words) == 2:
            if words[1].lower() not in self._databases:
                raise Refused(f"Unknown database '{words[1]}'")
            if words[1].lower() != self.name:
                raise Refused(f"Access denied to database '{words[1]}'")
            return None
        if upper[:1] == ["SHOW"] and upper[1:2] in (["TABLES"], ["DATABASES"], ["SCHEMAS"]):
            own = [*self._databases, "information_schema", "mysql", "performance_schema", "sys"]
            names = sorted(self._tables) if upper[1] == "TABLES" else sorted(own)
            return [(name,) for name in names if _like(name, query, "LIKE")]
        if upper[0] in ("DESC", "DESCRIBE", "EXPLAIN") and len(words) in (2, 3) and upper[1] not in STATEMENTS:
            return self._describe(
                words[1], lambda name: len(words) < 3 or name.lower() == words[2].strip("'\"").lower()
            )
        at = 2 if upper[1:2] == ["FULL"] else 1
        if upper[0] == "SHOW" and upper[at : at + 1] in (["COLUMNS"], ["FIELDS"]) and len(words) > at + 2:
            return self._describe(words[at + 2], lambda name: _like(name, query, "LIKE"))
        if upper[0] in ("SHOW", "EXPLAIN", "SET", "DESC", "DESCRIBE"):
            raise Refused(_syntax(query) if upper[0] != "SHOW" else f"{' '.join(upper[:2])} is not supported here")
        return NotImplemented

    def _describe(self, table: str, wanted: Any) -> Rows:
        name = table.removeprefix(f"{self.name}.").lower()
        if name not in self._tables:
            raise Refused(f"Table '{self.name}.{table}' doesn't exist")
        return [
            (c.name, c.type.encode(), c.null, c.key, c.default, c.extra) for c in self._tables[name] if wanted(c.name)
        ]

    def _execute(self, query: str) -> Rows | str | None:
        tree, types, sqlite, kinds = self._translated(query)
        writes = not isinstance(tree, exp.Query)
        left, end = MAX_INSTRUCTIONS // 1000, time.monotonic() + MAX_SECONDS

        def tick() -> bool:
            nonlocal left
            left -= 1
            return left < 0 or time.monotonic() > end

        self._connection.set_progress_handler(tick, 1000)
        self._connection.set_authorizer(_authorize)
        try:
            cursor = self._connection.execute(sqlite)
            rows, size = [], 0
            for row in cursor:
                rows.append(row)
                size += sum(len(value) for value in row if isinstance(value, str | bytes))
                if len(rows) > MAX_ROWS or size > MAX_TEXT:
                    return _error(f"the result has more than {MAX_ROWS} rows or {MAX_TEXT} characters")
        except MemoryError:
            return _error("the query needs too much memory")
        except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
            return _error(_mysql_error(str(error), tree, types, query, self.name))
        finally:
            self._connection.set_authorizer(None)
            self._connection.set_progress_handler(None, 0)
        if writes:
            self._changed = True
            self._tables = self._read_tables()
        if cursor.description is None:
            return None
        if len(kinds) != len(cursor.description):
            kinds = [UNKNOWN] * len(cursor.description)
        return [tuple(convert(value, kind) for value, kind in zip(row, kinds, strict=True)) for row in rows]

    def _translated(self, query: str) -> tuple[Node, Types, str, list[Kind]]:
        """The statement's tree, its tables' types, its SQL for SQLite, and its columns' kinds."""
        tree = _parsed(query).copy()
        if not isinstance(tree, exp.Query | exp.Insert | exp.Update | exp.Delete | exp.Alter | exp.Create | exp.Drop):
            raise Refused(_syntax(query))
        for node in list(tree.walk()):
            if type(node).__name__ in ("CurrentSchema", "CurrentDatabase"):  # DATABASE(); not in every sqlglot
                node.replace(exp.Literal.string(self.name))
        tables = self._tables
        for table in tree.find_all(exp.Table):
            if table.name.lower().startswith(("sqlite_", "pragma_")):
                raise Refused(f"Table '{self.name}.{table.name.lower()}' doesn't exist")
            if table.db.lower() == self.name:
                table.set("db", None)
            elif table.db.lower() == "information_schema":
                tables = self._information_schema()
                name = f"information_schema_{table.name.lower()}"
                if name in tables:
                    table.set("alias", table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name)))
                    table.set("this", exp.to_identifier(name))
                    table.set("db", None)
        for subquery in tree.find_all(exp.In):
            inner = subquery.args.get("query")
            if inner is not None and inner.unnest().args.get("limit"):
                raise Refused("This version of MySQL doesn't yet support 'LIMIT & IN/ALL/ANY/SOME subquery'")
        types = Types(tables)
        kinds = [kind for _, kind in types.columns(tree)] if isinstance(tree, exp.Query) else []
        self._order_groups(tree)
        return tree, types, types.for_sqlite(tree).sql(dialect="sqlite"), kinds

    def _order_groups(self, tree: Node) -> None:
        """Where no ORDER BY decides, MySQL's groups come as their first rows do, SQLite's sorted. A key sorts both."""
        group = tree.args.get("group")
        from_ = tree.args.get("from_") or tree.args.get("from")
        if not isinstance(tree, exp.Select) or not group or not from_ or tree.args.get("distinct"):
            return
        table, first = from_.this, group.expressions[0] if group.expressions else None
        columns = self._tables.get(table.name.lower(), []) if isinstance(table, exp.Table) else []
        keyed = isinstance(first, exp.Column) and any(c.key and c.name.lower() == first.name.lower() for c in columns)
        if columns and not (keyed and not tree.args.get("joins")):
            tree.order_by(exp.Min(this=exp.column("rowid", table=table.alias_or_name)), copy=False)

    def _information_schema(self) -> Schema:
        """The tables and those of information_schema that tell of them, made anew. Only the own database is in them."""
        tables = [("def", self.name, table, "BASE TABLE", "InnoDB") for table in sorted(self._tables)]
        columns = [
            ("def", self.name, table, c.name, number, c.default, c.null, c.type.split("(")[0], c.type, c.key, c.extra)
            for table in sorted(self._tables)
            for number, c in enumerate(self._tables[table], start=1)
        ]
        made = dict(self._tables)
        for name, names, rows in (
            ("information_schema_tables", INFORMATION_TABLES, tables),
            ("information_schema_columns", INFORMATION_COLUMNS, columns),
        ):
            self._connection.execute(f"DROP TABLE IF EXISTS temp.{name}")
            self._connection.execute(f"CREATE TEMP TABLE {name} ({', '.join(f'{n} COLLATE NOCASE' for n in names)})")
            self._connection.executemany(f"INSERT INTO temp.{name} VALUES ({', '.join('?' * len(names))})", rows)
            made[name] = [Column(n, "int" if n == "ORDINAL_POSITION" else "text") for n in names]
        return made

    def _read_tables(self) -> Schema:
        """The tables as they are now: MySQL's columns where the dump knows them, else SQLite's."""
        tables: Schema = {}
        names = [
            row[0] for row in self._connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        ]
        for name in names:
            if name.startswith("sqlite_"):
                continue
            known = {column.name.lower(): column for column in self._schema.get(name.lower(), [])}
            quoted = name.replace('"', '""')
            tables[name.lower()] = [
                known.get(column.lower()) or Column(column, _mysql_type(declared), "NO" if not_null or key else "YES")
                for _, column, declared, not_null, _, key in self._connection.execute(f'PRAGMA table_info("{quoted}")')
            ]
        return tables


INFORMATION_TABLES = ("TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME", "TABLE_TYPE", "ENGINE")
INFORMATION_COLUMNS = (
    "TABLE_CATALOG", "TABLE_SCHEMA", "TABLE_NAME", "COLUMN_NAME", "ORDINAL_POSITION", "COLUMN_DEFAULT", "IS_NULLABLE",
    "DATA_TYPE", "COLUMN_TYPE", "COLUMN_KEY", "EXTRA",
)  # fmt: skip


class Refused(Exception):
    """MySQL would answer with this message instead of running the statement."""


RESERVED = re.compile(
    r"(?<![.\w])(?:RANK|DENSE_RANK|ROW_NUMBER|PERCENT_RANK|CUME_DIST|NTILE|LAG|LEAD)\b(?!\s*\()", re.IGNORECASE
)


@lru_cache(maxsize=512)
def _parsed(query: str) -> Node:
    # The window functions' names are reserved words; a sqlglot that takes them as columns is too kind.
    if found := RESERVED.search(re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", lambda text: "_" * len(text[0]), query)):
        raise Refused(_syntax(query, query[found.end() :].lstrip()))
    tree = sqlglot.parse_one(query, read="mysql")
    if tree is None:
        raise Refused("Query was empty")
    return tree


def _authorize(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    """No other file, no settings, no loading of code."""
    forbidden = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA)
    loads = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in ("load_extension", "fts3_tokenizer")
    virtual = action in (sqlite3.SQLITE_CREATE_VTABLE, sqlite3.SQLITE_DROP_VTABLE)
    return sqlite3.SQLITE_DENY if action in forbidden or loads or virtual else sqlite3.SQLITE_OK


@lru_cache(maxsize=65_536)
def _sort_key(text: str) -> str:
    """MySQL's utf8mb4_general_ci: no case, no accents, no spaces at the end."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return plain.upper().rstrip(" ")


def _compare(a: str, b: str) -> int:
    x, y = _sort_key(a), _sort_key(b)
    return (x > y) - (x < y)


def _nesting(query: str) -> int:
    depth = deepest = 0
    for character in query:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def _like(name: str, query: str, word: str) -> bool:
    """Whether `name` fits the pattern after LIKE, where there is one."""
    found = re.search(rf"\b{word}\s+['\"](.*)['\"]\s*$", query, re.IGNORECASE)
    if not found:
        return True
    parts = (".*" if c == "%" else "." if c == "_" else re.escape(c) for c in re.sub("%+", "%", found[1])[:64])
    return re.fullmatch("".join(parts), name, re.IGNORECASE) is not None


def _mysql_type(declared: str) -> str:
    return {"integer": "int", "real": "double", "": "text"}.get(declared.lower(), declared.lower())


# --- errors ------------------------------------------------------------------------------------


def _error(message: str) -> str:
    return f"Error executing query: {message}"


def _rest(query: str, error: Exception) -> str | None:
    """The query from where the parser stopped, in MySQL's way. None: it does not say where."""
    found = error.errors[0] if isinstance(error, ParseError) and error.errors else {}
    start, here = found.get("start_context"), found.get("highlight")
    if not start or here is None or query.find(start + here) < 0:
        return None
    return query[query.find(start + here) + len(start) :]


def _syntax(query: str, near: str | None = None) -> str:
    text = (query if near is None else near)[:80]
    return (
        "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version for the "
        f"right syntax to use near '{text}' at line 1"
    )


def _mysql_error(message: str, tree: Node, types: Types, query: str, database: str) -> str:
    """SQLite's message in MySQL's words, as far as there is one."""
    if found := re.fullmatch(r"no such table: (?:main\.)?(.+)", message):
        return f"Table '{found[1].lower() if '.' in found[1] else database + '.' + found[1].lower()}' doesn't exist"
    if found := re.match(r"no such column: (.+)", message):
        column, clause = types.first_unknown(tree) or (found[1], _clause_of(tree, found[1]))
        return f"Unknown column '{column}' in '{clause}'"
    if found := re.match(r"ambiguous column name: (.+)", message):
        return f"Column '{found[1]}' in {_clause_of(tree, found[1])} is ambiguous"
    if found := re.match(r"no such function: (.+)", message):
        return f"FUNCTION {database}.{found[1]} does not exist"
    if re.match("misuse of (?:aliased )?aggregate", message) or "misuse of window" in message:
        return "Invalid use of group function"
    if "same number of result columns" in message:
        return "The used SELECT statements have a different number of columns"
    if found := re.search(r"sub-select returns (\d+) columns - expected (\d+)", message):
        return f"Operand should contain {found[2]} column(s)"
    if message == "interrupted":
        return "Query execution was interrupted, maximum statement execution time exceeded"
    if "syntax error" in message or "incomplete input" in message:
        return _syntax(query)
    return message


CLAUSES = {
    "joins": "on clause", "where": "where clause", "group": "group statement", "having": "having clause",
    "order": "order clause",
}  # fmt: skip


def _clause(node: Node) -> str:
    """MySQL's name of the place of a column: field list, on clause, ..."""
    here = node
    while here.parent is not None and not isinstance(here.parent, exp.Select | exp.Update | exp.Delete):
        if isinstance(here.parent, exp.In) and here.parent.this is here and here.parent.args.get("query"):
            return "IN/ALL/ANY subquery"
        here = here.parent
    return CLAUSES.get(here.arg_key or "", "field list")


def _clause_of(tree: Node, column: str) -> str:
    """The place of the first column of that name."""
    qualifier, _, name = column.lower().rpartition(".")
    for node in tree.find_all(exp.Column, bfs=False):
        if node.name.lower() == name and (not qualifier or node.table.lower() == qualifier):
            return _clause(node)
    return "field list"


# --- types -------------------------------------------------------------------------------------

Scope = dict[str, list[tuple[str, Kind]]]
"""Tables and subqueries by alias, lower case, with their columns."""


class Types:
    """The kinds that MySQL gives to a query's columns. What it cannot tell is unknown and stays as SQLite has it."""

    def __init__(self, tables: Schema) -> None:
        self._tables = {name: [(c.name, c.kind) for c in columns] for name, columns in tables.items()}
        self._scopes: dict[int, list[Scope]] = {}

    def columns(self, query: Node, outer: Sequence[Scope] = (), names: Scope | None = None) -> list[tuple[str, Kind]]:
        """The query's columns: (name, kind). `names`: the WITH queries that it can see."""
        names = dict(names or {})
        with_ = query.args.get("with_") or query.args.get("with")
        for cte in with_.expressions if with_ else ():
            if with_.args.get("recursive"):
                names[cte.alias.lower()] = [(column.name, UNKNOWN) for column in cte.args["alias"].columns]
            inner = self.columns(cte.this, outer, names)
            names[cte.alias.lower()] = _renamed(inner, cte.args["alias"])
        if isinstance(query, exp.SetOperation):
            left, right = (self.columns(side, outer, names) for side in (query.left, query.right))
            return [(name, _together([a, b])) for (name, a), (_, b) in zip(left, right, strict=False)]
        if isinstance(query, exp.Subquery):
            return self.columns(query.this, outer, names)
        if not isinstance(query, exp.Select):
            return []
        scope: Scope = {}
        scopes = [scope, *outer]
        self._scopes[id(query)] = scopes
        from_ = query.args.get("from_") or query.args.get("from")
        sources = [from_.this] if from_ else []
        for source in [*sources, *(join.this for join in query.args.get("joins") or ())]:
            if isinstance(source, exp.Table):
                name = source.name.lower()
                scope[(source.alias or source.name).lower()] = names.get(name) or self._tables.get(name, [])
            elif isinstance(source, exp.Subquery):
                alias = source.args.get("alias")
                inner = self.columns(source.this, outer, names)
                scope[source.alias.lower()] = _renamed(inner, alias) if alias else inner
        for inner_query in query.find_all(exp.Select):
            if inner_query is not query and id(inner_query) not in self._scopes and inner_query.parent_select is query:
                self.columns(inner_query, scopes, names)
        found: list[tuple[str, Kind]] = []
        for item in query.expressions:
            if isinstance(item, exp.Star):
                found += [column for columns in scope.values() for column in columns]
            elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
                found += scope.get(item.table.lower(), [])
            else:
                found.append((item.alias_or_name, self.kind(item, scopes)))
        return found

    def kind(self, node: Node | None, scopes: Sequence[Scope]) -> Kind:
        """The kind of one expression."""
        if node is None:
            return UNKNOWN
        if isinstance(
            node, exp.Paren | exp.Alias | exp.Max | exp.Min | exp.Distinct | exp.Window | exp.Neg | exp.AnyValue
        ):
            return self.kind(node.this or (node.expressions[0] if node.expressions else None), scopes)
        if isinstance(node, exp.Column):
            return _column_kind(node, scopes)
        if isinstance(node, exp.Literal):
            if node.is_string:
                return TEXT
            _, point, digits = node.this.partition(".")
            return Kind("decimal", len(digits)) if point else INT
        if isinstance(node, exp.Subquery):
            columns = self.columns(node.this, scopes)
            return columns[0][1] if columns else UNKNOWN
        if isinstance(node, exp.Sum | exp.Avg):
            inner = self.kind(node.this, scopes)
            more = 4 if isinstance(node, exp.Avg) else 0
            if inner.name in ("int", "decimal"):
                return Kind("decimal", (inner.scale or 0) + more)
            return Kind("double", None if inner.scale is None else inner.scale + more)
        if isinstance(node, exp.Div | exp.Add | exp.Sub | exp.Mul):
            return _arithmetic(node, self.kind(node.this, scopes), self.kind(node.expression, scopes))
        if isinstance(node, exp.Round):
            inner = self.kind(node.this, scopes)
            decimals = node.args.get("decimals")
            digits = int(decimals.this) if isinstance(decimals, exp.Literal) and not decimals.is_string else 0
            return Kind("decimal", min(inner.scale or 0, digits)) if inner.name == "decimal" else inner
        if isinstance(node, exp.Ceil | exp.Floor):
            return INT if self.kind(node.this, scopes).name in ("int", "decimal") else DOUBLE
        if isinstance(node, exp.Coalesce):
            return _together([self.kind(part, scopes) for part in (node.this, *node.expressions)])
        if isinstance(node, exp.If):
            return _together(
                [self.kind(node.args.get(part), scopes) for part in ("true", "false") if node.args.get(part)]
            )
        if isinstance(node, exp.Case):
            parts = [branch.args["true"] for branch in node.args["ifs"]] + [node.args.get("default")]
            return _together([self.kind(part, scopes) for part in parts if part is not None])
        if isinstance(node, exp.Cast):
            to = node.to.sql(dialect="mysql").lower()
            return INT if "signed" in to else Column("", to).kind
        if isinstance(
            node, exp.Count | exp.Predicate | exp.Connector | exp.Not | exp.Year | exp.Month | exp.Day | exp.Length
        ):
            return INT
        return UNKNOWN

    def first_unknown(self, query: Node) -> tuple[str, str] | None:
        """The column that MySQL would miss first: (as written, the clause). It resolves what a query reads from, then
        the select list, WHERE, the joins' ON from the last to the first, GROUP BY, HAVING and ORDER BY."""
        if isinstance(query, exp.SetOperation):
            return self.first_unknown(query.left) or self.first_unknown(query.right)
        if not isinstance(query, exp.Select):
            inner = query.this if isinstance(query, exp.Subquery | exp.CTE) else None
            return self.first_unknown(inner) if inner is not None else None
        with_ = query.args.get("with_") or query.args.get("with")
        from_ = query.args.get("from_") or query.args.get("from")
        joins = query.args.get("joins") or []
        sources = [
            *(with_.expressions if with_ else ()),
            *([from_.this] if from_ else ()),
            *(join.this for join in joins),
        ]
        for source in sources:
            if found := self.first_unknown(source):
                return found
        aliases = {item.alias.lower() for item in query.expressions if item.alias}
        late = [query.args.get(clause) for clause in ("group", "having", "order")]
        conditions = [join.args.get("on") for join in reversed(joins)]
        for part in [*query.expressions, query.args.get("where"), *conditions, *late]:
            known = aliases if part in late else set()
            if part is not None and (found := self._unknown_in(part, self._scopes.get(id(query), []), known)):
                return found
        return None

    def _unknown_in(self, node: Node, scopes: Sequence[Scope], aliases: set[str]) -> tuple[str, str] | None:
        if isinstance(node, exp.Query):
            return self.first_unknown(node)
        if isinstance(node, exp.Column):
            known = isinstance(node.this, exp.Star) or (not node.table and node.name.lower() in aliases)
            return None if known or _has(node, scopes) else (_written(node), _clause(node))
        for child in node.iter_expressions():
            if found := self._unknown_in(child, scopes, aliases):
                return found
        return None

    def for_sqlite(self, tree: Node) -> Node:
        """The tree with what SQLite would understand otherwise: a number compared with text is compared as a number."""
        for node in list(tree.find_all(exp.Predicate)):
            if not isinstance(node, exp.EQ | exp.NEQ | exp.GT | exp.GTE | exp.LT | exp.LTE | exp.Between):
                continue
            select = node.parent_select
            scopes = self._scopes.get(id(select), [{}]) if select else [{}]
            parts = [key for key in ("this", "expression", "low", "high") if node.args.get(key)]
            kinds = {key: self.kind(node.args[key], scopes).name for key in parts}
            if "text" in kinds.values() and {"int", "double", "decimal", "float"} & set(kinds.values()):
                for key in parts:
                    if kinds[key] == "text":
                        node.set(key, exp.cast(node.args[key].copy(), "REAL"))
        return tree


def _renamed(columns: list[tuple[str, Kind]], alias: Any) -> list[tuple[str, Kind]]:
    """With the names of `AS t(a, b)`, where it has such."""
    names = [column.name for column in getattr(alias, "columns", [])]
    return [(names[i] if i < len(names) else name, kind) for i, (name, kind) in enumerate(columns)]


def _has(column: exp.Column, scopes: Sequence[Scope]) -> bool:
    tables = (table for scope in scopes for name, table in scope.items() if column.table.lower() in ("", name))
    return any(key.lower() == column.name.lower() for table in tables for key, _ in table)


def _written(column: exp.Column) -> str:
    return f"{column.table}.{column.name}" if column.table else column.name


def _column_kind(column: exp.Column, scopes: Sequence[Scope]) -> Kind:
    name = column.name.lower()
    for scope in scopes:
        tables = [scope.get(column.table.lower(), [])] if column.table else list(scope.values())
        for columns in tables:
            for key, kind in columns:
                if key.lower() == name:
                    return kind
    return UNKNOWN


NUMBERS = frozenset(("int", "decimal", "double", "float"))


def _arithmetic(node: Node, left: Kind, right: Kind) -> Kind:
    """Of whole numbers a whole one, of exact ones an exact one; FLOAT(10,2) keeps its number of digits, too."""
    names = {left.name, right.name}
    if not names <= NUMBERS:
        return DOUBLE if isinstance(node, exp.Div) and UNKNOWN not in (left, right) else UNKNOWN
    if names == {"int"} and not isinstance(node, exp.Div):
        return INT
    a, b = (kind.scale if kind.name != "int" else 0 for kind in (left, right))
    if a is None or b is None:
        return DOUBLE
    scale = a + 4 if isinstance(node, exp.Div) else a + b if isinstance(node, exp.Mul) else max(a, b)
    return Kind("decimal" if names <= {"int", "decimal"} else "double", scale)


def _together(kinds: Sequence[Kind]) -> Kind:
    """The kind of a value that is one of several."""
    if len(set(kinds)) == 1:
        return kinds[0]
    names = {kind.name for kind in kinds}
    if names <= {"int", "decimal"}:
        return Kind("decimal", max(kind.scale or 0 for kind in kinds))
    return DOUBLE if names <= {"int", "decimal", "double", "float"} else UNKNOWN


def convert(value: Any, kind: Kind) -> Any:
    """SQLite's value as MySQL's client gives it."""
    if value is None or kind is UNKNOWN:
        return value
    if kind.name == "text":
        return value if isinstance(value, str | bytes) else str(value)
    if kind.name in ("date", "datetime"):
        try:
            moment = datetime.datetime.fromisoformat(str(value))
        except ValueError:
            return value
        return moment if kind.name == "datetime" else moment.date()
    if not isinstance(value, int | float):
        return value
    if kind.name == "int":
        return int(value) if value == value and abs(value) != float("inf") else value
    if kind.name == "decimal":
        return Decimal(repr(value)).quantize(Decimal(1).scaleb(-(kind.scale or 0)), ROUND_HALF_UP)
    number = float(value)
    if kind.name == "float" and kind.scale is None:  # four bytes, shown with six digits
        return float(f"{number:.6g}")
    return number if kind.scale is None else round(number, kind.scale)


def four_bytes(value: Any) -> Any:
    """The nearest number of MySQL's type FLOAT."""
    return struct.unpack("f", struct.pack("f", value))[0] if isinstance(value, int | float) else value


def _substring_index(text: Any, mark: Any, count: Any) -> str | None:
    if text is None or mark is None or count is None:
        return None
    parts = str(text).split(str(mark)) if str(mark) else [""]
    return str(mark).join(parts[:count] if count >= 0 else parts[count:])


def _part(start: int, end: int) -> Any:
    def part(value: Any) -> int | None:
        found = re.match(r"(\d{4})-(\d\d)-(\d\d)", str(value))
        return int(str(value)[start:end]) if found else None

    return part


def _concat(*parts: Any) -> str | None:
    return None if None in parts else "".join(map(str, parts))


# Functions that MySQL has and SQLite lacks. No regular expressions: a hostile one would hang.
FUNCTIONS: dict[str, tuple[int, Any]] = {
    "YEAR": (1, _part(0, 4)),
    "MONTH": (1, _part(5, 7)),
    "DAY": (1, _part(8, 10)),
    "DAYOFMONTH": (1, _part(8, 10)),
    "CONCAT": (-1, _concat),
    "LEFT": (2, lambda text, n: None if text is None or n is None else str(text)[: max(0, n)]),
    "RIGHT": (2, lambda text, n: None if text is None or n is None else str(text)[-n:] if n > 0 else ""),
    "SUBSTRING_INDEX": (3, _substring_index),
}


# --- policy ------------------------------------------------------------------------------------


class Prober:
    """A scripted policy: looks at the tables, describes the one that the question seems to name, then guesses.

    It solves the simplest counting and listing questions and submits whatever it has. For trials and tests.
    """

    actor = "prober"

    def act(self, messages: list[Message], *, seed: int) -> Message:
        """One action."""
        said = [str(m["content"]) for m in messages if m["role"] == "user" or not m.get("context")]
        question, turns = said[0], list(zip(said[1::2], said[2::2], strict=False))
        words = [_stem(word) for word in re.findall(r"[a-z]+", question.lower())]
        tables = [re.findall(r"'(\w+)'", answer) for query, answer in turns if "SHOW TABLES" in query.upper()]
        columns = [re.findall(r"\('([^']+)', b'", answer) for _, answer in turns if ", b'" in answer]
        if not tables or not tables[0]:
            return _say("SHOW TABLES") if not tables else _submit()
        table = _named(tables[0], words)
        if not columns:
            return _say(f"DESC {table}") if len(turns) < 8 else _submit()
        if _is_guess(turns[-1][0]):
            return _submit()
        if re.match(r"how many|count|what is the number|find the number|what is the total number", question.lower()):
            return _say(f"SELECT COUNT(*) FROM {table}")
        named = [name for name in columns[-1] if set(map(_stem, re.split(r"[^a-z]+", name.lower()))) & set(words)]
        return _say(f"SELECT {', '.join(f'`{name}`' for name in named) or '*'} FROM {table}")


def _is_guess(action: str) -> bool:
    return (parse_action(action) or "").upper().startswith("SELECT")


def _submit() -> Message:
    return {"role": "assistant", "content": "Action: submit"}


def _stem(word: str) -> str:
    return word[:-3] + "y" if word.endswith("ies") else word.removesuffix("s")


def _named(tables: Sequence[str], words: Sequence[str]) -> str:
    """The table of which most of the name occurs in the question; the first of equal ones."""
    return max(tables, key=lambda table: sum(_stem(part) in words for part in table.split("_")) / len(table.split("_")))


def _say(sql: str) -> Message:
    return {"role": "assistant", "content": f"Action: execute[{sql}]"}
