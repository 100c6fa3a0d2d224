"""The pages: upstream's text observations, its visible texts joined with " [SEP] "."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

SEP = " [SEP] "
BACK, PREV, NEXT, BUY = "Back to Search", "< Prev", "Next >", "Buy Now"
SUBPAGES = ("Description", "Features", "Reviews")


def _page(texts: Iterable[str]) -> str:
    """The visible texts, joined. As upstream, one that is empty, or blanks with a line break, leaves no trace."""
    return SEP.join(text.strip() for text in texts if text and (text.strip() or "\n" not in text))


def _tojson(options: Mapping[str, str]) -> str:
    """As Flask's filter of that name writes it, which takes no chances with HTML."""
    text = json.dumps(options, sort_keys=True)
    for sign in "<>&'":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def start_page(instruction: str) -> str:
    """The page with the search bar."""
    return _page(("WebShop", "Instruction:", instruction, "Search"))


def results_page(instruction: str, items: Iterable[tuple[str, str, str]], page: int, total: int) -> str:
    """One page of results; `items` are (asin, title, price tag). Next is there on the last page too, as upstream."""
    buttons = (PREV, NEXT) if page > 1 else (NEXT,)
    listed = (text for item in items for text in item)
    return _page(("Instruction:", instruction, BACK, f"Page {page} (Total results: {total})", *buttons, *listed))


def item_page(instruction: str, title: str, price: str, options: Mapping[str, Sequence[str]]) -> str:
    """A product's page. It does not show which options have been chosen: upstream's text does not either."""
    listed = (text for name, values in options.items() for text in (name, *values))
    return _page(
        ("Instruction:", instruction, BACK, PREV, *listed, title, f"Price: {price}", "Rating: N.A.", *SUBPAGES, BUY)
    )


def sub_page(instruction: str, texts: Iterable[str]) -> str:
    """A product's description, features or reviews."""
    return _page(("Instruction:", instruction, BACK, PREV, *texts))


def done_page(asin: str, options: Mapping[str, str], score: float) -> str:
    """The page after Buy Now."""
    unsaid = SEP.join(f"{name}{SEP}None" for name in ("attrs", "category", "query", "product category"))
    wanted = ("asin", "options", "attrs", "price upper", "instuction text", "category", "product category", "query")
    parts = (
        "Thank you for shopping with us!", "Your code:", "None", "(Paste it in your MTurk interface.)", "Purchased",
        "asin", asin, "options", _tojson(options), unsaid, "Target", *wanted, "Goal", "None",
        "Reward", "Your score (min 0.0, max 1.0)", str(score), "Reward Details", "None",
    )  # fmt: skip
    return _page(parts)
