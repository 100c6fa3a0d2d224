"""Products, goals, and what a shop is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from envs.webshop.search import words
from trajkit.exploration.env import Task


@dataclass(frozen=True)
class Product:
    """One product. `nouns` are the title's nouns, lower case, and `category` its levels: types are compared by them."""

    asin: str
    title: str
    nouns: tuple[str, ...]
    category: tuple[str, ...]
    query: str
    price: float  # dollars: what is paid
    price_tag: str  # what the pages show; of some of upstream's products a range
    attributes: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    description: str = ""
    features: tuple[str, ...] = ()

    @cached_property
    def text(self) -> str:
        """Everything that is written about it, lower case: where the reward looks for attributes."""
        return "\n".join((self.title, " ".join(self.features), self.description)).lower()


@dataclass(frozen=True)
class Goal:
    """What to buy. `product` is the one it was made from; None: any that fits."""

    text: str
    nouns: tuple[str, ...]
    category: tuple[str, ...]
    query: str
    attributes: tuple[str, ...]
    options: Mapping[str, str]
    price_upper: float
    needs: str = "nothing"  # the navigation it takes in a generated shop: nothing, next, back or both
    product: Product | None = None

    @property
    def keywords(self) -> str:
        """The words that a shopper types first."""
        return " ".join((*self.attributes, self.query))

    def looks_right(self, product: Product) -> bool:
        """Whether it looks like the wanted one in the results: by title and price. The options aren't shown there."""
        title = words(product.title)
        return product.price <= self.price_upper and all(word in title for word in words(self.keywords))

    def offered_by(self, product: Product) -> bool:
        """Whether it comes with all the wanted options."""
        return all(value in product.options.get(name, ()) for name, value in self.options.items())

    def is_right(self, product: Product) -> bool:
        """Whether it is the one to buy."""
        return product is self.product if self.product else self.looks_right(product) and self.offered_by(product)


@dataclass(frozen=True)
class Shop:
    """Products, goals (one for each task, in their order), the search, and where the two shops differ."""

    products: Sequence[Product]
    tasks: Sequence[Task]
    goals: Sequence[Goal]
    search: Callable[[str], Sequence[Product]]  # keywords -> the best products, best first
    page_size: int  # products on a page of results
    fuzzy: bool = False  # whether attributes and options match as upstream's do
    search_anywhere: bool = False  # whether a search needs no search bar
