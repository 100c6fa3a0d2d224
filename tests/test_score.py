"""The step reward model as the scorer, on the tiny shop: from step rewards to a model to step rewards again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: make setup-train")
transformers = pytest.importorskip("transformers", reason="needs transformers: make setup-train")

from envs.webshop import TinyExpert, TinyShop  # noqa: E402
from train import scratch, trainer  # noqa: E402
from train.score import name_of, score  # noqa: E402
from train.settings import Scratch, Train  # noqa: E402
from trajkit.engines.duckdb import DuckDBEngine  # noqa: E402
from trajkit.errors import UsageError  # noqa: E402
from trajkit.exploration.explore import Settings, explore  # noqa: E402
from trajkit.rules import missing_rollouts, plan  # noqa: E402
from trajkit.selection.dataset import kind, read  # noqa: E402
from trajkit.selection.select import select  # noqa: E402

CHECKOUT = Path(__file__).resolve().parents[1]
TRAIN = Train(lr=3e-3, steps=60, batch=16, context=256, row_tokens=1024, backend="plain")


class Careless(TinyExpert):
    """A policy that loses to the expert now and then."""

    actor = "careless"

    def __init__(self) -> None:
        super().__init__(easy=0.7, hard=0.95, wanders=0.6)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/ with experts and rollouts from each of their states, and reward/model, trained on what came of them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    env = TinyShop(train_tasks=30, test_tasks=1)
    explore(folder / "runs", env, TinyExpert(), plans=["initial"], settings=Settings("expert", 0))
    policy = Settings("policy", 1, seed=1)
    explore(folder / "runs", env, Careless(), plans=["initial", "every_step"], settings=policy)
    select(folder / "runs", folder / "values.parquet", "step_rewards", {"iteration": 1})
    texts = sorted({m["content"] for example in read(folder / "values.parquet") for m in example["messages"]})
    scratch.make(folder / "base", texts, Scratch(vocabulary=300, hidden=32, layers=2, heads=2, context=256))
    trainer.train(folder / "values.parquet", folder / "base", folder / "reward", TRAIN, show=False)
    return folder


def asked(world: Path) -> list[dict[str, Any]]:
    """What the plans ask for that this model has not predicted."""
    with DuckDBEngine(world / "runs", {"iteration": 1, "n": 1, "scorer": "reward"}) as runs:
        return runs.rows(missing_rollouts([plan("score_expert"), plan("score_policy")]))


def test_predictions_stand_in_for_rollouts(world: Path) -> None:
    assert kind(world / "values.parquet") == "values"
    wanted = asked(world)
    assert {row["parent_id"] for row in wanted} and len(wanted) > 50
    counts = score(world / "runs", world / "reward/model", 1)
    assert counts == {"predicted": len(wanted)} and asked(world) == []
    with DuckDBEngine(world / "runs", {"iteration": 1, "n": 1, "scorer": "reward"}) as runs:
        rows = runs.rows("SELECT * FROM trajectories WHERE role = 'scorer'")
        rewards = runs.rows("SELECT * FROM step_rewards WHERE n_rollouts > 0")
        [wrong] = runs.rows(
            "SELECT count(*) AS n FROM trajectories AS t JOIN messages AS m ON t.trajectory_id = m.trajectory_id JOIN "
            "path_segments AS s ON s.trajectory_id = t.parent_id AND s.first_step <= m.step AND m.step < s.end_step "
            "JOIN messages AS p ON p.trajectory_id = s.owner_id AND p.step = m.step AND p.role <> 'assistant' "
            "WHERE t.role = 'scorer' AND (m.content <> p.content OR m.seq <> p.seq OR m.step <> t.branch_step)"
        )
    places = {(row["parent_id"], row["branch_step"]) for row in rows}
    assert places == {(row["parent_id"], row["branch_step"]) for row in wanted}
    assert {(row["actor"], row["n_steps"], row["ended"], row["split"], row["iteration"]) for row in rows} == {
        ("reward", 0, "done", "train", 1)
    }
    assert wrong["n"] == 0, "each begins with its parent's observation"
    assert {(row["trajectory_id"], row["step"] + 1) for row in rewards} == places
    predicted = {(row["parent_id"], row["branch_step"]): row["reward"] for row in rows}
    for row in rewards:
        assert row["step_reward"] == predicted[row["trajectory_id"], row["step"] + 1]

    again = score(world / "runs", world / "reward/model", 1)
    assert again == {} and len(asked(world)) == 0

    # transformers' own score of one path, up to and with the action
    one = max(rows, key=lambda row: row["branch_step"])
    with DuckDBEngine(world / "runs") as runs:
        path = runs.rows(
            "SELECT m.role, m.content FROM path_segments AS s JOIN messages AS m ON m.trajectory_id = s.owner_id "
            "WHERE s.trajectory_id = ? AND s.first_step <= m.step AND m.step < s.end_step AND m.step < ? "
            "ORDER BY m.seq",
            [one["parent_id"], one["branch_step"]],
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(world / "reward/model")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(world / "reward/model")
    text = tokenizer.apply_chat_template(path, tokenize=False).rstrip()
    with torch.no_grad():
        value = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits.item()
    assert one["reward"] == pytest.approx(value, abs=1e-5)


def test_the_command_says_the_scorers_name(world: Path, tmp_path: Path) -> None:
    call = [sys.executable, "-m", "train.score", "--runs", world / "runs", "--model", world / "reward/model"]
    done = subprocess.run([*call, "--iteration", "1"], capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0 and done.stdout == "reward\n" and "actions scored" in done.stderr, done.stderr
    assert name_of(Path("a/theta-1/model")) == "theta-1" and name_of(Path("a/judge")) == "judge"


def test_what_does_not_fit_is_left_out(world: Path, tmp_path: Path) -> None:
    short = Train(**{**vars(TRAIN), "context": 110, "on_long": "drop", "steps": 2})
    trainer.train(world / "values.parquet", world / "base", tmp_path / "short", short, show=False)
    counts = score(world / "runs", tmp_path / "short/model", 1)
    assert counts["predicted"] > 0 and counts["too_long"] > 0


def test_a_model_that_predicts_no_values_is_refused(world: Path, tmp_path: Path) -> None:
    for folder in (world / "base", tmp_path):
        with pytest.raises(UsageError, match=r"no reward model\. `python -m train\.trainer` makes one"):
            score(world / "runs", folder, 1)
    assert json.loads((world / "reward/training.json").read_text())["settings"]["context"] == 256
