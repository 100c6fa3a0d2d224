"""Policies that answer asynchronously, one file per kind: a server, a local model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trajkit.errors import TrajkitError, UsageError
from trajkit.messages import Message, is_action


class PolicyGone(TrajkitError):
    """The policy answers nobody any more (its server is down). What is in flight is dropped and stays to be done."""


@dataclass(frozen=True)
class Answer:
    """What a policy said. `message` None: the conversation is too long for it. `cut`: the limit on tokens ended it."""

    message: Message | None
    cut: bool = False


class AsyncPolicy(Protocol):
    """A policy of which many rollouts can be in flight at once.

    As `exploration.env.Policy` it has no memory and goes on from any conversation. Messages that it said itself come
    back as it gave them, token_ids included.
    """

    actor: str
    # It may have `at_most`, the number of answers that can be asked for at once: then no more rollouts are in flight.

    async def answer(self, messages: Sequence[Message], *, seed: int, sample: int) -> Answer:
        """The next assistant message. `seed` differs from step to step; `sample` picks the sampling settings.

        Raises PolicyGone to stop the exploring, anything else to end this rollout as error. `messages` stays as it is.
        """

    def sampling(self, sample: int) -> Mapping[str, Any]:
        """The settings that this sample's answers are drawn with, as recorded with its rollout."""

    async def close(self) -> None:
        """Free what it holds. Called once, in the event loop that `answer` was called in."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. `temperatures`: one for all samples, or one per sample (RFT x N). 0 is greedy."""

    temperatures: tuple[float, ...] = (1.0,)
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()

    def temperature(self, sample: int) -> float:
        """The temperature of a sample."""
        return self.temperatures[sample % len(self.temperatures)]


class Suffixed:
    """A policy whose prompt ends with a text, as NAT's is to say that a right solution is wanted.

    The policy alone sees it, where `select` put it for training (example_excerpts.sql): after a blank line in the last
    user message before the first action, where there is none in the last other one that is not the assistant's. What
    is recorded stays the environment's.
    """

    def __init__(self, policy: AsyncPolicy, suffix: str) -> None:
        self._policy, self._suffix, self.actor = policy, suffix, policy.actor
        self.sampling, self.close = policy.sampling, policy.close
        self.at_most: int | None = getattr(policy, "at_most", None)

    async def answer(self, messages: Sequence[Message], *, seed: int, sample: int) -> Answer:
        """As `AsyncPolicy`."""
        actions = (at for at, message in enumerate(messages) if is_action(message))
        first = next(actions, len(messages))
        asked = [message.copy() for message in messages]
        prompt = [message for message in asked[:first] if message["role"] != "assistant"]
        last = max(enumerate(prompt), key=lambda place: (place[1]["role"] == "user", place[0]))[1]
        last["content"] = f"{last['content']}\n\n{self._suffix}"
        return await self._policy.answer(asked, seed=seed, sample=sample)


def temperatures(text: str, samples: int) -> tuple[float, ...]:
    """`0.7`, or `0.2,0.6,1.0` with one for each of `samples`. Raises UsageError."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--temperature {text}: it is a number, or numbers with commas between them.") from None
    if any(not 0 <= temperature <= 100 for temperature in found):
        raise UsageError(f"--temperature {text}: a temperature is at least 0 and at most 100.")
    if len(found) not in (1, samples):
        raise UsageError(f"--temperature {text}: one for all, or one for each of the {samples} of --samples.")
    return found
