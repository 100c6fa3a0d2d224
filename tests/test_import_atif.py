"""ATIF: steps become messages, copied context never an action, and the reward comes from the trial."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from import_helpers import Run, run_import

from trajkit.errors import BadData

Json = dict[str, Any]


def agent_step(n: int, **more: Any) -> Json:
    return {"step_id": n, "timestamp": "2026-01-02T03:04:05Z", "source": "agent", "message": f"say {n}", **more}


def document(*steps: Json, **more: Any) -> Json:
    tools = [{"type": "function", "function": {"name": "bash", "parameters": {}}}]
    agent = {"name": "terminus-2", "version": "2.0", "model_name": "gpt-5", "tool_definitions": tools}
    opening = [
        {"step_id": 1, "source": "system", "message": "be good"},
        {"step_id": 2, "source": "user", "message": "fix"},
    ]
    return {"schema_version": "ATIF-v1.7", "session_id": "s", "agent": agent, "steps": [*opening, *steps], **more}


def result(**more: Any) -> Json:
    base = {
        "task_name": "hello-world",
        "trial_name": "hello-world__AbC",
        "source": "terminal-bench",
        "verifier_result": {"rewards": {"reward": 1.0}},
        "exception_info": None,
        "started_at": "2026-01-02T05:00:00+02:00",
    }
    return {**base, **more}


def import_trial(tmp_path: Path, trajectory: Any, outcome: Any = None, at: str = "agent", **options: Any) -> Run:
    trial = tmp_path / "jobs" / "2026-01-02" / "hello-world__AbC"
    (trial / at).mkdir(parents=True)
    (trial / at / "trajectory.json").write_text(json.dumps(trajectory, indent=2))
    (trial.parent / "result.json").write_text(json.dumps({"id": "job", "n_total_trials": 1}))
    if outcome is not None:
        (trial / "result.json").write_text(outcome if isinstance(outcome, str) else json.dumps(outcome))
    return run_import(tmp_path / "runs", "atif", tmp_path / "jobs", **options)


def test_steps_calls_results_reasoning_and_tokens_survive(tmp_path: Path) -> None:
    arguments = {"command": 'echo "ü\n"', "n": 2**60, "x": 0.1, "nested": {"b": [None, True], "a": ""}}
    calls = [
        {"tool_call_id": "c1", "function_name": "bash", "arguments": arguments},
        {"tool_call_id": "c2", "function_name": "bash", "arguments": {}, "extra": {"timeout": 3}},
    ]
    results = [
        {"source_call_id": "c1", "content": "out\x1b[0m\r\n"},
        {"source_call_id": "c2", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"content": "screen"},
    ]
    first = agent_step(
        3,
        message="",
        reasoning_content="  think \n",
        tool_calls=calls,
        observation={"results": results},
        metrics={
            "completion_token_ids": [5, 6],
            "logprobs": [-0.25, -1.5],
            "prompt_tokens": 7,
            "prompt_token_ids": [1],
        },
    )
    run = import_trial(tmp_path, document(first, agent_step(4)), result(), role="expert")
    (row,) = run.trajectories
    system, user, acted, one, two, screen, last = run.of(row)
    assert [m["role"] for m in run.of(row)] == ["system", "user", "assistant", "tool", "tool", "user", "assistant"]
    assert (system["content"], user["content"], last["content"]) == ("be good", "fix", "say 4")
    assert (acted["content"], acted["reasoning"]) == ("", "  think \n")
    assert (acted["token_ids"], acted["logprobs"]) == ([5, 6], [-0.25, -1.5])
    written = json.loads(acted["tool_calls"])
    assert [(c["id"], c["type"], c["function"]["name"]) for c in written] == [
        ("c1", "function", "bash"),
        ("c2", "function", "bash"),
    ]
    assert json.loads(written[0]["function"]["arguments"]) == arguments
    assert list(json.loads(written[0]["function"]["arguments"])) == list(arguments)
    assert [(m["tool_call_id"], m["content"]) for m in (one, two, screen)] == [
        ("c1", "out\x1b[0m\r\n"),
        ("c2", "ab"),
        (None, "screen"),
    ]
    assert (row["task_id"], row["env"], row["actor"]) == ("terminal-bench/hello-world", "terminal-bench", "gpt-5")
    assert (row["reward"], row["success"], row["ended"], row["n_steps"]) == (1.0, None, "done", 2)
    assert json.loads(row["tools"]) == document()["agent"]["tool_definitions"]
    assert row["created_at"] == datetime(2026, 1, 2, 3)
    meta = json.loads(row["meta"])
    assert meta["steps"][0]["metrics"] == {"prompt_tokens": 7}
    assert meta["steps"][0]["tool_calls"] == [{"tool_call_id": "c2", "extra": {"timeout": 3}}]
    assert meta["steps"][1] == {"step_id": 4, "timestamp": "2026-01-02T03:04:05Z"}
    assert meta["trial"]["trial_name"] == "hello-world__AbC"


def test_copied_context_and_steps_without_a_model_are_no_actions(tmp_path: Path) -> None:
    steps = [agent_step(3, is_copied_context=True), agent_step(4, llm_call_count=0), agent_step(5, llm_call_count=2)]
    steps[2]["metrics"] = {"completion_token_ids": [1, 2], "logprobs": [-1, -2]}
    (row,) = (run := import_trial(tmp_path, document(*steps), result())).trajectories
    assert [(m["context"], m["step"], m["token_ids"]) for m in run.of(row)[2:]] == [
        (True, 0, None),
        (True, 0, None),
        (None, 0, None),  # tokens of two calls are no single message's
    ]
    assert row["n_steps"] == 1
    assert json.loads(row["meta"])["steps"][-1]["metrics"]["completion_token_ids"] == [1, 2]


def test_an_exception_is_no_failure(tmp_path: Path) -> None:
    crash = {"exception_type": "AgentTimeoutError", "exception_message": "900 s", "exception_traceback": "..."}
    run = import_trial(tmp_path, document(agent_step(3)), result(exception_info=crash))
    (row,) = run.trajectories
    assert (row["ended"], row["error"], row["reward"]) == ("error", "AgentTimeoutError: 900 s", 1.0)
    assert run.counts.no_outcome == 1


def test_without_a_result_there_is_no_outcome_and_a_jobs_result_is_passed_over(tmp_path: Path) -> None:
    (row,) = import_trial(tmp_path, document(agent_step(3))).trajectories
    assert (row["reward"], row["ended"], row["task_id"].split("/")[0]) == (None, None, "atif")


@pytest.mark.parametrize(
    ("rewards", "field", "reward"),
    [
        ({"accuracy": 0.5}, None, 0.5),
        ({"a": 0, "reward": 0.25}, None, 0.25),
        ({"a": -50, "b": 2}, "a", -50),
        ({}, None, None),
    ],
)
def test_which_reward(tmp_path: Path, rewards: Json, field: str | None, reward: float | None) -> None:
    fields = {"reward": field} if field else {}
    outcome = result(verifier_result={"rewards": rewards})
    assert import_trial(tmp_path, document(agent_step(3)), outcome, fields=fields).trajectories[0]["reward"] == reward


def test_several_rewards_need_a_word(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="rewards a, b and none is called 'reward': say which with --reward-field"):
        import_trial(tmp_path, document(agent_step(3)), result(verifier_result={"rewards": {"a": 0, "b": 1}}))


def test_a_torn_result_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"result\.json cannot be read"):
        import_trial(tmp_path, document(agent_step(3)), '{"verifier_result": {"rewards": {"rew')


def test_a_step_of_a_trial_has_its_own_reward(tmp_path: Path) -> None:
    steps = [
        {"step_name": "one", "verifier_result": {"rewards": {"reward": 0.25}}},
        {"step_name": "two", "verifier_result": {"rewards": {"reward": 0.75}}},
    ]
    run = import_trial(tmp_path, document(agent_step(3)), result(step_results=steps), at="steps/two/agent")
    (row,) = run.trajectories
    assert (row["task_id"], row["reward"]) == ("terminal-bench/hello-world/two", 0.75)


def test_what_goes_on_in_another_file_has_no_outcome_here(tmp_path: Path) -> None:
    run = import_trial(tmp_path, document(agent_step(3), continued_trajectory_ref="trajectory.cont-1.json"), result())
    (row,) = run.trajectories
    assert (row["reward"], row["ended"]) == (None, None)
    meta = json.loads(row["meta"])
    assert meta["continued_trajectory_ref"] == "trajectory.cont-1.json"
    assert meta["trial"]["verifier_result"] == {"rewards": {"reward": 1.0}}


def test_subagents_are_kept_in_meta(tmp_path: Path) -> None:
    reference = [{"trajectory_id": "sub", "session_id": "s"}]
    step = agent_step(3, observation={"results": [{"subagent_trajectory_ref": reference}]})
    subagent = document(agent_step(3), trajectory_id="sub")
    run = import_trial(tmp_path, document(step, subagent_trajectories=[subagent]), result())
    (row,) = run.trajectories
    meta = json.loads(row["meta"])
    assert meta["steps"][0]["observation"] == [{"source_call_id": None, "subagent_trajectory_ref": reference}]
    assert meta["subagent_trajectories"] == [subagent] and row["n_steps"] == 1


@pytest.mark.parametrize(
    ("trajectory", "reason"),
    [
        ({**document(), "schema_version": "ATIF-v2.0"}, "ATIF-v1.x can be read"),
        (document({"step_id": 3, "source": "robot", "message": ""}), "source 'robot'"),
        (
            document(agent_step(3, message=[{"type": "image", "source": {"path": "x.png"}}])),
            "content part of type 'image'",
        ),
        (document(agent_step(3, tool_calls=[{"function_name": "f", "arguments": [1]}])), "`arguments` is a JSON array"),
        ({"steps": []}, "no `schema_version`"),
    ],
)
def test_what_cannot_be_read_is_set_aside(tmp_path: Path, trajectory: Json, reason: str) -> None:
    with pytest.raises(BadData, match="nothing could be imported"):
        import_trial(tmp_path, trajectory, result())
    (rejected,) = [json.loads(line) for p in tmp_path.rglob("rejected.jsonl") for line in p.read_text().splitlines()]
    assert reason in rejected["reason"] and json.loads(rejected["raw"]) == trajectory
