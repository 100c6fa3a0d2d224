"""A vLLM server for one stage of the loop: started, awaited, used, stopped.

    with serve(Path("run/theta-1/model"), Path("run/theta-1/server.log"), context=8192) as url:
        ...  # explore with --policy url

Nothing of it is left behind: the server gets a process group of its own, which is ended when the block is left, however
it is left, and the kernel ends it (Linux) when this process is killed without a word.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from trajkit.console import clean
from trajkit.errors import TrajkitError, UsageError

POLL = 0.2  # seconds between two looks at a server that is not up yet
ASKED = 5.0  # seconds for its whole answer
LONGEST = 2**20  # bytes of it
GRACE = 30.0  # seconds from SIGTERM to SIGKILL
LAST_LINES = 12  # of the log, in an error

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no part in 127.0.0.1


def vllm(model_folder: Path, *, context: int | None = None, gpu_memory: float = 0.9) -> list[str]:
    """The command that serves `model_folder` with vLLM 0.32, as theta-1 where it is theta-1/model.

    `context` is in tokens, prompt and answer together (None: the model's own); `gpu_memory` is the share of the GPU's
    memory that weights and KV cache may take. "{port}" stands for the port.
    """
    folder = model_folder.resolve()
    name = folder.parent.name if folder.name == "model" else folder.name
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--gpu-memory-utilization", str(gpu_memory), "--disable-uvicorn-access-log"]
    return command if context is None else [*command, "--max-model-len", str(context)]


@contextmanager
def serve(
    model_folder: Path,
    log: Path,
    *,
    context: int | None = None,
    gpu_memory: float = 0.9,
    seconds: float = 600.0,
    command: Sequence[str] | None = None,
) -> Iterator[str]:
    """Serve `model_folder` for as long as the block runs, and give its URL, which ends in /v1.

    The port is a free one, by the system's choice. `command` None: `vllm` with `context` and `gpu_memory`; else the
    arguments of another server, "{port}" among them. What it prints is appended to `log`.
    Raises UsageError where there is no such folder, and TrajkitError with the log's last lines where the server
    ends before it answers, or has not answered after `seconds`.
    """
    if not (model_folder / "config.json").is_file():
        raise UsageError(f"{model_folder} is no model's folder: it has no config.json.")
    port = _free_port()
    url = f"http://127.0.0.1:{port}/v1"
    chosen = list(command or vllm(model_folder, context=context, gpu_memory=gpu_memory))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        begin = output.tell()
        try:
            process = subprocess.Popen(
                [argument.replace("{port}", str(port)) for argument in chosen],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is ours to answer
                preexec_fn=_end_with_parent,
            )
        except OSError as error:
            raise UsageError(f"the server cannot be started: {error}") from error
    try:
        _wait(process, url, seconds, log, begin)
        yield url
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, seconds: float, log: Path, begin: int) -> None:
    """Return when the server lists its model."""
    end = time.monotonic() + seconds
    while not _answers(url):
        if process.poll() is not None:
            raise TrajkitError(
                f"the model server ended before it answered (exit {process.returncode}). {_said(log, begin)}"
            )
        if time.monotonic() > end:
            raise TrajkitError(f"the model server did not answer within {seconds:g} seconds. {_said(log, begin)}")
        time.sleep(POLL)


def _answers(url: str) -> bool:
    try:
        with _OPENER.open(f"{url}/models", timeout=ASKED) as response:
            answer, end = bytearray(), time.monotonic() + ASKED
            while part := response.read1(65536):
                answer += part
                if len(answer) > LONGEST or time.monotonic() > end:
                    return False
            return bool(json.loads(answer)["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and whatever it has started. A second Ctrl-C meanwhile ends it at once."""
    try:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children too, which may have outlived it
        process.wait()


def _said(log: Path, begin: int) -> str:
    """The log's path, and from this server's part of it the errors' lines and the last ones."""
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - 200_000))
        lines = [clean(line) for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    if not lines:
        return f"It printed nothing ({log})."
    early, last = lines[:-LAST_LINES], lines[-LAST_LINES:]
    causes = [
        line for line in early if "Error: " in line and "WARNING" not in line
    ]  # vLLM's engine ends long before its front does
    return "\n  ".join([f"The end of {log}:", *causes[:3], *last])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """In the child: have the kernel send it SIGTERM when the process that started it is gone."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
