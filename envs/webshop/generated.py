"""A shop made from a seed. Its products come in families that differ in brand, price and options, so that goals need
Next, Back to Search, both or neither."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

from envs.webshop.catalogue import Goal, Product, Shop
from envs.webshop.search import Search
from trajkit.exploration.env import Task

TYPES = {
    "shirt": ("Clothing", "Men", "Tops", "Shirts"),
    "jacket": ("Clothing", "Men", "Coats", "Jackets"),
    "sweater": ("Clothing", "Men", "Tops", "Sweaters"),
    "pants": ("Clothing", "Men", "Bottoms", "Pants"),
    "sneakers": ("Clothing", "Men", "Shoes", "Sneakers"),
    "lamp": ("Home & Kitchen", "Lighting", "Lamps"),
    "chair": ("Home & Kitchen", "Furniture", "Chairs"),
    "curtain": ("Home & Kitchen", "Window", "Curtains"),
    "rug": ("Home & Kitchen", "Decor", "Rugs"),
    "brush": ("Beauty", "Hair Care", "Brushes"),
    "towel": ("Beauty", "Bath", "Towels"),
    "speaker": ("Electronics", "Audio", "Speakers"),
    "headphones": ("Electronics", "Audio", "Headphones"),
    "backpack": ("Luggage", "Bags", "Backpacks"),
}
ATTRIBUTES = ("cotton", "slim", "washable", "soft", "light", "classic", "modern", "durable", "compact", "vintage")
COLORS = ("black", "white", "red", "blue", "green", "pink", "grey", "brown", "navy", "purple", "orange", "yellow")
SIZES = ("small", "medium", "large", "x-large", "xx-large")
BRANDS = ("Alder", "Borea", "Corvin", "Delmar", "Elmont", "Farrow", "Galen", "Hollis", "Ivory", "Juno", "Kestrel")


NEEDS = ("nothing", "next", "back", "both")


def generated_shop(settings: Mapping[str, Any]) -> Shop:
    """The shop of WebShop's `settings` (see there). Raises ValueError where they don't fit."""
    _check(settings)
    rng = random.Random(json.dumps(settings))
    page_size = settings["page_size"]
    sizes = {name: settings[name] for name in ("products", "colors", "sizes", "attributes")}
    products = make_catalogue(rng, **sizes, page_size=page_size)
    search = Search(products, [product.text for product in products])
    # The settings are part of what s_0 is, so the ids of two differently made shops never meet.
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:6]
    goals: list[Goal] = []
    tasks: list[Task] = []
    pool = make_goals(products, search, page_size)
    rng.shuffle(pool)
    by_needs = {needs: [goal for goal in pool if goal.needs == needs] for needs in NEEDS}
    for split in ("train", "test"):
        size = settings[f"{split}_tasks"]
        counts = {needs: round(settings[f"{needs}_share"] * size) for needs in NEEDS[1:]}
        counts["nothing"] = size - sum(counts.values())
        chosen: list[Goal] = []
        for needs, count in counts.items():
            if len(by_needs[needs]) < count:
                raise ValueError(
                    f"this catalogue has not enough tasks that need {needs}. Make products larger "
                    f"(now {len(products)}), or train_tasks, test_tasks or {needs}_share smaller"
                )
            chosen += [by_needs[needs].pop() for _ in range(count)]
        rng.shuffle(chosen)
        for number, goal in enumerate(chosen):
            meta = {"needs": goal.needs, "instruction": goal.text, "settings": settings}
            tasks.append(Task(f"webshop-{name}-{split}-{number:04d}", "webshop", split, meta))
            goals.append(goal)
    return Shop(products, tasks, goals, search, page_size)


def make_catalogue(
    rng: random.Random, products: int, colors: int, sizes: int, attributes: int, page_size: int
) -> list[Product]:
    """`products` products in families of one to three result pages that only differ in brand, price and options."""
    kinds = [(kind, words) for kind in TYPES for words in _combinations(rng, attributes)]
    rng.shuffle(kinds)
    found: list[Product] = []
    for kind, words in cycle(kinds):
        if len(found) == products:
            break
        for _ in range(rng.randint(page_size, 3 * page_size)):
            if len(found) == products:
                break
            brand = rng.choice(BRANDS)
            title = " ".join([brand, *(word.title() for word in words), kind.title()])
            options = {"color": _some(rng, COLORS[:colors])} | ({"size": _some(rng, SIZES[:sizes])} if sizes else {})
            digits = "".join(rng.choices("0123456789ABCDEFGHJKLMNPQRSTUVWXYZ", k=8))
            found.append(
                Product(
                    asin=f"B0{digits}",
                    title=title,
                    nouns=(kind,),
                    category=TYPES[kind],
                    query=kind,
                    price=(price := round(rng.uniform(5, 100), 2)),
                    price_tag=f"${price}",
                    attributes=words,
                    options=options,
                    description=f"A {' '.join(words)} {kind} for every day.",
                    features=(f"{' and '.join(words)}", "made to last"),
                )
            )
    rng.shuffle(found)
    return found


def _combinations(rng: random.Random, n: int) -> Iterator[tuple[str, ...]]:
    for _ in range(2 * len(ATTRIBUTES)):
        yield tuple(rng.sample(ATTRIBUTES, n))


def _some(rng: random.Random, values: Sequence[str]) -> tuple[str, ...]:
    """A non-empty part of `values`, about half, in their order."""
    kept = [value for value in values if rng.random() < 0.55]
    return tuple(kept or [rng.choice(values)])


def make_goals(products: Sequence[Product], search: Search[Product], page_size: int) -> list[Goal]:
    """Every goal that some product of the catalogue meets and whose navigation `needs` can name."""
    goals: dict[str, Goal] = {}
    pages: dict[tuple[str, float], list[list[Product]]] = {}
    for product in products:
        limits = [10.0 * i for i in range(1, 12) if 10.0 * i > product.price][:4]
        for options in _choices(product.options):
            for limit in limits:
                wanted = ", and ".join(f"{name}: {value}" for name, value in options.items())
                words = " ".join((*product.attributes, product.query))
                text = f"Find me {words} with {wanted}, and price lower than {limit:.2f} dollars"
                if text in goals:
                    continue
                goal = Goal(text, product.nouns, product.category, product.query, product.attributes, options, limit)
                if (words, limit) not in pages:
                    pages[words, limit] = _fitting_pages(goal, search(words), page_size)
                needs = _needs(goal, pages[words, limit])
                if needs:
                    goals[text] = replace(goal, needs=needs)
    return list(goals.values())


def _choices(options: Mapping[str, tuple[str, ...]]) -> Iterator[dict[str, str]]:
    if not options:
        yield {}
        return
    (name, values), *rest = options.items()
    for value in values:
        for others in _choices(dict(rest)):
            yield {name: value} | others


def _fitting_pages(goal: Goal, results: Sequence[Product], page_size: int) -> list[list[Product]]:
    """Of every page of the results the products that look right."""
    pages = (results[at : at + page_size] for at in range(0, len(results), page_size))
    return [[product for product in page if goal.looks_right(product)] for page in pages]


def _needs(goal: Goal, fitting: Sequence[Sequence[Product]]) -> str | None:
    """Which navigation takes a shopper there who opens the first product that looks right. None: more than that."""
    first, later = fitting[0], [page for page in fitting[1:] if page]
    if first and goal.offered_by(first[0]):
        return "nothing"
    if not first:
        return "next" if later and goal.offered_by(later[0][0]) else None
    if len(first) > 1 and goal.offered_by(first[1]):
        return "back"
    return "both" if len(first) == 1 and later and goal.offered_by(later[0][0]) else None


def _check(settings: Mapping[str, Any]) -> None:
    largest = {"colors": len(COLORS), "sizes": len(SIZES), "attributes": 3, "products": 100_000}
    smallest = {"sizes": 0, "seed": 0, "test_tasks": 0}
    for name, value in settings.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name.endswith("_share"):
            right, wanted = number and 0 <= value <= 1, "a number from 0 to 1"
        else:
            low, high = smallest.get(name, 1), largest.get(name, 2**31)
            right, wanted = number and isinstance(value, int) and low <= value <= high, f"whole, from {low} to {high}"
        if not right:
            raise ValueError(f"{name}={value}: it must be {wanted}")
    if sum(settings[name] for name in ("next_share", "back_share", "both_share")) > 1:
        raise ValueError("next_share, back_share and both_share add up to more than 1")
