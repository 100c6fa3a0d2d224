"""The notebook runs from its top to its end, on a small folder, without a browser."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("marimo", reason="the notebook needs the extra `notebook`")

from envs.webshop import Expert, Novice, WebShop
from trajkit.exploration.explore import Settings, explore

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs/notebook.py"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[object, ...], dict[str, object]]:
    """(what each cell shows, the names that the cells define)"""
    runs = tmp_path_factory.mktemp("notebook") / "runs"
    shop = WebShop(train_tasks=12)
    explore(runs, shop, Expert(), plans=["initial"], settings=Settings(role="expert", iteration=0))
    how = Settings(role="policy", iteration=1)
    explore(runs, shop, Novice(), plans=["initial", "skip_length"], settings=how)
    spec = importlib.util.spec_from_file_location("notebook", NOTEBOOK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["notebook.py", "--runs", str(runs)])
        outputs, names = module.app.run()
    return outputs, dict(names)


def test_every_cell_runs_and_the_tables_are_filled(ran: tuple[tuple[object, ...], dict[str, object]]) -> None:
    _, names = ran
    for name in ("trajectories", "views", "win_rates", "states", "chosen"):
        assert names[name].height, name  # type: ignore[attr-defined]
    assert "win_rate" in names["views"]["name"].to_list()  # type: ignore[index]


def test_charts_can_be_drawn(ran: tuple[tuple[object, ...], dict[str, object]]) -> None:
    charts = [output for output in ran[0] if hasattr(output, "to_json")]
    assert len(charts) == 2
    for chart in charts:
        assert chart.to_json()


def test_an_example_shows_what_gets_loss_and_its_text_is_never_html(
    ran: tuple[tuple[object, ...], dict[str, object]],
) -> None:
    names = ran[1]
    [row] = names["chosen"].head(1).to_dicts()  # type: ignore[attr-defined]
    shown = str(names["example"])
    assert shown.count("LOSS") == sum(message["weight"] > 0 for message in row["messages"]) > 0
    hostile = {"role": "user", "content": "<script>alert(1)</script>", "tool_calls": None, "weight": 0.0}
    assert "<script>" not in names["shown"](hostile)  # type: ignore[operator]
