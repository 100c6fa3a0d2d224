"""ALFWorld's text games, offline: household tasks played with TextWorld's PDDL engine.

ALFWorld is Shridhar et al., 2021 (https://arxiv.org/abs/2010.03768, https://github.com/alfworld/alfworld). A game is
a file `game.tw-pddl`, as ALFWorld's data or any benchmark built on it ships them; nothing else of it is read.
Needs `pip install textworld==1.7.0 alfworld==0.4.2` (no torch: only ALFWorld's text part is imported). Linux and
macOS only, since TextWorld is.

Observations are those of ReAct's ALFWorld loop (https://github.com/ysymyth/ReAct), which ETO, IPR and AgentGym share:
TextWorld's banner and the "You arrive at loc 24. " of a walk are left out. Everything else is the game's own text.
"""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from trajkit.errors import TrajkitError
from trajkit.exploration.env import Message, Task
from trajkit.messages import is_action
from trajkit.runs.listing import walk

GAME = "game.tw-pddl"
SPLITS = ("train", "valid_seen", "valid_unseen", "valid_train")
TRANSLATIONS = 32  # kept in memory, two for each game


class ALFWorld:
    """Every game below a folder.

    A task's id is `alfworld/` and its game's folder relative to `games`, as in MINT's logs; reset and gold take it
    without the prefix too. A game below a folder train, valid_seen or valid_unseen is of that split, any other of
    split train. The reward is 1 at the step that fulfils the task, which ends the episode, and success says the same.

    Raises ValueError where `games` is no folder or has no games.
    """

    def __init__(self, games: str) -> None:
        self._folder = Path(games).expanduser()
        if not self._folder.is_dir():
            raise ValueError(f"games={games}: there is no such folder")
        files = sorted(
            Path(folder, GAME)
            for folder, _, entries in walk(self._folder, lambda name: True)
            if any(entry.name == GAME for entry in entries)
        )
        if not files:
            raise ValueError(f"games={games}: no {GAME} lies in it or below it")
        self._files = {path.parent.relative_to(self._folder).as_posix(): path for path in files}
        self._loaded = ""  # the game that the engine holds
        self._engine: Any = None
        self._planner: Any = None
        self._plans: dict[str, list[str]] = {}
        self._state: Any = None

    def tasks(self, split: str) -> list[Task]:
        """The games of `split`, by folder name."""
        return [
            Task(f"alfworld/{name}", "alfworld", split, {"game": name, "type": _type(name)})
            for name in self._files
            if _split(name) == split
        ]

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        """Start the game. Nothing in it is random, so `seed` changes nothing."""
        name = self._name(task_id)
        with _own_arguments():
            if self._engine is None:
                self._engine = _start(self._files[name])
            elif name != self._loaded:
                self._loaded = ""
                self._engine.load(str(self._files[name]))
            self._loaded = name
            self._state = self._engine.reset()
        return [{"role": "user", "content": _plain(self._state.feedback)}], {"score": 0.0, "success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do what the last "Action:" line (or the whole text) says."""
        if self._state is None:
            raise RuntimeError("step before reset")
        if self._state["won"]:
            raise RuntimeError("the episode is over: reset first")
        self._state, _, _ = self._engine.step(parse_action(action))
        won = bool(self._state["won"])
        info = {"score": float(won), "success": won}
        return _plain(self._state.feedback), float(won), won, False, info

    def close(self) -> None:
        """Let go of the engines."""
        for engine in (self._engine, self._planner):
            if engine is not None:
                engine.close()
        self._engine = self._planner = self._state = None
        self._loaded = ""

    def admissible(self) -> list[str]:
        """The actions that the game would take now, sorted."""
        return [] if self._state is None or self._state["won"] else list(self._state["admissible_commands"])

    def gold(self, task_id: str) -> list[str]:
        """The plan of TextWorld's PDDL planner from s_0, which knows where everything is."""
        name = self._name(task_id)
        if name not in self._plans:
            with _own_arguments():
                if self._planner is None:
                    self._planner = _start(self._files[name], policy_commands=True)
                else:
                    self._planner.load(str(self._files[name]))
                self._plans[name] = list(self._planner.reset()["policy_commands"])
        return list(self._plans[name])

    def _name(self, task_id: str) -> str:
        name = task_id.removeprefix("alfworld/")
        if name not in self._files:
            raise KeyError(f"there is no game {task_id} below {self._folder}")
        return name


def parse_action(text: str) -> str:
    """The command: the last "Action:" line's, else the first line that is not empty. Lower case, no full stop."""
    lines = re.findall(r"^[ \t]*Action:[ \t]*(.*)$", text, re.MULTILINE | re.IGNORECASE)
    command = lines[-1] if lines else next((line for line in text.splitlines() if line.strip()), "")
    return command.strip().removesuffix(".").lower()


def _split(name: str) -> str:
    first = name.split("/", 1)[0]
    return first if first in SPLITS else "train"


def _type(name: str) -> str:
    """The task's type, e.g. pick_heat_then_place_in_recep; empty where the folder's name does not say."""
    found = re.search(r"(?:^|/)((?:pick|look)_[a-z_]+)-", name)
    return found[1] if found else ""


def _plain(feedback: str) -> str:
    """ReAct's reading of the game's text: no banner, no "You arrive at loc 24. "."""
    text = re.sub(r"\A\s*-= Welcome to TextWorld, ALFRED! =-\s*", "", feedback)
    return re.sub(r"\AYou arrive at loc \d+\. ", "", text).strip()


def _start(game: Path, policy_commands: bool = False) -> Any:
    """TextWorld's engine with `game` loaded and with ALFWorld's names for things."""
    try:
        import fast_downward
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    except ModuleNotFoundError as error:
        raise TrajkitError(f"ALFWorld needs the package {error.name}: pip install -e '.[alfworld]'") from None

    # A reset translates the game's PDDL twice, a load as often again, and nothing of it changes: most of their time.
    if not hasattr(fast_downward.pddl2sas, "cache_info"):
        fast_downward.pddl2sas = lru_cache(maxsize=TRANSLATIONS)(fast_downward.pddl2sas)
    wanted = textworld.EnvInfos(won=True, feedback=True, admissible_commands=True, policy_commands=policy_commands)
    return textworld.start(str(game), wanted, wrappers=[AlfredDemangler()])


@contextmanager
def _own_arguments() -> Iterator[None]:
    """Its PDDL translator overwrites sys.argv and speaks to stdout, where data goes: keep both as they were."""
    before = sys.argv
    with open(os.devnull, "w") as nowhere:
        stdout, sys.stdout = sys.stdout, nowhere
        try:
            yield
        finally:
            sys.argv, sys.stdout = before, stdout


class Wanderer:
    """A scripted policy that knows nothing: it tries what it has not tried yet, favouring what its task names.

    It solves a few of the easiest games. For trials and tests.
    """

    actor = "wanderer"

    def act(self, messages: list[Message], *, seed: int) -> Message:
        """One command."""
        first = str(next(m["content"] for m in messages if m["role"] == "user"))
        actions = [parse_action(str(message["content"])) for message in messages if is_action(message)]
        words = set(re.findall(r"[a-z]+", first.split("Your task is to:")[-1].lower()))
        options = _options(messages, first)
        new = [option for option in options if option not in actions]
        named = [option for option in new if not option.startswith("go to ") and words & set(option.split())]
        choice = random.Random(f"{seed} {len(actions)}").choice(named or new or ["look"])
        return {"role": "assistant", "content": f"Action: {choice}"}


def _options(messages: Sequence[Message], first: str) -> list[str]:
    """Commands that the text suggests: places to go, and what can be done with the things of the last observation."""
    places = re.findall(r"\b([a-z]+ \d+)", first)
    last = str(messages[-1]["content"])
    here = re.search(r"\b(?:On|In) the ([a-z]+ \d+),|The ([a-z]+ \d+) is closed", last)
    options = [f"go to {place}" for place in places]
    if here:
        place = here[1] or here[2]
        options += [f"open {place}"] if here[2] else []
        options += [f"take {thing} from {place}" for thing in re.findall(r"\ban? ([a-z]+ \d+)", last)]
        options += [f"use {thing}" for thing in re.findall(r"\b(desklamp \d+)", last)]
    return options
