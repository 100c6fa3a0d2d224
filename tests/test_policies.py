"""Policies that are served, against a real server process: ids, faults, being killed; and many rollouts at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from explore_helpers import CHECKOUT, SMALL, Plain, ids, record_expert, rows, run_policy
from policies_helpers import PLANS, Served, command, copy, exactly_once, policy, policy_ids, run

from envs.webshop import Novice, WebShop
from trajkit.errors import TrajkitError, UsageError
from trajkit.exploration.env import Env, Message
from trajkit.exploration.explore import Rollout, Settings, explore
from trajkit.exploration.pending import Cost, cost
from trajkit.exploration.policies import Answer, PolicyGone, Suffixed, temperatures
from trajkit.exploration.rollouts import shard_of

pytest.importorskip("tokenizers", reason="needs tokenizers: pip install trajkit[server]")
pytest.importorskip("transformers", reason="needs transformers: pip install trajkit[server]")
from model_server import make_tokenizer

from trajkit.exploration.policies.prompt_tokens import Turns
from trajkit.exploration.policies.server import Server

FAULTS = ["500", "503", "429", "half", "page", "list", "abort", "few_logprobs", "null_ids", "drop"]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def expert_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("expert")
    record_expert(runs, WebShop(**SMALL))
    return runs


@pytest.fixture
def runs(expert_runs: Path, tmp_path: Path) -> Path:
    return copy(expert_runs, tmp_path / "runs")


@pytest.fixture
def serve(tokenizer: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(*more: str, port: int = 0) -> Served:
        running.append(Served(tokenizer, tmp_path, *more, port=port))
        return running[-1]

    yield start
    for served in running:
        served.kill()


def serve_policy(runs: Path, who: Server, env: Env | None = None, samples: int = 1, **more: Any) -> Counter[str]:
    settings = Settings("policy", 1, **{"concurrency": 8, "max_steps": 5, **more})
    made = partial(type(env), **SMALL) if env else partial(WebShop, **SMALL)
    env = env or WebShop(**SMALL)
    return explore(runs, env, who, plans=PLANS, settings=settings, m=2, samples=samples, make_env=made)


@pytest.fixture(scope="module")
def calm(expert_runs: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("calm")
    served = Served(tokenizer, folder)
    serve_policy(copy(expert_runs, folder / "runs"), policy(served, tokenizer))
    served.kill()
    return folder / "runs"


# --- token in, token out -----------------------------------------------------------------------


def test_what_was_sampled_is_stored_and_never_encoded_again(
    serve: Callable[..., Served], tokenizer: Path, runs: Path
) -> None:
    served = serve()
    counts = serve_policy(runs, policy(served, tokenizer))
    assert counts["error"] == counts["drift"] == 0 < counts["rollouts"]
    said = {(tuple(entry["prompt"]), tuple(entry["ids"])) for entry in served.said()}
    turns = Turns(str(tokenizer))
    own = rows(
        runs,
        "SELECT trajectory_id, parent_id, branch_step, m.* FROM trajectories JOIN messages AS m USING (trajectory_id) "
        "WHERE trajectories.role = 'policy' ORDER BY trajectory_id, seq",
    )
    parents: dict[str, list[Message]] = {}
    for row in rows(
        runs,
        "SELECT m.* FROM messages AS m JOIN trajectories AS t USING (trajectory_id) WHERE t.role = 'expert' "
        "ORDER BY m.trajectory_id, m.seq",
    ):
        parents.setdefault(row["trajectory_id"], []).append(row)
    met, differently = set(), 0
    by_id: dict[str, list[Message]] = {}
    for row in own:
        by_id.setdefault(row["trajectory_id"], []).append(row)
    for messages in by_id.values():
        first = messages[0]
        before = [m for m in parents.get(first["parent_id"], []) if m["step"] < first["branch_step"]]
        prompt: list[int] | None = None
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            # The first prompt is the template's text; each later one is the one before it, what was sampled then, and
            # the text between, which the server's end of turn begins.
            if prompt is None:
                heard = [{"role": m["role"], "content": m["content"]} for m in [*before, *messages[:at]]]
                text = turns.tokenizer.apply_chat_template(heard, tokenize=False, add_generation_prompt=True)
                prompt = turns.tokenizer.encode(text, add_special_tokens=False)
            else:
                between = f"\n<|im_start|>user\n{messages[at - 1]['content']}<|im_end|>\n<|im_start|>assistant\n"
                prompt = (
                    prompt + messages[at - 2]["token_ids"] + turns.tokenizer.encode(between, add_special_tokens=False)
                )
            key = (tuple(prompt), tuple(message["token_ids"]))
            assert key in said
            met.add(key)
            assert len(message["logprobs"]) == len(message["token_ids"])
            assert all(logprob <= 0 for logprob in message["logprobs"])
            assert turns.tokenizer.decode(message["token_ids"], skip_special_tokens=True) == message["content"]
            again = turns.tokenizer.encode(message["content"], add_special_tokens=False)
            differently += again != message["token_ids"][:-1]
    assert met == said  # every answer that was given is in the tables
    assert differently > len(met) / 2  # encoding again would have given other ids


def test_settings_and_temperatures_are_recorded(serve: Callable[..., Served], tokenizer: Path, tmp_path: Path) -> None:
    served = serve()
    who = policy(served, tokenizer, sampling={"temperatures": (0.2, 0.9), "top_p": 0.8, "stop": ("\nObservation",)})
    serve_policy(tmp_path / "runs", who, samples=2, seed=3)
    got = rows(tmp_path / "runs", "SELECT sample, seed, actor, meta FROM trajectories")
    assert {row["actor"] for row in got} == {"tiny-1"}
    for row in got:
        wanted = {"model": "tiny-1", "temperature": (0.2, 0.9)[row["sample"]], "top_p": 0.8, "max_tokens": 200}
        assert json.loads(row["meta"])["sampling"] == {**wanted, "stop": ["\nObservation"], "token_ids": True}
    asked = Counter(entry["request"]["temperature"] for entry in served.said())
    assert set(asked) == {0.2, 0.9}
    assert {entry["request"]["stop"][0] for entry in served.said()} == {"\nObservation"}
    seeds = {entry["request"]["seed"] for entry in served.said()}
    assert {row["seed"] for row in got} <= seeds
    assert len(seeds) > len(got)  # another one at each step
    assert temperatures("0.2,0.9", 2) == (0.2, 0.9)
    for wrong in ("0.2,0.9", "hot", "-1"):
        with pytest.raises(UsageError, match="--temperature"):
            temperatures(wrong, 3)


def test_without_ids_it_talks_through_the_chat_endpoint(
    serve: Callable[..., Served], tokenizer: Path, tmp_path: Path
) -> None:
    served = serve("--no-ids")
    for number, who in enumerate((policy(served, None), policy(served, tokenizer))):
        assert not who.uses_ids
        counts = serve_policy(tmp_path / str(number), who)
        assert (counts["rollouts"], counts["error"]) == (16, 0)
        assert rows(tmp_path / str(number), "SELECT * FROM messages WHERE token_ids IS NOT NULL") == []
    assert ids(tmp_path / "0") == ids(tmp_path / "1")


def test_a_limit_on_tokens_ends_a_rollout(serve: Callable[..., Served], tokenizer: Path, tmp_path: Path) -> None:
    served = serve()
    serve_policy(tmp_path / "short", policy(served, tokenizer, sampling={"max_tokens": 5}))
    (row,) = rows(tmp_path / "short", "SELECT ended, n_steps, count(*) AS n FROM trajectories GROUP BY ALL")
    assert row == {"ended": "max_tokens", "n_steps": 1, "n": 16}
    assert rows(tmp_path / "short", "SELECT DISTINCT len(token_ids) AS n FROM messages WHERE role = 'assistant'") == [
        {"n": 5}
    ]
    assert rows(tmp_path / "short", "SELECT DISTINCT solved, value FROM outcomes") == [{"solved": False, "value": 0.0}]
    served.faults(context=500)
    serve_policy(tmp_path / "full", policy(served, tokenizer))
    full = rows(tmp_path / "full", "SELECT DISTINCT ended FROM trajectories ORDER BY 1")
    assert {"ended": "max_tokens"} in full
    assert {"ended": "error"} not in full


# --- servers that fail -------------------------------------------------------------------------


def test_a_server_that_fails_costs_nothing_but_time(
    serve: Callable[..., Served], tokenizer: Path, runs: Path, calm: Path
) -> None:
    served = serve()
    total = len(policy_ids(calm))
    counts = serve_policy(runs, _after(served, tokenizer, FAULTS, retries=12))
    assert (counts["rollouts"], counts["error"]) == (total, 0)
    assert ids(runs) == ids(calm)


def _after(served: Served, tokenizer: Path, kinds: list[str], **more: Any) -> Server:
    """A policy made while the server was well."""
    served.faults()
    who = policy(served, tokenizer, **more)
    served.faults(kinds=kinds, share=0.3, stall=60)
    return who


def test_a_server_that_stalls_is_asked_again(serve: Callable[..., Served], tokenizer: Path, tmp_path: Path) -> None:
    served = serve()
    who = _after(served, tokenizer, ["stall"], timeout=2.0, retries=12)
    counts = serve_policy(tmp_path / "runs", who, concurrency=32, max_steps=3)
    assert (counts["rollouts"], counts["error"]) == (16, 0)


def test_what_always_fails_is_an_error_without_outcome_and_the_next_run_does_it(
    serve: Callable[..., Served], tokenizer: Path, tmp_path: Path
) -> None:
    served, env = serve(), WebShop(**SMALL)
    hated = next(iter(env.tasks("train")))
    text = env.reset(hated.task_id)[0][-1]["content"].split(" [SEP] ")[2]
    served.faults(hates=text)
    who = policy(served, tokenizer, retries=1)
    counts = serve_policy(tmp_path, who, tries=3)
    assert (counts["rollouts"], counts["error"]) == (16, 1)
    (row,) = rows(tmp_path, "SELECT * FROM outcomes WHERE ended = 'error'")
    assert (row["task_id"], row["solved"], row["value"]) == (hated.task_id, None, None)
    assert served.stats()["requests"] > 16
    served.faults()
    again = serve_policy(tmp_path, policy(served, tokenizer))
    assert (again["rollouts"], again["error"], again["already_done"]) == (1, 0, 15)
    assert exactly_once(tmp_path)


def test_a_server_that_dies_leaves_what_is_done_and_the_next_run_does_the_rest(
    serve: Callable[..., Served], tokenizer: Path, runs: Path, calm: Path
) -> None:
    served = serve("--latency", "0.01")
    total = len(policy_ids(calm))
    who, before = policy(served, tokenizer, retries=2), served.stats()["requests"]

    def kill_soon() -> None:
        while served.stats()["requests"] < before + 60:
            time.sleep(0.01)
        served.kill()

    killer = threading.Thread(target=kill_soon)
    killer.start()
    with pytest.raises(PolicyGone, match=rf"does not answer: .* of {total} rollouts are done and written"):
        serve_policy(runs, who)
    killer.join()
    some = policy_ids(runs)
    assert 0 < len(some) < total
    assert rows(runs, "SELECT * FROM trajectories WHERE ended = 'error'") == []
    with pytest.raises(UsageError, match="no server answers there"):
        policy(served, tokenizer)
    again = serve(port=served.port)
    counts = serve_policy(runs, policy(again, tokenizer))
    assert counts["rollouts"] == total - len(some)
    assert ids(runs) == ids(calm)
    assert exactly_once(runs)


def test_a_wrong_key_or_path_stops_at_once(serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve()
    with pytest.raises(UsageError, match="lists no models"):
        Server(served.url + "/nowhere")
    who = Server(served.url + "/nowhere", model="x")
    with pytest.raises(PolicyGone, match="refuses with 404"):
        serve_policy(tmp_path, who)


# --- many at once ------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "env"), [(0, Plain), (2, WebShop)])
def test_rollouts_in_flight_and_in_processes_are_the_same_rollouts(
    serve: Callable[..., Served], tokenizer: Path, runs: Path, expert_runs: Path, tmp_path: Path, workers: int, env: Any
) -> None:
    served = serve()
    one = copy(expert_runs, tmp_path / "one")
    serve_policy(one, policy(served, tokenizer), concurrency=4, max_steps=4)
    assert served.stats()["most_in_flight"] <= 4
    served.faults(latency=0.3)
    counts = serve_policy(
        runs, policy(served, tokenizer), env(**SMALL), concurrency=30, env_workers=workers, max_steps=4
    )
    assert counts["drift"] == counts["error"] == 0
    assert ids(runs) == ids(one)
    assert served.stats()["most_in_flight"] > 10


@pytest.mark.parametrize("env", [WebShop, Plain])
def test_scripted_policies_in_processes(runs: Path, expert_runs: Path, tmp_path: Path, env: Any) -> None:
    one = copy(expert_runs, tmp_path / "one")
    total = run_policy(one, WebShop(**SMALL))
    settings = Settings("policy", 1, env_workers=2)
    made = {"make_env": partial(env, **SMALL), "make_policy": Novice}
    counts = explore(runs, env(**SMALL), Novice(), plans=PLANS, settings=settings, **made)
    assert counts == total
    assert ids(runs) == ids(one)
    with pytest.raises(UsageError, match="need make_env"):
        explore(runs, env(**SMALL), Novice(), plans=PLANS, settings=settings)


class Mortal(Plain):
    """Its first two processes die at their twentieth action."""

    taken = 0

    def __init__(self, deaths: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.deaths = Path(deaths)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        Mortal.taken += 1
        if Mortal.taken == 20 and len(list(self.deaths.iterdir())) < 2:
            (self.deaths / str(os.getpid())).touch()
            os._exit(7)
        return super().step(action)


@pytest.mark.parametrize("scripted", [True, False])
def test_a_process_that_dies_is_started_anew(
    serve: Callable[..., Served], tokenizer: Path, runs: Path, expert_runs: Path, tmp_path: Path, scripted: bool
) -> None:
    one, deaths = copy(expert_runs, tmp_path / "one"), tmp_path / "deaths"
    deaths.mkdir()
    made = partial(Mortal, str(deaths), **SMALL)
    settings = Settings("policy", 1, env_workers=2, tries=4, concurrency=4, max_steps=6)
    who: Any = Novice() if scripted else policy(serve(), tokenizer)
    calm = Settings("policy", 1, concurrency=4, max_steps=6)
    explore(one, WebShop(**SMALL), who, plans=PLANS, settings=calm, m=2)
    counts = explore(runs, Plain(), who, plans=PLANS, settings=settings, m=2, make_env=made, make_policy=Novice)
    assert len(list(deaths.iterdir())) == 2
    assert counts["error"] == 0
    assert ids(runs) == ids(one)


def test_a_process_that_cannot_start_is_an_error_of_each_rollout(tmp_path: Path) -> None:
    made = partial(WebShop, products=-1)
    settings = Settings("policy", 1, env_workers=1)
    with pytest.raises(TrajkitError, match=r"all 16 rollouts ended in error.*products=-1"):
        explore(
            tmp_path,
            WebShop(**SMALL),
            Novice(),
            plans=["initial"],
            settings=settings,
            make_env=made,
            make_policy=Novice,
        )


def test_shards_are_the_whole_plan_once(runs: Path, expert_runs: Path, tmp_path: Path) -> None:
    whole = copy(expert_runs, tmp_path / "whole")
    total = run_policy(whole, WebShop(**SMALL))["rollouts"]
    parts = [run_policy(runs, WebShop(**SMALL), shard=(k, 3))["rollouts"] for k in (1, 2, 3)]
    assert sum(parts) == total
    assert all(0 < part < total for part in parts)
    assert ids(runs) == ids(whole)
    assert shard_of(Rollout("t", None, 0, 0), 1000) == 627  # as on every other machine


def test_the_cost_is_what_it_then_takes(runs: Path) -> None:
    for env in (Plain(), Counting(**SMALL)):
        to = copy(runs, runs.parent / type(env).__name__)
        settings = Settings("policy", 1)
        told = cost(to, env, "novice", plans=PLANS, settings=settings)
        counts = run_policy(to, env)
        own = sum(r["n_steps"] for r in rows(to, "SELECT n_steps FROM trajectories WHERE role = 'policy'"))
        assert (told.rollouts, told.replayed_steps) == (counts["rollouts"], env.steps - own)
        assert (told.tasks, told.from_s0, told.already_done) == (16, 16, 0)
        again = cost(to, env, "novice", plans=PLANS, settings=settings)
        assert again == Cost(0, 0, 0, 0, 0, counts["rollouts"])
    empty = cost(runs.parent / "empty", WebShop(**SMALL), "novice", plans=["initial"], settings=settings, samples=2)
    assert (empty.rollouts, empty.tasks) == (32, 16)


class Counting(WebShop):
    """WebShop that counts its steps."""

    steps = 0

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return super().step(action)


# --- the command line --------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_or_killed_and_run_again(
    serve: Callable[..., Served], tokenizer: Path, runs: Path, calm: Path, how: signal.Signals
) -> None:
    served = serve()
    total = len(policy_ids(calm))
    served.faults(latency=0.15)
    given = [
        f"--policy={served.url}",
        f"--tokenizer={tokenizer}",
        "--max-tokens=200",
        "--env-workers=2",
        "--concurrency=4",
    ]
    process = subprocess.Popen(command(runs, *given), cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
    while not list(runs.glob("explore-policy-*/part-*/traj*")):
        assert process.poll() is None
        time.sleep(0.02)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(how)
    process.wait(timeout=300)
    assert process.stderr is not None
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert process.stderr.read().strip() == (
            "trajkit: stopped; what was written so far is whole, and running it again goes on from there"
        )
    end = time.monotonic() + 300
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end, "worker processes are left"
        time.sleep(0.05)
    done = len(policy_ids(runs))
    assert 0 < done < total
    served.faults()
    again = run(runs, *given)
    assert again.returncode == 0, again.stderr
    assert f"policy tiny-1, iteration 1: {total - done} rollouts, " in again.stderr
    assert ids(runs) == ids(calm)
    assert exactly_once(runs)


def test_the_dry_run_and_refusals(runs: Path) -> None:
    before = ids(runs)
    told = run(runs, "--policy=http://127.0.0.1:9/v1", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("48 rollouts of 16 tasks: 16 from s_0, 32 from states of 16 recorded trajectories (")
    assert ids(runs) == before
    for given, message in (
        (["--policy=http://127.0.0.1:9/v1"], "no server answers there"),
        (["--policy=http://[/v1"], "--policy http://[/v1: "),
        (["--policy=envs.webshop:Novice", "--shard=3/2"], "--shard 3/2: it is k/n"),
        (["--policy=envs.webshop:Novice", "--temperature=1,2"], "one for each of the 1 of --samples"),
    ):
        wrong = run(runs, *given)
        assert wrong.returncode == 2, wrong.stderr
        assert message in wrong.stderr
        assert "Traceback" not in wrong.stderr


class Echo:
    """Answers with what it was asked."""

    actor = "echo"

    async def answer(self, messages: Sequence[Message], *, seed: int, sample: int) -> Answer:
        return Answer({"role": "assistant", "content": "|".join(str(m["content"]) for m in messages)})

    def sampling(self, sample: int) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        return None


def test_a_suffix_ends_the_instruction_at_every_step_and_nothing_else() -> None:
    first: list[Message] = [
        {"role": "system", "content": "rules"}, {"role": "user", "content": "an example"},
        {"role": "assistant", "content": "its answer", "context": True}, {"role": "user", "content": "the task"},
    ]  # fmt: skip
    later: list[Message] = [*first, {"role": "assistant", "content": "act"}, {"role": "user", "content": "seen"}]
    before = json.dumps(later)
    suffixed = Suffixed(Echo(), "do well")
    said = [asyncio.run(suffixed.answer(asked, seed=0, sample=0)).message for asked in (first, later)]
    asked = "rules|an example|its answer|the task\n\ndo well"
    assert [message and message["content"] for message in said] == [asked, f"{asked}|act|seen"]
    assert json.dumps(later) == before and suffixed.actor == "echo"
    alone = asyncio.run(suffixed.answer([{"role": "system", "content": "rules"}], seed=0, sample=0)).message
    assert alone is not None and alone["content"] == "rules\n\ndo well"
