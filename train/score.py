"""The step reward model in place of the scorer (IPR, section 5.5): predictions instead of Monte-Carlo rollouts.

    python -m train.score --runs runs/ --model FOLDER --iteration I

FOLDER is a model that train.trainer made from values. For every action that the plans score_expert and score_policy ask
for, and that this model has not scored yet, its step reward is predicted and written as a trajectory of role `scorer`,
no action of its own, and the prediction for its reward. step_rewards takes it as it takes a rollout: with
`--set scorer=NAME --set n=1`, where NAME is what this prints.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import torch

from train.backends import load
from train.objectives import Values
from train.packing import pack
from train.passes import autocast, one_row_a_pass, predictions
from train.settings import Train
from trajkit.cli import Command, run
from trajkit.console import bar
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import BadData, UsageError
from trajkit.exploration.env import key_values
from trajkit.messages import from_row, is_action
from trajkit.rules import missing_rollouts, plan
from trajkit.runs.listing import existing_ids
from trajkit.runs.records import record
from trajkit.runs.writer import RunWriter
from trajkit.tokens.masks import Masks
from trajkit.tokens.tokenizer import model_folder as find_model

PLANS = ("score_expert", "score_policy")
AT_ONCE = 64  # trajectories whose messages are held in memory, packed and written together
_KEYS = ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name", "token_ids")


def name_of(model: Path) -> str:
    """What a reward model is called as an actor: its folder's name, or for OUT/model, which the trainer made, OUT's."""
    folder = model.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def score(runs: Path, model_folder: Path, iteration: int, params: Mapping[str, Any] | None = None) -> Counter[str]:
    """Predict what the plans ask for and write it to `runs`; returns how many are predicted, and how many too_long.

    `iteration` is the one whose policy rollouts are scored. `params` are more of the rules' parameters, by name.
    Raises UsageError for a folder without a reward model, BadData for runs that a prediction cannot be made of.
    """
    actor, model_folder = name_of(model_folder), find_model(model_folder)
    config = model_folder / "config.json"
    if not config.is_file() or "ForSequenceClassification" not in str(json.loads(config.read_text())["architectures"]):
        raise UsageError(
            f"--model {model_folder}: no reward model. `python -m train.trainer` makes one of step_rewards."
        )
    trained = _trained_with(model_folder)
    model, tokenizer = load(model_folder, backend="plain", context=trained.context, lora=None, seed=0, head=True)
    if why := one_row_a_pass(model):
        click.echo(f"{model_folder}: {why}", err=True)
    # A part of a conversation would be worth something else: what is too long is left out.
    masks = Masks(
        tokenizer,
        context=trained.context,
        on_long="drop",
        per_step=trained.per_step,
        template_args=trained.template_args,
        on_refused=trained.on_refused,
    )
    given = {**(params or {}), "n": 1, "scorer": actor, "iteration": iteration}  # a prediction is no sample
    folder = runs / f"score-{re.sub(r'[^a-z0-9]+', '-', actor.lower()).strip('-')}-i{iteration}"
    counts = Counter[str]()
    with DuckDBEngine(runs, given) as recorded:
        steps: dict[str, list[int]] = defaultdict(list)
        for row in recorded.rows(missing_rollouts([plan(name) for name in PLANS])):
            steps[row["parent_id"]].append(row["branch_step"])
        parents = sorted(steps)
        with (
            RunWriter(folder, existing_ids(runs)) as writer,
            bar(total=sum(map(len, steps.values())), unit="action", desc="scoring") as shown,
        ):
            for start in range(0, len(parents), AT_ONCE):
                some = parents[start : start + AT_ONCE]
                about, paths = _recorded(recorded, some)
                asked = [_asked(parent, about[parent], paths[parent], steps[parent]) for parent in some]
                predicted = _predict(model, Values(asked, masks), trained.row_tokens or trained.context)
                for parent in some:
                    for step in steps[parent]:
                        shown.update()
                        if (parent, step) not in predicted:
                            counts["too_long"] += 1
                            continue
                        counts["predicted"] += 1
                        state = [
                            message for message in paths[parent] if message["step"] == step and not is_action(message)
                        ]
                        if not state:
                            raise BadData(f"{parent}: there is no observation at step {step}, where an action follows.")
                        writer.add(
                            record(
                                task_id=about[parent]["task_id"],
                                role="scorer",
                                messages=[{key: message[key] for key in _KEYS[:-1]} for message in state],
                                env=about[parent]["env"],
                                split=about[parent]["split"],
                                actor=actor,
                                iteration=iteration,
                                parent_id=parent,
                                branch_step=step,
                                first_seq=state[0]["seq"],
                                reward=predicted[parent, step],
                                ended="done",
                                created_at=datetime.now(UTC),
                            )
                        )
                writer.flush()
    return counts


def _recorded(
    runs: DuckDBEngine, ids: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """The rows of trajectories, and the messages of their paths in order."""
    about = {
        row["trajectory_id"]: row
        for row in runs.rows(
            "SELECT trajectory_id, task_id, env, split, tools FROM trajectories "
            "WHERE trajectory_id IN (SELECT unnest(?))",
            [list(ids)],
        )
    }
    paths: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in runs.rows(
        f"SELECT s.trajectory_id AS path_id, m.seq, m.step, m.context, {', '.join(f'm.{key}' for key in _KEYS)} "
        "FROM path_segments AS s JOIN messages AS m ON m.trajectory_id = s.owner_id "
        "WHERE m.step >= s.first_step AND m.step < s.end_step AND s.trajectory_id IN (SELECT unnest(?)) "
        "ORDER BY s.trajectory_id, m.seq",
        [list(ids)],
    ):
        paths[row["path_id"]].append(row)
    return about, paths


def _asked(
    trajectory_id: str, about: Mapping[str, Any], path: Sequence[Mapping[str, Any]], steps: Sequence[int]
) -> dict[str, Any]:
    """An example with values, as selection.dataset.read yields them, whose value is the step behind the action."""
    messages = []
    for row in path:
        if row["step"] >= max(steps):
            break
        message = from_row({key: row[key] for key in _KEYS})
        if is_action(row) and row["step"] + 1 in steps:
            message["value"] = float(row["step"] + 1)
        messages.append(message)
    tools = None if about["tools"] is None else json.loads(about["tools"])
    return {"example_id": trajectory_id, "messages": messages, "tools": tools}


def _predict(model: Any, asked: Values, tokens: int) -> dict[tuple[str, int], float]:
    """What the model predicts, by trajectory and step."""
    found: dict[tuple[str, int], float] = {}
    device = next(model.parameters()).device
    model.eval()
    for packed in pack(asked.groups, tokens):
        with torch.no_grad(), autocast(device):
            predicted = predictions(model, packed.to(device)).tolist()
        keys = [(asked.groups[n][0].example_id, int(step)) for n in packed.groups for step in asked.values[n]]
        found.update(zip(keys, predicted, strict=True))
    return found


def _trained_with(model: Path) -> Train:
    """The settings that the trainer left beside the model; without them the defaults, with all of its context."""
    told = model.resolve().parent / "training.json"
    if told.is_file():
        return Train(**json.loads(told.read_text())["settings"])
    longest = json.loads((model / "config.json").read_text()).get("max_position_embeddings")
    return Train(context=longest or Train.context)


@click.command(cls=Command)
@click.option("--runs", required=True, type=click.Path(exists=True, path_type=Path), help="The folder of runs.")
@click.option("--model", required=True, type=click.Path(path_type=Path), help="The reward model's folder.")
@click.option("--iteration", required=True, type=click.IntRange(0), help="Whose policy rollouts are scored.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A parameter of the rules. Repeatable.")
def command(runs: Path, model: Path, iteration: int, settings: tuple[str, ...]) -> None:
    """Predict step rewards where the scorer would be rolled out."""
    counts = score(runs, model, iteration, key_values(settings))
    click.echo(
        f"{counts['predicted']:,} actions scored"
        + (
            f", {counts['too_long']:,} left out as longer than the context, or refused by the chat template"
            if counts["too_long"]
            else ""
        ),
        err=True,
    )
    click.echo(name_of(model))


if __name__ == "__main__":
    run(command, "python -m train.score")
