"""A server that comes up, one that does not, and that nothing of either is left behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from serve_helpers import HERE, gone, lives, stand_in

from train import serve as serving
from train.serve import serve, vllm
from trajkit.errors import TrajkitError, UsageError

CHILD = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, as far as the stand-in server needs one."""
    pytest.importorskip("transformers", reason="makes the tokenizer")
    from model_server import make_tokenizer

    make_tokenizer(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def models(url: str) -> str:
    """What the server says it serves."""
    with urllib.request.urlopen(f"{url}/models", timeout=5) as response:
        return str(json.load(response)["data"][0]["id"])


def test_comes_up_answers_and_is_stopped(folder: Path) -> None:
    log = folder.parent / "logs" / "server.log"
    with serve(folder, log, command=stand_in(folder), seconds=600) as url:
        assert url.endswith("/v1")
        assert models(url) == "tiny-1"
    with pytest.raises(urllib.error.URLError):
        models(url)
    assert log.is_file()


def test_two_at_once_have_ports_of_their_own(folder: Path, tmp_path: Path) -> None:
    with (
        serve(folder, tmp_path / "a.log", command=stand_in(folder), seconds=600) as one,
        serve(folder, tmp_path / "b.log", command=stand_in(folder), seconds=600) as other,
    ):
        assert one != other
        assert models(one) == models(other) == "tiny-1"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_stopped_when_the_block_fails(folder: Path, tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), serve(folder, tmp_path / "log", command=stand_in(folder), seconds=600) as url:
        raise error
    with pytest.raises(urllib.error.URLError):
        models(url)


def test_a_server_that_dies_at_once(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("of an earlier server\n")
    program = r"print('RuntimeError: no \x1b[31mGPU'); [print('more') for _ in range(40)]; raise SystemExit(3)"
    with (
        pytest.raises(TrajkitError) as raised,
        serve(folder, log, command=[sys.executable, "-c", program], seconds=10**9),
    ):
        pass
    said = str(raised.value)
    assert "exit 3" in said and str(log) in said
    assert r"no \x1b[31mGPU" in said, "the cause lies above the last lines, and is clean"
    assert said.count("more") == serving.LAST_LINES
    assert "earlier" not in said
    assert log.read_text().startswith("of an earlier server\n"), "kept"


def an_hour_passes_when(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of `serve` stands still until a file has its text, however long a busy machine takes for it."""

    def now() -> float:
        return 3600.0 if there.exists() and there.read_text().endswith("\n") else 0.0

    monkeypatch.setattr(serving, "time", SimpleNamespace(monotonic=now, sleep=time.sleep))


def test_a_server_that_never_comes_up(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    an_hour_passes_when(pid, monkeypatch)
    program = f"import os, time; print(os.getpid(), file=open({str(pid)!r}, 'w'), flush=True); time.sleep(600)"
    with (
        pytest.raises(TrajkitError, match=r"did not answer within 2 seconds\. It printed nothing"),
        serve(folder, tmp_path / "log", command=[sys.executable, "-c", program], seconds=2),
    ):
        pass
    assert gone(int(pid.read_text()))


@pytest.mark.parametrize("deaf", [False, True], ids=["ends on SIGTERM", "deaf to SIGTERM"])
def test_its_children_end_with_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool) -> None:
    monkeypatch.setattr(serving, "GRACE", 1.0)
    pids = tmp_path / "pids"
    an_hour_passes_when(pids, monkeypatch)
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if deaf else ""
    write = f"print(os.getpid(), p.pid, file=open({str(pids)!r}, 'w'), flush=True)"
    program = f"{ignore}{CHILD}import os; {write}; time.sleep(600)"
    with (
        pytest.raises(TrajkitError, match="did not answer"),
        serve(folder, tmp_path / "log", command=[sys.executable, "-c", program], seconds=2),
    ):
        pass
    assert all(gone(int(pid)) for pid in pids.read_text().split())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's prctl")
def test_nothing_outlives_a_killed_parent(folder: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    program = f"""
import time
from pathlib import Path
from types import SimpleNamespace
from train.serve import serve
with serve(Path({str(folder)!r}), Path({str(tmp_path / "log")!r}), command={stand_in(folder)!r}, seconds=600) as url:
    Path({str(said)!r}).write_text(url)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(HERE.parent)})
    try:
        end = time.monotonic() + 600
        while not said.exists() and time.monotonic() < end:
            time.sleep(0.1)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) == 1 and lives(int(children[0]))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert gone(int(children[0]))


def test_what_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no config\.json"), serve(tmp_path / "none", tmp_path / "log"):
        pass
    (tmp_path / "config.json").write_text("{}")
    with (
        pytest.raises(UsageError, match="cannot be started"),
        serve(tmp_path, tmp_path / "log", command=["/no/such/program"]),
    ):
        pass


def test_the_command_names_what_is_served(tmp_path: Path) -> None:
    command = vllm(tmp_path / "theta-1" / "model", context=4096, gpu_memory=0.5)
    pairs = dict(itertools.pairwise(command))
    assert pairs["--model"] == str(tmp_path / "theta-1" / "model")
    assert pairs["--served-model-name"] == "theta-1"
    assert (pairs["--max-model-len"], pairs["--gpu-memory-utilization"]) == ("4096", "0.5")
    assert "--max-model-len" not in vllm(tmp_path)
