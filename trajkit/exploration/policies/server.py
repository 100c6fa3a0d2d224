"""An OpenAI-compatible server as the policy, vLLM's token-in/token-out where it has it.

With a tokenizer the prompt goes to /v1/completions as token ids and the sampled ids come back (vLLM's
`return_token_ids`, https://github.com/vllm-project/vllm/pull/22587), so nothing that the model said is ever encoded
again. Without one, or from a server that gives no ids, it is /v1/chat/completions and text.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from trajkit.errors import UsageError
from trajkit.exploration.env import Message
from trajkit.exploration.http_client import (
    MAX_BYTES,
    Answered,
    BlockingClient,
    Client,
    Late,
    NoAnswer,
    TooLarge,
    check,
    connections_that_fit,
)
from trajkit.exploration.policies import Answer, PolicyGone, Sampling
from trajkit.exploration.rollouts import Failed
from trajkit.quoting import hide, holds, quote, without_userinfo

if TYPE_CHECKING:
    from trajkit.exploration.policies.prompt_tokens import Turns

RETRIES = 5  # after the first attempt
FIRST_WAIT = 0.5  # seconds before the first retry; twice as long before each further one
TOO_LONG = ("context length", "maximum model length", "max_model_len")  # what vLLM says to a prompt without room
ASKED = 10.0  # seconds for being asked whether it is there
GONE = 30  # requests given up one after the other, without an answer to any in between: the server is broken
NONSENSE = (ValueError, TypeError, KeyError, IndexError, AttributeError)  # what reading an unexpected answer raises
_CHAT_KEYS = ("role", "content", "tool_calls", "tool_call_id", "name")


class Refused(Failed):
    """The server understood the request and will never take it."""


class Unreached(Failed):
    """No answer came: nobody listens, or the connection broke."""


class Away(UsageError):
    """At the start nobody answers, or what stands before the server says so (5xx)."""


class Server:
    """The model `model` (None: the first one listed) of the server at `url`, which ends in /v1.

    `tokenizer` is the model's folder or its name on the hub, `template_args` are those of its chat template
    (trajkit.exploration.policies.prompt_tokens.Turns); without it the server's chat endpoint renders the conversation.
    `timeout` is in seconds, for one whole answer, and `max_bytes` bounds it; one that passes either is tried again as
    any that fails. `uses_ids` tells which of the two it came to be. The API key is in no text that comes from here, and
    an answer that holds it is refused.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        tokenizer: str | None = None,
        sampling: Sampling | None = None,
        api_key: str | None = None,
        timeout: float = 300.0,
        retries: int = RETRIES,
        first_wait: float = FIRST_WAIT,
        max_bytes: int = MAX_BYTES,
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.shown = without_userinfo(self.url)
        self._sampling, self._template_args = sampling or Sampling(), dict(template_args or {})
        self._retries, self._first_wait = retries, first_wait
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout, self._max_bytes = timeout, max_bytes
        self._client: Client | None = None
        self._failed_in_a_row = 0
        try:
            check(self.url)
        except ValueError as error:
            raise UsageError(f"--policy {error}. Write for instance http://localhost:8000/v1.") from None
        try:
            self.client()
        except ValueError as error:
            raise UsageError(f"the API key (OPENAI_API_KEY) cannot be sent: {error}.") from None
        self.actor = model or self._first_model()
        self.turns: Turns | None = None
        if tokenizer:
            from trajkit.exploration.policies.prompt_tokens import Turns

            self.turns = Turns(tokenizer, template_args)
        self.uses_ids = self.turns is not None and self._gives_ids(self.turns)

    def sampling(self, sample: int) -> dict[str, Any]:
        """The settings of this sample's requests, the seed apart: it has a column of its own."""
        return {
            "model": self.actor,
            "temperature": self._sampling.temperature(sample),
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_tokens,
            "stop": list(self._sampling.stop),
            "token_ids": self.uses_ids,
            **({"template_args": self._template_args} if self._template_args else {}),
        }

    async def answer(self, messages: Sequence[Message], *, seed: int, sample: int) -> Answer:
        """As `exploration.policies.AsyncPolicy`. Raises Failed when this request fails though others get answers."""
        return await self._ask(*self.request(messages, seed=seed, sample=sample))

    def request(self, messages: Sequence[Message], *, seed: int, sample: int) -> tuple[str, dict[str, Any]]:
        """What asks for the next message: the path after the server's URL, and the JSON."""
        request: dict[str, Any] = {
            "model": self.actor,
            "temperature": self._sampling.temperature(sample),
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_tokens,
            "seed": seed,
            **({"stop": list(self._sampling.stop)} if self._sampling.stop else {}),
        }
        if self.uses_ids and self.turns is not None:
            request |= {"prompt": self.turns.prompt(messages), "return_token_ids": True, "logprobs": 0}
            return "/completions", request
        rows = cast("Sequence[Mapping[str, Any]]", messages)
        plain = [{key: row[key] for key in _CHAT_KEYS if row.get(key) is not None} for row in rows]
        return "/chat/completions", request | {"messages": plain}

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    @property
    def at_most(self) -> int:
        """How many requests can be in flight: each needs a connection, which is a descriptor."""
        return connections_that_fit()

    async def _ask(self, path: str, request: dict[str, Any]) -> Answer:
        """Send until there is an answer. A failure that may pass is tried again, later each time."""
        problem = Failed("")
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(self._first_wait * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
            try:
                answer = await self.once(path, request)
            except Refused:
                raise
            except Failed as failure:
                problem = failure
            else:
                self._failed_in_a_row = 0
                return answer
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= GONE or not await self.listens(self.url):
            raise PolicyGone(f"{self.shown} does not answer: {problem}")
        raise Failed(f"{self.shown}{path}: {problem}, {self._retries + 1} times")

    async def once(self, path: str, request: dict[str, Any], url: str | None = None) -> Answer:
        """Send it one time, to this server or to an equal one at `url`.

        Raises Unreached when no answer comes, Failed for one that may be better the next time, Refused for one that
        will not, and PolicyGone for one that no request will get past (a wrong key or path).
        """
        url = url or self.url
        if self._client is None:
            self._client = self.client(most=self.at_most)
        try:
            response = await self._client.send("POST", url + path, request)
        except NoAnswer as error:
            raise (Failed if isinstance(error, Late | TooLarge) else Unreached)(str(error)) from None
        if response.status != 200:
            at = f"{without_userinfo(url)}{path}"
            if response.status in (401, 403, 404):
                raise PolicyGone(f"{at} refuses with {response.status}: {response.said}")
            if response.status in (400, 413, 422):
                if any(phrase in response.text for phrase in TOO_LONG):
                    return Answer(None, cut=True)
                raise Refused(f"{at} refuses with {response.status}: {response.said}")
            raise Failed(f"status {response.status}: {response.said}")
        try:
            answer = read(response.json(), self.uses_ids)
        except NONSENSE as error:
            raise Failed(f"an answer that is none ({quote(str(error))}): {response.said}") from None
        message = answer.message or {}
        if any(holds(str(message.get(key) or "")) for key in ("content", "reasoning")):
            raise Failed("an answer that holds the API key; nothing of it is kept")
        return answer

    async def listens(self, url: str) -> bool:
        """Whether anything answers there, on a new connection."""
        client = self.client(ASKED)
        try:
            await client.send("GET", url + "/models")
        except NoAnswer:
            return False
        finally:
            await client.close()
        return True

    def client(self, timeout: float | None = None, most: int = 10**9) -> Client:
        """New connections, at most `most`, with the key. `timeout` in seconds; None: that of answers."""
        return Client(self._headers, timeout or self._timeout, self._max_bytes, most)

    # --- before the first rollout ---

    def _first_model(self) -> str:
        try:
            name = str(self._send("GET", "/models").json()["data"][0]["id"])
        except (ValueError, TypeError, KeyError, IndexError):
            raise UsageError(f"--policy {self.shown}: it lists no models; name one with --model.") from None
        if hide(name) != name:
            raise UsageError(f"--policy {self.shown}: its model's name holds the API key; name one with --model.")
        return name

    def _gives_ids(self, turns: Turns) -> bool:
        """Whether it takes and gives token ids: one request for one token tells."""
        prompt = turns.prompt([{"role": "user", "content": "-"}])
        request = {"model": self.actor, "prompt": prompt, "max_tokens": 1, "return_token_ids": True, "logprobs": 0}
        response = self._send("POST", "/completions", request)
        try:
            return response.status == 200 and read(response.json(), True).message is not None
        except NONSENSE:
            return False

    def _send(self, method: str, path: str, request: Mapping[str, Any] | None = None) -> Answered:
        client = BlockingClient(self._headers, self._timeout, self._max_bytes)
        try:
            sent = client.send(method, self.url + path, request)
        except NoAnswer as error:
            raise Away(f"--policy {self.shown}: no server answers there ({error}). Start it first.") from None
        finally:
            client.close()
        if sent.status >= 500:
            raise Away(f"--policy {self.shown}: status {sent.status}: {sent.said}")
        return sent


def read(answer: Any, with_ids: bool) -> Answer:
    """The message in a server's JSON. Raises ValueError and the like where it is not what was asked for."""
    (choice,) = answer["choices"]
    cut = choice["finish_reason"] == "length"
    if choice["finish_reason"] not in ("stop", "length"):
        raise ValueError(f"finish_reason {choice['finish_reason']!r}")
    if not with_ids:
        said = choice["message"]
        content, reasoning = said.get("content"), said.get("reasoning") or said.get("reasoning_content")
        if content is None and cut:  # the limit came before the reasoning's end
            content = ""
        if not isinstance(content, str):
            raise ValueError("no text")
        message: Message = {"role": "assistant", "content": content}
        return Answer(message | {"reasoning": reasoning} if reasoning else message, cut)
    text, ids, logprobs = choice["text"], choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if not isinstance(text, str):
        raise ValueError("no text")
    if not ids or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        raise ValueError("token_ids that are none")
    if len(logprobs) != len(ids) or not all(isinstance(p, int | float) and math.isfinite(p) for p in logprobs):
        raise ValueError("logprobs that are not one number for each token")
    return Answer({"role": "assistant", "content": text, "token_ids": ids, "logprobs": logprobs}, cut)
