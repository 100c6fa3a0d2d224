"""The rules: one file of SQL each, found by name, and composed into one query.

A rule's file holds one SELECT. What it reads (`FROM outcomes`, `JOIN params`) are the tables and
other rules; `compose` puts the files it needs before it as common table expressions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajkit.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import duckdb

FOLDERS = (
    "concepts", "plan", "examples", "pairs", "values", "report", "explain", "checks", "warnings", "select", "explore",
)  # fmt: skip
STEPS = ("checks", "warnings", "select", "explore")  # kinds whose rules read what only the commands themselves make
OWN = "own"  # the kind of a rule that is a user's own file
METHODS = ("examples", "pairs", "values")  # the folders whose rules `select` takes: what each writes
# What a header may declare, "-- Key: value." on a line of its own (docs/writing-a-method.md):
#   Grain           the columns that tell a row from every other one; "one row" where there is only one
#   Source          the paper, equation and URL
#   Plans           what has to be explored before the rule has an answer, beside `initial`
#   Materialized    yes: others read it more than once on the way to an answer, so it is worth a table of its own
#   Scope           all tasks: what it says of a task depends on others (else a rule decides task by task)
#   Ignores         of a method: checks whose findings cannot change its answer
#   Select refuses  of a check: the methods, or the trajectories, that a finding stops
#   Role            of a plan: whose rollouts it asks for, policy (the default) or scorer
#   Rounds          of a plan: its rows depend on what came of those before, so it is asked again and again
KEYS = ("Grain", "Source", "Plans", "Materialized", "Scope", "Ignores", "Select refuses", "Role", "Rounds")
# A plan's columns.
PLANNED = {
    "task_id": "VARCHAR",
    "parent_id": "VARCHAR",
    "branch_step": "INTEGER",
    "sample": "INTEGER",
    "role": "VARCHAR",
}

# What a user's own rule may call in FROM. Files are for those that may read some.
TABLE_FUNCTIONS = {"generate_series", "json_each", "json_tree", "range", "unnest"}
FILE_FUNCTIONS = {
    "parquet_scan", "read_blob", "read_csv", "read_csv_auto", "read_json", "read_json_auto", "read_json_objects",
    "read_json_objects_auto", "read_ndjson", "read_ndjson_auto", "read_ndjson_objects", "read_parquet", "read_text",
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """One SQL file: its name is the relation's name, its folder says what the relation is."""

    name: str
    kind: str
    path: Path
    sql: str

    @property
    def header(self) -> str:
        """What the file's leading comment says."""
        lines = []
        for line in self.sql.splitlines():
            if not line.startswith("--"):
                break
            lines.append(line.removeprefix("--").strip())
        return "\n".join(lines)

    @property
    def title(self) -> str:
        """The header's first line, without the name."""
        return self.header.partition("\n")[0].partition(": ")[2]

    @property
    def keys(self) -> dict[str, str]:
        """What the header declares (`KEYS`), without the full stop. A value goes on until the next key or sentence."""
        found = re.findall(rf"^({'|'.join(KEYS)}): (.*?)\.?$", self.header, re.MULTILINE)
        return dict(found)

    def named(self, key: str) -> list[str]:
        """The names in the list that the header gives for `key`; none where it does not have the key."""
        return re.findall(r"\w+", self.keys.get(key, ""))

    @property
    def column_comments(self) -> dict[str, str]:
        """What is said of the columns of the last SELECT, behind each or on the lines above it."""
        final = re.split(r"^\)\n", self.sql, flags=re.MULTILINE)[-1]
        found: dict[str, str] = {}
        above: list[str] = []
        for line in final.splitlines():
            if line.startswith("    -- "):
                above.append(line.removeprefix("    -- "))
                continue
            said = line.partition(" -- ")[2] or " ".join(above)
            column = re.search(r"(\w+),?$", line.partition(" -- ")[0])
            if column and said:
                found.setdefault(column[1], said)
            above.clear()
        return found


def sql_folder() -> Path:
    """The folder sql/: inside the installed package, or beside it in a checkout."""
    packaged = Path(__file__).parent / "sql"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "sql"


@cache
def rules() -> Mapping[str, Rule]:
    """All rules by name, each after those it reads."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((sql_folder() / folder).glob("*.sql")):
            found[path.stem] = Rule(path.stem, folder, path, path.read_text())
    ordered: dict[str, Rule] = {}

    def visit(rule: Rule) -> None:
        for name in sorted(references(rule.sql) & found.keys() - ordered.keys() - {rule.name}):
            visit(found[name])
        ordered[rule.name] = rule

    for rule in found.values():
        if rule.name not in ordered:
            visit(rule)
    return ordered


@cache
def functions() -> list[str]:
    """The statements that make the functions of sql/functions/, each after those it calls."""
    found = {
        path.stem: path.read_text().rstrip().rstrip(";") for path in sorted((sql_folder() / "functions").glob("*.sql"))
    }
    ordered: list[str] = []

    def visit(name: str) -> None:
        for other in found.keys() - {name}:
            if re.search(rf"\b{other}\(", code(found[name])):
                visit(other)
        if found[name] not in ordered:
            ordered.append(found[name])

    for name in found:
        visit(name)
    return ordered


def views() -> Mapping[str, Rule]:
    """The rules that every runs/ folder has as views: all but those of `STEPS`."""
    return {name: rule for name, rule in rules().items() if rule.kind not in STEPS}


def methods() -> list[str]:
    """The names that `select --method` takes."""
    return [rule.name for rule in rules().values() if rule.kind in METHODS]


def plans() -> list[str]:
    """The names that `--plan` takes."""
    return [rule.name for rule in rules().values() if rule.kind == "plan" and rule.name != "done"]


def method(name: str, reads_files: bool = False) -> Rule:
    """The built-in method of that name, or the user's own `name.sql` file, whose kind its answer's columns tell.

    An own file is one SELECT over the tables and rules; with `reads_files` it may also name files.
    """
    return _built_in_or_own(name, "method", methods(), reads_files)


def plan(name: str, reads_files: bool = False) -> Rule:
    """The built-in plan of that name, or the user's own `name.sql` file, with what its header declares."""
    return _built_in_or_own(name, "plan", plans(), reads_files)


def _built_in_or_own(name: str, kind: str, built_in: list[str], reads_files: bool) -> Rule:
    if name.endswith(".sql"):
        path = Path(name)
        try:
            sql = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--{kind} {name}: cannot be read ({error}).") from error
        try:
            allowed = TABLE_FUNCTIONS | (FILE_FUNCTIONS if reads_files else set())
            return Rule(path.stem, OWN, path, one_select(sql, allowed))
        except UsageError as error:
            raise UsageError(f"--{kind} {name}: {error}") from error
    if name not in built_in:
        raise UsageError(
            f"--{kind} {name}: there is no such {kind}{did_you_mean(name, built_in)} "
            f"{kind.capitalize()}s: {', '.join(built_in)}, or a file of your own that ends in .sql."
        )
    return rules()[name]


def one_statement(sql: str) -> str:
    """`sql` without the semicolon, and what follows it, at its end. Raises UsageError unless it is one statement."""
    import duckdb

    try:
        n_statements = len(duckdb.extract_statements(sql))
    except duckdb.Error as error:
        raise UsageError(f"{error}") from error
    if n_statements != 1:
        raise UsageError(f"it holds {n_statements} SQL statements; one SELECT is needed.")
    last = [at for at, kind in duckdb.tokenize(sql) if kind != duckdb.token_type.comment][-1]  # in bytes
    text = sql.encode()
    return text[:last].decode() if text[last:].startswith(b";") else sql


def one_select(sql: str, functions: Collection[str]) -> str:
    """`one_statement` that only reads: a SELECT, in FROM no functions but `functions`. Else UsageError is raised."""
    import duckdb

    sql = one_statement(sql)
    with duckdb.connect() as con:  # DuckDB's own parser; what it cannot write as a tree is no SELECT
        [[tree]] = con.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()
    parsed = json.loads(tree)
    if parsed["error"]:
        raise UsageError("it is no SELECT; one that reads the tables and rules is needed.")
    nodes = list(_nodes(parsed))
    if changing := next((kind for node in nodes if (kind := str(node.get("type"))).endswith("_QUERY_NODE")), None):
        raise UsageError(f"it holds {changing.removesuffix('_QUERY_NODE')}; one SELECT, which only reads, is needed.")
    called = {node["function"]["function_name"].lower() for node in nodes if node.get("type") == "TABLE_FUNCTION"}
    if refused := sorted(called - set(functions)):
        files = " --allow-read FILE lets it read a file." if FILE_FUNCTIONS & {*refused} else ""
        raise UsageError(f"it reads {refused[0]}(...); it may read the tables and rules alone.{files}")
    return sql


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """The nodes of a parsed statement, at any depth."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def params_sql(params: Mapping[str, Any]) -> str:
    """sql/concepts/params.sql with the values of `params` (text as after `--set`, or Python values) in place.

    A name that is not there is the parameter of a user's own method: it becomes one more column,
    a number where the text is one. None, and the text null, is null. Raises UsageError for a value
    of the wrong type or out of range.
    """
    sql = rules()["params"].sql
    columns = {name: name for name in param_names()}
    for name, value in params.items():
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
            raise UsageError(f"--set {name}: a parameter's name is made of small letters, digits and _.")
        text = None if value is None or str(value).lower() in ("", "null", "none") else str(value)
        kind = _param_type(sql, name)
        if kind and text is None and not re.search(rf"CAST\(NULL AS \w+\) AS {name}\b", sql):
            raise UsageError(f"--set {name}={value}: {'a text' if kind == 'VARCHAR' else 'a number'} is needed.")
        if kind and text is not None:
            try:
                given: Any = {"INTEGER": int, "DOUBLE": float}.get(kind, str)(text)
                if kind == "INTEGER" and abs(given) >= 2**31:
                    raise UsageError(f"--set {name}={value}: that is too large.")
            except ValueError:
                needed = "a whole number" if kind == "INTEGER" else "a number"
                raise UsageError(f"--set {name}={value}: {needed} (or null) is needed.") from None
        literal = "NULL" if text is None else "'" + text.replace("'", "''") + "'"
        columns[name] = f"CAST({literal} AS {kind or _literal_type(text)}) AS {name}"
    if not params:
        return sql
    filled = f"SELECT {', '.join(columns.values())} FROM (\n{sql}\n) AS defaults"
    problems = compose(rules()["param_problems"].sql, {"params": filled})
    for name, wanted in _parser().cursor().execute(problems).fetchall():
        raise UsageError(f"--set {name}={params[name]}: it must be {wanted}.")
    return filled


def param_names() -> list[str]:
    """The parameters that the built-in rules have."""
    return re.findall(r"AS ([a-z_]+),?$", rules()["params"].sql, re.MULTILINE)


def params_read(rule: Rule) -> set[str]:
    """The parameters that a method reads, itself or through the rules that it reads."""
    found: set[str] = set()
    for part in (rule, *closure(rule.sql)):
        if part.name != "params" and re.search(r"\bparams\b", code(part.sql)):
            found |= _params_read(part.sql)
    return found


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    import duckdb

    return duckdb.connect()


@cache
def _params_read(sql: str) -> frozenset[str]:
    """The columns that `sql` reads from `params`, as DuckDB's own parser has it. (A name without its table's is one of
    params where that is in reach, else it were ambiguous.)"""
    [(tree,)] = _parser().cursor().execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    found: set[str] = set()

    def walk(node: Any, tables: frozenset[str], shadowed: bool) -> None:
        """`tables`: the names under which params is in reach; `shadowed`: a common table expression has its name."""
        if isinstance(node, list):
            for each in node:
                walk(each, tables, shadowed)
            return
        if not isinstance(node, dict):
            return
        if expressions := (node.get("cte_map") or {}).get("map"):
            shadowed = shadowed or any(one["key"].lower() == "params" for one in expressions)
        if "from_table" in node and not shadowed:
            tables |= set(_named(node["from_table"]))
        if node.get("class") == "COLUMN_REF" and tables:
            *table, column = node["column_names"]
            if not table or table[-1].lower() in tables:
                found.add(column.lower())
        for value in node.values():
            walk(value, tables, shadowed)

    walk(json.loads(tree), frozenset(), False)
    return frozenset(found)


def _named(table: Any) -> Iterator[str]:
    """The names that `params` has among the joined tables."""
    if isinstance(table, dict):
        if table.get("type") == "BASE_TABLE" and table["table_name"].lower() == "params":
            yield (table["alias"] or table["table_name"]).lower()
        for side in ("left", "right"):
            yield from _named(table.get(side))


def _param_type(sql: str, name: str) -> str | None:
    found = re.search(rf"AS (\w+)\) AS {name}\b", sql)
    return found[1] if found else None


def _literal_type(text: str | None) -> str:
    for kind, convert in (("BIGINT", int), ("DOUBLE", float)):
        try:
            convert(text or "")
        except ValueError:
            continue
        return kind
    return "BOOLEAN" if text in ("true", "false") else "VARCHAR"


def compose(sql: str, replaced: Mapping[str, str] | None = None, given: Collection[str] = ()) -> str:
    """`sql` with every rule it reads put before it, as one query over the tables alone.

    `replaced` gives other SQL for some rules (`params` with the user's values); those in `given` are there already.
    """
    needed = closure(sql, given)
    if not needed:
        return sql
    replaced = replaced or {}
    expressions = [f"{rule.name} AS (\n{replaced.get(rule.name, rule.sql)}\n)" for rule in needed]
    return f"WITH {', '.join(expressions)}\nSELECT * FROM (\n{sql}\n) AS answer"


def closure(sql: str, given: Collection[str] = ()) -> list[Rule]:
    """The rules that `sql` reads, directly or through others but those in `given`, each after those it reads itself."""
    known = {name: rule for name, rule in rules().items() if name not in given}
    names: set[str] = set()
    waiting = set(references(sql) & known.keys())
    while waiting:
        name = waiting.pop()
        names.add(name)
        waiting |= (references(known[name].sql) & known.keys()) - names
    return [rule for rule in known.values() if rule.name in names]


@cache
def references(sql: str) -> frozenset[str]:
    """The names that `sql` reads from, in lower case: its own common table expressions among them."""
    return frozenset(re.findall(r'\b(?:from|join)\s+"?(\w+)"?', code(sql)))


def code(sql: str) -> str:
    """`sql` in lower case, without its comments and strings."""
    return re.sub(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", " ", sql, flags=re.DOTALL).lower()


def plan_role(rule: Rule) -> str:
    """Whose rollouts a plan asks for: policy or scorer. Raises UsageError where its header says neither."""
    role = rule.keys.get("Role", "policy")
    if role not in ("policy", "scorer"):
        raise UsageError(f"{rule.path}: its header says `Role: {role}`; a plan's role is policy or scorer.")
    return role


def plans_of(rule: Rule) -> list[str]:
    """What has to be explored beside `initial` before `rule` has an answer: what it and the rules that it reads name
    in their headers (Plans)."""
    return list(dict.fromkeys(name for part in (*closure(rule.sql), rule) for name in part.named("Plans")))


def materialized(read: Iterable[Rule], given: Collection[str] = ()) -> list[Rule]:
    """The rules worth a table of their own among those that these read, but for those in `given`, each after those it
    reads."""
    return [rule for rule in closure(" ".join(each.sql for each in read), given) if "Materialized" in rule.keys]


def planned_rollouts(asked: Sequence[Rule]) -> str:
    """The SQL of all rollouts that these plans ask for, with the columns `PLANNED`; parent_id is null from s_0."""
    columns = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind in PLANNED.items())
    each = {rule.name: "DISTINCT " * (rule.kind == OWN) for rule in asked}  # one's own may ask for a rollout twice
    return " UNION ".join(f"SELECT {distinct}{columns} FROM {name}" for name, distinct in each.items())


def missing_rollouts(asked: Sequence[Rule]) -> str:
    """Those of them that `done` does not have yet, in a total order.

    Of the policy's, done are those of the iteration among the parameters, without one none; of the scorer's, those of
    any iteration, by the actor among the parameters (`scorer`), without one by any.
    """
    return (
        f"SELECT p.* FROM ({planned_rollouts(asked)}) AS p "
        "ANTI JOIN done AS d ON p.role = d.role AND p.task_id = d.task_id "
        "AND p.parent_id IS NOT DISTINCT FROM d.parent_id AND p.branch_step = d.branch_step AND p.sample = d.sample "
        "ORDER BY p.task_id, p.parent_id NULLS FIRST, p.branch_step, p.sample, p.role"
    )
