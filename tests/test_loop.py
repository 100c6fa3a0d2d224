"""Algorithm 1 from end to end on a small shop: stages, kills, take-overs, wrong calls."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from loop_helpers import SMALL, changed, counted, small

pytest.importorskip("torch", reason="needs torch: make setup-train")
pytest.importorskip("transformers", reason="needs transformers: make setup-train")

from train.loop import MANIFEST, loop
from train.settings import load
from train.study import _changes, read, run
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop") / "eef"
    loop(folder, small())
    return folder


def test_every_theta_plays_both_splits_and_the_last_one_only_the_test_split(done: Path) -> None:
    found = counted(done)
    assert found["expert", "tiny-expert", "train", 0, False] == 30
    assert found["policy", "theta-0", "test", 1, False] == 10
    assert found["policy", "theta-0", "train", 1, False] == 30
    assert found["policy", "theta-0", "train", 1, True] > 30
    assert found["policy", "theta-1", "test", 2, False] == 10
    assert sum(n for (_, actor, split, *_), n in found.items() if actor == "theta-1" and split == "train") == 0
    told = json.loads((done / MANIFEST).read_text())
    assert [row["k"] for row in told["results"]] == [0, 1] and told["packages"]["torch"]
    assert told["results"][1]["policy_rollouts"] == sum(
        n for key, n in found.items() if key[1:3] == ("theta-0", "train")
    )


def test_what_was_sampled_is_what_is_trained_on(done: Path) -> None:
    """The policy's own actions come with their token ids, and the masks take all of them."""
    from transformers import AutoTokenizer

    from trajkit.selection.dataset import read as examples
    from trajkit.tokens.masks import Masks

    tokenizer = AutoTokenizer.from_pretrained(done / "theta-1/model")
    masks = Masks(tokenizer)
    found = list(examples(done / "theta-1/sft.parquet"))
    rows = list(masks.rows(found))
    own = [m for example in found for m in example["messages"] if m.get("token_ids")]
    assert masks.counts["token_ids_used"] == len(own) and not masks.counts["token_ids_unusable"]
    for example, row in zip(found, rows, strict=True):
        said = "".join(m["content"] + "<|end|>" for m in example["messages"] if m["weight"])
        trained = [token for token, weight in zip(row.input_ids, row.weights, strict=True) if weight]
        assert tokenizer.decode(trained) == said


def test_a_finished_run_is_left_alone_and_other_settings_are_refused(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    assert loop(done, small()) == done / MANIFEST
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before
    with pytest.raises(UsageError, match=r"other loop\.method"):
        loop(done, small("loop.method=rft"))


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else is there"):
        loop(tmp_path, small())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_theta_0_is_taken_over_and_only_what_is_the_same(done: Path, tmp_path: Path) -> None:
    loop(tmp_path / "rft", small("loop.method=rft"), begin=done)
    theirs, ours = (folder / "theta-0/model/model.safetensors" for folder in (done, tmp_path / "rft"))
    assert theirs.read_bytes() == ours.read_bytes()
    loop(tmp_path / "cloned", small("loop.iterations=1"))
    assert (tmp_path / "cloned/theta-0/model/model.safetensors").read_bytes() == ours.read_bytes()
    loop(tmp_path / "rft-2", small("loop.method=rft"), begin=tmp_path / "cloned")
    assert counted(tmp_path / "rft-2")["policy", "theta-0", "train", 1, False] == 30
    with pytest.raises(UsageError, match=r"its train\.lr is another one"):
        loop(tmp_path / "other", small("train.lr=1e-4"), begin=done)
    with pytest.raises(UsageError, match="no finished run"):
        loop(tmp_path / "other-2", small(), begin=tmp_path)


def test_experts_may_be_a_folder_of_runs_and_others_may_join_later(done: Path, tmp_path: Path) -> None:
    recorded = tmp_path / "recorded"
    shutil.copytree(done / "runs/explore-expert-tiny-expert-i0", recorded)
    given = [f"explore.experts=['{recorded}']", "explore.later_experts=['envs.webshop:CheapExpert']"]
    loop(tmp_path / "run", small(*given))
    found = counted(tmp_path / "run")
    assert found["expert", "tiny-expert", "train", 0, False] == found["expert", "cheap-expert", "train", 0, False] == 30
    with DuckDBEngine(tmp_path / "run/runs") as runs:
        rows = runs.rows(
            "SELECT DISTINCT e.actor FROM trajectories AS b "
            "JOIN trajectories AS e ON b.parent_id = e.trajectory_id WHERE b.iteration = 1"
        )
    assert sorted(row["actor"] for row in rows) == ["cheap-expert", "tiny-expert"]  # both were explored, at once
    cloned, branched = (tmp_path / "run/theta-0/sft.parquet", tmp_path / "run/theta-1/sft.parquet")
    assert cloned.read_bytes() == (done / "theta-0/sft.parquet").read_bytes()  # without the expert who came later
    assert branched.read_bytes() != (done / "theta-1/sft.parquet").read_bytes()
    with pytest.raises(UsageError, match="there is no expert"):
        loop(tmp_path / "none", small("explore.experts=[]"))
    with pytest.raises(UsageError, match="no module:attr and no folder"):
        loop(tmp_path / "wrong", small("explore.experts=['nowhere']"))


def start(folder: Path, *how: str) -> subprocess.Popen[str]:
    given = [f"--set={change}" for change in SMALL]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(how or ("-m", "train.loop")), "--out", folder, *given]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, cwd=CHECKOUT)


# Kills itself where a file is whole but for its name, which a pattern says.
KILLED = """
import os, re, runpy, signal, sys
pattern = sys.argv.pop(1)
def hook(event, args):
    if event == "os.rename" and re.search(pattern, os.fspath(args[0])):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
runpy.run_module("train.loop", run_name="__main__", alter_sys=True)
"""


def test_killed_anywhere_it_goes_on_and_comes_to_the_same_end(done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    for hidden in (
        r"/\.settings\.json\.", r"/explore-expert.*/\.part-", r"/\.base\.tmp", r"theta-0/\.\.selected\.parquet\.",
        r"theta-0/\.selected\.parquet$", r"theta-0/\.training\.json\.", r"theta-0/\.metrics\.jsonl\.",
        r"theta-0/\.checkpoint-20\.tmp$", r"theta-0/\.model\.tmp$", r"/explore-policy.*/\.part-.*/messages",
        r"theta-0/\.played\.json\.", r"theta-1/\.metrics\.jsonl\.", r"/\.manifest\.json\.",
    ):  # fmt: skip
        process = start(folder, "-c", KILLED, hidden)
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"{hidden}: {said}"
        assert not (folder / MANIFEST).exists()
    process = start(folder)
    _, said = process.communicate()
    assert process.returncode == 0, said
    results = [json.loads((run / MANIFEST).read_text())["results"] for run in (done, folder)]
    assert results[0] == results[1]
    ours, theirs = (run / "theta-1/model/model.safetensors" for run in (folder, done))
    assert ours.read_bytes() == theirs.read_bytes()
    assert not list(folder.rglob(".*"))


def test_ctrl_c_says_that_it_can_go_on(tmp_path: Path) -> None:
    process = start(tmp_path / "run")
    while process.poll() is None and not (tmp_path / "run/theta-0/training.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130 and "goes on from there" in said and "Traceback" not in said


def test_a_served_policy_is_started_awaited_stopped_and_its_log_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, but for the GPU: the tests' own server, which speaks vLLM's protocol, stands in for vLLM."""
    import transformers
    from model_server import make_tokenizer
    from serve_helpers import gone, stand_in

    import train.loop
    import train.serve

    folder = tmp_path / "model"
    make_tokenizer(folder)
    end = transformers.AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|im_end|>")
    config = transformers.LlamaConfig(
        vocab_size=400, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=4096, eos_token_id=end, bos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    started = []

    def command(model: Path, *, context: int | None, gpu_memory: float) -> list[str]:
        started.append(model)
        return stand_in(model)

    monkeypatch.setattr(train.serve, "vllm", command)
    monkeypatch.setattr(train.loop, "has_vllm", lambda: True)
    changes = [
        "explore.env_args.train_tasks=24",
        "explore.env_args.test_tasks=4",
        "explore.max_steps=9",
        "train.steps=2",
    ]
    changes += [f"loop.model={folder}", "loop.iterations=2", "explore.m=1", "train.batch=2"]
    run = tmp_path / "run"
    loop(run, load(["webshop"], changes))
    assert started == [run / "theta-0/model", run / "theta-1/model"]
    assert (run / "theta-0/vllm.log").exists() and (run / "theta-1/vllm.log").exists()
    found = counted(run)
    assert found["policy", "theta-0", "test", 1, False] == 4 and found["policy", "theta-0", "train", 1, True] >= 12
    with DuckDBEngine(run / "runs") as runs:
        [row] = runs.rows("SELECT count(*) AS n FROM messages WHERE token_ids IS NOT NULL AND logprobs IS NOT NULL")
        assert row["n"] > 12
    left = subprocess.run(["pgrep", "-f", f"model_server.py {run}"], capture_output=True, text=True).stdout.split()
    assert all(gone(int(pid)) for pid in left)


def test_a_policy_server_that_never_comes_up_is_a_clear_error(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import train.loop
    import train.serve
    from trajkit.errors import TrajkitError

    dies = [sys.executable, "-c", "import sys; sys.exit('no GPU here: {port}')"]
    monkeypatch.setattr(train.serve, "vllm", lambda *given, **more: dies)
    monkeypatch.setattr(train.loop, "has_vllm", lambda: True)
    with pytest.raises(TrajkitError, match=r"ended before it answered.*\n.*no GPU here"):
        loop(tmp_path / "run", small())
    assert not (tmp_path / "run/theta-0/played.json").exists() and not (tmp_path / "run" / MANIFEST).exists()
    monkeypatch.undo()
    loop(tmp_path / "run", small())
    results = [json.loads((run / MANIFEST).read_text())["results"] for run in (done, tmp_path / "run")]
    assert results[0] == results[1]


STUDY = """
config = "tinyshop"
seeds = [0]
first = "clone"
set = [{common}]
[arms]
"clone" = ["loop.iterations=1"]
"RFT" = ["loop.method=rft"]
"all" = ["loop.iterations=1", "loop.clone=sft_all"]
"""


def test_a_study_runs_its_arms_and_shares_what_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    tiny = changed("explore.env_args.train_tasks=10", "explore.env_args.test_tasks=4", "train.steps=10")
    path.write_text(STUDY.format(common=", ".join(json.dumps(change) for change in tiny)))
    runs = run(read(path), tmp_path / "out", jobs=2)
    assert {name: len(found) for name, found in runs.items()} == {"clone": 1, "RFT": 1, "all": 1}
    weights = {name: (runs[name][0] / "theta-0/model/model.safetensors").read_bytes() for name in runs}
    assert weights["clone"] == weights["RFT"] != weights["all"]


def test_a_seed_of_a_study_is_that_of_all_that_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(common=""))
    for seed in (0, 1):
        settings = load(["tinyshop"], _changes(read(path), "RFT", seed))
        assert {settings.train.seed, settings.explore.seed, settings.scratch.seed} == {seed}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds = [0]\n[arms]\na = []", "config"),
        ("config = 'tinyshop'\nseeds = []\n[arms]\na = []", "no seed"),
        ("config = 'tinyshop'\nseeds = [0]\nfirst = 'b'\n[arms]\na = []", "no such first arm"),
        ("config = 'tinyshop'\nseeds = [0]\n[arms]\na = ['train.rl=1']", "no key rl"),
        ("config = 'tinyshop", "study"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_runs(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        read(tmp_path / "s.toml")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], ["train.study train/studies/demo.toml --out train-run"]),
        (
            ["METHOD=rft", "ENV=envs.scienceworld:ScienceWorld", "MODEL=folder"],
            ["--config scienceworld --config eef", "--set loop.method=rft", "--set loop.model=folder", "--out run"],
        ),
        (["ENV=envs.alfworld:ALFWorld", "MODEL=f", "EXPERT=logs/runs"], ["--config eef", 'experts=["logs/runs"]']),
        (["ENV=envs.webshop:WebShop", "METHOD=eef"], ["--config webshop"]),
        (["ENV=envs.webshop:TinyShop", "EXPERT=envs.webshop:CheapExpert"], ["--config tinyshop", "CheapExpert"]),
        (["CONFIG=mine.toml", "SET=train.lr=1e-5 train.batch=2"], ["--config mine.toml", "--set train.batch=2"]),
    ],
)
def test_make_train_does_what_its_variables_say(given: list[str], wanted: list[str]) -> None:
    """The commands that it would run; those of the presets are checked to be valid settings."""
    done = subprocess.run(["make", "-n", "train", *given], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    lines = done.stdout.replace("\\\n", " ").splitlines()
    [command] = [line for line in lines if "train.loop" in line or "train.study" in line]
    command = " ".join(command.split())
    words = shlex.split(command)
    assert all(part in " ".join(words) for part in wanted), command
    configs = [words[n + 1] for n, word in enumerate(words) if word == "--config" and words[n + 1] != "mine.toml"]
    changes = [words[n + 1] for n, word in enumerate(words) if word == "--set"]
    assert load(configs, changes)
