"""The rules in plain Python: what every SQL relation must equal, row by row.

A path is spelled out as the list of its actions, each a pair (trajectory that took it, step), and two
paths share a state where those lists begin alike. Nothing here is fast, and nothing is shared with
the SQL. Sources: EEF (Lan et al., section 3.2 and Algorithm 1), ETO (Song et al., sections 3.2 and 4.4,
appendix C), IPR (Xiong et al., sections 3.2 and 3.3), NAT (Wang et al., 2024) and docs/rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import reduce
from itertools import combinations, pairwise
from operator import add
from typing import Any

from worlds import Row, World

Key = tuple[str, int]

DEFAULTS = {
    **{"success_reward": 1.0, "solved_rate": 0.5, "iteration": None, "m": 5, "samples": 1, "per_task": None},
    **{"n": 5, "tau": 0.01, "scorer": None},
    "right_prompt": "Please generate a solution that correctly answers the question.",
    "wrong_prompt": "Please generate a solution that incorrectly answers the question.",
}


class Oracle:
    """Every relation of a world as a method of its name that returns rows."""

    def __init__(self, world: World, params: dict[str, Any] | None = None) -> None:
        self.world = world
        self.p = {**DEFAULTS, **(params or {})}
        self.t: dict[str, Row] = {row["trajectory_id"]: row for row in world.trajectories}
        self.tasks = world.tasks
        self.own: dict[str, list[Row]] = {id: [] for id in self.t}
        for row in sorted(world.messages, key=lambda row: row["seq"]):
            self.own[row["trajectory_id"]].append(row)

    # --- one trajectory ---

    def path(self, id: str) -> list[Key]:
        row = self.t[id]
        at = row["branch_step"]
        inherited = self.path(row["parent_id"])[:at] if at else []
        assert len(inherited) == at, f"{id} starts from a state that its parent never reached"
        return inherited + [(id, step) for step in range(at, at + row["n_steps"])]

    def conversation(self, id: str) -> list[Row]:
        row = self.t[id]
        at = row["branch_step"]
        return [m for m in (self.conversation(row["parent_id"]) if at else []) if m["step"] < at] + self.own[id]

    def actions(self, id: str) -> list[Any]:
        """What was done along the path: text, reasoning and calls (without the ids that a server draws anew)."""
        return [
            (m["content"] or "", m["reasoning"] or "", [c["function"] for c in json.loads(m["tool_calls"] or "[]")])
            for m in self.conversation(id)
            if m["role"] == "assistant" and not m["context"]
        ]

    def action_sequence(self, id: str) -> str:
        return repr(self.actions(id))

    def n_actions(self, id: str) -> int:
        return len(self.path(id))

    def expert_actions(self, id: str, step: int) -> int:
        return sum(self.t[owner]["role"] == "expert" for owner, _ in self.path(id)[step:])

    def iteration(self, id: str) -> int:
        return self.t[id]["iteration"] or 0

    def world_of(self, task: str | None) -> tuple[str | None, str | None, str | None]:
        """The task's env, its split (None: nobody says one, or two are said), and what speaks against it."""
        rows = [row for row in [*self.t.values(), *self.tasks] if row["task_id"] == task]
        envs, splits = ({row[name] for row in rows} - {None} for name in ("env", "split"))
        env, split = (next(iter(said)) if len(said) == 1 else None for said in (envs, splits))
        problem = "its task has two envs" if len(envs) > 1 else None
        return env, split, "its task has two splits" if len(splits) > 1 else problem

    def env(self, id: str) -> str | None:
        """The task's environment."""
        return self.world_of(self.task(id))[0]

    def split(self, id: str) -> str | None:
        """The task's split; None where two splits or two envs are said of the task."""
        _, split, problem = self.world_of(self.task(id))
        return None if problem else split or "train"

    def train(self, id: str) -> bool:
        return self.split(id) == "train"

    def solved(self, id: str) -> bool | None:
        row = self.t[id]
        if row["ended"] in ("error", "drift"):
            return None
        if row["success"] is not None:
            return bool(row["success"])
        return None if row["reward"] is None else row["reward"] >= self.p["success_reward"]

    def value(self, id: str) -> float | None:
        if self.solved(id) is None:
            return None
        return self.t[id]["reward"] if self.t[id]["reward"] is not None else float(self.t[id]["success"])

    def trained(self, *roles: str) -> list[str]:
        """The train trajectories of these roles."""
        return [id for id in self.t if self.train(id) and self.t[id]["role"] in roles]

    def expert_ids(self) -> list[str]:
        return [id for id in self.trained("expert") if self.t[id]["ended"] not in ("error", "drift")]

    def task(self, id: str) -> str:
        return self.t[id]["task_id"]

    # --- tables ---

    def task_worlds(self) -> list[Row]:
        found = {row["task_id"]: self.world_of(row["task_id"]) for row in [*self.t.values(), *self.tasks]}
        return [{"task_id": t, "env": w[0], "split": w[1], "problem": w[2]} for t, w in found.items()]

    def outcomes(self) -> list[Row]:
        same = ("trajectory_id", "task_id", "role", "parent_id", "branch_step", "n_steps", "reward", "ended")
        return [
            {
                **{name: self.t[id][name] for name in same},
                "env": self.env(id),
                "split": self.split(id),
                "task_problem": self.world_of(self.task(id))[2],
                "iteration": self.iteration(id),
                "sample": self.t[id]["sample"] or 0,
                "n_actions": self.n_actions(id),
                "value": self.value(id),
                "solved": self.solved(id),
            }
            for id in self.t
        ]

    def path_segments(self) -> list[Row]:
        return [
            {
                "trajectory_id": id,
                "owner_id": owner,
                "owner_role": self.t[owner]["role"],
                "first_step": min(step for o, step in self.path(id) if o == owner),
                "end_step": max(step for o, step in self.path(id) if o == owner) + 1,
            }
            for id in self.t
            for owner in {o for o, _ in self.path(id)}
        ]

    def current_iteration(self) -> list[Row]:
        rollouts = [self.iteration(id) for id in self.trained("policy") if self.solved(id) is not None]
        given = self.p["iteration"]
        return [{"iteration": given if given is not None else max(rollouts, default=None)}]

    def branch_points(self) -> list[Row]:
        rollouts: dict[tuple[str, int, int], list[bool | None]] = {}
        for e in self.expert_ids():
            for r in self.trained("policy"):
                step = self.t[r]["branch_step"]
                same_state = self.path(r)[:step] == self.path(e)[:step] and self.task(r) == self.task(e)
                if same_state:
                    rollouts.setdefault((e, step, self.iteration(r)), []).append(self.solved(r))
        rows = []
        for (e, step, iteration), verdicts in rollouts.items():
            n, n_solved = sum(v is not None for v in verdicts), sum(v is True for v in verdicts)
            solved = n_solved / n >= self.p["solved_rate"] if n else None
            row = {"expert_id": e, "task_id": self.task(e), "step": step, "iteration": iteration, "solved": solved}
            rows.append({**row, "n_rollouts": n, "n_solved": n_solved, "n_no_outcome": len(verdicts) - n})
        return rows

    def simulated_states(self) -> list[Row]:
        current = self.current_iteration()[0]["iteration"]
        points = [p for p in self.branch_points() if p["iteration"] == current and p["solved"] is not None]
        rows = []
        for e in self.expert_ids():
            before: tuple[int | None, bool | None] = (None, None)
            for step, solved in sorted((p["step"], p["solved"]) for p in points if p["expert_id"] == e):
                row = {"expert_id": e, "task_id": self.task(e), "step": step, "solved": solved}
                rows.append({**row, "previous_step": before[0], "previous_solved": before[1]})
                before = (step, solved)
        return rows

    def compared_rollouts(self) -> list[Row]:
        current = self.current_iteration()[0]["iteration"]
        return [
            {
                "expert_id": e,
                "rollout_id": b,
                "task_id": self.task(e),
                "step": self.t[b]["branch_step"],
                "expert_value": self.value(e),
                "rollout_value": self.value(b),
            }
            for e in self.expert_ids()
            for b in self.trained("policy")
            if self.iteration(b) == current and self.value(e) is not None and self.value(b) is not None
            if self.task(e) == self.task(b) and self.t[b]["n_steps"] and self.n_actions(e) > self.t[b]["branch_step"]
            if self.path(e)[: self.t[b]["branch_step"]] == self.path(b)[: self.t[b]["branch_step"]]
        ]

    def expert_recovery_states(self) -> list[Row]:
        current = self.current_iteration()[0]["iteration"]
        points = [p for p in self.branch_points() if p["iteration"] == current and p["solved"] is not None]
        rows = []
        for e in self.expert_ids():
            line = sorted((p["step"], p["solved"]) for p in points if p["expert_id"] == e)
            turns = [(step, before) for (before, good), (step, now) in pairwise(line) if good and not now]
            if turns:
                step, before = turns[0]
                row = {"expert_id": e, "task_id": self.task(e), "step": step, "previous_step": before}
                rows.append({**row, "owner_id": self.path(e)[step - 1][0]})
        for row in rows:
            sharing = [r["expert_id"] for r in rows if self.same_state(r, row)]
            row["first_expert_id"] = min(sharing)
        return rows

    def same_state(self, one: Row, other: Row) -> bool:
        """Whether two recovery states are one: the experts' paths hold the very same actions up to there."""
        prefixes = [self.path(row["expert_id"])[: row["step"]] for row in (one, other)]
        return prefixes[0] == prefixes[1]

    def first_recovery_state(self) -> list[Row]:
        names = ("expert_id", "task_id", "step", "previous_step", "owner_id")
        states = {tuple(self.path(row["expert_id"])[: row["step"]]): row for row in self.expert_recovery_states()}
        named = {row["first_expert_id"] for row in states.values()}
        return [
            {name: row[name] for name in names} for row in self.expert_recovery_states() if row["expert_id"] in named
        ]

    def important_states(self) -> list[Row]:
        tasks = {self.task(id) for id in self.trained("expert", "policy")}
        initial = [{"kind": "initial", "task_id": task, "expert_id": None, "step": 0} for task in tasks]
        recovery = [
            {"kind": "recovery", "task_id": r["task_id"], "expert_id": r["expert_id"], "step": r["step"]}
            for r in self.first_recovery_state()
        ]
        return initial + recovery

    def solutions(self) -> list[Row]:
        rows = []
        for state in self.important_states():
            step = state["step"]
            prefix = self.path(state["expert_id"])[:step] if state["expert_id"] is not None else []
            found = [
                {
                    **state,
                    "trajectory_id": id,
                    "n_expert_actions": self.expert_actions(id, step),
                    "n_actions": self.n_actions(id) - step,
                    "iteration": self.iteration(id),
                }
                for id in self.trained("expert", "policy")
                if self.task(id) == state["task_id"]
                and self.solved(id)
                and self.path(id)[:step] == prefix
                and self.n_actions(id) > step
            ]
            found.sort(key=lambda s: (s["n_expert_actions"], s["n_actions"], -s["iteration"], s["trajectory_id"]))
            rows += found
        return rows

    def fewest_expert_actions(self) -> list[Row]:
        best: dict[tuple[str, str | None, int], Row] = {}
        for row in self.solutions():  # they come in their order, state by state
            best.setdefault((row["task_id"], row["expert_id"], row["step"]), row)
        return list(best.values())

    def expert_rollouts(self) -> list[Row]:
        return [
            {
                "expert_id": e,
                "rollout_id": r,
                "task_id": self.task(e),
                "step": self.t[r]["branch_step"],
                "iteration": self.iteration(r),
                "solved": self.solved(r),
                "value": self.value(r),
            }
            for e in self.expert_ids()
            for r in self.trained("policy")
            if self.share_state(e, r, self.t[r]["branch_step"])
        ]

    def share_state(self, one: str, other: str, step: int) -> bool:
        """Both paths run through the same s_step."""
        prefixes = [self.path(id)[:step] for id in (one, other)]
        return self.task(one) == self.task(other) and prefixes[0] == prefixes[1] and len(prefixes[0]) == step

    def _current(self) -> list[tuple[str, str, int]]:
        """(expert, rollout, step) of the current iteration, both with an own action there to be compared."""
        current = self.current_iteration()[0]["iteration"]
        return [
            (r["expert_id"], r["rollout_id"], r["step"])
            for r in self.expert_rollouts()
            if r["iteration"] == current
            and r["step"] < self.n_actions(r["expert_id"])
            and self.t[r["rollout_id"]]["n_steps"] > 0
        ]

    def best_expert(self) -> list[Row]:
        best: dict[str, str] = {}
        experts = [e for e in self.expert_ids() if self.value(e) is not None and self.n_actions(e) > 0]
        for e in sorted(experts, key=lambda e: (-self.value(e), self.n_actions(e), -self.iteration(e), e)):
            best.setdefault(self.task(e), e)
        return [
            {"task_id": task, "expert_id": e, "value": self.value(e), "n_actions": self.n_actions(e)}
            for task, e in best.items()
        ]

    def repeated_actions(self) -> list[Row]:
        return [
            {"expert_id": e, "rollout_id": r, "step": step}
            for e, r, step in self._current()
            if self.actions(e)[step] == self.actions(r)[step]
        ]

    # --- plans ---

    def _plan(self, states: Iterable[tuple[str, str | None, int]]) -> list[Row]:
        return [
            {"task_id": task, "parent_id": parent, "branch_step": step, "sample": sample, "role": "policy"}
            for task, parent, step in states
            for sample in range(self.p["samples"])
        ]

    def initial(self) -> list[Row]:
        worlds = {row["task_id"]: self.world_of(row["task_id"]) for row in self.tasks}
        listed = {task for task, (_, split, problem) in worlds.items() if not problem and split in (None, "train")}
        met = {self.task(id) for id in self.trained("expert", "policy")}
        return self._plan((task, None, 0) for task in listed | met)

    def skip_length(self) -> list[Row]:
        states = []
        for e in self.expert_ids():
            n, m = self.n_actions(e), self.p["m"]
            skip = max(1, n // (m + 1))
            states += [(self.task(e), e, k * skip) for k in range(1, m + 1) if k * skip < n]
        return self._plan(states)

    def every_step(self) -> list[Row]:
        return self._plan((self.task(e), e, step) for e in self.expert_ids() for step in range(1, self.n_actions(e)))

    def done(self) -> list[Row]:
        made = set()
        for id, row in self.t.items():
            wanted = {
                "policy": self.iteration(id) == self.p["iteration"],
                "scorer": self.train(id) and self.p["scorer"] in (None, row["actor"]),
            }
            if row["ended"] != "error" and wanted.get(row["role"]):
                parent = row["parent_id"] if row["branch_step"] else None
                made.add((self.task(id), parent, row["branch_step"], row["sample"] or 0, row["role"]))
        names = ("task_id", "parent_id", "branch_step", "sample", "role")
        return [dict(zip(names, key, strict=True)) for key in made]

    # --- methods ---

    def _examples(self, ids: Iterable[str]) -> list[Row]:
        return [
            {"kind": "initial", "task_id": self.task(id), "trajectory_id": id, "expert_id": None, "from_step": 0}
            for id in ids
        ]

    def eef(self) -> list[Row]:
        return [
            {
                "kind": row["kind"],
                "task_id": row["task_id"],
                "trajectory_id": row["trajectory_id"],
                "expert_id": row["expert_id"],
                "from_step": row["step"],
            }
            for row in self.fewest_expert_actions()
        ]

    def sft_all(self) -> list[Row]:
        return self._examples(e for e in self.expert_ids() if self.n_actions(e))

    def sft_pos(self) -> list[Row]:
        return self._examples(e for e in self.expert_ids() if self.n_actions(e) and self.solved(e))

    def rft(self) -> list[Row]:
        experts = [e for e in self.trained("expert") if self.solved(e) and self.n_actions(e)]
        from_start = [
            id
            for id in self.trained("policy")
            if self.solved(id) and self.t[id]["branch_step"] == 0 and self.n_actions(id)
        ]
        seen = {(self.task(e), self.action_sequence(e)) for e in experts}
        kept: list[str] = []
        for id in sorted(from_start, key=lambda id: (-self.iteration(id), id)):
            what = (self.task(id), self.action_sequence(id))
            if what not in seen:
                seen.add(what)
                kept.append(id)
        kept.sort(key=lambda id: (-self.value(id), self.n_actions(id), -self.iteration(id), id))
        for task in {self.task(id) for id in kept}:
            experts += [id for id in kept if self.task(id) == task][: self.p["per_task"]]
        return self._examples(experts)

    def best_of_n(self) -> list[Row]:
        best: dict[str, str] = {}

        def order(id: str) -> tuple[Any, ...]:
            return (-self.value(id), self.expert_actions(id, 0), self.n_actions(id), -self.iteration(id), id)

        for id in self.trained("expert", "policy"):
            if self.t[id]["branch_step"] == 0 and self.solved(id) is not None and self.n_actions(id):
                best[self.task(id)] = min(best.get(self.task(id), id), id, key=order)
        return self._examples(best.values())

    def nat(self) -> list[Row]:
        rows = self._examples(e for e in self.expert_ids() if self.n_actions(e) and self.solved(e) is not None)
        for row in rows:
            right = self.solved(row["trajectory_id"])
            row["kind"] = "positive" if right else "negative"
            row["suffix"] = self.p["right_prompt" if right else "wrong_prompt"]
        return rows

    # --- values ---

    def step_rewards(self) -> list[Row]:
        rows = []
        for id in self.trained("expert", "policy"):
            own = [step for owner, step in self.path(id) if owner == id]
            for step in own if self.t[id]["ended"] not in ("error", "drift") else []:
                if step == self.n_actions(id) - 1:
                    n, reward = 0, self.value(id)
                else:
                    values = sorted(self.value(s) for s in self.scorer_rollouts(id, step))
                    n, reward = len(values), reduce(add, values) / len(values) if values else None
                row = {"trajectory_id": id, "task_id": self.task(id), "role": self.t[id]["role"], "step": step}
                if reward is not None:
                    rows.append({**row, "step_reward": reward, "n_rollouts": n})
        return rows

    def scorer_rollouts(self, id: str, step: int) -> list[str]:
        """The scorer's rollouts that count, from right after this trajectory's own action at `step`."""
        return [
            s
            for s in self.trained("scorer")
            if self.value(s) is not None
            and (self.t[s]["sample"] or 0) < self.p["n"]
            and self.p["scorer"] in (None, self.t[s]["actor"])
            and self.t[s]["branch_step"] == step + 1
            and self.path(s)[step] == (id, step)
        ]

    # --- pairs ---

    def _pair(self, level: str, chosen: str, rejected: str, from_step: int = 0, end_step: int | None = None) -> Row:
        return {
            "level": level,
            "task_id": self.task(chosen),
            "from_step": from_step,
            "end_step": end_step,
            "chosen_id": chosen,
            "rejected_id": rejected,
            "chosen_reward": self.value(chosen),
            "rejected_reward": self.value(rejected),
        }

    def _by_value(self, one: str, other: str) -> list[str]:
        """Both, the better one first; nothing where either has no value or neither is better."""
        values = {self.value(one), self.value(other)}
        return sorted((one, other), key=self.value, reverse=True) if len(values) == 2 and None not in values else []

    def _from_start(self) -> list[str]:
        """The policy's rollouts from s_0 of the current iteration."""
        current = self.current_iteration()[0]["iteration"]
        return [
            r
            for r in self.trained("policy")
            if self.t[r]["branch_step"] == 0 and self.iteration(r) == current and self.n_actions(r) > 0
        ]

    def eto(self) -> list[Row]:
        best = {row["task_id"]: row["expert_id"] for row in self.best_expert()}
        both = [self._by_value(best[self.task(r)], r) for r in self._from_start() if self.task(r) in best]
        return [self._pair("trajectory", *ids) for ids in both if ids and not self._same_actions(*ids)]

    def self_play(self) -> list[Row]:
        both = [self._by_value(r, q) for r, q in combinations(self._from_start(), 2) if self.task(r) == self.task(q)]
        return [self._pair("trajectory", *ids) for ids in both if ids and not self._same_actions(*ids)]

    def _same_actions(self, one: str, other: str) -> bool:
        return self.actions(one) == self.actions(other)

    def eto_step(self) -> list[Row]:
        both = [
            (self._by_value(e, r), step)
            for e, r, step in self._current()
            if self.actions(e)[step] != self.actions(r)[step]
        ]
        return [self._pair("step", *ids, step, step + 1) for ids, step in both if ids]

    def eto_mixture(self) -> list[Row]:
        return self.eto() + self.eto_step()

    def ipr(self) -> list[Row]:
        rewards = {(row["trajectory_id"], row["step"]): row["step_reward"] for row in self.step_rewards()}
        rows = self.eto()
        for e, r, step in self._current():
            of_expert, of_policy = rewards.get(self.path(e)[step]), rewards.get((r, step))
            if of_expert is None or of_policy is None or self._by_value(e, r) != [e, r]:
                continue
            if self.actions(e)[step] == self.actions(r)[step]:
                continue
            if of_expert - of_policy > self.p["tau"]:
                rows.append(self._pair("step", e, r, step))
        return rows

    def eef_pairs(self) -> list[Row]:
        current = self.current_iteration()[0]["iteration"]
        points = [p for p in self.branch_points() if p["iteration"] == current and p["solved"] is not None]
        found: set[tuple[str, str, int]] = set()  # two experts may share both states
        for e in self.expert_ids():
            line = sorted((p["step"], p["solved"]) for p in points if p["expert_id"] == e)
            for fails_at, step in [(p, i) for (p, before), (i, now) in pairwise(line) if now and not before]:
                through = [
                    id for id in self.trained("expert", "policy") if self.solved(id) and self.share_state(e, id, step)
                ]
                chosen = min(through, key=lambda id: (*self._length(id, fails_at), -self.iteration(id), id))
                failed = [r for x, r, p in self._current() if (x, p) == (e, fails_at) and self.solved(r) is False]
                found |= {(chosen, r, fails_at) for r in failed}
        return [self._pair("step", *pair) for pair in found]

    def _length(self, id: str, step: int) -> tuple[int, int]:
        return self.expert_actions(id, step), self.n_actions(id) - step

    # --- what is trained on ---

    def weighted(self, id: str, from_step: int) -> list[tuple[Row, float]]:
        """The whole conversation, each message with its loss weight."""
        return [(m, mark(m) if m["step"] >= from_step else 0.0) for m in self.conversation(id)]

    def halves(self, id: str, from_step: int, end_step: int | None) -> tuple[list[Row], list[Row]]:
        """The conversation before the action a_from_step, and from it on, up to the state s_end_step."""
        said = [m for m in self.conversation(id) if end_step is None or m["step"] < end_step]
        at = [(m["role"], bool(m["context"]), m["step"]) for m in said].index(("assistant", False, from_step))
        return said[:at], said[at:]


def mark(message: Row) -> float:
    """The loss weight that an action has from its source: 1 where that says nothing; 0 for what is no action."""
    if message["role"] != "assistant" or message["context"]:
        return 0.0
    weight = message.get("weight")
    return 1.0 if weight is None else float(weight)


RELATIONS: dict[str, Callable[[Oracle], list[Row]]] = {
    "task_worlds": Oracle.task_worlds,
    "outcomes": Oracle.outcomes,
    "path_segments": Oracle.path_segments,
    "current_iteration": Oracle.current_iteration,
    "branch_points": Oracle.branch_points,
    "simulated_states": Oracle.simulated_states,
    "compared_rollouts": Oracle.compared_rollouts,
    "expert_recovery_states": Oracle.expert_recovery_states,
    "first_recovery_state": Oracle.first_recovery_state,
    "important_states": Oracle.important_states,
    "solutions": Oracle.solutions,
    "fewest_expert_actions": Oracle.fewest_expert_actions,
    "initial": Oracle.initial,
    "skip_length": Oracle.skip_length,
    "every_step": Oracle.every_step,
    "done": Oracle.done,
    "eef": Oracle.eef,
    "sft_all": Oracle.sft_all,
    "sft_pos": Oracle.sft_pos,
    "rft": Oracle.rft,
    "best_of_n": Oracle.best_of_n,
    "nat": Oracle.nat,
    "expert_rollouts": Oracle.expert_rollouts,
    "best_expert": Oracle.best_expert,
    "repeated_actions": Oracle.repeated_actions,
    "step_rewards": Oracle.step_rewards,
    "eto": Oracle.eto,
    "eto_step": Oracle.eto_step,
    "eto_mixture": Oracle.eto_mixture,
    "self_play": Oracle.self_play,
    "ipr": Oracle.ipr,
    "eef_pairs": Oracle.eef_pairs,
}
METHODS = ("eef", "sft_all", "sft_pos", "rft", "best_of_n", "nat")  # that write examples
PAIR_METHODS = ("eto", "eto_step", "eto_mixture", "self_play", "ipr", "eef_pairs")
