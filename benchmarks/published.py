"""What a user does instead: the rules in plain Python over a list of dicts, as the published scripts do it, and in
pandas."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def eef(
    trajectories: list[dict[str, Any]], success_reward: float = 1.0, solved_rate: float = 0.5
) -> list[tuple[Any, ...]]:
    """(kind, task_id, trajectory_id, expert_id, from_step) of every example."""
    by_id = {t["trajectory_id"]: t for t in trajectories}

    def solved(t: dict[str, Any]) -> bool | None:
        if t["ended"] in ("error", "drift"):
            return None
        if t["success"] is not None:
            return bool(t["success"])
        return None if t["reward"] is None else t["reward"] >= success_reward

    def segments(t: dict[str, Any]) -> list[tuple[dict[str, Any], int, int]]:
        """(owner, first step, end step) along the path, last first."""
        path, end = [], t["branch_step"] + t["n_steps"]
        while t is not None and end > 0:
            if t["branch_step"] < end:
                path.append((t, t["branch_step"], end))
            end = min(end, t["branch_step"])
            t = by_id.get(t["parent_id"])
        return path

    train = [t for t in trajectories if (t["split"] or "train") == "train"]
    current = max((t["iteration"] or 0 for t in train if t["role"] == "policy" and solved(t) is not None), default=None)
    rollouts: dict[Any, list[bool]] = defaultdict(list)  # by state: (owner of the action before it, step), or the task
    positives: dict[Any, list[Any]] = defaultdict(list)  # by task; by owner of a stretch of their path
    for t in train:
        if t["role"] == "scorer":
            continue
        outcome = solved(t)
        if outcome is None:
            continue
        path = segments(t)
        if t["role"] == "policy" and (t["iteration"] or 0) == current:
            step = t["branch_step"]
            state = t["task_id"] if step == 0 else next((o["trajectory_id"], step) for o, a, b in path if a < step <= b)
            rollouts[state].append(outcome)
        if outcome and path:
            positives[t["task_id"]].append((t, path))
            for owner, first, end in path:
                positives["owner", owner["trajectory_id"]].append((t, path, first, end))

    states_of: dict[Any, list[Any]] = defaultdict(list)
    for state in rollouts:
        if isinstance(state, tuple):
            states_of[state[0]].append(state)

    def best(candidates: list[Any], step: int) -> str:
        def key(candidate: Any) -> tuple[Any, ...]:
            t, path = candidate[:2]
            experts = sum(end - max(first, step) for o, first, end in path if o["role"] == "expert" and end > step)
            return experts, t["branch_step"] + t["n_steps"], -(t["iteration"] or 0), t["trajectory_id"]

        return str(min(candidates, key=key)[0]["trajectory_id"])

    examples: list[tuple[Any, ...]] = [
        ("initial", task, best(candidates, 0), None, 0)
        for task, candidates in positives.items()
        if not isinstance(task, tuple)
    ]
    for e in train:
        if e["role"] != "expert" or e["ended"] in ("error", "drift"):
            continue
        simulated = [(0, rollouts[e["task_id"]])] if e["task_id"] in rollouts else []
        for owner, first, end in segments(e):
            states = states_of.get(owner["trajectory_id"], ())
            simulated += [(s, rollouts[o, s]) for o, s in states if first < s <= end]
        previous = False
        for step, outcomes in sorted(simulated):
            works = sum(outcomes) / len(outcomes) >= solved_rate
            if previous and not works:
                owner = next(o for o, a, b in segments(e) if a < step <= b)
                through = [
                    c
                    for c in positives["owner", owner["trajectory_id"]]
                    if c[2] < step <= c[3] and c[0]["branch_step"] + c[0]["n_steps"] > step
                ]
                if through:
                    examples.append(("recovery", e["task_id"], best(through, step), e["trajectory_id"], step))
                break
            previous = works
    return examples


def rft(trajectories: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """(trajectory_id, from_step) of the solved experts and of every distinct solved rollout from s_0."""
    chosen: dict[Any, str] = {}  # by task and action sequence; an expert's comes first, then the latest iteration's
    solved = [t for t in trajectories if t["success"] and t["branch_step"] == 0 and t["role"] != "scorer"]
    for t in sorted(solved, key=lambda t: (t["role"] != "expert", -t["iteration"], t["trajectory_id"])):
        actions = tuple(m["content"] for m in t["messages"] if m["role"] == "assistant")
        chosen.setdefault((t["task_id"], actions), t["trajectory_id"])
    return [(trajectory_id, 0) for trajectory_id in chosen.values()]


def eto(trajectories: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(chosen, rejected) trajectory ids: the best expert of each task against its rollouts of the last iteration."""
    current = max(t["iteration"] for t in trajectories if t["role"] == "policy")
    best: dict[str, dict[str, Any]] = {}
    for t in sorted(trajectories, key=lambda t: (-t["reward"], t["n_steps"], -t["iteration"], t["trajectory_id"])):
        if t["role"] == "expert":
            best.setdefault(t["task_id"], t)
    pairs = []
    for t in trajectories:
        if t["role"] == "policy" and t["branch_step"] == 0 and t["iteration"] == current and t["task_id"] in best:
            expert = best[t["task_id"]]
            if t["reward"] != expert["reward"]:
                won, lost = (expert, t) if expert["reward"] > t["reward"] else (t, expert)
                pairs.append((won["trajectory_id"], lost["trajectory_id"]))
    return pairs


def eef_in_pandas(t: pd.DataFrame) -> pd.DataFrame:
    """EEF's examples where every branch is one of an expert's: kind, task_id, trajectory_id, from_step."""
    import pandas as pd

    t = t[t["role"] != "scorer"].assign(n_actions=t["branch_step"] + t["n_steps"], newest=-t["iteration"])
    experts = t[t["role"] == "expert"]
    rollouts = t[t["role"] == "policy"]
    rollouts = rollouts[rollouts["iteration"] == rollouts["iteration"].max()]
    at_start = rollouts[rollouts["branch_step"] == 0].merge(
        experts[["task_id", "trajectory_id"]].rename(columns={"trajectory_id": "expert_id"}), on="task_id"
    )
    along = rollouts[rollouts["branch_step"] > 0].assign(expert_id=rollouts["parent_id"])
    columns = ["expert_id", "branch_step", "success"]
    rates = pd.concat([at_start[columns], along[columns]]).groupby(["expert_id", "branch_step"], as_index=False).mean()
    works = (rates["success"] >= 0.5).to_numpy()
    worked = pd.Series(works).groupby(rates["expert_id"]).shift(fill_value=False).to_numpy()
    first = rates[worked & ~works].drop_duplicates("expert_id").rename(columns={"branch_step": "from_step"})

    order = ["n_expert", "n_actions", "newest", "trajectory_id"]
    solved = t[t["success"].astype(bool)]
    is_expert = solved["role"] == "expert"
    solved = solved.assign(
        n_expert=solved["n_actions"].where(is_expert, solved["branch_step"]),
        expert_id=solved["trajectory_id"].where(is_expert, solved["parent_id"]),
    )
    initial = solved.sort_values(order).drop_duplicates("task_id").assign(kind="initial", from_step=0)
    through = solved.merge(first[["expert_id", "from_step"]], on="expert_id")
    goes_on = (through["n_expert"] >= through["from_step"]) & (through["n_actions"] > through["from_step"])
    recovery = through[goes_on].sort_values(order).drop_duplicates("expert_id").assign(kind="recovery")
    return pd.concat([initial, recovery])[["kind", "task_id", "trajectory_id", "from_step"]]
