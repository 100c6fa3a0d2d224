"""One training in two processes: the curve of one process, and what a killed one leaves.

The tests' own process is the first of the two, with the variables that torchrun sets; in the slow tests it is torchrun.
Losses, gradient norms and what is told beside them are to be the same within 1e-5 (floats are added in another order),
learning rates and counted tokens exactly.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs torch: make setup-train")
pytest.importorskip("transformers", reason="needs transformers: make setup-train")

from model_kinds import folder_of  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from train import loop, parallel, scratch, trainer  # noqa: E402
from train.packing import share  # noqa: E402
from train.settings import Scratch, Train  # noqa: E402
from train.settings import load as load_settings  # noqa: E402
from trajkit.errors import UsageError  # noqa: E402
from trajkit.tokens.masks import Row  # noqa: E402

CHECKOUT = Path(__file__).resolve().parents[1]
N = 9  # with steps of 4 an epoch's last step has 1: one process has nothing to do
SMALL = Train(lr=2e-3, steps=9, batch=4, context=256, clip=0.5, weight_decay=0.01, save_steps=4, backend="plain")
LORA: dict[str, Any] = {"lora_rank": 4, "lr": 1e-2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "examples": ("examples", {}),
    "examples, each row alone": ("examples", {"row_tokens": 1}),
    "examples, two passes each, LoRA": ("examples", {"row_tokens": 60, **LORA}),
    "pairs": ("pairs", {"beta": 0.3, "sft_weight": 0.5, "sft_level": "trajectory"}),
    "pairs, each alone, LoRA": ("pairs", {"beta": 0.3, "row_tokens": 1, **LORA}),
    "pairs, rows that cannot be packed": ("pairs", {"beta": 0.3}),
    "values": ("values", {}),
    "values, each row alone": ("values", {"row_tokens": 1}),
}
TEXTS = ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name")
MESSAGE = [*((name, pa.string()) for name in TEXTS), ("weight", pa.float32()), ("token_ids", pa.list_(pa.int32()))]


def talk(kind: str, number: int, letter: str = "a") -> list[dict[str, Any]]:
    """A conversation. Those of other numbers have other lengths; weights and values are many different ones."""
    messages = [{"role": "user", "content": f"find hat {number} " + "red " * (3 * number % 7), "weight": 0.0}]
    for step in range(1 + number % 4):
        worth = (1 + number % 4 + step) / 8
        action: dict[str, Any] = {"role": "assistant", "content": f"click[{letter}{number + step}]", "weight": 1.0}
        action |= {"examples": {"weight": worth}, "pairs": {}, "values": {"value": worth}}[kind]
        messages += [action, {"role": "user", "content": f"page {step}", "weight": 0.0}]
    return messages


def pair(number: int) -> dict[str, Any]:
    prompt, *chosen = talk("pairs", number)
    rejected = talk("pairs", number + 2, "b")[1:]
    return {"level": ("trajectory", "step")[number % 2], "prompt": [prompt], "chosen": chosen, "rejected": rejected}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind, as `trajkit select` writes it."""
    folder, files = tmp_path_factory.mktemp("data"), {}
    for kind in ("examples", "pairs", "values"):
        name, more = ("pair_id", ["level"]) if kind == "pairs" else ("example_id", [])
        rows = [
            {name: f"r{number}", **(pair(number) if kind == "pairs" else {"messages": talk(kind, number)})}
            for number in range(N)
        ]
        messages = pa.large_list(pa.struct([*MESSAGE, ("value", pa.float64())] if kind == "values" else MESSAGE))
        lists = ["prompt", "chosen", "rejected"] if kind == "pairs" else ["messages"]
        fields = [*((text, pa.string()) for text in (name, "tools", *more)), *((column, messages) for column in lists)]
        told = {"trajkit.method": "mine", "trajkit.kind": kind}
        files[kind] = folder / f"{kind}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields, metadata=told)), files[kind])
    return files


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    texts = [message["content"] for n in range(N) for letter in "ab" for message in talk("pairs", n, letter)]
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return scratch.make(folder, texts, Scratch(vocabulary=300, hidden=32, layers=2, heads=2, context=256))


@pytest.fixture(scope="module")
def mixing(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers would mix packed rows."""
    return folder_of("lfm2", tmp_path_factory.mktemp("mixing") / "lfm2", tokenizer=model)


def train_all(work: Path, rank: int) -> None:
    """What each of two processes does: [data, model, out, settings], ... A refusal is written down beside `out`."""
    for data, model, out, settings in json.loads(work.read_text()):
        if settings["seed"] == "its rank":
            settings["seed"] = rank
        try:
            trainer.train(Path(data), Path(model), Path(out), Train(**settings), show=False)
        except UsageError as error:
            Path(f"{out}-{rank}.txt").write_text(str(error))
    parallel.leave()


@pytest.fixture(scope="module")
def two(data: dict[str, Path], model: Path, mixing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two processes made of every case, and of launches that are refused."""
    folder = tmp_path_factory.mktemp("two")
    refused = {"other seeds": {"seed": "its rank"}, "few": {"batch": 1}, "unsloth": {"backend": "unsloth"}}
    cases = CASES | {name: ("examples", settings) for name, settings in refused.items()}
    work = folder / "work.json"
    told = [
        [data[kind], mixing if "cannot" in name else model, folder / name, vars(SMALL) | more]
        for name, (kind, more) in cases.items()
    ]
    work.write_text(json.dumps(told, default=str))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    code = f"from pathlib import Path; from test_distributed import train_all; train_all(Path({str(work)!r}), 1)"
    env = os.environ | where | {"RANK": "1", "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'tests'}", "OMP_NUM_THREADS": "1"}
    other = subprocess.Popen([sys.executable, "-c", code], env=env, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "PATIENCE", timedelta(minutes=20))  # for the other one, if it cannot start
        for name, value in {**where, "RANK": "0"}.items():
            patch.setenv(name, value)
        train_all(work, 0)
    _, err = other.communicate(timeout=600)
    assert other.returncode == 0 and "examples" not in err and "a pass of its own" not in err, err
    return folder


def lines(out: Path) -> list[dict[str, float]]:
    """All that does not tell the time."""
    found = [json.loads(line) for line in (out / trainer.METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in found]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_curve_of_one(
    name: str, two: Path, data: dict[str, Path], model: Path, mixing: Path, tmp_path: Path
) -> None:
    kind, more = CASES[name]
    policy = mixing if "cannot" in name else model
    made = trainer.train(data[kind], policy, tmp_path, Train(**vars(SMALL) | more), show=False)
    one = lines(tmp_path)
    assert len(one) == SMALL.steps
    for alone, shared in zip(one, lines(two / name), strict=True):
        assert (shared["step"], shared["lr"], shared["tokens"]) == (alone["step"], alone["lr"], alone["tokens"])
        if alone["step"] == 0:  # margins are 0 there, up to rounding
            assert alone.pop("accuracy", 0.0) <= 1.0 >= shared.pop("accuracy", 0.0)
        assert shared == pytest.approx(alone, rel=5e-6, abs=1e-5)  # float32, added up in another order
    assert len({line["loss"] for line in one}) == SMALL.steps and one[0]["grad_norm"] > SMALL.clip
    there = sorted(path.relative_to(made) for path in made.rglob("*"))
    assert there == sorted(path.relative_to(two / name / "model") for path in (two / name / "model").rglob("*"))
    if kind == "pairs":  # each computed it for its share of the pairs
        references = [load_file(out / "reference.safetensors")["log_p"] for out in (tmp_path, two / name)]
        assert torch.allclose(*references, rtol=0, atol=1e-5) and bool((references[0] < 0).all())


def test_wrong_launches_are_refused_with_a_way_out(two: Path) -> None:
    for rank in (0, 1):
        told = {name: (two / f"{name}-{rank}.txt").read_text() for name in ("other seeds", "few", "unsloth")}
        assert told["other seeds"].startswith("processes 0 and 1 have other settings. Each needs the same command")
        assert told["few"] == "2 processes share steps of 1 examples: start at most 1, or raise train.batch."
        assert "--set train.backend=plain" in told["unsloth"]


def test_a_launch_without_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"RANK, MASTER_ADDR, MASTER_PORT not\. Start several processes with torchrun"):
        parallel.join()
    with pytest.raises(UsageError, match="the loop is one process"):
        loop.loop(tmp_path, load_settings(["tinyshop"]))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert parallel.join() == parallel.ALONE


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 8))
def test_every_group_is_one_processs_and_none_has_two_more_than_it_needs(lengths: list[int], world: int) -> None:
    groups = [[Row(str(n), [7] * length, [0.0] * length)] for n, length in enumerate(lengths)]
    shares = [share(groups, rank, world) for rank in range(world)]
    assert Counter(number for numbers in shares for number in numbers) == Counter(range(len(groups)))
    tokens = [sum(lengths[number] for number in numbers) for numbers in shares]
    assert max(tokens) - min(tokens) <= max(lengths)
    assert sum(map(bool, shares)) == min(world, len(groups))
    assert share(groups, 0, 1) == list(range(len(groups)))


def started(*command: Any) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    given = [*launcher, *map(str, command)]
    return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=CHECKOUT)


def workers(launcher: int) -> Iterator[tuple[int, int]]:
    """(rank, pid) of the processes that torchrun has started and that run."""
    for pid in (Path(f"/proc/{launcher}/task/{launcher}/children")).read_text().split():
        environ = Path(f"/proc/{pid}/environ").read_text().split("\0")
        ranks = [entry.partition("=")[2] for entry in environ if entry.startswith("RANK=")]
        yield from ((int(rank), int(pid)) for rank in ranks)


@pytest.mark.slow  # torchrun five times
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_one_process_killed_ends_all_and_a_restart_goes_on_along_the_same_curve(
    data: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    settings = vars(SMALL) | {"steps": 400, "save_steps": 20, "lora_rank": 4, "lora_dropout": 0.1, "sft_weight": 0.5}
    given = [f"--set=train.{key}={json.dumps(value)}" for key, value in settings.items() if value is not None]
    call = ["-m", "train.trainer", "--data", data["pairs"], "--model", model, *given, "--out"]

    whole = started(*call, tmp_path / "whole")
    printed, err = whole.communicate(timeout=1200)
    assert whole.returncode == 0 and printed == f"{tmp_path / 'whole' / 'model'}\n", err
    assert err.count("9 pairs") == 1 and err.count("a pair's chosen side") == 1

    for rank in (0, 1):
        out = tmp_path / f"killed-{rank}"
        process = started(*call, out)
        while process.poll() is None and not list(out.glob("checkpoint-*")):
            time.sleep(0.005)
        pids = dict(workers(process.pid))
        os.kill(pids[rank], signal.SIGKILL)
        process.communicate(timeout=600)
        assert process.returncode == 1 and not (out / "model").exists()
        assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]

        process = started(*call, out)
        _, err = process.communicate(timeout=1200)
        assert process.returncode == 0 and err.count("going on from step") == 1, err
        assert lines(out) == lines(tmp_path / "whole")
        first, second = ((of / "model/model.safetensors").read_bytes() for of in (tmp_path / "whole", out))
        assert first == second
