"""Several servers as one policy: which one is asked, servers that die and come back, and a whole fleet of both."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from explore_helpers import CHECKOUT, SMALL, ids, record_expert

from envs.webshop import WebShop
from trajkit.errors import UsageError
from trajkit.exploration.env import Message
from trajkit.exploration.policies import Answer, PolicyGone, Sampling

pytest.importorskip("httpx", reason="needs httpx: pip install trajkit[server]")
pytest.importorskip("tokenizers", reason="needs tokenizers: pip install trajkit[server]")
pytest.importorskip("transformers", reason="needs transformers: pip install trajkit[server]")

from model_server import make_tokenizer
from policies_helpers import Served, command, copy, exactly_once, policy, policy_ids, run

from trajkit.exploration.policies.fleet import ERRS, Fleet, beginnings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's folder."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def start(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(*more: str, port: int = 0, of: Path = model) -> Served:
        running.append(Served(of, tmp_path_factory.mktemp("served"), *more, port=port))
        return running[-1]

    yield start
    for served in running:
        served.kill()


@pytest.fixture(scope="module")
def started(start: Callable[..., Served]) -> list[Served]:
    return [start(), start(), start()]


@pytest.fixture
def three(started: list[Served]) -> list[Served]:
    """Three servers, none of which has anything wrong with it."""
    for served in started:
        served.faults()
    return started


def fleet(*served: Served, tokenizer: Path | None = None, **more: Any) -> Fleet:
    given = {"first_wait": 0.05, "timeout": 20.0, **more}
    urls = [one.url for one in served]
    return Fleet(urls, None, str(tokenizer) if tokenizer else None, Sampling(max_tokens=200), **given)


def talk(about: str, *more: Message) -> list[Message]:
    return [{"role": "user", "content": f"{about} [SEP] left [SEP] right"}, *more]


async def answers(who: Any, about: str, n: int) -> list[Answer]:
    """Of `n` conversations that begin at once."""
    got = await asyncio.gather(*(who.answer(talk(f"{about} {k}"), seed=k, sample=0) for k in range(n)))
    await who.close()
    return list(got)


def answered(served: Served, about: str) -> int:
    """How many conversations about it this server has gone on with."""
    return sum(entry["request"]["messages"][0]["content"].startswith(about) for entry in served.said())


# --- which one is asked ------------------------------------------------------------------------


def test_the_least_busy_is_asked(three: list[Served]) -> None:
    who = fleet(*three)
    for served in three:
        served.faults(latency=0.3)
    asyncio.run(answers(who, "even", 9))
    assert [answered(served, "even") for served in three] == [3, 3, 3]
    for served, latency in zip(three, (0.02, 0.02, 0.4), strict=True):
        served.faults(latency=latency)

    async def one_after_the_other(line: int) -> None:
        for n in range(8):
            await who.answer(talk(f"slow {line} {n}"), seed=0, sample=0)

    async def go() -> None:
        await asyncio.gather(*map(one_after_the_other, range(4)))
        await who.close()

    asyncio.run(go())
    *quick, slow = [answered(served, "slow") for served in three]
    assert sum(quick) + slow == 32
    assert slow < min(quick)


def test_a_conversation_stays_where_it_was_unless_that_server_is_much_busier(three: list[Served]) -> None:
    who = fleet(*three)
    for served in three:
        served.faults(latency=0.05)

    async def converse(about: str) -> list[Message]:
        messages = talk(about)
        for step in range(4):
            said = (await who.answer(messages, seed=step, sample=0)).message
            assert said
            messages += [said, {"role": "user", "content": f"{step} [SEP] left [SEP] right"}]
        return messages

    async def go() -> None:
        told = await asyncio.gather(*(converse(f"stay {n} ") for n in range(6)))
        for n in range(6):
            assert sorted(answered(served, f"stay {n} ") for served in three) == [0, 0, 4]
        assert [answered(served, "stay") for served in three] == [8, 8, 8]
        # What begins as a conversation did, up to an action, is best asked where that was.
        at = next(served for served in three if answered(served, "stay 0 "))
        for n in range(6):
            branch = [*told[0][:3], {"role": "assistant", "content": "else"}, {"role": "user", "content": f"{n}"}]
            await who.answer(branch, seed=n, sample=0)
        assert answered(at, "stay 0 ") == 10
        for served in three:
            served.faults(latency=0.3)
        await asyncio.gather(*(who.answer(told[0], seed=n, sample=0) for n in range(20)))
        others = [answered(served, "stay 0 ") for served in three if served is not at]
        assert min(others) >= 3
        assert answered(at, "stay 0 ") - 10 > max(others)
        await who.close()

    asyncio.run(go())
    example: Message = {"role": "assistant", "content": "so", "context": True}
    assert beginnings(talk("x", example)) == []
    assert len(beginnings(talk("x", example, {"role": "assistant", "content": "so"}))) == 1


# --- servers that fail -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["500", "drop", "page", "stall"])
def test_what_one_server_fails_at_another_answers_the_same(three: list[Served], kind: str) -> None:
    alone = policy(three[0], None)
    who = fleet(*three, timeout=3.0 if kind == "stall" else 60.0)
    three[1].faults(kinds=[kind], share=1, stall=60)
    before = three[1].stats()["requests"]
    got = asyncio.run(answers(who, kind, 12))
    assert got == asyncio.run(answers(alone, kind, 12))
    tries = three[1].stats()["requests"] - before
    assert tries > 0

    async def later() -> None:
        for n in range(20):
            await who.answer(talk(f"then {n}"), seed=n, sample=0)
        await who.close()

    if kind != "stall":
        asyncio.run(later())  # it is left alone, but for a knock now and then
        assert three[1].stats()["requests"] - before - tries <= ERRS + 3


def test_a_dead_server_is_knocked_at_later_each_time_and_comes_back(
    three: list[Served], start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajkit.exploration.policies.fleet.LONGEST", 1.0)
    mortal, told = start(), list[str]()
    who = fleet(three[0], mortal, tell=told.append)
    mortal.kill()
    waits = noted_waits(monkeypatch)
    came: list[bytes] = []  # GET: it is knocked at; POST: it is asked

    async def knocked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read(4))
        writer.close()

    async def until(true: Callable[[], bool]) -> None:
        async with asyncio.timeout(300):
            while not true():
                await asyncio.sleep(0.01)

    async def ask(about: str) -> None:
        await asyncio.gather(*(who.answer(talk(f"{about} {n}"), seed=n, sample=0) for n in range(4)))

    async def go() -> None:
        door = await asyncio.start_server(knocked, "127.0.0.1", mortal.port)
        await ask("dead")  # two of the four go to each, and the dead one's two to the other then
        assert answered(three[0], "dead") == 4
        await ask("away")
        assert answered(three[0], "away") == 4
        await until(lambda: came.count(b"GET ") >= 6)
        assert came.count(b"POST") == 2
        knocking = who.members[1].knocking
        assert knocking
        for wait, about in zip(waits[knocking], (0.05, 0.1, 0.2, 0.4, 0.8, 1.0), strict=False):
            assert 0.75 * about <= wait <= 1.25 * about
        assert len(told) == 1 and told[0].startswith(f"{mortal.url} is left out: no server answers there (")
        door.close()
        await door.wait_closed()
        another = await asyncio.to_thread(start, "--model", "other", port=mortal.port)
        await until(lambda: "its model is other" in str(who.members[1].problem))
        await ask("other")
        assert answered(three[0], "other") == 4
        another.kill()
        again = await asyncio.to_thread(start, port=mortal.port)
        await until(lambda: len(told) == 2)
        assert told[1] == f"{mortal.url} answers again."
        for served in (three[0], again):
            served.faults(latency=1.0)
        await ask("back")
        assert (answered(three[0], "back"), answered(again, "back")) == (2, 2)
        await who.close()

    asyncio.run(go())


def noted_waits(monkeypatch: pytest.MonkeyPatch) -> dict[Any, list[float]]:
    """How long each task asks to sleep, from now on; how long it then does is the machine's affair."""
    waits: dict[Any, list[float]] = {}
    sleep = asyncio.sleep

    async def noted(seconds: float, *more: Any) -> Any:
        waits.setdefault(asyncio.current_task(), []).append(seconds)
        return await sleep(seconds, *more)

    monkeypatch.setattr(asyncio, "sleep", noted)
    return waits


def test_when_all_are_dead_it_waits_as_long_as_for_one_and_says_so(
    start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = [start(), start()]
    who = fleet(*two, retries=3)
    for served in two:
        served.kill()
    waits = noted_waits(monkeypatch)
    with pytest.raises(PolicyGone, match=rf"none of the 2 servers answers: {two[0].url}: .*; {two[1].url}: "):
        asyncio.run(answers(who, "gone", 3))
    asking = [slept for task, slept in waits.items() if task is None or "_bring_back" not in repr(task.get_coro())]
    longest = [wait for wait in max(asking, key=len) if wait]
    assert len(longest) == 3
    for wait, about in zip(longest, (0.05, 0.1, 0.2), strict=True):
        assert 0.75 * about <= wait <= 1.25 * about


# --- the start ---------------------------------------------------------------------------------


def test_servers_that_differ_are_named_and_one_that_is_away_is_passed_over(
    three: list[Served], start: Callable[..., Served], model: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    gone = "http://127.0.0.1:9/v1"
    who = Fleet([gone, three[0].url, three[1].url + "/", three[1].url], tell=told.append)
    assert (who.actor, [member.url for member in who.members]) == ("tiny-1", [gone, three[0].url, three[1].url])
    assert len(told) == 1 and told[0].startswith(f"{gone} is left out: no server answers there (")
    assert len(asyncio.run(answers(who, "start", 4))) == 4
    with pytest.raises(UsageError, match=rf"{gone}: no server answers there .* {gone}9: no server answers there"):
        Fleet([gone, gone + "9"])
    other = start("--model", "other")
    with pytest.raises(UsageError, match=rf"{other.url}: its model is other, that of {three[0].url} is tiny-1\. All"):
        fleet(three[0], three[1], other)
    folder = tmp_path / "other"
    folder.mkdir()
    vocabulary = json.loads((model / "tokenizer.json").read_text())
    vocabulary["model"]["merges"] = vocabulary["model"]["merges"][:5]
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    cut = start(of=folder)
    for tokenizer in (None, model):
        with pytest.raises(UsageError, match=rf"{cut.url}: its tokenizer makes other tokens of a text than that of"):
            fleet(three[0], cut, tokenizer=tokenizer)
    silent = start("--no-ids")
    with pytest.raises(UsageError, match=rf"{silent.url}: it gives no token ids, {three[0].url} gives some"):
        fleet(three[0], silent, tokenizer=model)
    with pytest.raises(UsageError, match="--policy http://localhost:80a/v1: Port could not"):
        Fleet([three[0].url, "http://localhost:80a/v1"])
    wrong = run(tmp_path, f"--policy={three[0].url},localhost:8000")
    assert wrong.returncode == 2
    assert "'localhost:8000' is no URL" in wrong.stderr


# --- the whole fleet ---------------------------------------------------------------------------


# Explorers as the command starts them, forked from one process that has imported what they need: to start each of them
# anew takes longer than what they do here.
EXPLORERS = """
import os, sys
import duckdb, httpx, pyarrow.dataset, tqdm
import envs.webshop, trajkit.exploration.explore, trajkit.exploration.policies.fleet
from trajkit.cli import main
folder, n, *words = sys.argv[1:]
if any(word.startswith("--tokenizer") for word in words):
    import transformers.models.auto
for k in range(1, int(n) + 1):
    if os.fork() == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{k}.{name}", os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["trajkit", *words, f"--shard={k}/{n}"]
        main()
sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(int(n))))
"""


@pytest.mark.parametrize(
    ("samples", "with_ids"), [(1, False), pytest.param(8, True, marks=pytest.mark.slow)], ids=["small", "full"]
)
def test_8_explorers_do_the_plan_once_while_2_of_4_servers_die(
    start: Callable[..., Served], three: list[Served], model: Path, tmp_path: Path, samples: int, with_ids: bool
) -> None:
    given = [f"--samples={samples}", *([f"--tokenizer={model}"] if with_ids else [])]
    runs, calm = tmp_path / "runs", tmp_path / "calm"
    record_expert(calm, WebShop(**SMALL))
    copy(calm, runs)
    before = three[0].stats()["requests"]
    undisturbed = run(calm, f"--policy={three[0].url}", "--concurrency=16", *given)
    assert undisturbed.returncode == 0, undisturbed.stderr
    total, requests = len(policy_ids(calm)), three[0].stats()["requests"] - before
    servers = [start(), start(), *three[:2]]
    for served in servers:
        served.faults(latency=0.1)

    def asked() -> int:
        return sum(served.stats()["requests"] for served in servers if served.process.poll() is None)

    def told(text: str) -> bool:
        return any(text in path.read_text() for path in tmp_path.glob("?.err"))

    urls = ",".join(served.url for served in servers)
    words = command(runs, f"--policy={urls}", "--concurrency=2", "--json", *given)[3:]
    before = asked()
    explorers = subprocess.Popen(
        [sys.executable, "-c", EXPLORERS, str(tmp_path), "8", *words], cwd=CHECKOUT, start_new_session=True
    )
    try:
        for victim, share in ((0, 0.3), (1, 0.5)):
            while asked() < before + share * requests:
                assert explorers.poll() is None
                time.sleep(0.1)
            before -= servers[victim].stats()["requests"]
            servers[victim].kill()
        while with_ids and not told(f"{servers[1].url} is left out"):
            assert explorers.poll() is None
            time.sleep(0.1)
        again = start("--latency", "0.1", port=servers[1].port)
        code = explorers.wait(timeout=300)
    finally:
        if explorers.poll() is None:
            os.killpg(explorers.pid, signal.SIGKILL)
    errors = [(tmp_path / f"{k}.err").read_text() for k in range(1, 9)]
    assert code == 0, errors
    counts = [json.loads((tmp_path / f"{k}.out").read_text()) for k in range(1, 9)]
    assert sum(count["rollouts"] for count in counts) == total
    assert sum(count["error"] + count["drift"] for count in counts) == 0
    assert ids(runs) == ids(calm)
    assert exactly_once(runs)
    if with_ids:
        assert told(f"{servers[0].url} is left out")
        assert told(f"{servers[1].url} answers again")
        assert len(again.said()) > 0
