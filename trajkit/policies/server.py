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
from typing import TYPE_CHECKING, Any

from trajkit.env import Message
from trajkit.errors import UsageError
from trajkit.policies import Answer, PolicyGone, Sampling
from trajkit.rollouts import Failed, short

if TYPE_CHECKING:
    import httpx

    from trajkit.policies.turns import Turns

RETRIES = 5  # after the first attempt
FIRST_WAIT = 0.5  # seconds before the first retry; twice as long before each further one
TOO_LONG = ("context length", "maximum model length", "max_model_len")  # what vLLM says to a prompt without room
CONNECT = 10.0  # seconds for a connection, and for being asked whether it is there
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

    `tokenizer` is the model's folder or name; without it the server's chat endpoint renders the conversation.
    `timeout` is in seconds, for one answer. `uses_ids` tells which of the two it came to be.
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
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise UsageError(f"--policy {url} needs the package httpx: pip install httpx") from error
        self.url = url.rstrip("/")
        self._sampling = sampling or Sampling()
        self._retries, self._first_wait = retries, first_wait
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, CONNECT))
        self._certificates = httpx.create_ssl_context()  # reading them takes longer than asking
        self._client: httpx.AsyncClient | None = None
        self._failed_in_a_row = 0
        self.actor = model or self._first_model()
        self.turns: Turns | None = None
        if tokenizer:
            from trajkit.policies.turns import Turns

            self.turns = Turns(tokenizer)
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
        }

    async def answer(self, messages: Sequence[Message], *, seed: int, sample: int) -> Answer:
        """As `trajkit.policies.AsyncPolicy`. Raises Failed when this request fails though others get answers."""
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
        plain = [{key: message[key] for key in _CHAT_KEYS if message.get(key) is not None} for message in messages]
        return "/chat/completions", request | {"messages": plain}

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

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
            raise PolicyGone(f"{self.url} does not answer: {problem}")
        raise Failed(f"{self.url}{path}: {problem}, {self._retries + 1} times")

    async def once(self, path: str, request: dict[str, Any], url: str | None = None) -> Answer:
        """Send it one time, to this server or to an equal one at `url`.

        Raises Unreached when no answer comes, Failed for one that may be better the next time, Refused for one that
        will not, and PolicyGone for one that no request will get past (a wrong key or path).
        """
        import httpx

        url = url or self.url
        if self._client is None:
            self._client = self.client()
        try:
            response = await self._client.post(url + path, json=request)
        except (httpx.HTTPError, httpx.StreamError) as error:
            slow = isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout)
            raise (Failed if slow else Unreached)(f"{type(error).__name__} {error}".strip()) from error
        if response.status_code != 200:
            said = short(response.text)
            if response.status_code in (401, 403, 404):
                raise PolicyGone(f"{url}{path} refuses with {response.status_code}: {said}")
            if response.status_code in (400, 413, 422):
                if any(phrase in response.text for phrase in TOO_LONG):
                    return Answer(None, cut=True)
                raise Refused(f"{url}{path} refuses with {response.status_code}: {said}")
            raise Failed(f"status {response.status_code}: {said}")
        try:
            return read(response.json(), self.uses_ids)
        except NONSENSE as error:
            raise Failed(f"an answer that is none ({error}): {short(response.text)}") from error

    async def listens(self, url: str) -> bool:
        """Whether anything answers there, on a new connection."""
        import httpx

        try:
            async with self.client(CONNECT) as client:
                await client.get(url + "/models")
        except httpx.HTTPError:
            return False
        return True

    def client(self, timeout: float | None = None) -> httpx.AsyncClient:
        """New connections, as many as are needed, with the key. `timeout` in seconds; None: that of answers."""
        import httpx

        return httpx.AsyncClient(
            headers=self._headers,
            timeout=timeout or self._timeout,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            verify=self._certificates,
        )

    # --- before the first rollout ---

    def _first_model(self) -> str:
        try:
            return str(self._send("GET", "/models").json()["data"][0]["id"])
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UsageError(f"--policy {self.url}: it lists no models; name one with --model.") from error

    def _gives_ids(self, turns: Turns) -> bool:
        """Whether it takes and gives token ids: one request for one token tells."""
        prompt = turns.prompt([{"role": "user", "content": "-"}])
        request = {"model": self.actor, "prompt": prompt, "max_tokens": 1, "return_token_ids": True, "logprobs": 0}
        response = self._send("POST", "/completions", request)
        try:
            return response.status_code == 200 and read(response.json(), True).message is not None
        except NONSENSE:
            return False

    def _send(self, method: str, path: str, request: Mapping[str, Any] | None = None) -> httpx.Response:
        import httpx

        try:
            with httpx.Client(headers=self._headers, timeout=self._timeout, verify=self._certificates) as client:
                sent = client.request(method, self.url + path, json=request)
        except httpx.HTTPError as error:
            raise Away(f"--policy {self.url}: no server answers there ({error}). Start it first.") from error
        except httpx.InvalidURL as error:
            raise UsageError(f"--policy {self.url}: {error}. Write for instance http://localhost:8000/v1.") from error
        if sent.status_code >= 500:
            raise Away(f"--policy {self.url}: status {sent.status_code}: {short(sent.text)}")
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
        return Answer({"role": "assistant", "content": content} | ({"reasoning": reasoning} if reasoning else {}), cut)
    text, ids, logprobs = choice["text"], choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if not isinstance(text, str):
        raise ValueError("no text")
    if not ids or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        raise ValueError("token_ids that are none")
    if len(logprobs) != len(ids) or not all(isinstance(p, int | float) and math.isfinite(p) for p in logprobs):
        raise ValueError("logprobs that are not one number for each token")
    return Answer({"role": "assistant", "content": text, "token_ids": ids, "logprobs": logprobs}, cut)
