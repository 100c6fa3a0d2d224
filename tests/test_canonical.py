"""Equal tool calls are equal text, however their arguments were written; SQL and Python write the same."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import pair, trajkit, write_run

from trajkit.engines.duckdb import DuckDBEngine
from trajkit.rules import functions
from trajkit.runs.canonical import canonical_calls, number
from trajkit.runs.records import actions_digest

EXOTIC = [
    '', ' ', '{', '{broken', 'nul', 'null', ' null ', 'true', '1', '"text"', '"{}"', '[1,]', '{"a":1,}', '[NaN]',
    '[inf]', '[-Infinity]', '{"nan":"Infinity,]"}', '{"a":1,"a":2}', '{"\\u0061":1,"b":2,"a":3}', '{"a":1} x',
    '[01]', '[1.]', '[-0]', '[-0.0]', '[1e400]', '[-1e400]', '[18446744073709551615]', '[18446744073709551616]',
    '[-9223372036854775808]', '[-9223372036854775809]', '[1, 1.0, 1e2, 1E+2, 1e-2]', '["\\ud800"]', '{"\\ud800":1}',
    '["\\ud83e\\udd9c"]', '["\\u0000\\u001f\\u007f\\b\\f\\/"]', "{'a': 1}", '\ufeff[]',
    '{"é":1,"z":2,"\U0001d54f":3,"\uff5e":4,"":5}', '["a\nb"]', '// c\n[1]',
    '{"a":\t1}', '[1e-7,1e-6,1e20,1e21,1e22,5e-324]',
    '[,1]', '{"a" : [ ] , "b" :{ } }', '[+1]', '[.5]',
    *(f"[{sign}{'9' * n}]" for sign in ('', '-') for n in (308, 309, 400, 5000)),
]  # fmt: skip
texts = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["a", "b", "\x00\x1f\x7f", '"\\/', "🦜é\u2028"]
)
numbers = st.integers() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
usual = st.recursive(  # but for numbers too large to compare
    st.none()
    | st.booleans()
    | st.integers(-(2**59), 2**59)
    | st.floats(-1e17, 1e17).map(lambda x: round(x, 3))
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(texts, usual, max_size=4)
styles = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":"), "ensure_ascii": False}, {"sort_keys": True}])
written = st.builds(lambda value, style: json.dumps(value, **style), values, styles)
arguments = values | written | st.sampled_from(EXOTIC)
functions_ = st.fixed_dictionaries({}, optional={"name": texts | values, "arguments": arguments, "more": values})
calls = st.fixed_dictionaries({}, optional={"id": texts, "function": functions_ | values}) | functions_ | values
messages = st.lists(calls, max_size=3).flatmap(
    lambda found: st.builds(lambda style: json.dumps(found, **style), styles)
)


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        for statement in functions():
            con.execute(statement)
        yield con


def in_sql(con: duckdb.DuckDBPyConnection, tool_calls: str | None) -> Any:
    con.execute("CREATE OR REPLACE TABLE m AS SELECT CAST(? AS VARCHAR) AS tool_calls", [tool_calls])
    return con.execute("SELECT canonical_calls(tool_calls) FROM m").fetchall()[0][0]


@given(tool_calls=messages | written | st.none())
def test_sql_and_python_write_the_same(con: duckdb.DuckDBPyConnection, tool_calls: str | None) -> None:
    assert in_sql(con, tool_calls) == canonical_calls(tool_calls)


@pytest.mark.parametrize("arguments", EXOTIC)
def test_sql_and_python_write_the_same_of_what_is_rare(con: duckdb.DuckDBPyConnection, arguments: str) -> None:
    for call in ({"function": {"name": "f", "arguments": arguments}}, {"name": "f", "arguments": arguments}):
        tool_calls = json.dumps([call])
        assert in_sql(con, tool_calls) == canonical_calls(tool_calls)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_written_as_duckdb_does(con: duckdb.DuckDBPyConnection, value: float) -> None:
    said = con.execute("SELECT CAST(to_json(CAST(CAST(? AS JSON) AS VARIANT)) AS VARCHAR)", [repr(value)]).fetchall()
    assert number(value) == said[0][0]
    assert float(number(value)) == value and math.copysign(1, float(number(value))) == math.copysign(1, value)


@given(arguments=objects, style=styles, other=styles)
def test_text_and_object_are_one_call(arguments: dict[str, Any], style: dict[str, Any], other: dict[str, Any]) -> None:
    def told(arguments: Any, **more: Any) -> str:
        return canonical_calls(json.dumps([{**more, "function": {"name": "f", "arguments": arguments}}]))

    backwards = dict(reversed(arguments.items()))
    assert (
        told(arguments) == told(json.dumps(arguments, **style), id="1") == told(json.dumps(backwards, **other), id="2")
    )
    assert told(arguments) != told({**arguments, "one": "more"})
    [read] = json.loads(told(arguments))
    assert read == {"arguments": arguments, "name": "f"}


@given(one=objects, other=objects)
def test_other_arguments_are_another_call(one: dict[str, Any], other: dict[str, Any]) -> None:
    told = [canonical_calls(json.dumps([{"function": {"name": "f", "arguments": each}}])) for each in (one, other)]
    assert (told[0] == told[1]) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


def test_action_sequences_are_the_digests_that_are_recorded(tmp_path: Path) -> None:
    """Of hand-made files without digests, and of branches, computed from the messages."""
    rows, digests = [], {}
    told = [json.dumps([{"id": str(n), "function": {"name": "f", "arguments": text}}]) for n, text in enumerate(EXOTIC)]
    for n, calls in enumerate([*told, *map(json.dumps, ([], [1, "x", None], [{"name": "f"}]))]):
        trajectories, messages = pair(f"t{n}", n_steps=1)
        messages[1] |= {"tool_calls": calls, "content": None, "reasoning": f"{n % 2}"}
        rows.append((trajectories, messages))
        digests[f"t{n}"] = actions_digest(messages)
    with DuckDBEngine(write_run(tmp_path / "runs", *rows)) as runs:
        found = runs.rows("SELECT trajectory_id, actions_digest FROM action_sequences")
    assert {row["trajectory_id"]: row["actions_digest"] for row in found} == digests


@pytest.mark.parametrize("role", ["expert", "policy"])
def test_one_action_is_trained_on_once(tmp_path: Path, role: str) -> None:
    """From the import to the choice: rft keeps one of two rollouts that say the same."""
    arguments: list[Any] = ['{"q": "kettle", "n": 1}', {"n": 1, "q": "kettle"}, '{"n":1,\n"q":"kettle"}', {"n": 2}]
    with (tmp_path / "log.jsonl").open("w") as file:
        for n, given in enumerate(arguments):
            call = {"id": f"c{n}", "type": "function", "function": {"name": "search", "arguments": given}}
            said = [{"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
            file.write(json.dumps({"task_id": "t", "reward": 1, "messages": said}) + "\n")
    runs = tmp_path / "runs"
    assert trajkit("import", "openai", tmp_path / "log.jsonl", "--runs", runs, "--role", role).code == 0
    with DuckDBEngine(runs) as opened:
        assert len(opened.rows("SELECT DISTINCT actions_digest FROM trajectories")) == 2
        assert len(opened.rows("FROM rft")) == (2 if role == "policy" else 4)
