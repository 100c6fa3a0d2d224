"""Two shoppers by script, for the generated shop: they read its pages and its wording of instructions."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from envs.webshop.env import parse_action
from envs.webshop.pages import BACK, BUY, NEXT, PREV, SEP, SUBPAGES
from envs.webshop.search import words
from trajkit.messages import Message, is_action


@dataclass(frozen=True)
class Seen:
    """A page as a shopper reads it. `items` of a results page are (code, title, price)."""

    kind: str  # start, results, item, sub or done
    number: int = 1
    total: int = 0
    items: tuple[tuple[str, str, float], ...] = ()
    title: str = ""
    price: float = 0.0
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Wish:
    """An instruction as a shopper reads it."""

    keywords: str
    options: Mapping[str, str]
    limit: float

    def fits(self, title: str, price: float) -> bool:
        """Whether a product looks right by title and price."""
        return price <= self.limit and set(words(self.keywords)) <= set(words(title))


@lru_cache(maxsize=4096)
def read_page(observation: str) -> tuple[Wish | None, Seen]:
    """An observation as instruction (None on the last page) and page. Raises ValueError where it is no such page."""
    texts = observation.split(SEP)
    if texts[0].startswith("Thank you"):
        return None, Seen("done")
    if texts[0] == "WebShop" and len(texts) == 4:
        return read_wish(texts[2]), Seen("start")
    if texts[0] != "Instruction:" or texts[2:3] != [BACK]:
        raise ValueError(f"not a page of WebShop: {observation[:80]!r}")
    wish, rest = read_wish(texts[1]), texts[3:]
    heading = re.fullmatch(r"Page (\d+) \(Total results: (\d+)\)", rest[0])
    if heading:
        listed = rest[rest.index(NEXT) + 1 :]
        items = tuple((listed[i], listed[i + 1], float(listed[i + 2][1:])) for i in range(0, len(listed), 3))
        return wish, Seen("results", int(heading[1]), int(heading[2]), items)
    if rest[-1] != BUY:
        return wish, Seen("sub")
    at = next(i for i, text in enumerate(rest) if text.startswith("Price: $"))
    options: dict[str, list[str]] = {}
    for text in rest[1 : at - 1]:
        if text in ("color", "size"):
            options[text] = values = []
        elif not options:
            raise ValueError(f"not an item of the generated shop: {observation[:80]!r}")
        else:
            values.append(text)
    offered = tuple((name, tuple(values)) for name, values in options.items())
    return wish, Seen("item", title=rest[at - 1], price=float(rest[at][len("Price: $") :]), options=offered)


def read_wish(instruction: str) -> Wish:
    """The instruction's parts. Raises ValueError where it is not worded as here."""
    found = re.fullmatch(r"Find me (.+?)(?: with (.+?))?, and price lower than ([\d.]+) dollars", instruction)
    if not found:
        raise ValueError(f"not an instruction of this shop: {instruction[:80]!r}")
    pairs = (pair.split(": ", 1) for pair in (found[2] or "").split(", and ") if pair)
    return Wish(found[1], dict(pairs), float(found[3]))


@dataclass
class History:
    """What a conversation says so far: the page now, and what was done to get here."""

    wish: Wish
    page: Seen
    code: str = ""  # of the product that is open
    chosen: dict[str, str] = field(default_factory=dict)
    visited: dict[str, Seen] = field(default_factory=dict)  # products opened so far, by code
    actions: list[tuple[str, str]] = field(default_factory=list)


def read_history(messages: Sequence[Message]) -> History:
    """Read a whole conversation. Raises ValueError where it does not start with a page of this shop."""
    history: History | None = None
    action = ("", "")
    for message in messages:
        if is_action(message):
            action = parse_action(message["content"] or "")
            if history:
                history.actions.append(action)
        elif message["role"] == "user":
            wish, page = read_page(message["content"])
            if history is None:
                if wish is None:
                    raise ValueError("the conversation starts on the last page")
                history = History(wish, page)
                continue
            before, history.page = history.page, page
            if before.kind == "results" and page.kind == "item":
                history.code, history.chosen = action[1], {}
                history.visited.setdefault(action[1], page)
            elif before.kind == "item" and page.kind == "item":
                history.chosen |= {name: action[1] for name, values in page.options if action[1] in values}
    if history is None:
        raise ValueError("the conversation has no observation")
    return history


def _say(action: str, thought: str = "") -> Message:
    return {"role": "assistant", "content": f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"}


def _buy(history: History, wrong: str = "") -> str:
    """The next action of buying the product that is open; of the option `wrong` it takes another value or none."""
    for name, values in history.page.options:
        if name not in history.chosen:
            wanted = history.wish.options.get(name, "")
            others = [value for value in values if value != wanted]
            if name == wrong and not others:
                break
            return f"click[{others[0] if name == wrong or wanted not in values else wanted}]"
    return f"click[{BUY}]"


class Novice:
    """Searches, opens the first product that looks right, buys it. Never clicks Next, Prev or Back to Search.

    Where no product on the page looks right it takes the first, and of options that are missing the first.
    Now and then (`slip` of its rollouts) it opens another product than it should.
    """

    actor = "novice"

    def __init__(self, slip: float = 0.08) -> None:
        self.slip = slip

    def act(self, messages: list[Message], *, seed: int) -> Message:
        """One action."""
        history = read_history(messages)
        page, wish = history.page, history.wish
        if page.kind == "start":
            return _say(f"search[{wish.keywords}]")
        if page.kind == "results":
            new = [item for item in page.items if item[0].lower() not in history.visited]
            fitting = [item for item in new if wish.fits(item[1], item[2])]
            if not page.items:
                return _say(f"click[{BACK}]")
            if random.Random(f"{seed} slip").random() < self.slip:
                return _say(f"click[{page.items[-1][0]}]")
            return _say(f"click[{(fitting or new or page.items)[0][0]}]")
        return _say(_buy(history) if page.kind == "item" else f"click[{PREV}]")


class Expert:
    """Thinks, navigates (Next, Back to Search, Prev, another search) and still fails two times out of three.

    What it gets wrong in an episode is drawn from the instruction and the seed: it may open a product that
    does not fit and come back, look past a page that has the right one, buy a product that does not fit or
    take a wrong option. So its failures hold both what a weaker agent lacks and what it must not learn,
    as GPT-4's do (Exploring Expert Failures, arXiv:2504.13145).
    """

    actor = "scripted-expert"

    def act(self, messages: list[Message], *, seed: int) -> Message:
        """One thought and one action."""
        history = read_history(messages)
        rng = random.Random(f"{seed} {history.wish}")
        wanders, overlooks, patient, inspects = (rng.random() < share for share in (0.45, 0.2, 0.85, 0.15))
        mistake = rng.choices(("none", "product", "option"), (0.4, 0.26, 0.34))[0]
        page, wish = history.page, history.wish
        if page.kind == "start":
            return self._search(history)
        if page.kind == "results":
            return self._results(history, wanders, overlooks, patient, mistake)
        if page.kind != "item":
            return _say(f"click[{PREV}]", "Nothing more to learn here.")
        if not wish.fits(page.title, page.price) and wanders and len(self._misfits(history)) == 1:
            way = f"click[{rng.choice((BACK, BACK, PREV))}]"
            return _say(way, "This is not what was asked for. I go back and look for another one.")
        missing = [name for name, values in page.options if wish.options.get(name, "") not in values]
        if missing and wish.fits(page.title, page.price) and patient:
            way = f"click[{rng.choice((BACK, PREV))}]"
            return _say(way, f"It does not come in the {missing[0]} I need. I go back.")
        if inspects and SUBPAGES[1] in self._buttons(messages) and ("click", "features") not in history.actions:
            return _say(f"click[{SUBPAGES[1]}]", "Let me check its features.")
        careless = mistake == "option" or (mistake == "product" and wish.fits(page.title, page.price))
        wrong = page.options[0][0] if careless else ""
        return _say(_buy(history, wrong), "This one will do." if history.chosen else "I choose its options and buy it.")

    def _search(self, history: History) -> Message:
        if any(name == "search" for name, _ in history.actions):
            words = " ".join((history.wish.keywords, *history.wish.options.values()))
            return _say(f"search[{words}]", "I search again, with the options in it.")
        return _say(f"search[{history.wish.keywords}]", "I search for it.")

    def _results(self, history: History, wanders: bool, overlooks: bool, patient: bool, mistake: str) -> Message:
        page, wish = history.page, history.wish
        new = [item for item in page.items if item[0].lower() not in history.visited]
        fitting = [item for item in new if wish.fits(item[1], item[2])]
        misfits = [item for item in new if not wish.fits(item[1], item[2])]
        turned = ("click", NEXT.lower()) in history.actions
        more = page.number * max(1, len(page.items)) < page.total
        if not page.items or (overlooks and turned and not fitting and page.number == 2):
            return _say(f"click[{BACK}]", "This leads nowhere. I start over.")
        if fitting and overlooks and not turned and more:
            return _say(f"click[{NEXT}]", "Maybe the next page has better ones.")
        if fitting and misfits and wanders and not history.visited:
            return _say(f"click[{misfits[0][0]}]", "This one looks interesting.")
        if fitting and misfits and mistake == "product":
            return _say(f"click[{misfits[-1][0]}]", "This one is close enough.")
        if fitting:
            return _say(f"click[{fitting[0][0]}]", "This one fits by its title and price.")
        if more and patient and page.number < 6:
            return _say(f"click[{NEXT}]", "None of these fits. I look at the next page.")
        return _say(f"click[{(new or page.items)[0][0]}]", "None of these fits, so I take the first.")

    def _misfits(self, history: History) -> list[Seen]:
        return [seen for seen in history.visited.values() if not history.wish.fits(seen.title, seen.price)]

    def _buttons(self, messages: Sequence[Message]) -> list[str]:
        return str(messages[-1]["content"]).split(SEP)
