"""The client of AgentGym's servers, against a server process on loopback that speaks all the dialects.

Run as a program this file is that server: `python test_agentgym.py` prints its port. It plays a small game (say "on"
as often as the task's number says, plus one) in the words of three of AgentGym's servers, errors included.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from raw_server import raw_server, trickle, whole

from envs.agentgym import DIALECTS, AgentGym, ServerError
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.exploration.env import Message
from trajkit.exploration.explore import Settings, explore

# --- the server --------------------------------------------------------------------------------


class Game:
    """One environment on the server."""

    def __init__(self) -> None:
        self.left, self.done, self.text = 0, False, ""

    def start(self, number: int) -> str:
        if number > 90:
            raise ValueError(f"the task {number} is not valid")
        self.left, self.done, self.text = number + 1, False, f"Say on {number + 1} times."
        return self.text

    def step(self, action: str) -> None:
        if self.done:
            raise ValueError("the task with this environment has finished")
        if "break" in action:
            raise ValueError("Could not step")
        self.left -= action == "on"
        self.done = self.left == 0 or action == "stop"
        self.text = f"{self.left} left ({action})"

    @property
    def won(self) -> bool:
        return self.done and self.left == 0


class Handler(BaseHTTPRequestHandler):
    """sciworld at /sci, webshop at /shop, academia at /tool, alfworld at /alf, and what goes wrong at /_fault."""

    games: dict[int, Game] = {}  # noqa: RUF012
    faults: list[tuple[int, str]] = []  # noqa: RUF012
    log: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/_log":
            return self.answer(self.log)
        query = {key: int(values[0]) for key, values in parse_qs(url.query).items()}
        self.answer(self.games[query["env_idx"]].text)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if self.path == "/_fault":
            self.faults.append((body["status"], body["text"]))
            return self.answer("ok")
        self.log.append(f"{self.path} {json.dumps(body)}")
        if self.faults:
            status, text = self.faults.pop(0)
            return self.answer(text, status, raw=True)
        _, server, what = self.path.split("/")
        getattr(self, server)(what, body)

    def sci(self, what: str, body: dict[str, Any]) -> None:
        if what == "create":
            return self.answer({"id": self.new()})
        try:
            if body["id"] not in self.games:
                raise ValueError(f"The id {body['id']} is not valid.")
            game = self.games[body["id"]]
            if what == "reset":
                text = game.start(body["data_idx"])
                return self.answer({"task_description": "Be on.", "observation": text, "score": 0, "done": False})
            if what == "close":
                del self.games[body["id"]]
                return self.answer(True)
            game.step(body["action"])
            score = 100 if game.won else -100 if game.done else 10
            self.answer({"observation": game.text, "reward": 1, "score": score, "done": game.done})
        except Exception as error:
            self.answer({"error": str(error)})  # with status 200, as AgentGym does

    def alf(self, what: str, body: dict[str, Any]) -> None:
        if what == "create":
            return self.answer({"id": self.new()})
        game = self.games[body["id"]]
        if what == "reset":
            assert body["world_type"] == "Text"
            return self.answer({"observation": game.start(body["game"]), "available_actions": ["on", "stop"]})
        game.step(body["action"])
        answer = {"observation": game.text, "reward": float(game.won), "done": game.done}
        self.answer({**answer, "available_actions": [] if game.done else ["on"]})

    def shop(self, what: str, body: dict[str, Any]) -> None:
        if what == "create":
            return self.answer(self.new())
        game = self.games[body["env_idx"]]
        if what == "reset":
            game.start(body["session_id"])
            return self.answer(["not this", None])
        game.step(body["action"])
        self.answer({"state": game.text, "reward": 0.5 if game.done and not game.won else float(game.won),
                     "done": game.done, "info": None})  # fmt: skip

    def tool(self, what: str, body: dict[str, Any]) -> None:
        if what == "create":
            assert body == {"id": 0}
            return self.answer(self.new())
        game = self.games[body["env_idx"]]
        if what == "reset":
            return self.answer(game.start(body["id"]))
        game.step(body["action"].split("with Action Input")[0].removeprefix("Action: ").strip())
        self.answer({"observation": game.text, "reward": float(game.won), "done": game.done})

    def new(self) -> int:
        number = len(self.games) + 7
        self.games[number] = Game()
        return number

    def answer(self, value: Any, status: int = 200, raw: bool = False) -> None:
        data = (value if raw else json.dumps(value)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(port: int) -> None:
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
    sys.exit()


def start(port: int = 0) -> tuple[subprocess.Popen[str], str]:
    checkout = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        [sys.executable, __file__, str(port)], stdout=subprocess.PIPE, text=True, cwd=checkout,
        env={"PYTHONPATH": str(checkout)},
    )  # fmt: skip
    assert process.stdout
    return process, f"http://127.0.0.1:{int(process.stdout.readline())}"


# --- the tests ---------------------------------------------------------------------------------

httpx = pytest.importorskip("httpx", reason="asks the server of this file through httpx: pip install 'trajkit[dev]'")
SERVERS = {"sciworld": "sci", "webshop": "shop", "academia": "tool", "alfworld": "alf"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process, where = start()
    yield where
    process.terminate()
    process.wait()


@pytest.fixture(params=SERVERS)
def env(request: pytest.FixtureRequest, url: str) -> Iterator[AgentGym]:
    made = AgentGym(f"{url}/{SERVERS[request.param]}", request.param, train=5, test="5:7,9")
    yield made
    made.close()


def fault(url: str, status: int, text: str) -> None:
    httpx.post(f"{url}/_fault", json={"status": status, "text": text})


def steps(url: str) -> list[str]:
    return [line for line in httpx.get(f"{url}/_log").json() if "/step " in line]


class On:
    """Says on; every third time not."""

    actor = "on"

    def act(self, messages: list[Message], *, seed: int) -> Message:
        number = sum(message["role"] == "assistant" for message in messages)
        return {"role": "assistant", "content": "Action: " + ("off" if number % 3 == 2 else "on")}


def test_an_episode_in_each_dialect(env: AgentGym) -> None:
    assert [task.task_id for task in env.tasks("test")] == [f"{env.name}/{number}" for number in (5, 6, 9)]
    assert env.tasks("dev") == []
    messages, info = env.reset(f"{env.name}/1")
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[1]["content"] == ("Be on.\n" if env.server == "sciworld" else "") + "Say on 2 times."
    assert info == {"score": 0.0}
    total = 0.0
    for action, text, done in (
        ("off", "2 left (off)", False),
        ("on", "1 left (on)", False),
        ("on", "0 left (on)", True),
    ):
        said = f"Action: {action}" if env.server == "academia" else f"Thought: hm.\nAction: {action}"
        observation, reward, terminated, truncated, info = env.step(said)
        total += reward
        assert (observation, terminated, truncated, info["success"]) == (text, done, False, done)
    assert total == info["score"] == (100.0 if env.server == "sciworld" else 1.0)


def test_done_is_not_success(env: AgentGym) -> None:
    env.reset(f"{env.name}/3")
    *_, terminated, _, info = env.step("Action: stop")
    assert terminated
    assert info == {"score": {"sciworld": -100.0, "webshop": 0.5}.get(env.server, 0.0), "success": False}


def test_alfworld_says_what_can_be_done(url: str) -> None:
    env = AgentGym(f"{url}/alf", "alfworld", train=3)
    env.reset("agentgym-alfworld/0")
    assert env.admissible() == ["on", "stop"]
    env.step("on")
    assert env.admissible() == []


def test_errors_with_status_200_are_errors(url: str) -> None:
    env = AgentGym(f"{url}/sci", "sciworld", train=100)
    with pytest.raises(ServerError, match="sciworld: reset was answered with the error the task 95 is not valid"):
        env.reset("agentgym-sciworld/95")
    env.reset("agentgym-sciworld/0")
    with pytest.raises(ServerError, match="Could not step"):
        env.step("break")
    with pytest.raises(ServerError, match="reset comes first"):
        env.step("on")
    env.reset("agentgym-sciworld/0")  # in a new environment
    assert env.step("on")[2]
    with pytest.raises(ServerError, match="has finished"):
        env.step("on")
    with pytest.raises(KeyError, match="an id is agentgym-sciworld/NUMBER"):
        env.reset("sciworld/0")


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (200, "[]", r"step was answered with \[\]"),
        (200, '{"observation": "x", "score": "high", "done": false}', "step was answered with"),
        (200, '{"observation": "x", "score": 1}', "step was answered with"),
        (200, "<html>", "what is no JSON: <html>"),
        (500, "Internal Server Error", "status 500: Internal Server Error"),
        (404, "", "status 404"),
    ],
)
def test_nonsense_is_an_error(url: str, status: int, text: str, message: str) -> None:
    env = AgentGym(f"{url}/sci", "sciworld")
    env.reset("agentgym-sciworld/3")
    fault(url, status, text)
    before = len(steps(url))
    with pytest.raises(ServerError, match=message):
        env.step("on")
    assert len(steps(url)) == before + 1  # never sent twice
    env.close()


def test_a_busy_server_is_asked_again(url: str) -> None:
    env = AgentGym(f"{url}/shop", "webshop")
    env.reset("agentgym-webshop/3")
    for _ in range(2):
        fault(url, 503, "busy")
    assert env.step("on")[0] == "3 left (on)"
    env.close()


def test_a_server_that_dies_costs_nothing_but_time(tmp_path: Path) -> None:
    process, where = start()
    env = AgentGym(f"{where}/shop", "webshop", train=2, timeout=5)
    env.reset("agentgym-webshop/1")
    process.kill()
    process.wait()
    with pytest.raises(ServerError):
        env.step("on")
    second, _ = start(int(where.rsplit(":", 1)[1]))
    try:
        env.reset("agentgym-webshop/1")
        assert env.step("on")[0] == "1 left (on)"
    finally:
        second.kill()
        second.wait()
    with pytest.raises(ServerError, match=r"there is no server at"):
        env.reset("agentgym-webshop/1")
    env.close()


def test_an_answer_has_a_deadline_and_a_size_whatever_trickles() -> None:
    def answer(connection: socket.socket, request: bytes) -> bool:
        if b"/create" in request or b"/reset" in request:
            connection.sendall(whole(b"7" if b"/create" in request else b'"first"'))
            return True
        if b"slow" in request:
            return trickle(connection, b"HTTP/1.1 200 OK\r\nX-Slow: ")
        connection.sendall(whole(b'"' + b"x" * 10_000 + b'"'))
        return True

    with raw_server(answer) as server:
        env = AgentGym(server.url.replace("//", "//me:password@"), "academia", timeout=2.0, max_bytes=1000)
        for action, message in (
            ("slow", "no whole answer within 2 s"),
            ("large", "an answer of more than 1,000 bytes"),
        ):
            env.reset("agentgym-academia/1")
            with pytest.raises(ServerError, match=f"academia: step: {message}"):
                env.step(action)
        env.close()
    env = AgentGym(server.url.replace("//", "//me:password@"), "academia")
    with pytest.raises(ServerError, match="there is no server at http://127") as raised:
        env.reset("agentgym-academia/1")
    assert "password" not in str(raised.value)


def test_explored_and_replayed_without_drift(env: AgentGym, tmp_path: Path) -> None:
    assert explore(tmp_path, env, On(), plans=["initial"], settings=Settings("expert", 0))["solved"] == 5
    counts = explore(tmp_path, env, On(), plans=["initial", "skip_length"], settings=Settings("policy", 1), m=2)
    assert counts["drift"] == counts["error"] == 0
    assert counts["rollouts"] > 5
    with DuckDBEngine(tmp_path) as runs:
        (row,) = runs.rows("SELECT min(reward) AS low, max(reward) AS high FROM trajectories")
    assert row["low"] == row["high"] == (100.0 if env.server == "sciworld" else 1.0)


def test_a_broken_server_is_no_failure_of_the_policy(url: str, tmp_path: Path) -> None:
    env = AgentGym(f"{url}/sci", "sciworld", train="0,95")
    counts = explore(tmp_path, env, On(), plans=["initial"], settings=Settings("policy", 1))
    assert (counts["solved"], counts["error"], counts["failed"]) == (1, 1, 0)
    env.close()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"name": "shop"}, "must be one of academia, alfworld"),
        ({"url": "localhost:80"}, "write it as http://"),
        ({"train": "a"}, "write a count"),
        ({"test": 5}, "two splits share a task"),
    ],
)
def test_wrong_arguments(args: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, UsageError), match=message):
        AgentGym(**{"url": "http://127.0.0.1:1", "name": "webshop", **args})


def test_all_fourteen_environments_have_a_dialect() -> None:
    # webarena, maze, wordle, alfworld, sciworld, babyai, textcraft, weather, movie, academia, sheet, todo, sqlgym,
    # webshop; and searchqa, which came with AgentGym-RL
    assert len(DIALECTS) == 15
    assert {dialect.key for dialect in DIALECTS.values()} == {"id", "env_idx"}
