"""DuckDB's SQL as Spark's: sqlglot, and what it leaves to us.

The rules are written in DuckDB's dialect. sqlglot writes them in Spark's, with the place of nulls in every order said
as DuckDB has it. Here are the functions that Spark has by another name or not at all, and aggregates in an order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trajkit.errors import UsageError

PRINTF = "printf_as_in_c"  # Java's formats are other ones; `SparkEngine` registers Python's, which are C's


def translate(sql: str) -> str:
    """`sql`, one statement in DuckDB's dialect, in Spark's. Raises UsageError where sqlglot cannot read it."""
    import sqlglot
    from sqlglot import exp

    try:
        tree = sqlglot.parse_one(sql, read="duckdb")
    except sqlglot.errors.SqlglotError as error:
        raise UsageError(f"this SQL cannot be translated for Spark: {error}") from error
    for expression in tree.find_all(exp.CTE):
        expression.set("materialized", None)  # Spark decides
    for window in list(tree.find_all(exp.Window)):
        if isinstance(window.this, exp.RowNumber):  # 64 bits in DuckDB, 32 in Spark
            window.replace(exp.cast(window.copy(), "BIGINT"))
    return _text(tree)


def _text(tree: Any) -> str:
    """A tree of sqlglot's, from DuckDB, in Spark's words."""
    return str(tree.transform(_in_spark).sql("spark"))


def _in_spark(node: Any) -> Any:
    """A node with what it holds, where Spark needs other words than sqlglot's; else the node itself."""
    from sqlglot import exp

    if isinstance(node, exp.Anonymous) and (write := _FUNCTIONS.get(node.name.lower())):
        return _parsed(write(*map(_text, node.expressions)))
    if isinstance(node, exp.Anonymous) and node.name.lower() == "to_json" and _of_all(node.expressions[0]):
        # Text as it stands there: Spark's own extraction writes a single match without its list.
        source, key = _text(node.expressions[0].this), _of_all(node.expressions[0])
        each = f"TRANSFORM(FROM_JSON({source}, 'ARRAY<STRUCT<`{key}` STRING>>'), c -> c.`{key}`)"
        return _parsed(f"'[' || ARRAY_JOIN({each}, ',') || ']'")
    if isinstance(node, exp.ArrayAgg):
        return _parsed(_list(node.this))
    if isinstance(node, exp.Avg) and isinstance(node.this, exp.Order):
        return _parsed(f"{_sum(_list(node.this, nulls=False))} / COUNT({_text(node.this.this)})")
    if isinstance(node, exp.StddevSamp) and isinstance(node.this, exp.Order):
        return _parsed(f"STDDEV_SAMP({_text(node.this.this)})")
    if isinstance(node, exp.PercentileDisc):  # sqlglot's is an approximate one
        return exp.Anonymous(this="PERCENTILE_DISC", expressions=[node.this])
    return node


def _parsed(text: str) -> Any:
    import sqlglot

    return sqlglot.parse_one(f"({text})", read="spark")


def _of_all(node: Any) -> str | None:
    """The key in json_extract(..., '$[*].key'); None where it is something else."""
    from sqlglot import exp

    if not isinstance(node, exp.JSONExtract) or not isinstance(node.expression, exp.JSONPath):
        return None
    path = node.expression.expressions
    kinds = (exp.JSONPathRoot, exp.JSONPathSubscript, exp.JSONPathKey)
    return str(path[2].this) if tuple(map(type, path)) == kinds else None


def _list(value: Any, nulls: bool = True) -> str:
    """list(x ORDER BY ...): Spark's lists come in any order, and without nulls."""
    from sqlglot import exp

    keys = value.expressions if isinstance(value, exp.Order) else []
    item = _text(value.this if keys else value)
    fields = [f"{_text(key.this)} AS k{n}" for n, key in enumerate(keys)]
    gathered = f"COLLECT_LIST(STRUCT({', '.join([f'{item} AS item', *fields])}))"
    if not nulls:
        gathered = f"FILTER({gathered}, s -> s.item IS NOT NULL)"
    if keys:
        cases = []
        for n, key in enumerate(keys):
            less, more = (1, -1) if key.args.get("desc") else (-1, 1)
            null = -1 if key.args.get("nulls_first") else 1
            cases += [
                f"WHEN a.k{n} IS NULL AND b.k{n} IS NOT NULL THEN {null}",
                f"WHEN a.k{n} IS NOT NULL AND b.k{n} IS NULL THEN {-null}",
                f"WHEN a.k{n} < b.k{n} THEN {less} WHEN a.k{n} > b.k{n} THEN {more}",
            ]
        gathered = f"ARRAY_SORT({gathered}, (a, b) -> CASE {' '.join(cases)} ELSE 0 END)"
    return f"TRANSFORM({gathered}, s -> s.item)"


def _sum(numbers: str) -> str:
    """The sum of a list, in its order: that of doubles depends on it. Null of an empty list."""
    return f"IF(SIZE({numbers}) > 0, AGGREGATE({numbers}, CAST(0 AS DOUBLE), (a, v) -> a + v), NULL)"


def _md5_number_lower(text: str) -> str:
    digits = ", ".join(f"SUBSTRING(MD5({text}), {place}, 2)" for place in range(31, 15, -2))  # the last byte first
    return f"CAST(CONV(CONCAT({digits}), 16, 10) AS DECIMAL(38, 0))"


_FUNCTIONS: dict[str, Callable[..., str]] = {
    "isfinite": lambda x: f"NOT (ISNAN({x}) OR ABS({x}) = DOUBLE('Infinity'))",
    "json_valid": lambda x: f"IF({x} IS NULL, NULL, TRY_PARSE_JSON({x}) IS NOT NULL)",
    "list_sum": _sum,
    "md5_number_lower": _md5_number_lower,
    "printf": lambda form, *values: f"{PRINTF}({', '.join([form, *values])})",
}
