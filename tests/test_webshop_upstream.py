"""WebShop over upstream's own files, against episodes played on upstream itself (they lie in the shared data).

What was recorded there with something else than upstream's own parts is not compared: Lucene's ranking (the recorded
results are put in its place, and how far our own search agrees is a test of its own).
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from envs.webshop import WebShop
from envs.webshop.catalogue import Product
from envs.webshop.pages import SEP
from envs.webshop.scoring import score
from envs.webshop.upstream import title_nouns
from trajkit.errors import UsageError
from trajkit.exploration.env import load_env

for package in ("bm25s", "Stemmer", "rapidfuzz"):
    pytest.importorskip(package, reason=f"upstream's shop needs {package}: pip install -e '.[webshop]'")


# --- on upstream's data ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "webshop"


@pytest.fixture(scope="module")
def shop(folder: Path) -> WebShop:
    return WebShop(data=str(folder), prices=str(folder / "prices.json"))


@pytest.fixture(scope="module")
def transcripts(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "upstream_transcripts.json").read_text())  # type: ignore[no-any-return]


def test_a_task_is_upstreams_goal_of_that_index(shop: WebShop, transcripts: list[dict[str, Any]]) -> None:
    for played in transcripts:
        goal, wanted = shop.goals[played["goal_index"]], played["goal"]
        assert goal.text == wanted["instruction_text"]
        assert goal.product is not None and goal.product.asin == wanted["asin"]
        assert (list(goal.attributes), goal.options) == (wanted["attributes"], wanted["goal_options"])
        assert (goal.query, goal.price_upper) == (wanted["query"], wanted["price_upper"])
    tasks = {split: [task.task_id for task in shop.tasks(split)] for split in ("test", "eval", "train", "dev")}
    assert tasks["test"] == [str(n) for n in range(500)] and tasks["eval"] == [str(n) for n in range(500, 1500)]
    assert tasks["train"] == [str(n) for n in range(1500, 6910)] and tasks["dev"] == []


def test_episodes_go_as_they_went_on_upstream(shop: WebShop, transcripts: list[dict[str, Any]]) -> None:
    """Given the same search results: every observation, available action, reward, end and part of the reward."""
    own, steps, bought = shop.search, 0, 0
    for played in transcripts:
        results = recorded_results(played, {product.asin: product for product in shop.products})
        shop.search = lambda keywords, results=results: results[keywords]  # type: ignore[misc]
        messages, _ = shop.reset(str(played["goal_index"]))
        seen = messages[-1]["content"]
        for step in played["steps"]:
            buttons = ["search"] if step["available"]["has_search_bar"] else [a[6:-1] for a in shop.admissible()]
            assert (seen, buttons) == (step["observation"], step["available"]["clickables"])
            state = shop.snapshot()
            seen, reward, terminated, _, info = shop.step(step["action"])
            assert (reward, terminated) == (step["reward"], step["done"])
            steps += 1
        assert seen == played["final_observation"]
        if played["verbose"]:
            bought += 1
            assert info == {"score": reward, "success": reward == 1.0}
            product = next(product for product in shop.products if product.asin.lower() == state.asin)
            parts = score(product, shop.goals[played["goal_index"]], dict(state.options), fuzzy=True)._asdict()
            assert parts | played["verbose"] == parts | {k: v for k, v in played["verbose"].items() if k[:2] == "w_"}
    shop.search = own
    assert (steps, bought) == (837, 111)


def recorded_results(played: Mapping[str, Any], products: Mapping[str, Product]) -> dict[str, list[Any]]:
    """Of each search its results as far as they were shown, None for the others."""
    found: dict[str, list[Any]] = {}
    actions = ["", *(step["action"] for step in played["steps"])]
    observations = [*(step["observation"] for step in played["steps"]), played["final_observation"]]
    keywords = ""
    for action, seen in zip(actions, observations, strict=True):
        searched = re.fullmatch(r"search\[(.+)\]", action)
        keywords = searched[1].strip().lower() if searched else keywords
        heading = re.search(r" Page (\d+) \(Total results: (\d+)\) ", seen)
        if heading:
            listed = [products[text] for text in seen.split(SEP) if text in products]
            at = 10 * (int(heading[1]) - 1)
            found.setdefault(keywords, [None] * int(heading[2]))[at : at + len(listed)] = listed
    return found


def test_search_agrees_with_lucene(shop: WebShop, transcripts: list[dict[str, Any]]) -> None:
    pages = first = same = shared = 0
    products = {product.asin: product for product in shop.products}
    searches = {keywords: r for played in transcripts for keywords, r in recorded_results(played, products).items()}
    for keywords, results in searches.items():
        ours = shop.search(keywords)
        assert len(ours) == len(results)
        if results and results[0] is not None:
            pages += 1
            first += ours[0] is results[0]
            same += ours[:10] == results[:10]
            shared += len({p.asin for p in ours[:10]} & {p.asin for p in results[:10]}) / len(results[:10])
    assert pages == first == 105 and same >= 90 and shared / pages > 0.99


def test_gold_buys_the_right_product(shop: WebShop) -> None:
    solved = []
    for goal in range(0, 6910, 10):
        shop.reset(str(goal))
        for action in shop.gold(str(goal)):
            seen, _, terminated, _, info = shop.step(action)
        assert terminated and f"asin [SEP] {shop.goals[goal].product.asin} [SEP]" in seen  # type: ignore[union-attr]
        solved.append(info["success"])
        assert info["score"] >= 0.6
    assert 0.9 < sum(solved) / len(solved) < 0.96


def test_prices_come_from_the_seed_as_upstream_would_draw_them(folder: Path) -> None:
    """After random.seed(5) upstream draws the prices in the products' order, then the limits."""
    items = json.loads((folder / "items_shuffle_1000.json").read_text())
    random.seed(5)
    price = {}
    for item in items:
        ends = [float(text.strip(" -").replace(",", "")) for text in item["pricing"].split("$") if text.strip()]
        price[item["asin"]] = random.uniform(*ends[:2]) if len(ends) > 1 else ends[0]
    made_of = json.loads((folder / "items_ins_v2_1000.json").read_text())
    upper = {}
    for item in items:
        if made_of.get(item["asin"], {}).get("instruction"):
            above = [10.0 * i for i in range(1, 100) if 10.0 * i > price[item["asin"]]][:4]
            upper[item["asin"]] = sorted(random.sample(above, 2))[1] if len(above) > 1 else 1_000_000
    shop, again, other = (WebShop(data=str(folder), seed=seed) for seed in (5, 5, 6))
    assert {product.asin: product.price for product in shop.products} == price
    assert all(goal.price_upper == upper[goal.product.asin] for goal in shop.goals if goal.product)
    assert shop.goals == again.goals and [t.meta for t in shop.tasks("test")] == [t.meta for t in again.tasks("test")]
    assert [goal.text for goal in shop.goals] != [goal.text for goal in other.goals]
    assert [goal.options for goal in shop.goals] == [goal.options for goal in other.goals]


# --- on a shop made by hand --------------------------------------------------------------------

ITEM = {
    "name": "Alder Standard Shelf",
    "full_description": "Solid wood.",
    "pricing": "$1,000.00",
    "product_category": "Home \u203a Furniture \u203a Shelves",
    "small_description": ["white oak", "", "easy to clean"],
    "customization_options": {
        "Size": [{"value": "Standard"}, {"value": " 2/3 feet "}, {"value": "one"}],
        "Color": [{"value": "Dark Blue"}, {"value": "one"}, {"value": "w/"}],
        "Style": None,
    },
    "asin": "B000000001",
    "category": "garden",
    "query": "Shelves ",
}
OTHERS = [
    ITEM | {"asin": "nan"},
    ITEM | {"asin": "B00000000100"},
    ITEM | {"name": "twice"},
    ITEM | {"asin": "B000000002", "name": "Lamp <b>", "pricing": "$1.50 - $2.50", "customization_options": ""}
    | {"small_description": "bright", "full_description": "", "product_category": "Lamps", "query": "lamps"},
    ITEM | {"asin": "B000000003", "pricing": None, "customization_options": None},
]  # fmt: skip
MADE_OF = {
    "B000000001": {"attributes": ["solid wood"], "instruction": "Find me oak", "instruction_attributes": ["white oak"]},
    "B000000002": {"attributes": [], "instruction": "Find me light", "instruction_attributes": ["bright", "dimmable"]},
}


def write(folder: Path, items: Sequence[Mapping[str, Any]] = (ITEM, *OTHERS)) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "items_shuffle_1000.json").write_text(json.dumps(items))
    (folder / "items_ins_v2_1000.json").write_text(json.dumps(MADE_OF))
    return str(folder)


@pytest.fixture
def small(tmp_path: Path) -> WebShop:
    return WebShop(data=write(tmp_path))


def goal_number(shop: WebShop, **options: str) -> int:
    return next(number for number, goal in enumerate(shop.goals) if goal.options == options)


def play(shop: WebShop, goal: int, *actions: str) -> Iterator[tuple[str, float]]:
    shop.reset(str(goal))
    for action in actions:
        seen, reward, *_ = shop.step(action)
        yield seen, reward


def test_products_and_goals_of_dirty_files(small: WebShop) -> None:
    assert [product.asin for product in small.products] == ["B000000001", "B000000002", "B000000003"]
    shelf, lamp, plain = small.products
    assert shelf.options == {"size": ("standard", "2 | 3 feet", "one"), "color": ("dark blue", "one", "w | ")}
    assert (shelf.price, shelf.price_tag, shelf.query) == (1000.0, "$1000.0", "shelves")
    assert 1.5 <= lamp.price <= 2.5 and lamp.price_tag == "$1.5 to $2.5" and lamp.features == ("bright",)
    assert (plain.price, plain.price_tag, plain.attributes, plain.options) == (100.0, "$100.0", (), {})
    assert len(small.goals) == 3 * 3 + 1
    # No two multiples of 10 between 1,000 and 1,000: no limit. The options go by their names.
    assert "Find me oak with color: dark blue, and size: standard" in {goal.text for goal in small.goals}
    assert re.fullmatch(r"Find me light, and price lower than [1-4]0\.00 dollars", small.goals[goal_number(small)].text)


def test_pages_of_odd_products(small: WebShop) -> None:
    goal = goal_number(small, color="dark blue", size="standard")
    shelf = "B000000001"
    seen = [
        page
        for page, _ in play(
            small, goal, "search[shelf]", f"click[{shelf}]", "click[features]", "click[< Prev]", "search[lamp]",
            "click[b000000002]", "click[Description]", "click[Back to Search]", "click[Reviews]",
        )
    ]  # fmt: skip
    head = f"Instruction: [SEP] {small.goals[goal].text} [SEP] Back to Search"
    assert seen[0].startswith(f"{head} [SEP] Page 1 (Total results: 2) [SEP] Next > [SEP] ")
    assert sorted(re.findall(r"(B\d+) \[SEP\] Alder Standard Shelf \[SEP\] (\$[\d.]+)", seen[0])) == [
        ("B000000001", "$1000.0"),
        ("B000000003", "$100.0"),
    ]
    assert "size [SEP] standard [SEP] 2 | 3 feet [SEP] one [SEP] color [SEP] dark blue [SEP] one [SEP] w |" in seen[1]
    assert seen[2] == f"{head} [SEP] < Prev [SEP] white oak [SEP]  [SEP] easy to clean"  # upstream shows it so
    assert seen[3] == seen[1]
    assert seen[4].endswith("B000000002 [SEP] Lamp <b> [SEP] $1.5 to $2.5")  # a search needs no search bar
    assert seen[6] == f"{head} [SEP] < Prev"
    assert seen[7] == seen[8] == f"WebShop [SEP] Instruction: [SEP] {small.goals[goal].text} [SEP] Search"


@pytest.mark.parametrize(
    ("wanted", "clicked", "options_met"),
    [
        ({"color": "dark blue", "size": "2 | 3 feet"}, ["dark blue", "2 | 3 feet"], 2),
        ({"color": "dark blue", "size": "standard"}, ["dark blue", "standard"], 1),  # it holds "tan"
        ({"color": "w | ", "size": "2 | 3 feet"}, ["w |", "2 | 3 feet"], 2),
        ({"color": "one", "size": "2 | 3 feet"}, ["one"], 1),  # the later of two equal values: the color
        ({"color": "one", "size": "one"}, ["one"], 2),  # and it is taken for both
        ({"color": "one", "size": "one"}, [], 0),
    ],
)
def test_options_match_as_upstreams_do(
    small: WebShop, wanted: dict[str, str], clicked: list[str], options_met: int
) -> None:
    clicks = [f"click[{value}]" for value in clicked]
    *_, (seen, reward) = play(
        small, goal_number(small, **wanted), "search[shelf]", "click[B000000001]", *clicks, "click[Buy Now]"
    )
    assert reward == (1 + options_met + 1) / 4
    assert SEP + str(reward) + SEP in seen


def test_attributes_match_fuzzily_or_in_the_texts(small: WebShop) -> None:
    shelf, lamp, _ = small.products
    goal = small.goals[goal_number(small)]
    assert score(lamp, goal, {}, fuzzy=True).r_att == 0.5  # "bright" is a feature, "dimmable" is nowhere
    assert score(shelf, goal, {}, fuzzy=True) == (0.0, 0.0, 0.0, None, False, False, False, 0.0)
    wood = small.goals[goal_number(small, color="one", size="one")]
    for wanted, met in (("solid wood", 1), ("wood solid", 1), ("woods solid", 1), ("solid", 1), ("wooden", 0)):
        changed = type(wood)(**{**vars(wood), "attributes": (wanted,)})
        assert score(shelf, changed, {}, fuzzy=True).r_att == met, wanted


def test_title_nouns() -> None:
    assert title_nouns("Men's T-Shirt, 3 Pack for Boys with 42mm Logo") == (
        "men's", "t", "shirt", "pack", "boys", "mm", "logo",
    )  # fmt: skip


def test_prices_from_a_file(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    prices = {"B000000001": 5.0, "B000000002": 2, "B000000003": 7.5}
    (tmp_path / "prices.json").write_text(json.dumps({"prices": prices, "price_upper": [20.0] * 9 + [1_000_000]}))
    shop = WebShop(data=data, prices=str(tmp_path / "prices.json"))
    assert [product.price for product in shop.products] == [5.0, 2, 7.5]
    assert [goal.text.endswith(", and price lower than 20.00 dollars") for goal in shop.goals] == [True] * 9 + [False]
    (tmp_path / "prices.json").write_text(json.dumps({"prices": prices}))
    drawn = WebShop(data=data, prices=str(tmp_path / "prices.json"), seed=3)
    assert {goal.price_upper for goal in drawn.goals} <= {20.0, 30.0, 40.0}


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ("[]", "it must be"),
        ("{", "cannot be read as JSON"),
        ('{"prices": {"B000000001": 5}}', "no price of B000000002 and 1 more"),
        ('{"prices": {"B000000001": 5, "B000000002": 5, "B000000003": 5}, "price_upper": [1]}', "1 limits.* 10 goals"),
        ('{"prices": {"B000000001": 5, "B000000002": 5, "B000000003": 5}, "price_upper": 3}', "must be a list"),
    ],
)
def test_wrong_prices_are_refused(tmp_path: Path, prices: str, message: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(prices)
    with pytest.raises(UsageError, match=message):
        WebShop(data=write(tmp_path / "data"), prices=str(path))


def test_wrong_folders_and_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"one items_shuffle\*\.json in that folder, and there is none"):
        load_env("envs.webshop:WebShop", {"data": str(tmp_path / "nowhere")})
    data = write(tmp_path)
    with pytest.raises(UsageError, match=r"no_such.json cannot be read"):
        load_env("envs.webshop:WebShop", {"data": data, "prices": str(tmp_path / "no_such.json")})
    with pytest.raises(UsageError, match="colors is a setting of the generated shop"):
        load_env("envs.webshop:WebShop", {"data": data, "colors": 3})
    with pytest.raises(UsageError, match="name their folder with data"):
        load_env("envs.webshop:WebShop", {"prices": "prices.json"})
    (tmp_path / "items_shuffle.json").write_text("[]")
    with pytest.raises(UsageError, match=r"there is items_shuffle.json, items_shuffle_1000.json"):
        load_env("envs.webshop:WebShop", {"data": data})


@pytest.mark.parametrize("package", ["bm25s", "Stemmer", "rapidfuzz"])
def test_without_the_extra_it_says_so(tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"needs the package {package}: pip install -e '.\[webshop\]'"):
        load_env("envs.webshop:WebShop", {"data": write(tmp_path)})
