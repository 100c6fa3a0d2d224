"""What exploring costs beyond the environment and the policy.

    python benchmarks/exploring.py [--size 40 --rounds 3]

`size` is the rollouts of each of the built-in WebShop's 100 tasks. Besides: ScienceWorld, where it is installed (s_0
and five states of 10 recorded experts); 2 worker processes against 1, with an environment that computes 3 ms a step;
32 rollouts in flight against a server (the tests', 1 s an answer) beside a bare asynchronous loop that sends the same
requests; and 2,000 in flight against one that answers after 3 s (answering.py), beside as bare a loop over sockets. The
last one needs 2,500 descriptors (`ulimit -n`).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import measure

sys.path[:0] = [str(measure.CHECKOUT), str(measure.CHECKOUT / "tests")]

from envs.webshop import Novice, WebShop  # noqa: E402
from trajkit.exploration.explore import Settings, explore  # noqa: E402
from trajkit.exploration.policies import Sampling  # noqa: E402


def rows(folder: Path, size: int = 40, rounds: int = 3) -> list[measure.Row]:
    """Each against what it cannot do without."""
    told = {
        "toolkit": ("explore, WebShop, a scripted policy", "its time in environment and policy"),
        "scienceworld": ("explore, ScienceWorld, branches too", "its time in environment and policy"),
        "workers": ("explore, 2 worker processes", "1 worker process"),
        "server": ("explore, 32 rollouts in flight", "a bare asynchronous loop of the same requests"),
        "crowd": ("explore, 2,000 rollouts in flight", "a bare asynchronous loop of the same requests"),
    }
    found = []
    for name, (what, other) in told.items():
        if name == "scienceworld" and not (importlib.util.find_spec("scienceworld") and shutil.which("java")):
            continue
        took = [measure.alone(__file__, name, size) for _ in range(rounds)]
        own, others = [one["seconds"] for one in took], [one["other"] for one in took]
        found.append(measure.Row(what, own, other, others, took[0]["note"]))
    return found


class Timed:
    """A thing whose methods' time is added up."""

    def __init__(self, thing: Any, *names: str) -> None:
        self.seconds, self.calls = 0.0, 0
        for name in dir(thing):
            if not name.startswith("_") and name not in ("seconds", "calls"):
                value = getattr(thing, name)
                setattr(self, name, self._timed(value) if name in names else value)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args, **more)
            finally:
                self.seconds += time.perf_counter() - began
                self.calls += 1

        return timed


class Busy(WebShop):
    """WebShop that computes for 3 ms of processor time at each step."""

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        end = time.process_time() + 0.003
        while time.process_time() < end:
            pass
        return super().step(action)


# --- what is measured: seconds, and `other`: those of what it is compared with ---


def toolkit(out: Path, samples: str) -> measure.Found:
    """The time outside of the environment and a scripted policy."""
    env = Timed(WebShop(), "step", "reset", "snapshot", "restore")
    policy = Timed(Novice(), "act")
    settings = Settings("policy", 1)
    run = partial(explore, out, env, policy, plans=["initial"], settings=settings, samples=int(samples))
    took, inside = measure.seconds(run), env.seconds + policy.seconds
    return {"seconds": took, "other": inside, "note": f"{(took - inside) / policy.calls * 1e3:.3f} ms a step besides"}


def scienceworld(out: Path, samples: str) -> measure.Found:
    """The same on top of a slow environment, replays included."""
    from envs.scienceworld import Novice as ScienceNovice
    from envs.scienceworld import PerturbedGold, ScienceWorld

    real = ScienceWorld(limit=10)
    try:
        explore(out, real, PerturbedGold(), plans=["initial"], settings=Settings("expert", 0, max_steps=80))
        env, policy = Timed(real, "step", "reset"), Timed(ScienceNovice(), "act")
        settings = Settings("policy", 1, max_steps=80)
        run = partial(explore, out, env, policy, plans=["initial", "skip_length"], settings=settings, m=5)
        took = measure.seconds(run)
    finally:
        real.close()
    share = (took - env.seconds - policy.seconds) / env.seconds
    return {
        "seconds": took,
        "other": env.seconds + policy.seconds,
        "note": f"{share:.1%} of the environment's time besides",
    }


def workers(out: Path, samples: str) -> measure.Found:
    """2 workers and 1."""
    took = {}
    for n in (1, 2):
        settings = Settings("policy", 1, env_workers=n)
        run = partial(explore, out / f"w{n}", WebShop(), Novice(), plans=["initial"], settings=settings, samples=4)
        took[n] = measure.seconds(partial(run, make_env=Busy, make_policy=Novice))
    return {"seconds": took[2], "other": took[1], "note": "an environment that computes 3 ms a step"}


def server(out: Path, samples: str) -> measure.Found:
    """A server's latency hidden by many rollouts in flight, and the same requests without trajkit."""
    import httpx
    from model_server import make_tokenizer
    from policies_helpers import Served

    from trajkit.exploration.policies.server import Server

    make_tokenizer(out / "tokenizer")
    served = Served(out / "tokenizer", out)
    served.faults(latency=1.0)
    requests: dict[int, list[dict[str, Any]]] = {}

    class Noting(Server):
        async def once(self, path: str, request: dict[str, Any], url: str | None = None) -> Any:
            requests.setdefault(id(asyncio.current_task()), []).append(request)
            return await super().once(path, request, url)

    async def bare() -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:

            async def one(chain: list[dict[str, Any]]) -> None:
                for request in chain:
                    (await client.post(served.url + "/completions", json=request)).json()

            await asyncio.gather(*map(one, requests.values()))

    try:
        policy = Noting(served.url, None, str(out / "tokenizer"), Sampling(max_tokens=200))
        settings = Settings("policy", 1, concurrency=32, max_steps=6)
        run = partial(explore, out / "runs", WebShop(), policy, plans=["initial"], settings=settings, samples=1)
        ours = measure.seconds(run)
        theirs = measure.seconds(lambda: asyncio.run(bare()))
    finally:
        served.kill()
    return {"seconds": ours, "other": theirs, "note": f"{sum(map(len, requests.values())):,} requests, 1 s each"}


def crowd(out: Path, samples: str) -> measure.Found:
    """2,000 rollouts of 4 steps side by side, environments in a process of their own as the command line has them."""
    from trajkit.exploration.policies.server import Server

    script = str(measure.CHECKOUT / "benchmarks/answering.py")
    with subprocess.Popen([sys.executable, script, "3"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        requests: dict[int, list[dict[str, Any]]] = {}
        asked: list[float] = []
        answered: list[float] = []

        class Noting(Server):
            async def once(self, path: str, request: dict[str, Any], url: str | None = None) -> Any:
                requests.setdefault(request["seed"] - len(request["messages"]) // 2, []).append(request)
                asked.append(time.perf_counter())
                answer = await super().once(path, request, url)
                answered.append(time.perf_counter())
                return answer

        async def one(chain: list[dict[str, Any]]) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for request in chain:
                body = json.dumps(request).encode()
                writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                head = await reader.readuntil(b"\r\n\r\n")
                json.loads(await reader.readexactly(int(head.lower().partition(b"content-length:")[2])))
            writer.close()

        async def bare() -> None:
            await asyncio.gather(*map(one, requests.values()))

        try:
            policy = Noting(f"http://127.0.0.1:{port}/v1")
            settings = Settings("policy", 1, concurrency=2000, max_steps=4, env_workers=1)
            run = partial(explore, out / "runs", WebShop(), policy, plans=["initial"], settings=settings, samples=20)
            began = time.perf_counter()
            run(make_env=WebShop)
            ours = answered[-1] - asked[0]
            theirs = measure.seconds(lambda: asyncio.run(bare()))
        finally:
            process.kill()
    n = sum(map(len, requests.values()))
    return {
        "seconds": ours,
        "other": theirs,
        "note": f"{n:,} requests, 3 s each; {theirs / ours:.0%} of its throughput, from the first request to the last "
        f"answer; the start takes {asked[0] - began:.1f} s more",
    }


MEASURED = {"toolkit": toolkit, "scienceworld": scienceworld, "workers": workers, "server": server, "crowd": crowd}


if __name__ == "__main__":
    measure.run(rows, MEASURED)
