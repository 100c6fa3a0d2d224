"""Conversations as token ids, without ever encoding again what a model sampled.

What a model said is kept as the ids that it sampled. Decoding those and encoding the text again may give other ids
(https://blog.vllm.ai/2025/10/22/agent-lightning.html), and then it is trained on, and asked to go on from, something
that it never said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from trajkit.exploration.env import Message
from trajkit.tokens.chat_template import ChatTemplate
from trajkit.tokens.tokenizer import load_tokenizer

_SAID = "\u2e28what was said\u2e29"  # stands where the model's own text would be in the chat template


class Turns:
    """The token ids of conversations, by the tokenizer and chat template of a model folder or of the hub's OWNER/NAME.

    `template_args`: see trajkit.tokens.chat_template.ChatTemplate, which training renders conversations with, too.
    """

    def __init__(self, tokenizer: str, template_args: Mapping[str, Any] | None = None) -> None:
        self.tokenizer: Any = load_tokenizer(tokenizer)
        self._template = ChatTemplate(self.tokenizer, template_args, f"--tokenizer {tokenizer}")
        # Every turn asks for all that was before it, and rollouts of one state begin alike.
        self._head = lru_cache(maxsize=512)(self._encode_head)
        self._between = lru_cache(maxsize=4096)(self._encode_between)
        self._encode_text = self._encoder()

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids that the model goes on from.

        All up to the first answer with token_ids is rendered by the chat template and encoded. From there on come the
        ids of each answer as they were sampled, and what the template puts after it: the end of the turn where the
        model did not sample it itself, the observation, and the beginning of the next turn.
        """
        own = [at for at, message in enumerate(messages) if message.get("token_ids")]
        ids = list(self._head(tuple(_plain(message) for message in messages[: own[0] if own else None])))
        for at, end in zip(own, [*own[1:], len(messages)], strict=False):  # none at all: the head is all
            said = messages[at]["token_ids"] or []
            between = self._between(tuple(_plain(message) for message in messages[at + 1 : end]))
            ids += said
            ids += between[1:] if between and said[-1] == between[0] else between
        return ids

    def _encode_head(self, messages: tuple[tuple[str, str], ...]) -> list[int]:
        """The ids of a conversation of messages (role, content), and of the beginning of the next turn."""
        return self._encode_text(self._render(messages))

    def _encode_between(self, observed: tuple[tuple[str, str], ...]) -> list[int]:
        """The ids of what the template puts after an answer, when these messages (role, content) follow it."""
        text = self._render((("user", "-"), ("assistant", _SAID), *observed))
        return self._encode_text(text.rpartition(_SAID)[2])

    def _render(self, messages: Sequence[tuple[str, str]]) -> str:
        plain = [{"role": role, "content": content} for role, content in messages]
        try:
            return self._template.render(plain, prompt=True)
        except Exception as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from error

    def _encoder(self) -> Callable[[str], list[int]]:
        def encode(text: str) -> list[int]:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
            return ids

        encode("")  # leaves a fast tokenizer without truncation and padding; then it can be asked without the detour
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is None:
            return encode
        return lambda text: list(fast.encode(text, add_special_tokens=False).ids)


def _plain(message: Message) -> tuple[str, str]:
    return message["role"], message.get("content") or ""
