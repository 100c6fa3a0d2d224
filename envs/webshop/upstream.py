"""WebShop itself: the shop of upstream's own files (web_agent_site/data, see upstream's setup.sh).

    items_shuffle*.json   the products
    items_ins_v2*.json    their attributes, and what the instructions are made of

These are upstream's synthetic goals: one for each product that has an instruction and each combination of its options.
A goal's index, and so the task's id, is its place after upstream's shuffle (seed 233).

Upstream draws two things from a generator without a seed, so that its rewards differ from process to process: the price
of a product that has a range, and every instruction's price limit. Here they come from `seed`, in upstream's order, or
from a file: {"prices": {asin: dollars}, "price_upper": [dollars, of goal 0, 1, ...]}.

The title's nouns are found by spaCy's tagger upstream. Here they are all of its words without digits, except those of
a short list: most words of such titles are nouns, or tagged as names because they are capitalised. (Fitted to episodes
recorded with a tagger by rules; how often spaCy would say otherwise was not measured.)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.webshop.catalogue import Goal, Product, Shop
from envs.webshop.search import LuceneSearch, words
from trajkit.errors import UsageError
from trajkit.exploration.env import Task

SPLITS = (("test", 500), ("eval", 1500))  # (name, the first index that is no more in it); all others are train
PAGE_SIZE = 10
NO_LIMIT = 1_000_000.0
NO_NOUNS = frozenset(
    words(
        "a all an and any are as at be but by can each every for from had has have i if in into is it its most more "
        "my no not of off on only or other our out over per so such than that the their then there these they this to "
        "under up very was we when where which who will with without you your"
    )
)


@dataclass(frozen=True)
class Prices:
    """The prices that were drawn. `limits` are of the goals in their order; None: not drawn yet."""

    of: Mapping[str, float]
    limits: list[float] | None


def upstream_shop(data: str, prices: str | None, seed: int) -> Shop:
    """The shop of the files in the folder `data`. Raises UsageError where they or the extra `webshop` are missing."""
    items = _json(_the_file(data, "items_shuffle*.json"))
    made_of = _json(_the_file(data, "items_ins_v2*.json"))
    rng = random.Random(seed)
    drawn = _read_prices(prices, items) if prices else Prices(draw_prices(rng, items), None)
    products = [_product(item, made_of, drawn.of) for item in _usable(items)]
    goals = _goals(products, made_of, rng, drawn.limits)
    source = f"sha256 {hashlib.sha256(Path(prices).read_bytes()).hexdigest()[:12]}" if prices else f"seed {seed}"
    tasks = [
        Task(str(number), "webshop", _split(number), {"instruction": goal.text, "prices": source})
        for number, goal in enumerate(goals)
    ]
    try:
        import rapidfuzz  # noqa: F401  (the reward needs it: better said now than at the first purchase)

        search = LuceneSearch(products, [_searched(product) for product in products])
    except ModuleNotFoundError as error:
        raise UsageError(f"upstream's shop needs the package {error.name}: pip install -e '.[webshop]'") from error
    return Shop(products, tasks, goals, search, PAGE_SIZE, fuzzy=True, search_anywhere=True)


def _split(number: int) -> str:
    return next((name for name, end in SPLITS if number < end), "train")


# --- files -------------------------------------------------------------------------------------


def _the_file(folder: str, pattern: str) -> Path:
    found = sorted(Path(folder).glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UsageError(f"data={folder}: there must be one {pattern} in that folder, and there is {names}.")
    return found[0]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from error


def _read_prices(path: str, items: Iterable[Mapping[str, Any]]) -> Prices:
    read = _json(Path(path))
    prices = read.get("prices") if isinstance(read, dict) else None
    if not isinstance(prices, dict):
        raise UsageError(f'prices={path}: it must be {{"prices": {{asin: dollars}}, "price_upper": [dollars, ...]}}.')
    missing = [item["asin"] for item in _usable(items) if item["asin"] not in prices]
    if missing:
        raise UsageError(f"prices={path}: it has no price of {missing[0]} and {len(missing) - 1} more products.")
    limits = read.get("price_upper")
    if limits is not None and not isinstance(limits, list):
        raise UsageError(f"prices={path}: price_upper must be a list, of goal 0, 1, ...")
    return Prices(prices, limits)


def _usable(items: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Those with a code that is one, each once."""
    seen: set[str] = set()
    for item in items:
        if item["asin"] != "nan" and len(item["asin"]) <= 10 and item["asin"] not in seen:
            seen.add(item["asin"])
            yield item


# --- products ----------------------------------------------------------------------------------


def draw_prices(rng: random.Random, items: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The price of every product; where it has a range, one within it."""
    prices = {}
    for item in _usable(items):
        amounts = _amounts(item)
        prices[item["asin"]] = rng.uniform(*amounts[:2]) if len(amounts) > 1 else amounts[0]
    return prices


def _amounts(item: Mapping[str, Any]) -> list[float]:
    if not item.get("pricing"):
        return [100.0]
    return [float(re.sub(r"[^\d.]", "", text)) for text in item["pricing"].split("$")[1:]]


def _product(item: Mapping[str, Any], made_of: Mapping[str, Any], prices: Mapping[str, float]) -> Product:
    features = item["small_description"]
    options = (item["customization_options"] or {}).items()
    return Product(
        asin=item["asin"],
        title=item["name"],
        nouns=title_nouns(item["name"]),
        category=tuple(level.strip() for level in item["product_category"].split("\u203a")),
        query=item["query"].lower().strip(),
        price=prices[item["asin"]],
        price_tag=" to ".join(f"${amount}" for amount in _amounts(item)[:2]),
        attributes=tuple(made_of.get(item["asin"], {}).get("attributes", ())),
        options={name.lower(): _values(values) for name, values in options if values is not None},
        description=item["full_description"],
        features=tuple(features) if isinstance(features, list) else (features,),
    )


def _values(values: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(value["value"].strip().replace("/", " | ").lower() for value in values)


def title_nouns(title: str) -> tuple[str, ...]:
    """What stands for the nouns of a title, lower case, a repeated one repeated."""
    found = re.findall(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*", title.lower())
    return tuple(word for word in found if word not in NO_NOUNS)


def _searched(product: Product) -> str:
    """The text that upstream indexes: of the features only the first."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    return " ".join((product.title, product.description, *product.features[:1], options))


# --- goals -------------------------------------------------------------------------------------


def _goals(
    products: Iterable[Product], made_of: Mapping[str, Any], rng: random.Random, limits: list[float] | None
) -> list[Goal]:
    """The goals, shuffled as upstream shuffles them, with their price limits."""
    wanted: list[tuple[Product, dict[str, str], float]] = []
    for product in products:
        if made_of.get(product.asin, {}).get("instruction") is None:
            continue
        limit = draw_limit(rng, product.price)  # one for all goals of the product
        names = sorted(product.options)
        choices = itertools.product(*(product.options[name] for name in names))
        wanted += [(product, dict(zip(names, values, strict=True)), limit) for values in choices]
    random.Random(233).shuffle(wanted)
    if limits is not None and len(limits) != len(wanted):
        raise UsageError(f"price_upper has {len(limits)} limits, but these products make {len(wanted)} goals.")
    return [
        _goal(product, made_of[product.asin], options, float(limits[number] if limits else drawn))
        for number, (product, options, drawn) in enumerate(wanted)
    ]


def _goal(product: Product, wording: Mapping[str, Any], options: Mapping[str, str], limit: float) -> Goal:
    chosen = ", and ".join(f"{name}: {value}" for name, value in options.items())
    below = f", and price lower than {limit:.2f} dollars" if limit < NO_LIMIT else ""
    return Goal(
        text=wording["instruction"] + (f" with {chosen}" if chosen else "") + below,
        nouns=product.nouns,
        category=product.category,
        query=product.query,
        attributes=tuple(wording["instruction_attributes"]),
        options=options,
        price_upper=limit,
        product=product,
    )


def draw_limit(rng: random.Random, price: float) -> float:
    """The larger of two of the next four multiples of 10 dollars. Where there are no two below 1,000: no limit."""
    above = [limit for limit in (10.0 * i for i in range(1, 100)) if limit > price][:4]
    return max(rng.sample(above, 2)) if len(above) >= 2 else NO_LIMIT
