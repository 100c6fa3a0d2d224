"""Hypothesis profiles and the fixtures that several tests share.

HYPOTHESIS_PROFILE=dev       (default) a minute for everything
HYPOTHESIS_PROFILE=ci        the same examples every time, more of them
HYPOTHESIS_PROFILE=thorough  as many as one has patience for
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import Forks
from hypothesis import HealthCheck, settings

_SLOW_BUT_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile("dev", max_examples=10, deadline=None, suppress_health_check=_SLOW_BUT_FINE)
settings.register_profile(
    "ci", max_examples=60, deadline=None, suppress_health_check=_SLOW_BUT_FINE, derandomize=True, print_blob=True
)
settings.register_profile(
    "thorough", max_examples=1000, deadline=None, suppress_health_check=_SLOW_BUT_FINE, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_runtest_setup() -> None:
    os.environ.pop("COLUMNS", None)  # readline sets it for the processes of `pytest -n`: output would be wrapped there
    os.environ.pop("PYTHONUNBUFFERED", None)  # it would hide what waits in a buffer, and users do not set it


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real logs (TRAJKIT_DATA, else ../shared/data beside the checkout); skips where there is none."""
    checkout = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("TRAJKIT_DATA") or checkout.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set TRAJKIT_DATA to the folder that holds it")
    return folder


@pytest.fixture
def forks() -> Iterator[Callable[[Callable[..., Any]], Forks]]:
    """Makes `Forks` of a function, which end with the test."""
    made: list[Forks] = []

    def make(function: Callable[..., Any]) -> Forks:
        made.append(Forks(function))
        return made[-1]

    yield make
    for one in made:
        one.close()
