"""An API key reaches nothing that is written, whatever a server makes of it; and what is quoted of others is short."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote as percent_encoded
from urllib.parse import unquote

import pytest
from explore_helpers import CHECKOUT, rows
from hypothesis import given
from hypothesis import strategies as st
from raw_server import raw_server, whole

from trajkit import quoting
from trajkit.quoting import GRAM, HIDDEN, hide, holds, quote, remember, short, without_userinfo

KEY = "sk-proj-Zq7/x+9_wV&\"u'3mK\\tR<e5>%41"

WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": lambda key: key,
    "in capitals": lambda key: key.upper(),
    "percent-encoded": lambda key: percent_encoded(key, safe=""),
    "percent-encoded twice": lambda key: percent_encoded(percent_encoded(key, safe=""), safe=""),
    "every character": lambda key: "".join(f"%{ord(c):02x}" for c in key),
    "JSON": lambda key: json.dumps(key),
    "JSON in JSON": lambda key: json.dumps(json.dumps(key)),
    "JSON's escapes": lambda key: "".join(f"\\u{ord(c):04x}" for c in key),
    "repr": lambda key: repr(key.encode()),
    "HTML": lambda key: "".join(f"&#{ord(c)};" for c in key),
    "HTML in hex": lambda key: "".join(f"&#x{ord(c):X};" for c in key),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of the header": lambda key: base64.b64encode(f"Authorization: Bearer {key}\r\n".encode()).decode(),
    "base64 of it all": lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(f"x{key}y".encode()).decode(),
    "hex": lambda key: key.encode().hex(),
    "its beginning": lambda key: key[:-5],
    "its end": lambda key: key[9:],
}


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is remembered before and after."""
    for name, nothing in (("_grams", set()), ("_forms", set()), ("_words", {})):
        monkeypatch.setattr(quoting, name, nothing)
    yield


def leaks(text: str, key: str = KEY) -> bool:
    """Whether text, read in any of the ways above, has a part of the key that is as good as all of it."""
    escaped = re.sub(r"\\+(?:u00|x)([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), text)
    ways = [text, unquote(text), unquote(unquote(text)), html.unescape(text), escaped, escaped.replace("\\", "")]
    for run in re.findall(r"[A-Za-z0-9+/_-]{8,}", text):
        for at in range(4):
            part = run[at : at + (len(run) - at) // 4 * 4].translate(str.maketrans("-_", "+/"))
            ways.append(base64.b64decode(part).decode("latin-1"))
        if re.fullmatch(r"[0-9a-fA-F]+", run):
            ways.append(bytes.fromhex(run[: len(run) // 2 * 2]).decode("latin-1"))
    plain = key.replace("\\", "")
    grams = {form[at : at + GRAM].lower() for form in (key, plain) for at in range(len(form) - GRAM + 1)}
    return any(gram in way.lower() for way in ways for gram in grams)


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("cut", [10**6, 4010, 3990, 210])
def test_a_key_is_hidden_however_it_is_written(written: Callable[[str], str], cut: int) -> None:
    said = f"what you sent: {written(KEY)}."
    assert leaks(said)
    remember(KEY)
    assert HIDDEN in hide(said) and not leaks(hide(said))
    assert hide(said).startswith("what you sent: ")
    far = "." * (cut - 40) + said + "," * 9000 if cut < 10**6 else said
    assert not leaks(quote(far)) and len(quote(far)) <= 300


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(list(WRITTEN)))
def test_what_stands_beside_it_stays(before: str, after: str, how: str) -> None:
    remember(KEY)
    plain = {"before": before.replace("\\", "").replace("%", "").replace("&", ""), "after": after.replace("\\", "")}
    hidden = hide(f"{plain['before']} {WRITTEN[how](KEY)} {plain['after']}")
    assert not leaks(hidden)
    assert hidden.startswith(plain["before"][:-1]) and hidden.endswith(plain["after"][1:])
    assert hide(plain["before"]) == plain["before"]


def test_a_word_in_the_place_of_a_key_is_no_secret() -> None:
    remember("EMPTY")
    remember("")
    assert hide("EMPTY is refused, NONEMPTY is not") == f"{HIDDEN} is refused, NONEMPTY is not"
    assert not holds("EMPTY")
    remember(KEY)
    assert holds(f"a{KEY}b") and holds(WRITTEN["base64"](KEY)) and not holds(KEY[:-1])
    assert short("x" * 300) == "x" * 300 and len(short("x" * 301)) < 300


def test_a_url_is_shown_without_its_password() -> None:
    assert without_userinfo("http://me:pass%2Fword9@host:1/v1") == "http://host:1/v1"
    assert hide("pass/word9, pass%2fword9, bWU6cGFzcy93b3JkOQ==") == ", ".join([HIDDEN] * 3) + "Q=="
    assert without_userinfo("http://host/v1?a@b") == "http://host/v1?a@b"


# --- a server that gives it back ---------------------------------------------------------------

LISTED = json.dumps({"data": [{"id": "m"}]}).encode()


def said(content: str, **more: str) -> bytes:
    message = {"role": "assistant", "content": content} | more
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()


def echoes(key: str) -> dict[str, bytes]:
    """Answers of a server that gives back what it was sent, in every place that an answer has."""
    header = f"Authorization: Bearer {key}"
    forms = " ".join(written(key) for written in WRITTEN.values())
    return {
        "a 500's body": whole(f"{header} {forms}".encode(), 500),
        "a 400's body": whole(json.dumps({"error": header, "forms": forms}).encode(), 400),
        "a 401's body": whole(f"Incorrect API key provided: {key}".encode(), 401),
        "the place where a 500's body is cut": whole(b"x" * 190 + header.encode() + b"y" * 9000, 500),
        "a redirect": whole(b"", 302, f"Location: http://127.0.0.1:9/?{header}\r\n"),
        "the status line": f"HTTP/1.1 {header}\r\n\r\n".encode(),
        "what is no status line": f"{header}\r\n\r\n".encode(),
        "a chunk's size": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{key}\r\n".encode(),
        "the length": f"HTTP/1.1 200 OK\r\nContent-Length: {key}\r\n\r\n".encode(),
        "the encoding": whole(b"x", headers=f"Content-Encoding: {key}\r\n"),
        "no JSON": whole(header.encode()),
        "another JSON": whole(json.dumps({key: header}).encode()),
        "a finish_reason": whole(json.dumps({"choices": [{"finish_reason": header}]}).encode()),
        "the answer": whole(said(f"Action: search[{key}]")),
        "the answer in base64": whole(said(WRITTEN["base64 of the header"](key))),
        "the reasoning": whole(said("ok", reasoning_content=header)),
    }


SENT = "sk-proj-Zq7x9_wVu3mKtRe5A1-7dFg"


def explore(runs: Path, *policy: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", "from trajkit.cli import main; main()", "explore", f"--runs={runs}"]
    call += [
        "--env=envs.webshop:WebShop",
        "--env-arg=products=200",
        "--env-arg=train_tasks=1",
        "--env-arg=test_tasks=0",
    ]
    call += ["--iteration=1", "--max-steps=1", "--env-workers=0", "--tries=1", "--json", *policy]
    return subprocess.run(call, cwd=CHECKOUT, env=os.environ | {"OPENAI_API_KEY": SENT}, capture_output=True, text=True)


def everything(done: subprocess.CompletedProcess[str], runs: Path) -> str:
    """All that it printed and wrote, files as they are and what the tables hold."""
    texts = [
        done.stdout,
        done.stderr,
        *(path.read_bytes().decode("latin-1") for path in runs.rglob("*") if path.is_file()),
    ]
    if any(runs.rglob("*.parquet")):
        texts += [
            json.dumps(rows(runs, f"SELECT * FROM {t}"), default=str) for t in ("trajectories", "messages", "tasks")
        ]
    return html.unescape("\n".join([*texts, *map(str, runs.rglob("*"))]))


@pytest.mark.parametrize("where", echoes(SENT))
def test_a_server_that_gives_the_key_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """In this process: the retries of a policy wait, and the command line would."""
    from envs.webshop import WebShop
    from trajkit.errors import TrajkitError
    from trajkit.exploration.explore import Settings
    from trajkit.exploration.explore import explore as run
    from trajkit.exploration.policies.server import Server

    answered = 0

    def answer(connection: socket.socket, request: bytes) -> bool:
        nonlocal answered
        answered += SENT.encode() in request and request.startswith(b"POST")
        connection.sendall(whole(LISTED) if request.startswith(b"GET") else echoes(SENT)[where])
        return False

    with raw_server(answer) as server:
        who = Server(f"{server.url}/v1", api_key=SENT, retries=1, first_wait=0.0)
        env = WebShop(products=200, train_tasks=1, test_tasks=0)
        with pytest.raises(TrajkitError) as raised:
            run(tmp_path, env, who, plans=["initial"], settings=Settings("policy", 1, max_steps=1))
    assert answered > 0
    done = subprocess.CompletedProcess([], 0, str(raised.value), repr(raised.value.__cause__))
    assert not leaks(everything(done, tmp_path), SENT)


@pytest.mark.parametrize("of", ["one", "several"])
def test_the_command_line_with_such_a_server(tmp_path: Path, of: str) -> None:
    """A wrong key is no reason to try again, so it is quick."""

    def answer(connection: socket.socket, request: bytes) -> bool:
        body = LISTED if request.startswith(b"GET") else f"{request.decode()} is refused".encode()
        connection.sendall(whole(body, 200 if request.startswith(b"GET") else 401))
        return True

    with raw_server(answer) as server:
        urls = [f"http://me:{SENT[::-1]}@127.0.0.1:{server.port}/v1"] * (1 if of == "one" else 2)
        done = explore(tmp_path / "runs", f"--policy={','.join(urls)}{'/' if of == 'several' else ''}")
    assert done.returncode in (1, 2) and HIDDEN in done.stderr
    text = everything(done, tmp_path)
    assert not leaks(text, SENT) and not leaks(text, SENT[::-1])


def test_a_model_named_like_the_key_and_a_key_that_cannot_be_sent() -> None:
    from trajkit.errors import UsageError
    from trajkit.exploration.policies.server import Server

    def answer(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(whole(json.dumps({"data": [{"id": f"m {SENT}"}]}).encode()))
        return False

    with raw_server(answer) as server:
        for key, message in (
            (SENT, "its model's name holds the API key"),
            (f"{SENT}\n{SENT}", "cannot be sent: a header"),
        ):
            with pytest.raises(UsageError, match=message) as raised:
                Server(f"{server.url}/v1", api_key=key)
            assert not leaks(str(raised.value), SENT)
