"""Any Gymnasium environment whose observations and actions are texts, and those of the old gym API.

Gymnasium (https://gymnasium.farama.org/api/env/): reset(seed=, options=) gives (observation, info), step gives five
values. Old gym (before 0.26): seed(seed), reset() gives the observation alone, step gives four values, and
info["TimeLimit.truncated"] says whether an end is only the time limit's. Which of the two it is, is told from what
it returns, so an environment of either kind can be bridged whether or not the old package is there.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trajkit.errors import UsageError
from trajkit.exploration.env import Message, Task, load


class GymnasiumEnv:
    """The environment `make`: a Gymnasium id (registered by importing `module:Id-v0`), or `module:attr` in this
    checkout: a class or a function that returns the environment. `kwargs` are its arguments.

    A task is a seed: `train`, `dev` and `test` say which ones (see `numbers`), and the id is make/seed, with a digest
    of `kwargs` where there are any. Or `tasks` names a JSON file: a list of objects with task_id, and where wanted
    split, seed and options (what reset is given). `instruction` is the system message; empty: none.
    `success` is the key of info with the environment's verdict; where info has none there is no verdict, and the
    reward decides. Observations must be texts: wrap an environment whose are not, and name the wrapping function.
    """

    def __init__(
        self,
        make: str,
        kwargs: Mapping[str, Any] | None = None,
        train: str | int = 100,
        dev: str | int = "",
        test: str | int = "1000000:1000100",
        tasks: str = "",
        instruction: str = "",
        success: str = "success",
    ) -> None:
        self.name, self.instruction, self.success = make, instruction, success
        self.env = _make(make, dict(kwargs or {}))
        self._total = 0.0
        prefix = make
        if kwargs:
            prefix += "-" + hashlib.sha256(json.dumps(kwargs, sort_keys=True).encode()).hexdigest()[:6]
        if tasks:
            self._tasks = _read_tasks(tasks, make)
        else:
            self._tasks = [
                Task(f"{prefix}/{seed}", make, split, {"seed": seed})
                for split, seeds in (("train", train), ("dev", dev), ("test", test))
                for seed in numbers(seeds)
            ]
        self._by_id = {task.task_id: task for task in self._tasks}
        if len(self._by_id) < len(self._tasks):
            raise ValueError("the same task comes twice: two splits share a seed, or two lines of the file an id")

    def tasks(self, split: str) -> list[Task]:
        """The tasks of `split`."""
        return [task for task in self._tasks if task.split == split]

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        """Go to s_0 of the task, by the task's own seed; `seed` is used where the task has none."""
        meta = self._by_id[task_id].meta
        self._total = 0.0
        observation, info = _reset(self.env, meta.get("seed", seed), meta.get("options"))
        system: list[Message] = [{"role": "system", "content": self.instruction}] if self.instruction else []
        return [*system, {"role": "user", "content": _text(observation)}], {"score": 0.0, **self._verdict(info)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action: what follows the last "Action:", or the text itself."""
        answer = self.env.step(parse_action(action))
        if len(answer) == 5:
            observation, reward, terminated, truncated, info = answer
        elif len(answer) == 4:
            observation, reward, done, info = answer
            truncated = bool(done and info.get("TimeLimit.truncated"))
            terminated = bool(done and not truncated)
        else:
            raise TypeError(f"{self.name}: its step gives {len(answer)} values; Gymnasium's gives 5 and old gym's 4")
        self._total += float(reward)
        info = {"score": self._total, **self._verdict(info)}
        return _text(observation), float(reward), bool(terminated), bool(truncated), info

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _verdict(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {} if info.get(self.success) is None else {"success": bool(info[self.success])}


def numbers(text: str | int) -> list[int]:
    """Whole numbers as one writes them on the command line: the number 100 is 0 to 99; the text 10:20 is 10 to 19,
    and 3,5,10:20 is those and 3 and 5. Empty: none. Raises ValueError for anything else.
    """
    if isinstance(text, int):
        return list(range(text))
    found: list[int] = []
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"\s*(\d+)(?::(\d+))?\s*", part)
        if not match:
            raise ValueError(f"{text!r}: write a count (100), a range (10:20) or a list (3,5,10:20)")
        found += range(int(match[1]), int(match[2]) if match[2] else int(match[1]) + 1)
    return found


def parse_action(text: str) -> str:
    """What follows the last "Action:", up to the end of that line; a text without it is the action itself."""
    found = re.findall(r"^[ \t]*Action:\s*(.*?)[ \t]*$", text, re.MULTILINE)
    return str(found[-1]) if found else text.strip()


def _make(make: str, kwargs: dict[str, Any]) -> Any:
    """The environment: by `module:attr` where there is such an attribute, else by its Gymnasium id."""
    _, colon, attribute = make.partition(":")
    if colon and not re.search(r"-v\d+$", attribute):
        env = load(make, kwargs)
    else:
        try:
            import gymnasium
        except ModuleNotFoundError:
            raise UsageError(f"{make} is a Gymnasium id, and that needs: pip install 'trajkit[gymnasium]'.") from None
        try:
            # The checker only warns about what this bridge checks itself, on every step.
            env = gymnasium.make(make, disable_env_checker=True, **kwargs)
        except gymnasium.error.Error as error:
            raise UsageError(f"Gymnasium cannot make {make}: {error}") from error
        except ModuleNotFoundError as error:
            raise UsageError(f"{make}: there is no module {error.name} to register it.") from error
    missing = [name for name in ("reset", "step", "close") if not hasattr(env, name)]
    if missing:
        raise UsageError(f"{make} is no Gymnasium environment: it has no {' and no '.join(missing)}.")
    return env


def _reset(env: Any, seed: int | None, options: Any) -> tuple[Any, Mapping[str, Any]]:
    """Reset by whichever of the two APIs the environment has."""
    parameters = inspect.signature(env.reset).parameters
    takes_seed = "seed" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {"seed": seed, **({"options": options} if options is not None else {})}
    if not takes_seed:
        if options is not None:
            raise TypeError("this environment has the old gym API: its reset takes no options")
        if seed is not None and hasattr(env, "seed"):
            env.seed(seed)
        given = {}
    answer = env.reset(**given)
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping):
        return answer
    return answer, {}


def _text(observation: Any) -> str:
    if isinstance(observation, str):
        return observation
    raise TypeError(
        f"the environment's observation is no text but {type(observation).__name__}: wrap it (for instance in "
        "gymnasium.wrappers.TransformObservation) in a function of yours and name that as module:attr"
    )


def _read_tasks(path: str, make: str) -> list[Task]:
    try:
        listed = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: the file of tasks cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UsageError(f"{path}: the file of tasks is no JSON ({error}).") from None
    if not isinstance(listed, Iterable) or not all(isinstance(item, dict) and "task_id" in item for item in listed):
        raise UsageError(f"{path}: it must be a list of objects with task_id, and where wanted split, seed, options.")
    return [
        Task(
            str(item["task_id"]),
            make,
            str(item.get("split") or "train"),
            {key: item[key] for key in ("seed", "options") if item.get(key) is not None},
        )
        for item in listed
    ]
