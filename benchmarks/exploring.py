"""What exploring costs beyond the environment and the policy. Ratios within one run.

python benchmarks/exploring.py

toolkit    time per step outside of the environment and a scripted policy, on the built-in WebShop
scienceworld  the same on ScienceWorld, as a share of its own stepping: s_0 and M = 5 of 10 recorded experts
workers    2 worker processes against 1, with an environment that computes 3 ms a step
server     32 rollouts in flight against a bare asynchronous loop that sends the same requests (the tests' server,
           1 s an answer)
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from envs.webshop import Novice, WebShop
from trajkit.explore import Settings, explore
from trajkit.policies import Sampling


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


def seconds(run: Callable[[], Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def toolkit(folder: Path) -> None:
    """Milliseconds a step."""
    for samples in (10, 40):
        env = Timed(WebShop(), "step", "reset", "snapshot", "restore")
        policy = Timed(Novice(), "act")
        settings = Settings("policy", 1)
        took = seconds(
            lambda samples=samples, env=env, policy=policy, settings=settings: explore(
                folder / str(samples), env, policy, plans=["initial"], settings=settings, samples=samples
            )
        )
        inside = env.seconds + policy.seconds
        per_step = (took - inside) / policy.calls * 1e3
        print(
            f"toolkit: {policy.calls} steps in {took:.2f} s, of it {inside:.2f} s in environment and policy: "
            f"{per_step:.3f} ms a step"
        )


def scienceworld(folder: Path) -> None:
    """The toolkit's share on top of the environment's stepping, replays included."""
    from envs.scienceworld import Novice as ScienceNovice
    from envs.scienceworld import PerturbedGold, ScienceWorld

    runs = folder / "scienceworld"
    real = ScienceWorld(limit=10)
    try:
        explore(runs, real, PerturbedGold(), plans=["initial"], settings=Settings("expert", 0, max_steps=80))
        env, policy = Timed(real, "step", "reset"), Timed(ScienceNovice(), "act")
        settings = Settings("policy", 1, max_steps=80)
        took = seconds(lambda: explore(runs, env, policy, plans=["initial", "skip_length"], settings=settings, m=5))
    finally:
        real.close()
    share = (took - env.seconds - policy.seconds) / env.seconds
    print(
        f"scienceworld: {took:.1f} s, {env.seconds:.1f} s of it in the environment, {policy.seconds:.1f} s in the "
        f"scripted policy: the toolkit adds {share:.1%} to the environment's own time"
    )


def workers(folder: Path) -> None:
    """How much faster 2 are than 1."""
    took = {}
    for n in (1, 2):
        settings = Settings("policy", 1, env_workers=n)
        run = partial(explore, folder / f"w{n}", WebShop(), Novice(), plans=["initial"], settings=settings, samples=4)
        took[n] = seconds(partial(run, make_env=Busy, make_policy=Novice))
    print(f"workers: 1 takes {took[1]:.2f} s, 2 take {took[2]:.2f} s: {took[1] / took[2]:.2f}x")


def server(folder: Path) -> None:
    """The share of a bare loop's throughput."""
    import httpx
    from model_server import make_tokenizer
    from test_policies import Served

    from trajkit.policies.server import Server

    make_tokenizer(folder / "tokenizer")
    served = Served(folder / "tokenizer", folder)
    served.faults(latency=1.0)
    requests: dict[int, list[tuple[float, dict[str, Any]]]] = {}

    class Noting(Server):
        async def once(self, path: str, request: dict[str, Any], url: str | None = None) -> Any:
            requests.setdefault(id(asyncio.current_task()), []).append((time.monotonic(), request))
            return await super().once(path, request, url)

    try:
        policy = Noting(served.url, None, str(folder / "tokenizer"), Sampling(max_tokens=200))
        settings = Settings("policy", 1, concurrency=32, max_steps=6)
        run = partial(explore, folder / "served", WebShop(), policy, plans=["initial"], settings=settings, samples=1)
        ours = seconds(run)
        n = sum(map(len, requests.values()))

        async def bare() -> None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            async with httpx.AsyncClient(limits=limits, timeout=60) as client:

                async def one(chain: list[tuple[float, dict[str, Any]]]) -> None:
                    for _, request in chain:
                        (await client.post(served.url + "/completions", json=request)).json()

                await asyncio.gather(*map(one, requests.values()))

        theirs = seconds(lambda: asyncio.run(bare()))
    finally:
        served.kill()
    print(
        f"server: {n} requests in {ours:.2f} s, the bare loop in {theirs:.2f} s: {theirs / ours:.0%} of its throughput"
    )


def main() -> None:
    """Run them all."""
    with tempfile.TemporaryDirectory() as name:
        for part in (toolkit, scienceworld, workers, server):
            part(Path(name))


if __name__ == "__main__":
    main()
