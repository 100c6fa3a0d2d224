"""Outcomes as logs write them: rewards that are truths, or numbers as text."""

from __future__ import annotations

import re
from typing import Any

from trajkit.errors import BadRecord

TRUTH = "have true or false as their reward, which was read as a verdict (`success`)"
TEXT = "have their reward as text, which was read as a number"
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def outcome(reward: Any, success: Any, notes: set[str]) -> tuple[Any, Any]:
    """(reward, success), of which a reward of true or false is the verdict and one that is a number as text a number.

    Anything else is left as it is, for `records.record` to judge. `notes` gets what the user should know of it. Raises
    BadRecord where such a reward contradicts `success`.
    """
    if isinstance(reward, bool):
        if success is not None and success is not reward:
            raise BadRecord("its reward and its success contradict each other")
        notes.add(TRUTH)
        return None, reward
    if isinstance(reward, str) and len(reward) < 400 and _NUMBER.fullmatch(reward):
        notes.add(TEXT)
        return float(reward), success
    return reward, success
