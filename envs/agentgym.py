"""AgentGym's environment servers over HTTP.

AgentGym is Xi et al., 2024 (https://arxiv.org/abs/2406.04151, https://github.com/WooooDyy/AgentGym): 14 environments,
each a small web server that one starts oneself. They speak three dialects:

    id, observation        alfworld, babyai, maze, sciworld, textcraft, wordle. A request that fails is answered
                           with status 200 and {"error": ...}.
    env_idx, state         sqlgym, webshop. `create` answers with a bare number, `reset` with [text, null].
    env_idx, observation   academia, movie, searchqa, sheet, todo, weather: `reset` answers with a bare text.
                           webarena: `terminated` in place of `done`.

Whatever says that something went wrong, in any dialect, is raised as an exception here: then the rollout ends in
error and is tried again, in place of counting as a failure of the policy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from envs.gymnasium_bridge import numbers, parse_action
from trajkit.exploration.env import Message, Task
from trajkit.exploration.http_client import MAX_BYTES, BlockingClient, NoAnswer, NotThere, check
from trajkit.quoting import quote, without_userinfo

ATTEMPTS = 6  # at a server that is not there (yet) or says 503, waiting 0.1 s, 0.2 s, ... between them


@dataclass(frozen=True)
class Dialect:
    """How one environment's server wants to be spoken to."""

    key: str  # what it calls the environment: id or env_idx
    item: str  # what reset calls the number of the task
    system: str  # what the policy is told
    text: str = "observation"  # where step's answer has the observation: observation or state
    score: str = "reward"  # where step's answer has the score so far
    solved: float = 1.0  # the score of a solved task
    raw: bool = False  # whether the server reads the policy's whole text; else it gets the action alone
    path: str = ""  # before /create, /step, ...
    create: Mapping[str, Any] | None = None  # what create is given. None: no body
    more: Mapping[str, Any] = field(default_factory=dict)  # what else reset is given


_THINK = " You may think first: write 'Thought: ...' and then 'Action: ...' on a line of its own."
_TOOLS = Dialect(
    "env_idx", "id", "You reach a goal with tools. Answer 'Action: TOOL with Action Input: JSON'; finish with the "
    'tool finish and {"answer": ...}.', raw=True, create={"id": 0},
)  # fmt: skip
DIALECTS: dict[str, Dialect] = {
    "academia": _TOOLS,
    "alfworld": Dialect("id", "game", "You are in a house and do a household task. Take one action a turn." + _THINK,
                        more={"world_type": "Text"}),
    "babyai": Dialect("id", "data_idx", "You are in a grid world and reach the goal. Each turn, take one of the "
                      "available actions." + _THINK, score="score", solved=0.5),
    "maze": Dialect("id", "game", "You are in a maze. Answer move up, move down, move left or move right." + _THINK,
                    solved=0.0, path="/maze"),
    "movie": _TOOLS,
    "sciworld": Dialect("id", "data_idx", "You do a science task in a simulated house. Take one action a turn."
                        + _THINK, score="score", solved=100.0),
    "searchqa": Dialect("env_idx", "id", "Answer the question. Search with <search> keywords </search>, answer with "
                        "<answer> answer </answer>.", raw=True, create={"id": 0}),
    "sheet": _TOOLS,
    "sqlgym": Dialect("env_idx", "item_id", "Answer the question with one SQLite query." + _THINK, text="state"),
    "textcraft": Dialect("id", "data_idx", "You craft an item. Answer get N ITEM, craft N ITEM using N ITEM, ..., or "
                         "inventory." + _THINK, create={}),
    "todo": _TOOLS,
    "weather": _TOOLS,
    "webarena": Dialect("env_idx", "idx", "You reach a goal in a web browser. Write one action between ``` and ```.",
                        raw=True, more={"seed": 0}),
    "webshop": Dialect("env_idx", "session_id", "You are shopping. Answer search[keywords] where there is a search "
                       "bar, else click[value]." + _THINK, text="state"),
    "wordle": Dialect("id", "seed", "You guess a word of five letters in six turns. Write its letters with spaces."
                      + _THINK, path="/wordle"),
}  # fmt: skip


class ServerError(RuntimeError):
    """The server said that it could not do what it was asked to, or something that cannot be understood."""


class AgentGym:
    """The environment `name` (see `DIALECTS`) of the server at `url`, one of the server's environments at a time.

    The server does not say how many tasks it has: `train`, `dev` and `test` name them (a count, 10:20, "3,5"). An id
    is agentgym-NAME/NUMBER. `system` replaces what the policy is told first; `timeout` is in seconds, for one whole
    answer, and `max_bytes` bounds it.
    """

    def __init__(
        self,
        url: str,
        name: str,
        train: str | int = 100,
        dev: str | int = "",
        test: str | int = "",
        system: str = "",
        timeout: float = 300.0,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if name not in DIALECTS:
            raise ValueError(f"name={name}: it must be one of {', '.join(DIALECTS)}")
        self.dialect, self.server = DIALECTS[name], name
        self.name = f"agentgym-{name}"
        self.system = system or self.dialect.system
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url={without_userinfo(url)}: write it as http://localhost:8000")
        self._url = url.rstrip("/") + self.dialect.path
        check(self._url)
        self._client = BlockingClient(timeout=timeout, max_bytes=max_bytes)
        self._tasks = [
            Task(f"{self.name}/{number}", self.name, split)
            for split, which in (("train", train), ("dev", dev), ("test", test))
            for number in numbers(which)
        ]
        if len({task.task_id for task in self._tasks}) < len(self._tasks):
            raise ValueError("two splits share a task")
        self._env_id: int | None = None
        self._score = 0.0
        self._actions: list[str] = []

    def tasks(self, split: str) -> list[Task]:
        """The tasks of `split`."""
        return [task for task in self._tasks if task.split == split]

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        """Go to s_0 of the task. After an error a new environment is made there."""
        start, _, number = task_id.rpartition("/")
        if start != self.name or not number.isdigit():
            raise KeyError(f"there is no task {task_id} here: an id is {self.name}/NUMBER")
        if self._env_id is None:
            self._env_id = self._create()
        answer = self._ask("reset", {self.dialect.item: int(number), **self.dialect.more})
        first = self._first_observation(answer)
        self._score = 0.0
        system: Message = {"role": "system", "content": self.system}
        return [system, {"role": "user", "content": first}], {"score": 0.0}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        if self._env_id is None:
            raise ServerError("there is no environment on the server: reset comes first")
        answer = self._ask("step", {"action": action if self.dialect.raw else parse_action(action)})
        if not isinstance(answer, dict):
            raise self._lost(f"step was answered with {_short(answer)}")
        text, score = answer.get(self.dialect.text), answer.get(self.dialect.score)
        done = answer.get("done", answer.get("terminated"))
        if not isinstance(text, str) or not isinstance(score, int | float) or not isinstance(done, bool):
            raise self._lost(f"step was answered with {_short(answer)}")
        self._remember(answer)
        before, self._score = self._score, float(score)
        truncated = answer.get("truncated") is True
        info = {"score": self._score, "success": done and self._score >= self.dialect.solved}
        return text, self._score - before, done, truncated, info

    def close(self) -> None:
        """Close the environment on the server, where the server has a way, and the connection."""
        if self._env_id is not None:
            with suppress(NoAnswer):  # the server is gone, and its environment with it
                self._client.send("POST", f"{self._url}/close", {self.dialect.key: self._env_id})
        self._client.close()

    def admissible(self) -> list[str]:
        """What the server says can be done now (alfworld says it). Empty: it does not say."""
        return list(self._actions)

    def _create(self) -> int:
        """A new environment on the server. Each dialect says its number in its own way."""
        answer = self._post("create", self.dialect.create)
        number = answer.get(self.dialect.key) if isinstance(answer, dict) else answer
        if not isinstance(number, int) or isinstance(number, bool):
            raise ServerError(f"{self.server}: create was answered with {_short(answer)}")
        return number

    def _first_observation(self, answer: Any) -> str:
        """s_0's text. Of [text, null] the text is asked for again, as AgentGym's own client does."""
        if isinstance(answer, list):
            answer = self._get("observation")
        if isinstance(answer, dict):
            self._remember(answer)
            description = answer.get("task_description")
            text = answer.get(self.dialect.text, answer.get("observation"))
            answer = f"{description}\n{text}" if isinstance(description, str) and isinstance(text, str) else text
        if not isinstance(answer, str) or answer == "TimeoutError":  # what webarena says where its browser failed
            raise self._lost(f"reset was answered with {_short(answer)}")
        return answer

    def _remember(self, answer: Mapping[str, Any]) -> None:
        actions = answer.get("available_actions")
        self._actions = [str(action) for action in actions] if isinstance(actions, list) else []

    def _ask(self, what: str, body: Mapping[str, Any]) -> Any:
        return self._post(what, {self.dialect.key: self._env_id, **body})

    def _get(self, what: str) -> Any:
        return self._request("GET", what, f"?{urlencode({self.dialect.key: self._env_id})}")

    def _post(self, what: str, body: Mapping[str, Any] | None) -> Any:
        return self._request("POST", what, body=body)

    def _request(self, method: str, what: str, query: str = "", body: Mapping[str, Any] | None = None) -> Any:
        """The answer's JSON. Raises ServerError for anything that says it is none.

        Only what the server has surely not done is sent again: a step that was taken must not be taken twice.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(0.1 * 2 ** (attempt - 1))
            last = attempt == ATTEMPTS - 1
            try:
                response = self._client.send(method, f"{self._url}/{what}{query}", body)
            except NotThere as error:
                if last:
                    raise self._lost(f"there is no server at {without_userinfo(self._url)} ({error})") from None
                continue
            except NoAnswer as error:
                raise self._lost(f"{what}: {error}") from None
            if response.status != 503 or last:
                break
        if response.status != 200:
            raise self._lost(f"{what} was answered with status {response.status}: {response.said}")
        try:
            answer = response.json()
        except ValueError:
            raise self._lost(f"{what} was answered with what is no JSON: {response.said}") from None
        if isinstance(answer, dict) and answer.get("error") is not None:
            raise self._lost(f"{what} was answered with the error {_short(answer['error'])}")
        return answer

    def _lost(self, why: str) -> ServerError:
        """The error to raise; the next reset makes a new environment."""
        self._env_id = None
        return ServerError(f"{self.server}: {why}")


def _short(answer: Any) -> str:
    return quote(answer if isinstance(answer, str) else repr(answer))
