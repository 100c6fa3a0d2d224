"""InterCode-SQL on SQLite: Spider's gold queries and GPT-4's log where the data is, and a small folder of its own."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import trajkit

from envs import intercode_sql
from envs.intercode_sql import RETRY, InterCodeSQL, Prober, kendall_tau, parse_action, read_dump, reward
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.exploration.env import Snapshots, load_env

DUMP = """
CREATE DATABASE IF NOT EXISTS `zoo`;
USE `zoo`;
CREATE TABLE `Keeper` (
  `id` int NOT NULL AUTO_INCREMENT,
  `name` varchar(40) COLLATE utf8mb4_general_ci NOT NULL DEFAULT '',
  `hired` datetime DEFAULT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB;
CREATE TABLE `Animal` (
  `id` int NOT NULL AUTO_INCREMENT,
  `kind` text,
  `weight` double DEFAULT NULL,
  `price` decimal(19,4) DEFAULT NULL,
  `height` float(5,2) NOT NULL DEFAULT '0.00',
  `tag` varchar(9) DEFAULT NULL,
  `keeper` int DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `kept` (`keeper`),
  UNIQUE KEY `tags` (`tag`)
) ENGINE=InnoDB;
"""
TASKS = [
    {"db": "zoo", "query": "How many animals are there?", "gold": "SELECT count(*) FROM animal", "hardness": "easy"},
    {"db": "Zoo", "query": "Kinds, heaviest first?", "gold": "SELECT kind FROM animal ORDER BY weight DESC"},
    {"db": "zoo", "query": "Which keeper has none?", "gold": "SELECT name FROM keeper WHERE id = 99"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks over one database, with MySQL's dump."""
    folder = tmp_path_factory.mktemp("spider")
    (folder / "sqlite").mkdir()
    (folder / "ic_spider_dev.json").write_text(json.dumps(TASKS))
    (folder / "ic_spider_dbs.sql").write_text(DUMP)
    database = sqlite3.connect(folder / "sqlite" / "zoo.sqlite")
    database.executescript(
        """
        CREATE TABLE keeper (id INTEGER, name TEXT COLLATE NOCASE, hired TEXT COLLATE NOCASE);
        INSERT INTO keeper VALUES (1, 'Ann', '2014-01-02 03:04:05'), (2, 'Bér ', NULL);
        CREATE TABLE animal (id INTEGER, kind TEXT COLLATE NOCASE, weight REAL, price REAL, height REAL,
                             tag TEXT COLLATE NOCASE, keeper INTEGER);
        INSERT INTO animal VALUES (1, 'yak', 500.5, 10.5, 1.9, '12', 1), (2, 'emu', 40, 2, 1.7, '9', 1),
                                  (3, 'ape', 90.25, 8, 1.2, '100', 2);
        """
    )
    database.commit()
    database.close()
    return folder


@pytest.fixture
def env(folder: Path) -> InterCodeSQL:
    env = InterCodeSQL(data=str(folder))
    env.reset("intercode_sql/0")
    return env


def _answer(env: InterCodeSQL, query: str) -> str:
    return env.step(query)[0]


# --- episodes ----------------------------------------------------------------------------------


def test_an_episode(env: InterCodeSQL) -> None:
    assert [task.task_id for task in env.tasks("train")] == [f"intercode_sql/{i}" for i in range(3)]
    assert env.tasks("test") == []
    messages, info = env.reset("0")
    assert messages == [{"role": "user", "content": "How many animals are there?"}]
    assert info == {"score": 0.0, "success": False}
    assert env.step("Thought: I look.\nAction: execute[SELECT COUNT(*) AS n FROM animal]") == (
        "[(3,)]", 0.0, False, False, {"score": 0.0, "success": False, "action_executed": True},
    )  # fmt: skip
    assert env.step("Action: submit") == ("[(3,)]", 1.0, True, False, {"score": 1.0, "success": True})
    with pytest.raises(RuntimeError, match="reset"):
        env.step("submit")


def test_only_what_was_seen_last_is_submitted(env: InterCodeSQL) -> None:
    env.step("SELECT COUNT(*) FROM animal")
    env.step("SELECT 5")
    observation, gained, done, _, info = env.step("submit")
    assert (observation, gained, done, info) == ("[(5,)]", 0.0, True, {"score": 0.0, "success": False})
    env.reset("0")
    assert env.step("submit")[:3] == ("How many animals are there?", 0.0, True)  # nothing was seen
    env.reset("0")
    assert env.step("I think it is 3.")[0] == RETRY
    env.reset("2")
    env.step("SELECT name FROM keeper WHERE 0")
    assert env.step("submit")[1] == 1.0  # both are empty


def test_submit_each_is_upstreams_evaluation_loop(folder: Path) -> None:
    env = InterCodeSQL(data=str(folder), submit_each=True)
    env.reset("1")
    assert env.step("SELECT kind FROM animal WHERE id < 3")[1:3] == (0.67, False)
    assert env.step("SELECT 1")[1:3] == (0.0, False)  # the largest reward stays
    observation, gained, done, _, info = env.step("SELECT kind FROM animal ORDER BY weight DESC")
    assert observation == "[('yak',), ('ape',), ('emu',)]"
    assert (round(gained, 2), done, info["score"], info["success"]) == (0.33, True, 1.0, True)


def test_every_episode_has_its_own_copy_and_the_gold_query_sees_none_of_it(env: InterCodeSQL) -> None:
    assert _answer(env, "DELETE FROM animal") == "None"
    assert _answer(env, "SELECT COUNT(*) FROM animal") == "[(0,)]"
    assert env.step("submit")[1] == 0.0
    env.reset("0")
    assert _answer(env, "SELECT COUNT(*) FROM animal") == "[(3,)]"
    _answer(env, "ALTER TABLE animal ADD COLUMN legs INT")
    assert "('legs', b'int', 'YES', '', None, '')]" in _answer(env, "DESC animal")
    assert "'auto_increment'" in _answer(env, "DESC animal")
    env.reset("0")
    assert "legs" not in _answer(env, "DESC animal")


def test_snapshots(env: InterCodeSQL) -> None:
    assert isinstance(env, Snapshots)
    env.step("SELECT COUNT(*) FROM animal")
    start = env.snapshot()
    env.step("DELETE FROM animal")
    emptied = env.snapshot()
    env.step("submit")
    env.restore(start)
    assert env.step("submit")[1] == 1.0
    env.restore(emptied)
    assert _answer(env, "SELECT COUNT(*) FROM animal") == "[(0,)]"
    env.reset("1")
    env.restore(start)
    assert _answer(env, "SELECT COUNT(*) FROM animal") == "[(3,)]"
    assert env.step("submit")[:2] == ("[(3,)]", 1.0)


def test_the_prober_solves_the_simplest(env: InterCodeSQL) -> None:
    messages, _ = env.reset("0")
    done = False
    while not done:
        action = Prober().act(messages, seed=0)
        observation, gained, done, _, _ = env.step(action["content"])
        messages += [action, {"role": "user", "content": observation}]
    assert len(messages) == 9
    assert gained == 1.0


def test_wrong_folders_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no ic_spider_dev\.json"):
        load_env("envs.intercode_sql:InterCodeSQL", {"data": str(tmp_path)})
    (tmp_path / "ic_spider_dev.json").write_text(json.dumps(TASKS))
    with pytest.raises(UsageError, match=r"no sqlite/zoo\.sqlite"):
        load_env("envs.intercode_sql:InterCodeSQL", {"data": str(tmp_path)})


@pytest.mark.parametrize("task_id", ["3", "-1", "intercode_sql/x", "", "٣"])
def test_unknown_tasks(env: InterCodeSQL, task_id: str) -> None:
    with pytest.raises(KeyError, match="no task"):
        env.reset(task_id)


# --- MySQL's ways ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("SHOW TABLES", "[('animal',), ('keeper',)]"),
        ("show tables like 'k%'", "[('keeper',)]"),
        ("DESCRIBE keeper", ("[('id', b'int', 'NO', 'PRI', None, 'auto_increment'), "
         "('name', b'varchar(40)', 'NO', '', b'', ''), ('hired', b'datetime', 'YES', '', None, '')]")),
        ("DESC zoo.keeper name", "[('name', b'varchar(40)', 'NO', '', b'', '')]"),
        ("SHOW COLUMNS FROM `Animal` LIKE 'k%'",
         "[('kind', b'text', 'YES', '', None, ''), ('keeper', b'int', 'YES', 'MUL', None, '')]"),
        ("SHOW FIELDS IN animal LIKE 't%'", "[('tag', b'varchar(9)', 'YES', 'UNI', None, '')]"),
        ("USE zoo", "None"),
        ("SELECT column_name FROM information_schema.columns WHERE table_name = 'keeper'",
         "[('id',), ('name',), ('hired',)]"),
        ("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
         "[('animal',), ('keeper',)]"),
        # types
        ("SELECT SUM(id), AVG(id), AVG(weight), SUM(price), MAX(price) FROM animal",
         "[(Decimal('6'), Decimal('2.0000'), 210.25, Decimal('20.5000'), Decimal('10.5000'))]"),
        ("SELECT height, height * 2 FROM animal WHERE id = 1", "[(1.9, 3.8)]"),
        ("SELECT AVG(height), 1 / 4, 5 DIV 2 FROM animal", "[(1.6, Decimal('0.2500'), 2)]"),
        ("SELECT s / 2 FROM (SELECT SUM(id) AS s FROM animal) AS t", "[(Decimal('3.0000'),)]"),
        ("WITH t AS (SELECT price AS p FROM animal) SELECT MIN(p) FROM t", "[(Decimal('2.0000'),)]"),
        ("SELECT hired, YEAR(hired) FROM keeper", "[(datetime.datetime(2014, 1, 2, 3, 4, 5), 2014), (None, None)]"),
        ("SELECT CAST(1 AS DECIMAL(10,2)), CAST('12' AS SIGNED)", "[(Decimal('1.00'), 12)]"),
        # dialect
        ('SELECT "text", `kind` FROM animal LIMIT 1, 1', "[('text', 'emu')]"),
        ("SELECT CONCAT(name, '!', id) FROM keeper WHERE name = 'ann'", "[('Ann!1',)]"),
        ("SELECT id FROM keeper WHERE name = 'BER'", "[(2,)]"),  # no accents, no case, no space at the end
        ("SELECT id FROM animal WHERE tag > 10", "[(1,), (3,)]"),  # as numbers
        ("SELECT kind FROM animal GROUP BY kind", "[('yak',), ('emu',), ('ape',)]"),  # as they come
        ("SELECT 1; DROP TABLE animal", "[(1,)]"),
        # errors
        ("SELECT x FROM lions", "Table 'zoo.lions' doesn't exist"),
        ("DESC lions", "Table 'zoo.lions' doesn't exist"),
        ("SELECT legs FROM animal", "Unknown column 'legs' in 'field list'"),
        ("SELECT 1 FROM animal a WHERE a.legs = 1", "Unknown column 'a.legs' in 'where clause'"),
        ("SELECT 1 FROM animal a JOIN keeper k ON a.x = k.id JOIN keeper l ON a.y = l.id",
         "Unknown column 'a.y' in 'on clause'"),
        ("SELECT kind FROM animal GROUP BY legs", "Unknown column 'legs' in 'group statement'"),
        ("SELECT kind FROM animal ORDER BY legs", "Unknown column 'legs' in 'order clause'"),
        ("SELECT id FROM animal JOIN keeper ON keeper = keeper.id", "Column 'id' in field list is ambiguous"),
        ("SELECT id FROM animal WHERE id IN (SELECT id FROM keeper LIMIT 1)",
         "This version of MySQL doesn't yet support 'LIMIT & IN/ALL/ANY/SOME subquery'"),
        ("SELECT roar(id) FROM animal", "FUNCTION zoo.ROAR does not exist"),
        ("SELECT AVG(rank) FROM animal", ("You have an error in your SQL syntax; check the manual that corresponds "
         "to your MySQL server version for the right syntax to use near ') FROM animal' at line 1")),
        ("SELECT MAX(id) FROM animal WHERE COUNT(*) > 1", "Invalid use of group function"),
    ],
)  # fmt: skip
def test_answers_in_mysqls_words(env: InterCodeSQL, query: str, answer: str) -> None:
    expected = answer if answer[0] == "[" or answer == "None" else f"Error executing query: {answer}"
    assert _answer(env, query) == expected


def test_without_the_dump_sqlites_types_are_shown(folder: Path, tmp_path: Path) -> None:
    for name in ("ic_spider_dev.json", "sqlite"):
        (tmp_path / name).symlink_to(folder / name)
    env = InterCodeSQL(data=str(tmp_path))
    env.reset("0")
    assert _answer(env, "DESC keeper").startswith("[('id', b'int', 'YES', '', None, ''), ('name', b'text'")
    assert env.step("SELECT count(*) FROM animal")[0] == "[(3,)]"
    assert env.step("submit")[1] == 1.0


def test_the_dump() -> None:
    columns = {c.name: c for c in read_dump(DUMP)["zoo"]["animal"]}
    assert [columns[name].kind for name in ("weight", "price", "height", "tag")] == [
        ("double", None), ("decimal", 4), ("float", 2), ("text", None),
    ]  # fmt: skip
    assert columns["height"].default == b"0.00"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("SELECT 1;", "SELECT 1"),
        ("  select 1", "select 1"),
        ("SQL: SELECT 1", "SELECT 1"),
        ("Thought: hm\nAction: execute[SELECT a\nFROM b]", "SELECT a\nFROM b"),
        ("Action 3: execute[DESC t]", "DESC t"),
        ("I look.\n```sql\nSHOW TABLES;\n```\nand wait", "SHOW TABLES"),
        ("SELECT ';' FROM t; DROP TABLE t", "SELECT ';' FROM t"),
        ("(SELECT 1) UNION (SELECT 2)", "(SELECT 1) UNION (SELECT 2)"),
        ("Submit.", "submit"),
        ("Action: execute[submit]", "submit"),
        ("The tables are a and b.", None),
        ("Output: [(1,)]", None),
        ("PRAGMA table_info(t)", None),
        ("", None),
    ],
)
def test_parse_action(text: str, action: str | None) -> None:
    assert parse_action(text) == action


# --- untrusted queries -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("WITH RECURSIVE c(x) AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM c) SELECT COUNT(*) FROM c", "interrupted"),
        ("WITH RECURSIVE c(x) AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM c) SELECT x FROM c", "than 10000 rows"),
        ("WITH RECURSIVE c(x) AS (SELECT randomblob(60000) AS x UNION SELECT randomblob(60000) FROM c) SELECT * FROM c",
         "memory|characters"),
        ("SELECT zeroblob(1000000000)", "too big"),
        (f"SELECT {'(' * 60}1{')' * 60}", "nested"),
        (f"SELECT {'NOT ' * 3000}1", "."),
        ("SELECT " + "x" * 30_000, "too long"),
        ("CREATE VIRTUAL TABLE t USING fts5(a)", "syntax"),
        ("SELECT load_extension('x')", "not authorized"),
        ("SELECT * FROM sqlite_master", "doesn't exist"),
        ("SELECT * FROM pragma_table_info('animal')", "not authorized"),
        ("SELECT '\ud800", "."),
        ("SHOW COLUMNS FROM", "."),
        ("SHOW", "."),
    ],
)  # fmt: skip
def test_hostile_queries_are_answered(env: InterCodeSQL, query: str, answer: str) -> None:
    observation = _answer(env, query)
    assert observation.startswith("Error executing query: ")
    assert re.search(answer, observation)
    assert _answer(env, "SELECT COUNT(*) FROM animal") == "[(3,)]"


@pytest.mark.parametrize("statement", ["ATTACH DATABASE '{}' AS x", "VACUUM INTO '{}'"])
def test_no_other_file_is_touched(env: InterCodeSQL, tmp_path: Path, statement: str) -> None:
    target = tmp_path / "x.db"
    assert _answer(env, statement.format(target)) == RETRY
    assert env._database is not None
    with pytest.raises(sqlite3.DatabaseError):  # nor below the parser
        env._database._connection.set_authorizer(intercode_sql._authorize)
        env._database._connection.execute(statement.format(target))
    assert not target.exists()


@given(st.text(max_size=60), st.sampled_from(["", "SELECT ", "SHOW ", "DESC ", "SELECT * FROM animal WHERE "]))
def test_any_text_is_answered(folder: Path, text: str, start: str) -> None:
    env = InterCodeSQL(data=str(folder))
    env.reset("0")
    observation, *_ = env.step(start + text)
    assert isinstance(observation, str)
    env.close()


# --- the reward --------------------------------------------------------------------------------


def test_reward() -> None:
    one, two, three = (1,), (2,), (3,)
    assert reward([], []) == 1.0
    assert reward([], [one]) == 0.0
    assert reward([one], [one]) == 1.0
    assert reward([one, two, three], [one, two, three]) == 1.0
    assert reward([three, two, one], [one, two, three]) == -1.0
    assert reward([one], [one, two, three]) == 1 / 3  # no order to speak of: not rounded
    assert reward([one, two], [one, two, three]) == 0.67
    assert reward([one, one], [one]) == 0.5
    assert reward([(Decimal("1"),)], [one]) == 0.0  # the texts are compared
    assert reward([(1, "a")], [("a", 1)]) == 0.0


def _tau_b(x: list[int], y: list[int]) -> float | None:
    """Tau-b by its definition, pair by pair."""
    signs = [((x[i] > x[j]) - (x[i] < x[j]), (y[i] > y[j]) - (y[i] < y[j])) for i in range(len(x)) for j in range(i)]
    both = sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)
    return sum(a * b for a, b in signs) / both**0.5 if both else None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=14))
def test_tau_is_what_its_definition_says(pairs: list[tuple[int, int]]) -> None:
    x, y = [a for a, _ in pairs], [b for _, b in pairs]
    assert kendall_tau(x, y) == pytest.approx(_tau_b(x, y))


# --- Spider and the logs -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def spider(shared_data: Path) -> Path:
    folder = shared_data / "intercode_sql"
    if not (folder / "ic_spider_dev.json").is_file():
        pytest.skip(f"no InterCode-SQL data at {folder}")
    return folder


def test_every_gold_query_gets_1(spider: Path) -> None:
    env = InterCodeSQL(data=str(spider))
    tasks = env.tasks("train")
    assert len(tasks) == 1034
    for task in tasks:
        env.reset(task.task_id)
        *_, (_, gained, done, _, info) = [env.step(action) for action in env.gold(task.task_id)]
        assert (gained, done, info["success"]) == (1.0, True, True), task.task_id
    env.close()


def replay(spider: Path, log: str) -> Counter[str]:
    """Play a log again. Counts steps, what came out equal, and why observations did not."""
    env = InterCodeSQL(data=str(spider))
    counts: Counter[str] = Counter()
    for index, task in json.loads((spider / "results" / log).read_text()).items():
        env.reset(index)
        turns, best, best_overlap, same = task["turn_history"], 0.0, 0.0, True
        for action, observation, rewarded in zip(
            *(turns[k] for k in ("actions", "observations", "rewards")), strict=False
        ):
            came = env.step(action)[0]
            kept = None if came == RETRY else env._rows  # upstream does not submit what is no SQL
            ours = 0.0 if kept is None else reward(kept, env._gold_rows(int(index)))
            overlap = 0.0 if kept is None else _overlap(kept, env._gold_rows(int(index)))
            best, best_overlap = max(best, ours), max(best_overlap, overlap)
            counts["steps"] += 1
            counts["observations"] += came == observation
            counts["rewards"] += abs(ours - rewarded) < 1e-9
            counts["overlaps"] += abs(overlap - rewarded) < 1e-9
            if came != observation:
                same = False
                counts[f"because {_reason(observation, came)}"] += 1
        counts["episodes"] += 1
        counts["whole episodes"] += same
        counts["final overlaps"] += abs(best_overlap - task["summary"]["max_reward"]) < 1e-9
        counts["final rewards"] += abs(best - task["summary"]["max_reward"]) < 1e-9
    env.close()
    return counts


def _overlap(rows: list[Any], gold: list[Any]) -> float:
    ours, wanted = Counter(map(str, rows)), Counter(map(str, gold))
    return (ours & wanted).total() / (ours | wanted).total() if ours | wanted else 1.0


def _reason(expected: str, came: str) -> str:
    if came == RETRY or expected.startswith("Format your SQL"):
        return "another reading of what is SQL"
    if expected[0] == came[0] == "[":
        same = sorted(re.findall(r"\([^()]*\)", expected)) == sorted(re.findall(r"\([^()]*\)", came))
        return "another order of rows that no ORDER BY decides" if same else "other rows"
    if "FUNCTION" in came:
        return "a function that is missing here"
    if expected[0] == "[":
        return "an error here only"
    return "an error there only" if came[0] == "[" else "another message"


def test_gpt_4s_log_replays(spider: Path) -> None:
    """Its rewards are the rows' overlap alone: it was recorded before upstream took the order into account."""
    counts = replay(spider, "ic_sql_multiturn_gpt-4_10_turns.json")
    assert counts["steps"] == 5867
    assert counts["observations"] / counts["steps"] >= 0.965
    assert counts["overlaps"] / counts["steps"] >= 0.99
    assert counts["final overlaps"] / counts["episodes"] >= 0.983
    assert counts["whole episodes"] / counts["episodes"] >= 0.89


def test_imported_tasks_and_ours_are_the_same(spider: Path, tmp_path: Path) -> None:
    log = json.loads((spider / "results" / "ic_sql_multiturn_gpt-4_10_turns.json").read_text())
    few = tmp_path / "few.json"
    few.write_text(json.dumps({index: log[index] for index in ("0", "5", "17")}))
    done = trajkit("import", "intercode", few, "--runs", tmp_path / "runs", "--role", "expert")
    assert done.code == 0, done.err
    env = InterCodeSQL(data=str(spider))
    with DuckDBEngine(tmp_path / "runs") as runs:
        rows = runs.rows(
            "SELECT task_id, env, content FROM messages JOIN trajectories USING (trajectory_id) WHERE seq = 0"
        )
    assert len(rows) == 3
    known = {task.task_id: task for task in env.tasks("train")}
    for row in rows:
        assert row["env"] == known[row["task_id"]].env
        assert [{"role": "user", "content": row["content"]}] == env.reset(row["task_id"])[0]


if __name__ == "__main__":  # python tests/test_intercode_sql.py FOLDER LOG: how far a log replays
    import sys

    for (what, number), _ in pairwise([*replay(Path(sys.argv[1]), sys.argv[2]).most_common(), ("", 0)]):
        print(f"{number:6} {what}")
