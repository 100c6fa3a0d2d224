"""A shop so small that a model of 145,000 parameters learns it from scratch in a minute, and its two experts.

    find large red shirt                            the wish
        search[red shirt]
    page 1 a red hat b blue shirt c red shirt       one of three pages with three items each
        click[c]
    red shirt small large                           an item and its sizes, which the results do not show
        click[large]
    large red shirt                                 chosen
        click[buy]
    bought

Every task has nine items of its own, so what to click has to be worked out and cannot be remembered.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from envs.webshop.env import parse_action
from trajkit.exploration.env import Message, Task

COLORS = ("red", "blue", "green", "black", "white", "pink", "grey", "brown")
TYPES = ("shirt", "hat", "shoe", "coat", "sock", "scarf", "belt", "glove")
SIZES = ("small", "medium", "large", "huge")
LETTERS = "abc"
PAGES = 3
NEEDS = ("nothing", "next", "back", "both")


class Wish(NamedTuple):
    """What to buy."""

    size: str
    color: str
    type: str


class Item(NamedTuple):
    """One item of the shop."""

    color: str
    type: str
    sizes: tuple[str, ...]


class Goal(NamedTuple):
    """A task: the wish, the nine items page by page, which of them is right, and what it takes to find it."""

    wish: Wish
    items: tuple[Item, ...]
    right: int
    needs: str


class State(NamedTuple):
    """Where a shopper is. All there is to an episode, so a snapshot is this and nothing else."""

    task: int
    page: str = "start"  # start, results, item or done
    number: int = 1  # of the results page
    item: int = 0  # of the nine, where one is open
    size: str = ""  # chosen; empty: none yet
    score: float = 0.0


class TinyShop:
    """WebShop cut down: any search finds the task's nine items, a click[back] leads one page back.

    `next_share`, `back_share` and `both_share` of the tasks take Next (the item is on page 2 or 3), Back (the first
    item that looks right lacks the size) or both; the rest takes neither. The reward, at click[buy], is the share of
    type, color and size that is right. Fewer `colors`, `types` and `sizes` (two at least) are easier to learn.
    Episodes end by buying only; the longest shortest way with everything that can be needed takes 7 actions.
    """

    name = "tinyshop"

    def __init__(
        self,
        colors: int = 4,
        types: int = 4,
        sizes: int = 3,
        next_share: float = 0.25,
        back_share: float = 0.2,
        both_share: float = 0.1,
        train_tasks: int = 2000,
        test_tasks: int = 500,
        seed: int = 0,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name != "self"}
        _check(settings)
        self._tasks, self.goals = _make_tasks(json.dumps(settings))
        self._number = {task.task_id: number for number, task in enumerate(self._tasks)}
        self._state = State(0)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of `split`, train or test."""
        return [task for task in self._tasks if task.split == split]

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        """Go to the task's wish. `seed` changes nothing: the shop has no chance in it."""
        self._state = State(self._task_number(task_id))
        return [{"role": "user", "content": self._observe()}], {"score": 0.0}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action. One that the page does not offer changes nothing."""
        before = self._state
        name, argument = parse_action(action)
        if name == "search" and before.page == "start":
            self._state = before._replace(page="results")
        elif name == "click" and argument in self._buttons():
            self._state = self._click(argument)
        done = self._state.page == "done"
        info = {"score": self._state.score, "success": done and self._state.score == 1.0}
        return self._observe(), self._state.score - before.score, done, False, info

    def close(self) -> None:
        """Nothing to free."""

    def snapshot(self) -> State:
        """The state itself."""
        return self._state

    def restore(self, token: State) -> None:
        """Go back to `token`."""
        self._state = token

    def admissible(self) -> list[str]:
        """The actions that this page offers, of the searches one."""
        wish = self._goal.wish
        if self._state.page == "start":
            return [f"search[{wish.color} {wish.type}]"]
        return [f"click[{button}]" for button in self._buttons()]

    def gold(self, task_id: str) -> list[str]:
        """A shortest list of actions that solves the task. It knows the right item, so it never goes back."""
        goal = self.goals[self._task_number(task_id)]
        page, place = divmod(goal.right, len(LETTERS))
        return [
            f"search[{goal.wish.color} {goal.wish.type}]",
            *["click[next]"] * page,
            f"click[{LETTERS[place]}]",
            f"click[{goal.wish.size}]",
            "click[buy]",
        ]

    @property
    def _goal(self) -> Goal:
        return self.goals[self._state.task]

    def _task_number(self, task_id: str) -> int:
        if task_id not in self._number:
            raise KeyError(f"there is no task {task_id} in this shop: were its settings (--env-arg) the same?")
        return self._number[task_id]

    def _buttons(self) -> list[str]:
        state = self._state
        if state.page == "results":
            return [*LETTERS, "back", *(["next"] if state.number < PAGES else [])]
        return [*self._goal.items[state.item].sizes, "back", "buy"] if state.page == "item" else []

    def _click(self, button: str) -> State:
        state = self._state
        if state.page == "results":
            if button == "next":
                return state._replace(number=state.number + 1)
            if button == "back":
                return state._replace(number=state.number - 1) if state.number > 1 else State(state.task)
            return state._replace(page="item", item=len(LETTERS) * (state.number - 1) + LETTERS.index(button))
        if button == "back":
            return State(state.task, "results", state.number)
        if button != "buy":
            return state._replace(size=button)
        wish, item = self._goal.wish, self._goal.items[state.item]
        met = (item.type == wish.type) + (item.color == wish.color) + (state.size == wish.size)
        return state._replace(page="done", score=met / len(wish))

    def _observe(self) -> str:
        state, goal = self._state, self._goal
        if state.page == "start":
            return "find " + " ".join(goal.wish)
        if state.page == "done":
            return "bought"
        if state.page == "item":
            item = goal.items[state.item]
            words = (state.size, item.color, item.type) if state.size else (item.color, item.type, *item.sizes)
            return " ".join(words)
        listed = goal.items[len(LETTERS) * (state.number - 1) :]
        lines = (f"{letter} {item.color} {item.type}" for letter, item in zip(LETTERS, listed, strict=False))
        return f"page {state.number} " + " ".join(lines)


@lru_cache(maxsize=8)
def _make_tasks(settings_json: str) -> tuple[list[Task], list[Goal]]:
    settings = json.loads(settings_json)
    # The settings are part of what s_0 is, so the ids of two differently made shops never meet.
    name = hashlib.sha256(settings_json.encode()).hexdigest()[:6]
    tasks: list[Task] = []
    goals: list[Goal] = []
    for split in ("train", "test"):
        size = settings[f"{split}_tasks"]
        needs = [kind for kind in NEEDS[1:] for _ in range(round(settings[f"{kind}_share"] * size))][:size]
        needs += ["nothing"] * (size - len(needs))
        random.Random(f"{settings_json} {split}").shuffle(needs)
        for number, kind in enumerate(needs):
            goal = _make_goal(random.Random(f"{settings_json} {split} {number}"), settings, kind)
            meta = {"needs": kind, "instruction": "find " + " ".join(goal.wish), "settings": settings}
            tasks.append(Task(f"tinyshop-{name}-{split}-{number:04d}", "tinyshop", split, meta))
            goals.append(goal)
    return tasks, goals


def _make_goal(rng: random.Random, settings: Mapping[str, Any], needs: str) -> Goal:
    colors, types, sizes = COLORS[: settings["colors"]], TYPES[: settings["types"]], SIZES[: settings["sizes"]]
    wish = Wish(rng.choice(sizes), rng.choice(colors), rng.choice(types))
    others = [(color, type_) for color in colors for type_ in types if (color, type_) != wish[1:]]
    items = [Item(*rng.choice(others), _some(rng, sizes)) for _ in range(PAGES * len(LETTERS))]
    lacking = [size for size in sizes if size != wish.size]
    first, second = sorted(rng.sample(range(len(LETTERS)), 2))
    later = rng.randrange(len(LETTERS), len(items))
    right = {"nothing": first, "next": later, "back": second, "both": later}[needs]
    if needs in ("back", "both"):
        items[first] = Item(wish.color, wish.type, _some(rng, lacking))
    elif needs == "nothing" and rng.random() < 0.5:
        # Or else two such items on a page would say that the first one lacks the size.
        items[second] = Item(wish.color, wish.type, _some(rng, lacking))
    offered = _some(rng, lacking) if rng.random() < 0.7 else ()
    items[right] = Item(wish.color, wish.type, tuple(size for size in sizes if size in (*offered, wish.size)))
    return Goal(wish, tuple(items), right, needs)


def _some(rng: random.Random, sizes: Sequence[str]) -> tuple[str, ...]:
    """A non-empty part of `sizes`, in their order."""
    return tuple(size for size in sizes if rng.random() < 0.5) or (rng.choice(sizes),)


def _check(settings: Mapping[str, Any]) -> None:
    largest = {"colors": len(COLORS), "types": len(TYPES), "sizes": len(SIZES)}
    for name, value in settings.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name.endswith("_share"):
            right, wanted = number and 0 <= value <= 1, "a number from 0 to 1"
        else:
            low, high = (2, largest[name]) if name in largest else (0, 1_000_000)
            right, wanted = number and isinstance(value, int) and low <= value <= high, f"whole, from {low} to {high}"
        if not right:
            raise ValueError(f"{name}={value}: it must be {wanted}")
    if sum(settings[f"{needs}_share"] for needs in NEEDS[1:]) > 1:
        raise ValueError("next_share, back_share and both_share add up to more than 1")


@dataclass
class Shopping:
    """What a conversation says so far: the wish, the page now, and what was done to get here."""

    wish: Wish
    kind: str = "start"  # start, results, item, chosen or done
    number: int = 1  # of the results page
    items: dict[str, tuple[str, str]] = field(default_factory=dict)  # letter: color, type; of the results page
    open: tuple[int, str] = (0, "")  # page and letter of the item that is open, or was last
    sizes: tuple[str, ...] = ()  # of that item
    opened: dict[tuple[int, str], tuple[str, str]] = field(default_factory=dict)  # all items so far: color, type
    visits: int = 0  # how often an item was opened
    turned: bool = False  # whether Next was ever clicked

    def looks_right(self, item: tuple[str, str]) -> bool:
        """Whether an item has the color and the type that are wanted."""
        return item == (self.wish.color, self.wish.type)

    @property
    def navigated(self) -> bool:
        """Whether it took a Next, or going back from an item that looked right, to get here."""
        left = {place: item for place, item in self.opened.items() if place != self.open or self.kind == "results"}
        return self.turned or any(map(self.looks_right, left.values()))

    def fitting(self) -> list[str]:
        """The letters on this page that look right and were not opened yet."""
        new = {letter: item for letter, item in self.items.items() if (self.number, letter) not in self.opened}
        return [letter for letter, item in new.items() if self.looks_right(item)]

    def misfits(self) -> list[str]:
        """The letters on this page that do not look right."""
        return [letter for letter, item in self.items.items() if not self.looks_right(item)]


def read_shopping(messages: Sequence[Message]) -> Shopping:
    """Read a whole conversation. Raises ValueError where it does not start with a wish."""
    shopping: Shopping | None = None
    argument = ""
    for message in messages:
        text = str(message["content"] or "")
        if message["role"] == "assistant":
            argument = parse_action(text)[1]
        elif message["role"] == "user":
            words = text.split()
            if shopping is None:
                if words[:1] != ["find"] or len(words) != 4:
                    raise ValueError(f"not a wish of the tiny shop: {text[:80]!r}")
                shopping = Shopping(Wish(*words[1:]))
            elif words[0] == "page":
                number = int(words[1])
                shopping.turned |= number > shopping.number
                shopping.kind, shopping.number = "results", number
                shopping.items = {words[i]: (words[i + 1], words[i + 2]) for i in range(2, len(words), 3)}
            elif words[0] in ("find", "bought"):
                shopping.kind = "start" if words[0] == "find" else "done"
            elif words[0] in SIZES:
                shopping.kind = "chosen"
            else:
                if shopping.kind == "results":
                    shopping.open, shopping.visits = (shopping.number, argument), shopping.visits + 1
                    shopping.opened[shopping.open] = (words[0], words[1])
                shopping.kind, shopping.sizes = "item", tuple(words[2:])
    if shopping is None:
        raise ValueError("the conversation has no wish")
    return shopping


def _click(what: str) -> Message:
    return {"role": "assistant", "content": f"click[{what}]"}


def _search(wish: Wish) -> Message:
    return {"role": "assistant", "content": f"search[{wish.color} {wish.type}]"}


def _buy_anyway(shopping: Shopping) -> Message:
    """Buy what is open: in the wanted size where it comes in it, else in the first."""
    return _click(shopping.wish.size if shopping.wish.size in shopping.sizes else shopping.sizes[0])


class TinyExpert:
    """Goes to the right page, goes back from items that lack the size, and then slips: a wrong size or a wrong item.

    It slips in `easy` of the tasks that take no navigation and in `hard` of those that do, so it solves about 32%,
    most of them easy ones, and its failures hold the navigation that its solutions lack: the world of Exploring Expert
    Failures (arXiv:2504.13145), by construction. `slips="early"` is the world where failures are of no use: it solves
    the same share of each, but fails without a single Next or Back, by buying what it sees first.
    In `wanders` of the tasks it looks at a wrong item first and comes back.
    """

    actor = "tiny-expert"

    def __init__(self, easy: float = 0.42, hard: float = 0.9, wanders: float = 0.1, slips: str = "late") -> None:
        if slips not in ("late", "early"):
            raise ValueError(f"slips={slips}: it must be late or early")
        self.easy, self.hard, self.wanders, self.slips = easy, hard, wanders, slips

    def act(self, messages: list[Message], *, seed: int) -> Message:
        """One action. Chance comes from the wish and the seed only."""
        shopping = read_shopping(messages)
        rng = random.Random(f"{seed} {shopping.wish}")
        luck, wanders, wrong = rng.random(), rng.random() < self.wanders, rng.choice(("item", "size"))
        slips = luck < (self.hard if shopping.navigated else self.easy)
        gives_up = self.slips == "early" and luck < self.hard
        if shopping.kind == "start":
            return _search(shopping.wish)
        if shopping.kind == "results":
            fitting, misfits = shopping.fitting(), shopping.misfits()
            if wanders and misfits and not shopping.opened and shopping.number == 1:
                return _click(misfits[0])
            if fitting and not (slips and wrong == "item" and misfits):
                return _click(fitting[0])
            if not fitting and not gives_up and shopping.number < PAGES:
                return _click("next")
            return _click(rng.choice(misfits or LETTERS))
        if shopping.kind != "item":
            return _click("buy")
        if not shopping.looks_right(shopping.opened[shopping.open]):
            return _click("back") if wanders and shopping.visits == 1 else _buy_anyway(shopping)
        if shopping.wish.size not in shopping.sizes:
            return _buy_anyway(shopping) if gives_up else _click("back")
        others = [size for size in shopping.sizes if size != shopping.wish.size]
        if slips and wrong == "size":
            return _click(others[0] if others else "buy")
        return _click(shopping.wish.size)


class CheapExpert:
    """Another one, with mistakes of another kind, which solves about 23%: it forgets the size or goes a page too far.

    It never wanders, and of the items that lack the size it buys `hasty` in another size instead of going back.
    """

    actor = "cheap-expert"

    def __init__(self, easy: float = 0.56, hard: float = 0.93, hasty: float = 0.3) -> None:
        self.easy, self.hard, self.hasty = easy, hard, hasty

    def act(self, messages: list[Message], *, seed: int) -> Message:
        """One action. Chance comes from the wish and the seed only."""
        shopping = read_shopping(messages)
        rng = random.Random(f"{seed} cheap {shopping.wish}")
        luck, hasty, wrong = rng.random(), rng.random() < self.hasty, rng.choice(("page", "size"))
        slips = luck < (self.hard if shopping.navigated else self.easy)
        if shopping.kind == "start":
            return _search(shopping.wish)
        if shopping.kind == "results":
            fitting, further = shopping.fitting(), shopping.number < PAGES
            if fitting and not (slips and wrong == "page"):
                return _click(fitting[0])
            if further and (fitting or not (slips and shopping.navigated)):
                return _click("next")
            return _click((shopping.misfits() or list(LETTERS))[0])
        if shopping.kind != "item":
            return _click("buy")
        if not shopping.looks_right(shopping.opened[shopping.open]):
            return _buy_anyway(shopping)
        if shopping.wish.size not in shopping.sizes:
            return _buy_anyway(shopping) if hasty else _click("back")
        return _click("buy" if slips and wrong == "size" else shopping.wish.size)
