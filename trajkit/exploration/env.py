"""Environments and policies: what trajkit asks of them, and how it loads one named on the command line."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from trajkit.errors import TrajkitError, UsageError
from trajkit.messages import Message as Message


@dataclass(frozen=True)
class Task:
    """One initial state s_0 of an environment.

    `task_id` names it for good: the same id must always mean the same s_0, so it has to hold whatever
    the environment was built with. `meta` is what the environment needs to reset to it; empty: the id is enough.
    """

    task_id: str
    env: str
    split: str = "train"
    meta: Mapping[str, Any] = field(default_factory=dict)


class Env(Protocol):
    """Gymnasium's shape with strings in and out (https://gymnasium.farama.org/api/env/).

    It may also have snapshot/restore (see `Snapshots`), `admissible()`, the actions that would change
    something now, and `gold(task_id)`, a list of actions that solves the task.
    """

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of `split`, always in the same order. Empty: it has no such split."""

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        """Go to s_0 of the task. Returns the conversation up to the first action (instruction, first observation)."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action: the assistant message's text as it is, thought included.

        Returns (observation, reward, terminated, truncated, info). `reward` is what this step added.
        info["score"], where given, is the total so far on the environment's own scale; info["success"], where
        given, is its verdict, which is not the same as terminated. An invalid action is answered in the
        observation; an exception means that the environment itself is broken.
        """

    def close(self) -> None:
        """Free what it holds. Called once, at the end."""


@runtime_checkable
class Snapshots(Protocol):
    """An environment that can go back to a state without replaying the actions that led there."""

    def snapshot(self) -> Any:
        """A token of the current state. It stays valid whatever is done afterwards."""

    def restore(self, token: Any) -> None:
        """Go back to the state of `token`."""


class Policy(Protocol):
    """Whoever chooses the actions: a scripted agent, a model folder, a server.

    `actor` names it in the tables. It has no memory: it reads the conversation only, so it can go on from
    any state, its own or another's.
    """

    actor: str

    def act(self, messages: list[Message], *, seed: int) -> Message:
        """The next assistant message. `seed` is the rollout's and the same at each of its steps."""


def load(name: str, args: Mapping[str, Any] | None = None) -> Any:
    """Import `module:attr` (the current directory counts) and call it with `args`.

    An attribute that is not callable is returned as it is. Raises UsageError for a missing module or
    attribute and for arguments that the constructor does not take.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(f"{name!r} is no module:attr. Write for instance envs.webshop:WebShop.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise UsageError(
                f"{name}: there is no module {error.name}. Modules are looked for in {here} and among the installed "
                "packages; run this where the module lies or install it."
            ) from None
        raise UsageError(f"{name}: importing it needs the package {error.name}, which is not installed.") from error
    except Exception as error:
        raise UsageError(f"{name}: importing it failed with {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            items = vars(value).items()
            own = (key for key, item in items if str(getattr(item, "__module__", "")).startswith(module_name))
            names = ", ".join(sorted(key for key in own if key[0] != "_"))
            raise UsageError(f"{name}: {module_name} has no {part}. It has {names or 'nothing'}.") from None
    if not callable(value):
        if args:
            raise UsageError(f"{name} is no class or function: it takes no arguments such as {', '.join(args)}.")
        return value
    try:
        inspect.signature(value).bind(**(args or {}))
    except TypeError as error:
        raise UsageError(f"{name}: {error}. It takes {_parameters(value)}.") from None
    try:
        return value(**(args or {}))
    except TrajkitError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: {error}. It takes {_parameters(value)}.") from error
    except Exception as error:
        raise TrajkitError(f"{name} cannot be started: {type(error).__name__}: {error}") from error


def load_env(name: str, args: Mapping[str, Any] | None = None) -> Env:
    """`load` an environment. Raises UsageError where it is none."""
    env: Env = _checked(name, load(name, args), "environment", ("tasks", "reset", "step", "close"))
    return env


def load_policy(name: str, args: Mapping[str, Any] | None = None) -> Policy:
    """`load` a policy. Raises UsageError where it is none."""
    policy: Policy = _checked(name, load(name, args), "policy", ("actor", "act"))
    return policy


def key_values(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` texts as a dict. A value that is JSON is read as JSON (3, 0.5, true), any other is text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{pair!r} is no key=value. Write for instance products=200.")
        if key in found:
            raise UsageError(f"{key}= is given twice: say it once, for it has one value.")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def _checked(name: str, thing: Any, what: str, needed: Iterable[str]) -> Any:
    missing = [attribute for attribute in needed if not hasattr(thing, attribute)]
    if missing:
        raise UsageError(f"{name} is no {what}: it has no {' and no '.join(missing)}.")
    return thing


def _parameters(value: Any) -> str:
    parameters = inspect.signature(value).parameters.values()
    named = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return ", ".join(named) or "no arguments"
