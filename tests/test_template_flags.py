"""What chat templates are told, wherever prompts are rendered: --template-arg, --per-step, --on-refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from small_runs import trajkit
from worlds import Traj, World, expert, policy, write

pytest.importorskip("transformers", reason="chat templates need the extra server")

from explore_helpers import rows
from masks_helpers import tokenizer
from model_server import make_tokenizer
from policies_helpers import Served

from trajkit.selection.dataset import read
from trajkit.selection.select import select
from trajkit.tokens.masks import Masks
from trajkit.tokens.tokenizer import load_tokenizer

# Experts that say their action (a) or call a tool (T); rollouts that do the other; a scorer's judgements of both.
MIXED = World(
    (
        *(expert(f"e{n}", "aab", reward=1.0, task=f"t{n}") for n in range(3)),
        expert("tool", "aTb", reward=1.0, task="t3"),
        *(policy(f"p{n}", "ba", reward=0.0, task=f"t{n}") for n in range(4)),
        *(
            Traj(f"mc{n}{sample}", "scorer", "b", parent=name, at=2, reward=sample / 2, sample=sample, task=f"t{n}")
            for n, name in enumerate(("e0", "e1", "e2", "tool"))
            for sample in range(2)
        ),
    )
)
ROWS = {"sft_all": 4, "eto": 4, "step_rewards": 8}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    runs = write(MIXED, folder / "runs")
    found = {}
    for method in ROWS:
        select(runs, found.setdefault(method, folder / f"{method}.parquet"), method)
    return found


@pytest.fixture(scope="module")
def toolless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose template writes no tool calls."""
    folder = tmp_path_factory.mktemp("toolless")
    tokenizer("llama-3").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ROWS)
def test_what_the_template_cannot_hold_is_shown_with_its_reason(
    files: dict[str, Path], toolless: Path, method: str
) -> None:
    asked = ("show", files[method], "--tokenizer", toolless)
    texts = []
    for row in read(files[method]):
        calls = "tool_calls" in json.dumps(row, default=str).replace('"tool_calls": null', "")
        one = ("--example", row["pair_id" if method == "eto" else "example_id"])
        strict = trajkit(*asked, *one)
        dropped = trajkit(*asked, *one, "--on-refused", "drop")
        texts.append((calls, strict.code, dropped.code))
        if calls:
            assert "writes no tool calls" in strict.err and "--on-refused drop" in strict.err
            assert "writes no tool calls" in dropped.out
        else:
            assert strict.out == dropped.out
    assert sorted(texts) == [(False, 0, 0)] * (ROWS[method] - 1) + [(True, 3, 0)]


def test_export_leaves_out_what_it_cannot_hold_where_it_is_told_to(
    files: dict[str, Path], toolless: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tokens.parquet"
    asked = ("export", files["sft_all"], "--to", "trl", "--out", out, "--tokenizer", toolless)
    strict = trajkit(*asked)
    assert strict.code == 3 and "1 of 4 conversations" in strict.err and "--on-refused drop" in strict.err
    assert not out.exists()
    dropped = trajkit(*asked, "--on-refused", "drop")
    assert dropped.code == 0 and "writes no tool calls" in dropped.err
    assert pq.read_table(out).num_rows == 3


@pytest.mark.parametrize("method", ROWS)
def test_training_leaves_out_what_it_cannot_hold_where_it_is_told_to(
    files: dict[str, Path], toolless: Path, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="training needs the extra train")
    transformers: Any = pytest.importorskip("transformers")
    from train import trainer
    from train.settings import Train
    from trajkit.errors import BadData

    model = tmp_path / "model"
    shutil.copytree(toolless, model)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer("llama-3")), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(model)
    settings = {"steps": 1, "batch": 4, "context": 1024, "lr": 1e-3, "backend": "plain"}
    with pytest.raises(BadData, match=r"writes no tool calls.*train\.on_refused=drop"):
        trainer.train(files[method], model, tmp_path / "strict", Train(**settings), show=False)
    capsys.readouterr()
    trainer.train(files[method], model, tmp_path / "out", Train(**settings, on_refused="drop"), show=False)
    said = capsys.readouterr().err
    assert f"{ROWS[method]} {'pairs' if method == 'eto' else 'examples'}" in said
    assert "writes no tool calls" in said


def test_per_step_shows_a_row_for_each_action(files: dict[str, Path], toolless: Path) -> None:
    row = next(iter(read(files["sft_all"])))
    text = trajkit("show", files["sft_all"], "--example", row["example_id"], "--tokenizer", toolless, "--per-step").out
    rows = list(Masks(tokenizer("llama-3"), 10**6, per_step=True).rows([row]))
    assert len(rows) == 3
    assert re.findall(r"([\d,]+) tokens, [\d,]+ of them", text) == [str(len(one.input_ids)) for one in rows]


# --- template arguments ---


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose template reads an argument."""
    folder = tmp_path_factory.mktemp("moody")
    make_tokenizer(folder)
    template = folder / "chat_template.jinja"
    template.write_text("{{- 'mood ' ~ (mood if mood is defined else 'none') ~ '\\n' }}" + template.read_text())
    return folder


@pytest.fixture
def serve(moody: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(*more: str) -> Served:
        folder = tmp_path / f"server{len(running)}"
        folder.mkdir()
        running.append(Served(moody, folder, *more))
        return running[-1]

    yield start
    for served in running:
        served.kill()


def explore(runs: Path, policy: str, *more: object) -> Any:
    shop = ("--env", "envs.webshop:TinyShop", "--env-arg", "train_tasks=2", "--env-workers", 0)
    return trajkit(
        "explore", "--runs", runs, *shop, "--policy", policy, "--iteration", 1, "--max-steps", 2,
        "--max-tokens", 8, *more,
    )  # fmt: skip


@pytest.mark.parametrize("servers", [1, 2])
def test_prompts_of_a_server_are_rendered_with_the_argument(
    serve: Callable[..., Served], moody: Path, tmp_path: Path, servers: int
) -> None:
    started = [serve() for _ in range(servers)]
    result = explore(
        tmp_path / "runs", ",".join(one.url for one in started), "--tokenizer", moody, "--template-arg", "mood=glad"
    )
    assert result.code == 0, result.err
    said = [entry for one in started for entry in one.said()]
    prompts = [load_tokenizer(moody).decode(entry["prompt"]) for entry in said]
    assert prompts and all(prompt.startswith("mood glad\n") for prompt in prompts), prompts[:1]
    metas = rows(tmp_path / "runs", "SELECT DISTINCT meta FROM trajectories")
    assert [json.loads(row["meta"])["sampling"]["template_args"] for row in metas] == [{"mood": "glad"}]


def test_an_argument_that_would_not_reach_the_template_is_refused(
    serve: Callable[..., Served], moody: Path, tmp_path: Path
) -> None:
    runs, given = tmp_path / "runs", ("--template-arg", "mood=glad")
    blind = serve("--no-ids")
    for policy_, more, said in (
        (blind.url, (), "of a server where --tokenizer is given"),
        (blind.url, ("--tokenizer", moody), "gives no token ids"),
        ("envs.webshop:Novice", (), "--template-arg is for prompts that trajkit renders"),
        (serve().url, ("--tokenizer", moody, "--template-arg", "mod=1"), "mod: the chat template"),
    ):
        result = explore(runs, policy_, *given, *more)
        assert result.code == 2 and said in result.err, result.err
    assert not list(runs.rglob("*.parquet"))
