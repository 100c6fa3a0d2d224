"""The rules' SQL in Spark's dialect, as far as it shows without Spark. What Spark answers is in test_spark.py."""

from __future__ import annotations

import pytest

sqlglot = pytest.importorskip("sqlglot", reason="needs sqlglot: pip install 'trajkit[spark]'")

from trajkit.engines.spark.files import said  # noqa: E402
from trajkit.engines.spark.translate import translate  # noqa: E402
from trajkit.errors import UsageError  # noqa: E402
from trajkit.rules import rules  # noqa: E402


@pytest.mark.parametrize("name", rules())
def test_every_rule_is_translated(name: str) -> None:
    sql = translate(rules()[name].sql)
    assert sqlglot.parse_one(sql, read="spark")
    assert "MATERIALIZED" not in sql
    # Functions that Spark does not have, and sqlglot's approximation of another:
    for word in ("JSON_VALID(", "ISFINITE(", "LIST_SUM(", "MD5_NUMBER", " PRINTF(", "PERCENTILE_APPROX(", "UNNEST("):
        assert word not in sql, word


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a NULLS LAST"),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", "CAST(ROW_NUMBER() OVER (ORDER BY a NULLS LAST) AS BIGINT)"),
        ("SELECT list(a) FROM t", "TRANSFORM(COLLECT_LIST(STRUCT(a AS item)), s -> s.item)"),
        ("SELECT list(a ORDER BY b DESC) FROM t", "WHEN a.k0 < b.k0 THEN 1 WHEN a.k0 > b.k0 THEN -1"),
        ("SELECT avg(x ORDER BY y) FROM t", "/ COUNT(x)"),
        ("SELECT a // b FROM t", "a DIV b"),
        ("FROM t", "SELECT * FROM t"),
        ("SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, b", "ROW_NUMBER() OVER (PARTITION BY a"),
    ],
)
def test_what_the_two_dialects_say_differently(sql: str, wanted: str) -> None:
    assert wanted in translate(sql)


def test_what_is_no_sql_is_told() -> None:
    with pytest.raises(UsageError, match="cannot be translated for Spark"):
        translate("SELECT FROM WHERE")


def test_of_a_workers_python_it_says_what_was_raised() -> None:
    text = "[PYTHON_EXCEPTION] An exception was thrown from the Python worker: Traceback (most recent call last):\n"
    text += "  File worker.py, line 1\nModuleNotFoundError: No module named 'pyarrow'\n\n\tat org.apache"
    assert said(RuntimeError(text)).endswith("(most recent call last): ModuleNotFoundError: No module named 'pyarrow'")
    assert said(RuntimeError("[PARSE_ERROR] no;\n== SQL ==\nSELECT")) == "[PARSE_ERROR] no"
    assert said(RuntimeError()) == ""
