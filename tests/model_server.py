"""A small model server for the tests, in a process of its own: vLLM's protocol, a real tokenizer, made-up sampling.

    python tests/model_server.py TOKENIZER_FOLDER --port-file FILE [--log FILE] [--latency S] [--no-ids] [--model NAME]

No network stands behind it, so that `make test` needs no torch: what it says is drawn from a hash of the prompt's ids,
the seed and the temperature, which makes every rollout repeatable. What is as in a real server is what the contract
is about: it takes ids and gives ids, these are not the ids that encoding its text would give (a model samples such
ones too), and it can be told to fail: POST /faults {"kinds": [...], "share": 0.3} or {"tasks": "text in the prompt"}.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]
CORPUS = [
    "You are shopping on WebShop. Instruction: Back to Search [SEP] Page 1 Next > Buy Now click[ search[ Action:"
] * 9


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer with a chat template, as a model's folder has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


class Model:
    """What it says to a prompt."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.end = self.tokenizer.token_to_id("<|im_end|>")

    def sample(self, prompt: list[int], request: dict[str, Any]) -> tuple[str, list[int], list[float], str]:
        """(text, ids, logprobs, finish_reason)."""
        key = json.dumps([prompt, request.get("seed"), request.get("temperature"), request.get("top_p")])
        rng = random.Random(hashlib.sha256(key.encode()).digest())
        page = self.tokenizer.decode(prompt, skip_special_tokens=False).rpartition("<|im_start|>user\n")[2]
        buttons = page.partition("<|im_end|>")[0].split(" [SEP] ")
        action = "search[soft cotton shirt]" if buttons[0] == "WebShop" else f"click[{rng.choice(buttons)}]"
        text = f"Thought: {rng.choice(('let me see', 'this one, naïvely 🙂', ''))}\nAction: {action}"
        for stop in request.get("stop", ()):
            text = text.partition(stop)[0]
        ids: list[int] = []
        at = 0
        while at < len(text):  # in pieces, so that the ids are not those that encoding the whole text gives
            n = rng.randint(1, 6)
            ids += self.tokenizer.encode(text[at : at + n], add_special_tokens=False).ids
            at += n
        reason = "stop"
        ids.append(self.end)
        if len(ids) > request["max_tokens"]:
            ids, reason = ids[: request["max_tokens"]], "length"
            text = self.tokenizer.decode(ids)
        return text, ids, [-rng.random() for _ in ids], reason


class Handler(BaseHTTPRequestHandler):
    """One connection. The server's state is in its class attributes."""

    protocol_version = "HTTP/1.1"
    model: Model
    name = "tiny-1"
    gives_ids = True
    latency = 0.0
    log: Any = None
    lock = threading.Lock()
    faults: ClassVar[dict[str, Any]] = {}
    luck = random.Random(0)
    in_flight = most_in_flight = requests = 0

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send({"object": "list", "data": [{"id": self.name, "object": "model"}]})
        elif self.path == "/stats":
            self._send({"most_in_flight": Handler.most_in_flight, "requests": Handler.requests})
        else:
            self._send({"error": "no such page"}, 404)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/faults":
            Handler.faults = request
            self._send({})
            return
        if self.path not in ("/v1/completions", "/v1/chat/completions"):
            self._send({"error": "no such page"}, 404)
            return
        with self.lock:
            Handler.requests += 1
            Handler.in_flight += 1
            Handler.most_in_flight = max(Handler.most_in_flight, Handler.in_flight)
            unlucky = self.luck.random() < self.faults.get("share", 0)
            kind = self.luck.choice(self.faults["kinds"]) if unlucky else None
        try:
            time.sleep(self.faults.get("latency", self.latency))
            self._answer(request, kind)
        finally:
            with self.lock:
                Handler.in_flight -= 1

    def _answer(self, request: dict[str, Any], kind: str | None) -> None:
        chat = self.path == "/v1/chat/completions"
        prompt = request.get("prompt")
        if chat:
            turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in request["messages"]]
            encoded = self.model.tokenizer.encode("".join(turns) + "<|im_start|>assistant\n", add_special_tokens=False)
            prompt = encoded.ids
        elif isinstance(prompt, str):
            prompt = self.model.tokenizer.encode(prompt, add_special_tokens=False).ids
        if not isinstance(prompt, list) or len(prompt) > self.faults.get("context", 10**9):
            self._send({"message": "This model's maximum context length is 9 tokens.", "code": 400}, 400)
            return
        hated = self.faults.get("hates")
        if hated and hated in self.model.tokenizer.decode(prompt, skip_special_tokens=False):
            kind = "500"
        if kind == "drop":
            self.close_connection = True
            self.connection.close()
            return
        if kind == "stall":
            time.sleep(self.faults["stall"])
        if kind in ("500", "503", "429"):
            self._send({"error": kind}, int(kind))
            return
        text, ids, logprobs, reason = self.model.sample(prompt, request)
        if self.log:
            with self.lock:
                self.log.write(json.dumps({"prompt": prompt, "ids": ids, "request": request | {"prompt": None}}) + "\n")
                self.log.flush()
        if chat:
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
        else:
            choice = {"text": text, "finish_reason": reason, "logprobs": None}
            if request.get("logprobs") is not None:
                choice["logprobs"] = {"token_logprobs": logprobs}
            if self.gives_ids and request.get("return_token_ids"):
                choice |= {"token_ids": ids, "prompt_token_ids": prompt}
        answer: Any = {"choices": [choice], "usage": {"prompt_tokens": len(prompt)}}
        if kind == "half":
            self._send_bytes(json.dumps(answer).encode()[:-20])
        elif kind == "page":
            self._send_bytes(b"<html>Bad gateway</html>")
        elif kind == "list":
            self._send([1, None, "x"])
        elif kind == "abort":
            choice["finish_reason"] = "abort"
            self._send(answer)
        elif kind == "few_logprobs":
            choice["logprobs"] = {"token_logprobs": [-1.0]}
            self._send(answer)
        elif kind == "null_ids":
            choice["token_ids"] = None
            self._send(answer)
        else:
            self._send(answer)

    def _send(self, answer: Any, status: int = 200) -> None:
        self._send_bytes(json.dumps(answer).encode(), status)

    def _send_bytes(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Takes as many connections as come."""

    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news."""


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--no-ids", action="store_true")
    parser.add_argument("--model", default=Handler.name)
    given = parser.parse_args()
    Handler.model = Model(given.tokenizer)
    Handler.gives_ids, Handler.latency, Handler.name = not given.no_ids, given.latency, given.model
    Handler.log = open(given.log, "a") if given.log else None  # noqa: SIM115
    server = Server(("127.0.0.1", given.port), Handler)
    given.port_file.with_suffix(".new").write_text(str(server.server_address[1]))
    given.port_file.with_suffix(".new").rename(given.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
