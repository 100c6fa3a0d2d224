"""ScienceWorld: 30 science tasks of an elementary school in a simulated house, each in up to 1,386 variations.

ScienceWorld is Wang et al., 2022 (https://arxiv.org/abs/2203.07540, https://github.com/allenai/ScienceWorld).
The simulator is a Java program in the package `scienceworld`; this talks to it directly, because the package's
own `step` lists every valid action each time, which takes several times as long as the step itself.

    ScienceWorld    the environment
    Gold            follows the simulator's own solution
    PerturbedGold   follows it and goes astray on the way: a failing expert
    Mistaken        follows it with detours and ends many episodes by a wrong focus: its failures begin well
    Novice          follows it and forgets more than it should: a weaker policy

The parts, top to bottom: the simulator's process, environment, policies.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile, zip_longest
from typing import Any, ClassVar

from trajkit.errors import UsageError
from trajkit.exploration.env import Message, Task
from trajkit.messages import is_action

SPLITS = ("train", "dev", "test")
SIMPLIFICATIONS = (
    "easy", "noElectricalAction", "openContainers", "openDoors", "selfWateringFlowerPots", "teleportAction",
)  # fmt: skip

SYSTEM = (
    "You are in a simulated house and do a science task. Each turn, take one action: look around, look at OBJ, "
    "look in OBJ, inventory, task, open OBJ, close OBJ, activate OBJ, deactivate OBJ, connect OBJ to OBJ, "
    "disconnect OBJ, use OBJ on OBJ, read OBJ, pick up OBJ, put down OBJ, move OBJ to OBJ, pour OBJ in OBJ, "
    "dunk OBJ in OBJ, mix OBJ, eat OBJ, flush OBJ, go to LOC, wait, wait1, and focus on OBJ, which says that OBJ is "
    "what the task asks for: focusing on a wrong one fails the task. Where a request is ambiguous, answer with a "
    "number. You may think first: write 'Thought: ...' and then 'Action: ...' on a line of its own."
)

# The house's doors: which rooms a room leads to.
DOORS = {
    "hallway": ("art studio", "bedroom", "greenhouse", "kitchen", "living room", "workshop"),
    "kitchen": ("bathroom", "hallway", "outside"),
    "outside": ("foundry", "greenhouse", "kitchen"),
    "greenhouse": ("hallway", "outside"),
}  # all others have one door

# --- the simulator's process -------------------------------------------------------------------


class Simulator:
    """One JVM that runs one ScienceWorld, and the connection to it.

    It ends at `close`, and by itself as soon as this process ends, however that ends: its standard input is a pipe
    from here. It is in a process group of its own, so Ctrl-C does not take it away in the middle of a rollout.
    """

    def __init__(self, options: Sequence[str]) -> None:
        gateway, constants = import_module("py4j.java_gateway"), import_module("scienceworld.constants")
        # The token keeps other users of this machine out: py4j lets whoever connects run anything.
        port, token, self.process = gateway.launch_gateway(
            classpath=constants.JAR_PATH,
            cwd=constants.BASEPATH,
            javaopts=list(options),
            die_on_exit=True,
            create_new_process_group=True,
            enable_auth=True,
            return_proc=True,
        )
        parameters = gateway.GatewayParameters(port=port, auth_token=token, auto_field=True)
        self._gateway = gateway.JavaGateway(gateway_parameters=parameters, java_process=self.process)
        self.world = self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()

    def close(self) -> None:
        """End the JVM, by force where it does not go by itself."""
        self._gateway.shutdown(raise_exception=False)
        self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# --- environment -------------------------------------------------------------------------------


class ScienceWorld:
    """ScienceWorld with one JVM of its own, started when it is first needed.

    `simplifications` are the simulator's, separated by commas (`SIMPLIFICATIONS`); none by default, so no teleport.
    A task's id is task/variation, such as boil/3, and task/variation/simplifications where there are any: they
    make it another s_0. `only` keeps the tasks of these names, separated by commas; empty: all 30. `limit` keeps
    that many tasks of a split, spread evenly over the names; 0: all. `system` is what a policy is told first.
    Scores run from 0 to 100; a focus on a wrong thing gives -100 and ends the episode.
    """

    name = "scienceworld"
    # Without hashCode=2 the JVM draws identity hashes, the simulator's hash maps change their order from run to run,
    # and about a third of all trajectories cannot be replayed.
    JAVA_OPTIONS: ClassVar[tuple[str, ...]] = (
        "-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2", "-Xmx512m", "-XX:+UseSerialGC",
    )  # fmt: skip

    def __init__(self, simplifications: str = "", limit: int = 0, only: str = "", system: str = SYSTEM) -> None:
        unknown = [name for name in simplifications.split(",") if name and name not in SIMPLIFICATIONS]
        if unknown:
            raise ValueError(f"simplifications={simplifications}: {unknown[0]} is none of {', '.join(SIMPLIFICATIONS)}")
        if limit < 0:
            raise ValueError(f"limit={limit}: it must be 0 (all tasks) or more")
        if not (find_spec("scienceworld") and find_spec("py4j")):
            raise UsageError("ScienceWorld needs its package: pip install 'trajkit[scienceworld]'.")
        if not shutil.which("java"):
            raise UsageError("ScienceWorld needs Java 17 or newer: apt-get install default-jre-headless.")
        self.simplifications, self.limit, self.system = simplifications, limit, system
        self.only = [name for name in only.split(",") if name]
        self._simulator: Simulator | None = None
        self._score = 0

    @property
    def world(self) -> Any:
        """The simulator's Java object (PythonInterface). A JVM that is gone is started again."""
        if self._simulator and self._simulator.process.poll() is not None:
            self.close()
        if not self._simulator:
            self._simulator = Simulator(self.JAVA_OPTIONS)
        return self._simulator.world

    @cached_property
    def variations(self) -> dict[str, dict[str, list[int]]]:
        """The variations of each split by task, as the simulator has them. Loads every task once."""
        found: dict[str, dict[str, list[int]]] = {}
        for task in self.world.getTaskNames():
            if "noElectricalAction" in self.simplifications and ("power-" in task or "conductivity" in task):
                continue  # unsolvable without
            self.world.load(task, 0, self.simplifications, False)
            lists = (self.world.getVariationsTrain, self.world.getVariationsDev, self.world.getVariationsTest)
            found[task] = {split: list(of_split()) for split, of_split in zip(SPLITS, lists, strict=True)}
        return found

    def tasks(self, split: str) -> list[Task]:
        """The tasks of `split` (train, dev or test), by task and variation.

        Raises ValueError where `only` has a name that is no task's.
        """
        if unknown := set(self.only) - set(self.variations):
            raise ValueError(f"only={','.join(self.only)}: {min(unknown)} is none of {', '.join(self.variations)}")
        names = [task for task in self.variations if not self.only or task in self.only]
        by_task = [[(task, v) for v in self.variations[task].get(split, [])] for task in names]
        wanted = [pair for row in zip_longest(*by_task) for pair in row if pair][: self.limit or None]
        meta = {"simplifications": self.simplifications} if self.simplifications else {}
        return [Task(self.task_id(task, number), self.name, split, meta) for task, number in sorted(wanted)]

    def task_id(self, task: str, variation: int) -> str:
        """The id of a variation of a task in this environment."""
        return "/".join((task, str(variation), *([self.simplifications] if self.simplifications else [])))

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        """Go to s_0 of the task: what looking around shows. `seed` changes nothing: the simulator has no chance."""
        self.load(task_id)
        first = f"{self.world.getTaskDescription()}\n\n{self.world.step('look around')}"
        self._score = self._read_score()
        return [{"role": "system", "content": self.system}, {"role": "user", "content": first}], {"score": self._score}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action. One that the simulator does not know is answered so, and takes no time there."""
        if not self._simulator or self._simulator.process.poll() is not None:
            raise RuntimeError("there is no episode: the JVM is gone, or reset has not come yet")
        world, before = self._simulator.world, self._score
        observation = str(world.step(parse_action(action)))
        self._score = self._read_score()
        # The simulator itself goes on after a wrong focus, and it also ends an episode that is not solved.
        done = self._score < 0 or bool(world.getCompleted())
        info = {"score": float(self._score), "success": self._score == 100}
        return observation, float(self._score - before), done, False, info

    def close(self) -> None:
        """End the JVM."""
        if self._simulator:
            simulator, self._simulator = self._simulator, None
            simulator.close()

    def admissible(self) -> list[str]:
        """Every action that would do something now. Takes several times as long as a step."""
        return list(self.world.getValidActionObjectCombinations())

    def gold(self, task_id: str) -> list[str]:
        """The simulator's own solution; it ends the current episode. It goes on a little after the task is solved.

        A few do not solve their task (grow-fruit/8 ends with 50 of 100).
        """
        self.load(task_id, gold=True)
        return list(self.world.getGoldActionSequence())

    def load(self, task_id: str, *, gold: bool = False) -> None:
        """Load the task without looking around. Raises KeyError where there is none of that name."""
        task, _, rest = task_id.partition("/")
        number, _, simplifications = rest.partition("/")
        if not number.isdigit() or int(number) >= self.world.getTaskMaxVariations(task):
            raise KeyError(f"there is no task {task_id} in ScienceWorld: an id is task/variation, such as boil/3")
        if simplifications != self.simplifications:
            asked = f"--env-arg simplifications={simplifications}" if simplifications else "none"
            raise KeyError(f"the task {task_id} has other simplifications than this environment: give it {asked}")
        self.world.load(task, int(number), self.simplifications, gold)

    def _read_score(self) -> int:
        return round(100 * float(self.world.getScore()))


def parse_action(text: str) -> str:
    """What follows the last "Action:", up to the end of that line; a text without it is the action itself."""
    found = re.findall(r"^[ \t]*Action:\s*(.*?)[ \t]*$", text, re.MULTILINE)
    return str(found[-1]) if found else text.strip()


# --- policies ----------------------------------------------------------------------------------

# What one agent has found out the others of this process know too: it takes a second a task. By simplifications.
_STARTS: dict[str, dict[str, str]] = {}  # first message -> task id, as far as looked
_SOLUTIONS: dict[str, dict[str, list[str]]] = {}  # by task id


class Gold:
    """Follows the simulator's own solution, from whatever state it finds itself in.

    It knows its task by the first message: it looks, in a simulator of its own, for the variation that starts
    with it (about one in twenty shares its start with another one; it takes the first). Where it is in the
    solution it tells from the actions so far: those that are the solution's next one count, all others do not.
    At the end of the solution it focuses on something it has, which fails nearly every task that is not solved.
    """

    actor = "gold"

    def __init__(self, simplifications: str = "") -> None:
        self.env = ScienceWorld(simplifications)
        self._starts = _STARTS.setdefault(simplifications, {})
        self._solutions = _SOLUTIONS.setdefault(simplifications, {})
        self._search: list[tuple[str, Iterator[tuple[str, str]]]] = []  # a task's first start, and all the others

    def act(self, messages: list[Message], *, seed: int) -> Message:
        """One action."""
        first = next(message["content"] or "" for message in messages if message["role"] == "user")
        actions = [parse_action(message["content"] or "") for message in messages if is_action(message)]
        return {"role": "assistant", "content": f"Action: {self._choose(first, actions, messages, seed)}"}

    def close(self) -> None:
        """End the simulator."""
        self.env.close()

    def _choose(self, first: str, actions: Sequence[str], messages: Sequence[Message], seed: int) -> str:
        return _next(self.solution(first), actions)

    def solution(self, first: str) -> list[str]:
        """The simulator's solution of the task that starts with this message."""
        task_id = self._task_id(first)
        if task_id not in self._solutions:
            self._solutions[task_id] = self.env.gold(task_id)
        return self._solutions[task_id]

    def _task_id(self, first: str) -> str:
        if first in self._starts:
            return self._starts[first]
        if not self._search:
            for task in self.env.variations:
                starts = self._look(task)
                start, task_id = next(starts)
                self._starts.setdefault(start, task_id)
                self._search.append((start, starts))
        # It is nearly always the task whose first variation starts most alike; to look through all takes minutes.
        for _, starts in sorted(self._search, key=lambda pair: -_alike(pair[0], first))[:3]:
            while first not in self._starts:
                start, task_id = next(starts, ("", ""))
                if not task_id:
                    break
                self._starts.setdefault(start, task_id)
            if first in self._starts:
                return self._starts[first]
        raise ValueError(f"no task of ScienceWorld starts with this message: {first[:200]!r}")

    def _look(self, task: str) -> Iterator[tuple[str, str]]:
        for number in (number for split in SPLITS for number in self.env.variations[task][split]):
            task_id = self.env.task_id(task, number)
            yield self.env.reset(task_id)[0][-1]["content"] or "", task_id


class PerturbedGold(Gold):
    """The gold agent with mistakes that really happen in the world: an expert that fails, as GPT-4 does.

    At each step, with probability `wrong`, it goes through a wrong door or picks up a wrong thing of those it has
    been shown last, and then goes on with the solution as if nothing had happened. Each of the solution's actions it
    forgets with probability `forgets`. Both are drawn from the first message and the seed.
    """

    actor = "perturbed-gold"

    def __init__(self, wrong: float = 0.06, forgets: float = 0.03, simplifications: str = "") -> None:
        super().__init__(simplifications)
        _check_shares(wrong=wrong, forgets=forgets)
        self.wrong, self.forgets = wrong, forgets

    def _choose(self, first: str, actions: Sequence[str], messages: Sequence[Message], seed: int) -> str:
        rng = random.Random(f"{seed} {len(actions)} {first}")
        turns = wrong_turns(messages)
        if turns and rng.random() < self.wrong:
            return rng.choice(turns)
        return _next(self._remembered(first, seed), actions)

    def _remembered(self, first: str, seed: int) -> list[str]:
        rng = random.Random(f"{seed} forgets {first}")
        return [action for action in self.solution(first) if rng.random() >= self.forgets]


class Novice(PerturbedGold):
    """A weaker policy: the gold agent that forgets more, but opens a door that it finds closed.

    From a state further along there is less left that it can forget, so it solves more from there, unless the
    one who went there has broken something.
    """

    actor = "novice"

    def __init__(self, forgets: float = 0.06, simplifications: str = "") -> None:
        super().__init__(0.0, forgets, simplifications)

    def _choose(self, first: str, actions: Sequence[str], messages: Sequence[Message], seed: int) -> str:
        places = [action.removeprefix("go to ") for action in actions[-2:] if action.startswith("go to ")]
        if places and actions[-1] == f"go to {places[-1]}" and "not open" in str(messages[-1]["content"]):
            return f"open door to {places[-1]}"
        if places and list(actions[-2:]) == [f"go to {places[0]}", f"open door to {places[0]}"]:
            return f"go to {places[0]}"
        return super()._choose(first, actions, messages, seed)


class Mistaken(Gold):
    """The gold agent as an expert that fails often and whose failures begin well.

    Before a door of the solution it takes a detour with probability `detours`: through another door of that room and
    back. Where the solution focuses, it focuses on a wrong thing with probability `wrong`. Before any other action
    it focuses with probability `hasty` on something of the room that it has seen last. Where that is not of the kind
    that the task asks for it ends the episode with -100; where it is, the task is about that thing from then on,
    which the solution does not know. All is drawn from the first message, the seed and `name`: with several names
    there are several experts, each with an actor's name and mistakes of its own.
    """

    def __init__(
        self, detours: float = 0.05, hasty: float = 0.06, wrong: float = 0.3, simplifications: str = "", name: str = ""
    ) -> None:
        super().__init__(simplifications)
        _check_shares(detours=detours, hasty=hasty, wrong=wrong)
        self.detours, self.hasty, self.wrong, self.name = detours, hasty, wrong, name
        self.actor = f"mistaken-{name}" if name else "mistaken"

    def _choose(self, first: str, actions: Sequence[str], messages: Sequence[Message], seed: int) -> str:
        solution = self.solution(first)
        place, room, detour = 0, _room(first), ""
        for action in actions:
            if place < len(solution) and action == solution[place]:
                place, room = place + 1, action.removeprefix("go to ") if action.startswith("go to ") else room
            else:
                detour = action
        following = _next(solution, actions)
        if actions and actions[-1] == detour and detour.startswith("open door to "):
            return detour.replace("open door", "go")
        if actions and actions[-1] == detour and detour.startswith("go to ") and detour != f"go to {room}":
            return f"go to {room}"
        rng = random.Random(f"{seed}{self.name} {len(actions)} {first}")
        focuses = following.startswith("focus on ")
        right = set(following.split()) if focuses else set()
        things = [turn.removeprefix("pick up ") for turn in wrong_turns(messages) if turn.startswith("pick up ")]
        wrong = [thing for thing in things if not right & set(thing.split())]
        if wrong and rng.random() < (self.wrong if focuses else self.hasty):
            return f"focus on {rng.choice(wrong)}"
        doors = [door for door in DOORS.get(room, ()) if not following.endswith(f" {door}")]
        if following.startswith("open door to ") and doors and rng.random() < self.detours:
            return f"open door to {rng.choice(doors)}"
        return following


def wrong_turns(messages: Sequence[Message]) -> list[str]:
    """Actions that the room shown last allows and that lead away: its doors, and what can be picked up there."""
    seen = (str(m["content"]) for m in reversed(messages) if m["role"] == "user")
    room = next((text for text in seen if re.search(r"^This [a-z ]+ is called the ", text, re.MULTILINE)), "")
    doors = re.findall(r"^\tA door to the (.+?) \(that is (open|closed)\)", room, re.MULTILINE)
    things = re.findall(r"^\t(?:a|an) (?!substance)([a-z ]+?)(?:\.|,| \(|$)", room, re.MULTILINE)
    ways = [f"go to {place}" if state == "open" else f"open door to {place}" for place, state in doors]
    return ways + [f"pick up {thing}" for thing in things]


def _room(text: str) -> str:
    """The room that a text shows. Empty: none."""
    found = re.search(r"^This [a-z ]+ is called the (.+?)\.", text, re.MULTILINE)
    return found[1] if found else ""


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share}: it must be from 0 to 1")


def _next(solution: Sequence[str], actions: Sequence[str]) -> str:
    """The solution's action that comes after those of it which have been taken, in order."""
    place = 0
    for action in actions:
        if place < len(solution) and action == solution[place]:
            place += 1
    return solution[place] if place < len(solution) else "focus on inventory"


def _alike(one: str, other: str) -> int:
    """How many characters they have in common from the start on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
