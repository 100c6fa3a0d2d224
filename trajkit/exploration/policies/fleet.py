"""Several servers of one model as one policy: which of them is asked, and what happens when one dies.

Each request is built once, seed included, and every server is checked to serve the same model: which one answers makes
no difference to what is recorded, only to how soon. A request has one answer, the first that comes back whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from trajkit.errors import UsageError
from trajkit.exploration.http_client import MAX_BYTES, Client, NoAnswer, check
from trajkit.exploration.policies import Answer, PolicyGone, Sampling
from trajkit.exploration.policies.server import (
    FIRST_WAIT,
    GONE,
    NONSENSE,
    RETRIES,
    Away,
    Refused,
    Server,
    Unreached,
    read,
)
from trajkit.exploration.rollouts import Failed
from trajkit.messages import Message, is_action
from trajkit.quoting import quote, without_userinfo

NEAR = 4  # requests; a conversation stays at its server up to twice those of the least busy one and this many
ERRS = 3  # bad answers in a row, without a good one in between: the server is given a rest
LONGEST = 30.0  # seconds between two knocks at a server that is away
REMEMBERED = 100_000  # beginnings of conversations whose server is known
PROBE = (
    "You are an agent. Naïve café №42:  3.14159 → 北京, हिन्दी 🙂\n\tdef search(x):  return x**2"  # each cuts it its way
)


@dataclass(eq=False)
class Member:
    """One server. `busy` are this process's requests in flight there; `failures` those in a row that failed."""

    url: str
    alive: bool = True
    busy: int = 0
    failures: int = 0
    problem: Exception | None = None
    told: bool = False
    knocking: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.shown = without_userinfo(self.url)


class Fleet:
    """The servers at `urls`, each of which ends in /v1; all serve `model` (None: the first one that the first lists).

    The other arguments are those of `Server`; `tell` gets a line whenever a server stays away, comes back, or comes
    back as another. At the start at least one has to answer. Raises UsageError where none does, and where a server
    differs from the others in what it tells of its model: its name, its context's length, whether it gives token ids,
    and how it cuts a text into tokens. Weights cannot be compared: start all servers from the same folder. It asks them
    in an event loop of its own, so it cannot be made inside another.

    Which server is asked. The one that had the longest part of the conversation before, as far as it ends with an
    action (it has the keys and values of all that in its cache; for a rollout from a recorded state that may be
    another rollout's server), as long as it is not much busier than others: at most twice the requests in flight of
    the least busy one, and NEAR more. Else the least busy one. Known are the requests of this process alone.

    When a server fails. A request whose connection fails or breaks, that stalls, or is answered with 5xx, 429 or
    nonsense goes to the next server at once; where all have failed at it, it is tried again as `Server` does, later
    each time, `retries` times. A server that cannot be reached, or gave ERRS bad answers in a row, is not asked; it is
    knocked at, after `first_wait` seconds and then twice as long each time up to LONGEST, and asked again when it
    answers and is still the same as the others. When a request has no answer after all that, and no server listens,
    `answer` raises PolicyGone; where one does, Failed, and PolicyGone after GONE of these in a row.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str | None = None,
        tokenizer: str | None = None,
        sampling: Sampling | None = None,
        api_key: str | None = None,
        timeout: float = 300.0,
        retries: int = RETRIES,
        first_wait: float = FIRST_WAIT,
        max_bytes: int = MAX_BYTES,
        tell: Callable[[str], None] = lambda line: None,
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.members = [Member(url) for url in dict.fromkeys(url.rstrip("/") for url in urls)]
        self._retries, self._first_wait, self._tell = retries, first_wait, tell
        self._failed_in_a_row = 0
        self._homes: dict[int, Member] = {}
        for member in self.members:
            try:
                check(member.url)
            except ValueError as error:
                raise UsageError(f"--policy {error}. Write for instance http://localhost:8000/v1.") from None
        for member in self.members:
            try:
                self._server = Server(
                    member.url,
                    model,
                    tokenizer,
                    sampling,
                    api_key,
                    timeout,
                    retries,
                    first_wait,
                    max_bytes,
                    template_args,
                )
                break
            except Away as away:
                member.problem = away
        else:
            raise UsageError(" ".join(str(member.problem) for member in self.members))
        self.actor, self.turns, self.uses_ids = self._server.actor, self._server.turns, self._server.uses_ids
        self.sampling = self._server.sampling
        self._same: dict[str, Any] = {}
        asyncio.run(self._meet())

    async def answer(self, messages: Sequence[Message], *, seed: int, sample: int) -> Answer:
        """As `exploration.policies.AsyncPolicy`. Raises Failed when this request fails though others get answers."""
        path, request = self._server.request(messages, seed=seed, sample=sample)
        began, failed, waits = beginnings(messages), Counter[str](), 0
        self._knock()
        while True:
            member = self._choose(began, failed)
            if member is None or failed[member.url]:  # none lives, or all that do have failed at it
                if waits == self._retries:
                    await self._give_up(path)
                await asyncio.sleep(self._first_wait * 2**waits * random.uniform(0.75, 1.25))
                waits += 1
                member = self._choose(began, failed)
                if member is None:
                    continue
            member.busy += 1
            try:
                answer = await self._server.once(path, request, member.url)
            except Refused:
                raise
            except (Failed, PolicyGone) as problem:
                failed[member.url] += 1
                self._failed(member, problem)
            else:
                member.failures = self._failed_in_a_row = 0
                self._remember(beginnings([*messages, answer.message]) if answer.message else began, member)
                return answer
            finally:
                member.busy -= 1

    @property
    def at_most(self) -> int:
        """As `Server.at_most`: the connections to all of them together."""
        return self._server.at_most

    async def close(self) -> None:
        """Close the connections and knock no more, until the next request."""
        tasks = [member.knocking for member in self.members if member.knocking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in self.members:
            member.knocking = None
        await self._server.close()

    # --- which one ---

    def _choose(self, began: list[int], failed: Counter[str]) -> Member | None:
        """The server to ask; one that has failed at this request before only where all have. None: none lives."""
        living = [member for member in self.members if member.alive]
        if not living:
            return None
        best = min(living, key=lambda member: (failed[member.url], member.busy, random.random()))
        home = next((self._homes[key] for key in reversed(began) if key in self._homes), None)
        if home and home.alive and not failed[home.url] and home.busy <= 2 * best.busy + NEAR:
            return home
        return best

    def _remember(self, began: list[int], member: Member) -> None:
        for key in began:
            self._homes.pop(key, None)  # what was used last is forgotten last
            self._homes[key] = member
        while len(self._homes) > REMEMBERED:
            del self._homes[next(iter(self._homes))]

    # --- away and back ---

    def _failed(self, member: Member, problem: Exception) -> None:
        member.problem = problem
        if not member.alive:  # of many requests that one death ends, the first has counted
            return
        member.failures += 1
        if isinstance(problem, Unreached | PolicyGone) or member.failures >= ERRS:
            member.alive = False
            self._knock()

    def _knock(self) -> None:
        """Have somebody at the door of each server that is away."""
        for member in self.members:
            if not member.alive and (member.knocking is None or member.knocking.done()):
                member.knocking = asyncio.create_task(self._bring_back(member))

    async def _bring_back(self, member: Member) -> None:
        """Knock, later each time, until it is there and still serves the same."""
        client = self._server.client()
        try:
            while True:
                wait = min(self._first_wait * 2.0 ** min(member.failures - 1, 30), LONGEST)
                await asyncio.sleep(wait * random.uniform(0.75, 1.25))
                try:
                    difference = self._difference(await self._look(member.url, client))
                    if not difference:
                        break
                    member.problem = PolicyGone(f"{difference}. It is not asked until it serves the same model")
                except Away as away:
                    member.problem = away
                member.failures += 1
                self._tell_away(member)
        finally:
            await client.close()
        member.alive = True
        if member.told:
            self._tell(f"{member.shown} answers again.")
            member.told = False

    def _tell_away(self, member: Member) -> None:
        if not member.told:
            member.told = True
            self._tell(f"{member.shown} is left out: {member.problem}. It is tried again from time to time.")

    async def _give_up(self, path: str) -> NoReturn:
        """Raise Failed, or PolicyGone where that is the end."""
        self._failed_in_a_row += 1
        if self._failed_in_a_row < GONE:
            maybe = [member for member in self.members if not isinstance(member.problem, PolicyGone)]
            if any(await asyncio.gather(*(self._server.listens(member.url) for member in maybe))):
                raise Failed(f"{path}: no server has answered: {self._problems()}")
        raise PolicyGone(f"none of the {len(self.members)} servers answers: {self._problems()}")

    def _problems(self) -> str:
        return "; ".join(f"{member.shown}: {member.problem}" for member in self.members if member.problem)

    # --- whether they are the same ---

    async def _meet(self) -> None:
        """Look at all servers before the first rollout: those that are away are passed over, others are compared."""
        client = self._server.client()
        looks = await asyncio.gather(*(self._look(m.url, client) for m in self.members), return_exceptions=True)
        await client.close()
        for member, look in zip(self.members, looks, strict=True):
            if isinstance(look, Away):
                member.alive, member.failures, member.problem = False, 1, look
            elif isinstance(look, BaseException):
                raise look
            else:
                member.problem = None
                self._same = self._same or look | {"at": member.shown}
                if difference := self._difference(look):
                    raise UsageError(
                        f"--policy {member.shown}: {difference}. All servers have to serve the same model."
                    )
        if not self._same:
            raise UsageError(f"no server answers at any URL of --policy: {self._problems()}")
        for member in self.members:
            if not member.alive:
                self._tell_away(member)

    async def _look(self, url: str, client: Client) -> dict[str, Any]:
        """What a server tells of its model; None for what it does not tell. Raises Away."""
        asked: dict[str, Any] = {"model": self.actor, "max_tokens": 1}
        if self.turns:
            path, asked = "/completions", asked | {"prompt": PROBE, "return_token_ids": True, "logprobs": 0}
        else:
            path, asked = "/chat/completions", asked | {"messages": [{"role": "user", "content": PROBE}]}
        try:
            listed = await client.send("GET", url + "/models")
            answered = await client.send("POST", url + path, asked)
        except NoAnswer as error:
            raise Away(f"no server answers there ({error})") from None
        for response in (listed, answered):
            if response.status >= 500 or response.status == 429:
                raise Away(f"status {response.status}: {response.said}")
        told: dict[str, Any] = dict.fromkeys(("model", "max_model_len", "gives ids", "n_tokens", "tokens"))
        with contextlib.suppress(*NONSENSE):
            models = {model["id"]: model for model in listed.json()["data"]}
            told["model"] = self.actor if self.actor in models else next(iter(models))
            told["max_model_len"] = models[self.actor].get("max_model_len")
        if answered.status in (401, 403, 404) and told["model"] in (None, self.actor):
            told["model"] = f"none that it lets us use ({answered.status}: {answered.said})"
        if self.turns:
            told["gives ids"] = False
            with contextlib.suppress(*NONSENSE):
                told["gives ids"] = read(answered.json(), True).message is not None
        with contextlib.suppress(*NONSENSE):
            told["n_tokens"] = answered.json()["usage"]["prompt_tokens"]
        with contextlib.suppress(*NONSENSE):
            told["tokens"] = answered.json()["choices"][0]["prompt_token_ids"]
        return told

    def _difference(self, look: dict[str, Any]) -> str:
        """The first thing in which a server differs from the one that all are compared with, or an empty text."""
        at = self._same["at"]
        for key, value in look.items():
            same = self._same[key]
            if value is None or same is None or value == same:
                continue
            if key == "gives ids":
                return f"it gives {'' if value else 'no '}token ids, {at} {'gives some' if same else 'gives none'}"
            if key in ("n_tokens", "tokens"):
                return f"its tokenizer makes other tokens of a text than that of {at}"
            return f"its {key} is {quote(str(value))}, that of {at} is {quote(str(same))}"
        return ""


def beginnings(messages: Sequence[Message]) -> list[int]:
    """A key for each beginning of a conversation that ends with an action, the longest last.

    Examples in the prompt (context) end none: all conversations have them in common.
    """
    key, keys = 0, []
    for message in messages:
        key = hash((key, message["role"], message.get("content")))
        if is_action(message):
            keys.append(key)
    return keys
