"""The environment: where a shopper is, what can be done there, and what it looks like."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from envs.webshop.catalogue import Goal, Product
from envs.webshop.generated import generated_shop
from envs.webshop.pages import BACK, BUY, NEXT, PREV, SUBPAGES, done_page, item_page, results_page, start_page, sub_page
from envs.webshop.scoring import score
from envs.webshop.upstream import upstream_shop
from trajkit.exploration.env import Message, Task

SYSTEM = (
    "You are shopping on WebShop. On the page with the search bar answer search[keywords]; on every other page "
    "answer click[what to click]: a button, a product's code or an option. Buy the product that the instruction "
    "asks for, with its options. You may think first: write 'Thought: ...' and then 'Action: ...' on a line of its own."
)


class State(NamedTuple):
    """Where a shopper is. All there is to an episode, so a snapshot is this and nothing else."""

    task: int
    page: str = "start"  # start, results, item, done or one of SUBPAGES
    keywords: str = ""
    number: int = 1  # of the results page
    asin: str = ""
    options: tuple[tuple[str, str], ...] = ()
    score: float = 0.0


class WebShop:
    """WebShop over a catalogue made from `seed`, or over upstream's own files.

    Generated: harder with more `products`, `colors`, `sizes` (0: no size option), wanted `attributes` and a smaller
    `page_size`. `next_share`, `back_share` and `both_share` of the tasks take Next, Back to Search (or Prev:
    the first product that looks right lacks an option) or both; the rest takes neither.
    At its easiest: colors=2 sizes=0 attributes=1 page_size=2 next_share=0 back_share=0 both_share=0.

    Upstream's: `data` is the folder that holds items_shuffle*.json and items_ins_v2*.json. A task's id is upstream's
    goal index; 0 to 499 are its split test, 500 to 1499 eval, the others train. `prices` is a file with the prices
    and price limits that upstream drew (see envs/webshop/upstream.py); without it they are drawn with `seed`.
    """

    name = "webshop"

    def __init__(
        self,
        products: int = 500,
        colors: int = 4,
        sizes: int = 3,
        attributes: int = 2,
        page_size: int = 5,
        next_share: float = 0.25,
        back_share: float = 0.25,
        both_share: float = 0.15,
        train_tasks: int = 100,
        test_tasks: int = 50,
        seed: int = 0,
        data: str | None = None,
        prices: str | None = None,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in ("self", "data", "prices")}
        if prices is not None and data is None:
            raise ValueError("prices are those of upstream's products: name their folder with data")
        if data is not None:
            _check_no_other(settings)
            self._shop = upstream_shop(str(data), None if prices is None else str(prices), seed)
        else:
            self._shop = generated_shop(settings)
        self.products, self.goals = self._shop.products, self._shop.goals
        self.page_size, self.search = self._shop.page_size, self._shop.search
        self._by_code = {product.asin.lower(): product for product in self.products}
        self._number = {task.task_id: number for number, task in enumerate(self._shop.tasks)}
        self._state = State(0)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of `split`: train or test, of upstream's shop also eval."""
        return [task for task in self._shop.tasks if task.split == split]

    def reset(self, task_id: str, *, seed: int | None = None) -> tuple[list[Message], dict[str, Any]]:
        """Go to the task's search page. `seed` changes nothing: the shop has no chance in it."""
        self._state = State(self._task_number(task_id))
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": self._observe()}], {"score": 0.0}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action. One that the page does not offer changes nothing, as upstream."""
        before = self._state
        name, argument = parse_action(action)
        anywhere = self._shop.search_anywhere and before.page != "done"
        if name == "search" and (before.page == "start" or anywhere):
            self._state = State(before.task, "results", argument)
        elif name == "click":
            # parse_action has stripped the argument, and some of upstream's option values end with a blank.
            chosen = next((text for text in self._clickables() if text.strip() == argument), None)
            self._state = self._click(chosen) if chosen else before
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
        """The actions that this page offers, one search among them where there is a search bar."""
        if self._state.page == "start":
            return [f"search[{self._goal.keywords}]"]
        return [f"click[{text}]" for text in self._clickables()]

    def gold(self, task_id: str) -> list[str]:
        """A list of actions that solves the task; in the generated shop a shortest one.

        Upstream's matching misses the right options of some goals (7% of the goals of its 1,000 products): there it
        buys the right product with the right options for less than 1. Raises LookupError where the title of the
        product does not find it.
        """
        goal = self.goals[self._task_number(task_id)]
        keywords = _one_line(goal.product.title) if goal.product else goal.keywords
        place = next((i for i, product in enumerate(self.search(keywords)) if goal.is_right(product)), None)
        if place is None:
            raise LookupError(f"the search finds no product for task {task_id}")
        return [
            f"search[{keywords}]",
            *[f"click[{NEXT}]"] * (place // self.page_size),
            f"click[{self.search(keywords)[place].asin}]",
            *(f"click[{value}]" for value in goal.options.values()),
            f"click[{BUY}]",
        ]

    @property
    def _goal(self) -> Goal:
        return self.goals[self._state.task]

    def _task_number(self, task_id: str) -> int:
        if task_id not in self._number:
            raise KeyError(f"there is no task {task_id} in this shop: were its settings (--env-arg) the same?")
        return self._number[task_id]

    def _clickables(self) -> list[str]:
        """What can be clicked on this page, lower case, in upstream's order, each once."""
        state, back, previous = self._state, BACK.lower(), PREV.lower()
        if state.page == "results":
            codes = [product.asin.lower() for product in self._listed()]
            return [back, *([previous] if state.number > 1 else []), NEXT.lower(), *codes]
        if state.page == "item":
            options = [value for values in self._by_code[state.asin].options.values() for value in values]
            return list(dict.fromkeys([back, previous, *(n.lower() for n in SUBPAGES), BUY.lower(), *options]))
        return [back, previous] if state.page in SUBPAGES else []

    def _click(self, text: str) -> State:
        state = self._state
        if text == BACK.lower():
            return State(state.task)
        if text == PREV.lower() and state.page in SUBPAGES:
            return state._replace(page="item")
        if text == PREV.lower() and state.page == "item":
            return state._replace(page="results", asin="", options=())
        if text in (PREV.lower(), NEXT.lower()):
            return state._replace(number=state.number + (1 if text == NEXT.lower() else -1))
        if state.page == "results":
            return state._replace(page="item", asin=text, options=())
        product = self._by_code[state.asin]
        if text == BUY.lower():
            bought = score(product, self._goal, dict(state.options), fuzzy=self._shop.fuzzy)
            return state._replace(page="done", score=bought.reward)
        for name in SUBPAGES:
            if text == name.lower():
                return state._replace(page=name)
        # Where two options have the same value, upstream takes the last.
        option = [name for name, values in product.options.items() if text in values][-1]
        return state._replace(options=tuple((dict(state.options) | {option: text}).items()))

    def _listed(self) -> Sequence[Product]:
        at = (self._state.number - 1) * self.page_size
        return self.search(self._state.keywords)[at : at + self.page_size]

    def _observe(self) -> str:
        state, text = self._state, self._goal.text
        if state.page == "start":
            return start_page(text)
        if state.page == "results":
            items = [(product.asin, product.title, product.price_tag) for product in self._listed()]
            return results_page(text, items, state.number, len(self.search(state.keywords)))
        product = self._by_code[state.asin]
        if state.page == "item":
            return item_page(text, product.title, product.price_tag, product.options)
        if state.page == "done":
            return done_page(product.asin, dict(state.options), state.score)
        if state.page == "Description":
            return sub_page(text, [product.description])
        return sub_page(text, [f" {feature}" for feature in product.features] if state.page == "Features" else [])


def parse_action(text: str) -> tuple[str, str]:
    """(name, lower-case argument) of the last "Action:" line, or of a bare action. ("", "") when there is none."""
    lines = re.findall(r"^\s*Action:[ \t]*(.*?)\s*$", text, re.MULTILINE)
    found = re.fullmatch(r"(search|click)\[(.+)\]", lines[-1] if lines else text.strip())
    return (found[1], found[2].strip().lower()) if found else ("", "")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _check_no_other(settings: Mapping[str, Any]) -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(WebShop).parameters.items()}
    for name, value in settings.items():
        if name != "seed" and value != defaults[name]:
            raise ValueError(f"{name} is a setting of the generated shop and means nothing with data")
