"""A model folder as the policy: a tiny model with random weights, against transformers' own answers."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from explore_helpers import SMALL, ids, rows
from hypothesis import given
from hypothesis import strategies as st

from envs.webshop import WebShop
from trajkit.errors import UsageError
from trajkit.exploration.env import Message
from trajkit.exploration.explore import Settings, explore
from trajkit.exploration.policies import Answer, Sampling

torch = pytest.importorskip("torch", reason="needs torch: pip install trajkit[local]")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install trajkit[local]")

from model_kinds import folder_of  # noqa: E402
from model_server import make_tokenizer  # noqa: E402

from trajkit.exploration.policies.continuous_batching import draw  # noqa: E402
from trajkit.exploration.policies.local import Local  # noqa: E402

ASKED = [[{"role": "user", "content": text}] for text in ("Hi", "Find me a soft cotton shirt", "Back to Search")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    make_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=400, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=1, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def ask(model: Local, asked: list[list[Message]], seeds: list[int] | None = None) -> list[Answer]:
    async def all_at_once() -> list[Answer]:
        seeded = zip(asked, seeds or [7] * len(asked), strict=True)
        return await asyncio.gather(*(model.answer(messages, seed=seed, sample=0) for messages, seed in seeded))

    return asyncio.run(all_at_once())


def said(answer: Answer) -> Message:
    assert answer.message is not None
    return answer.message


def test_greedy_answers_and_logprobs_are_the_models_own(folder: Path) -> None:
    model = Local(str(folder), Sampling((0.0,), max_tokens=12), batch=8)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for messages, answer in zip(ASKED, ask(model, ASKED), strict=True):
        prompt = torch.tensor([model.turns.prompt(messages)])
        wanted = plain.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12)
        message = said(answer)
        assert message["token_ids"] == wanted[0, prompt.shape[1] :].tolist()
        assert message["content"] == model.turns.tokenizer.decode(message["token_ids"], skip_special_tokens=True)
        logits = plain(wanted).logits[0, prompt.shape[1] - 1 : -1].log_softmax(-1)
        alone = [logits[at, token].item() for at, token in enumerate(message["token_ids"])]
        assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(message["logprobs"], alone, strict=True))
        assert answer.cut == (message["token_ids"][-1] != 1)


def test_an_answer_hangs_on_its_seed_and_not_on_the_batch(folder: Path) -> None:
    together = ask(Local(str(folder), Sampling(max_tokens=10), batch=8), ASKED)
    alone = ask(Local(str(folder), Sampling(max_tokens=10), batch=1), ASKED)
    assert [said(a)["token_ids"] for a in together] == [said(a)["token_ids"] for a in alone]
    model = Local(str(folder), Sampling(max_tokens=10), batch=8)
    several = ask(model, [ASKED[0]] * 8, list(range(8)))
    assert len({tuple(said(answer)["token_ids"]) for answer in several}) == 8
    narrow = Local(str(folder), Sampling(top_p=1e-6, max_tokens=10), batch=8)
    greedy = Local(str(folder), Sampling((0.0,), max_tokens=10), batch=8)
    assert [said(a)["token_ids"] for a in ask(narrow, ASKED)] == [said(a)["token_ids"] for a in ask(greedy, ASKED)]


def test_ends(folder: Path) -> None:
    (first,) = ask(Local(str(folder), Sampling((0.0,), max_tokens=12)), ASKED[:1])
    text = said(first)["content"]
    stop = text[len(text) // 2]
    (stopped,) = ask(Local(str(folder), Sampling((0.0,), max_tokens=12, stop=(stop,))), ASKED[:1])
    assert not stopped.cut
    assert said(stopped)["content"] == text.partition(stop)[0]
    full: list[Any] = [[{"role": "user", "content": "a b c d " * 2000}]]
    assert ask(Local(str(folder)), full) == [Answer(None, cut=True)]
    with pytest.raises(UsageError, match="no tokenizer can be loaded"):
        Local(str(folder.parent))


def test_exploring_with_it(folder: Path, tmp_path: Path) -> None:
    env = WebShop(**SMALL)
    for name, concurrency in (("one", 1), ("many", 8)):
        model = Local(str(folder), Sampling(max_tokens=8), batch=concurrency)
        settings = Settings("policy", 1, max_steps=3, concurrency=concurrency)
        counts = explore(tmp_path / name, env, model, plans=["initial"], settings=settings)
        assert (counts["rollouts"], counts["error"]) == (16, 0)
    got = rows(tmp_path / "one", "SELECT DISTINCT actor, ended FROM trajectories ORDER BY ALL")
    assert {row["actor"] for row in got} == {"tiny-llama"}
    assert {row["ended"] for row in got} <= {"max_tokens", "max_steps"}
    texts = "SELECT content FROM messages WHERE role = 'assistant' ORDER BY ALL"
    assert rows(tmp_path / "one", texts) == rows(tmp_path / "many", texts)
    assert ids(tmp_path / "one")


def test_turns_branches_and_newcomers_share_slots(folder: Path) -> None:
    """Conversations that go on, part and come back, more of them than slots: all as the model says without a cache."""
    model = Local(str(folder), Sampling(max_tokens=6), batch=3)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    talks: list[list[Message]] = [list(asked) for asked in ASKED]
    for turn, heard in enumerate(("[SEP] Page 1", "no", "click " * 30, "Buy Now", "yes")):
        talks = [*talks, list(talks[-1])][-5:]  # one more begins as another one did
        for talk, answer in zip(talks, ask(model, talks, [10 * turn + n for n in range(len(talks))]), strict=True):
            message = said(answer)
            prompt = model.turns.prompt(talk)
            logits = plain(torch.tensor([prompt + message["token_ids"]]), use_cache=False).logits[0].log_softmax(-1)
            for at, (token, logprob) in enumerate(zip(message["token_ids"], message["logprobs"], strict=True)):
                assert math.isclose(logprob, logits[len(prompt) - 1 + at, token].item(), abs_tol=1e-4)
            talk += [message, {"role": "user", "content": heard}]


def test_only_what_is_new_is_fed(folder: Path) -> None:
    model = Local(str(folder), Sampling((0.0,), max_tokens=3), batch=2)
    fed, forward = [], model._model.forward

    def noting(**given: Any) -> Any:
        fed.append(tuple(given["input_ids"].shape))
        return forward(**given)

    (answer,) = ask(model, ASKED[1:2])
    model._model.forward = noting
    going_on = [*ASKED[1], said(answer), {"role": "user", "content": "ok"}]
    new = len(model.turns.prompt(going_on)) - len(model.turns.prompt(ASKED[1])) - 2  # two of the three were fed
    ask(model, [going_on])
    assert fed == [(1, new), (2, 1), (2, 1)]
    fed.clear()
    ask(model, [going_on])  # once more: its last token is all that is new
    assert fed[0][1] == 1


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("Mistral", {"sliding_window": 8, "num_key_value_heads": 1}),
    ("Llama", {"num_key_value_heads": 1}),
    ("Gemma2", {"head_dim": 8, "num_key_value_heads": 2, "sliding_window": 8}),
    ("GPT2", {}),
    ("Bloom", {}),
    ("Mamba", {}),
]


@pytest.mark.parametrize(("kind", "more"), KINDS)
def test_other_kinds_of_models(folder: Path, tmp_path: Path, kind: str, more: dict[str, Any]) -> None:
    """Windows, grouped heads, learned places, ALiBi, states: with the cache or without, the answers are the model's."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=400, eos_token_id=1, bos_token_id=None, pad_token_id=None,
        **{"GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2}, "Bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
           "Mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}}.get(kind, sizes), **more,
    )  # fmt: skip
    plain = getattr(transformers, f"{kind}{'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'}")(config).eval()
    plain.save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    model = Local(str(tmp_path), Sampling(max_tokens=6), batch=2)
    talks: list[list[Message]] = [list(asked) for asked in ASKED]
    for turn in range(2):
        for talk, answer in zip(talks, ask(model, talks, [10 * turn + n for n in range(len(talks))]), strict=True):
            message, prompt = said(answer), model.turns.prompt(talk)
            logits = plain(torch.tensor([prompt + message["token_ids"]]), use_cache=False).logits[0].log_softmax(-1)
            wanted = [logits[len(prompt) - 1 + at, token].item() for at, token in enumerate(message["token_ids"])]
            assert message["logprobs"] == pytest.approx(wanted, abs=1e-4)
            talk += [message, {"role": "user", "content": "and now?"}]


@pytest.mark.parametrize(
    ("kind", "fit"),
    [("llama", "slots"), ("qwen3_moe", "slots"), ("deepseek_v3", "slots"), ("gemma3", "whole"), ("qwen3_next", "whole"),
     ("lfm2", "whole"), ("mamba2", "whole"), ("gpt_oss", "whole"), ("llama4", "whole"), ("bloom", "whole"),
     ("gemma2", "whole"), ("gpt_neo", "whole"), ("bert", "one"), ("phi3", "one")],
)  # fmt: skip
def test_how_conversations_go_together_is_tried_out(
    tmp_path: Path, kind: str, fit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a model's layers keep: an answer beside others is the one it gives alone, in its own (eager) attention.

    gpt_neo has windows of which its cache knows nothing; bert sees what is padded; phi3's rotary embedding changes with
    the longest conversation.
    """
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [4.0] * 4, "short_factor": [1.0] * 4}
    changed: dict[str, Any] = {} if kind != "phi3" else {
        "sliding_window": None, "original_max_position_embeddings": 60,
        "rope_parameters": rope | {"original_max_position_embeddings": 60},
    }  # fmt: skip
    folder = folder_of(kind, tmp_path, **changed)
    capsys.readouterr()
    model = Local(str(folder), Sampling((0.0,), max_tokens=6), batch=3)
    assert capsys.readouterr().err.count("which is slow") == (fit != "slots")
    assert model._fit == fit
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    talks: list[list[Message]] = [list(asked) for asked in ASKED]
    for _ in range(2):
        for talk, answer in zip(talks, ask(model, talks), strict=True):
            message, ids = said(answer), model.turns.prompt(talk)
            for token, logprob in zip(message["token_ids"], message["logprobs"], strict=True):
                scores = plain(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
                assert logprob == pytest.approx(scores[token].item(), abs=1e-4)
                ids = [*ids, token]
            talk += [message, {"role": "user", "content": "and now?"}]


@given(
    st.lists(st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from([0.3, 0.9, 1.0]),
)
def test_draw_follows_the_shares(scores: list[list[float]], temperature: float, top_p: float) -> None:
    lucks = [(i + 0.5) / 1000 for i in range(1000)]
    for row in scores:
        tokens = draw(torch.tensor([row]).expand(1000, -1), [temperature] * 1000, top_p, lucks).bincount(minlength=4)
        if temperature == 0:
            assert tokens[row.index(max(row))] == 1000
            continue
        shares = torch.softmax(torch.tensor(row) / temperature, -1)
        best = shares.sort(descending=True, stable=True)
        kept = best.indices[(best.values.cumsum(0) - best.values) < top_p]
        if len(set(row)) == 4:  # which of two equal ones goes is nobody's business
            wanted = torch.zeros(4).index_copy_(0, kept, shares[kept])
            assert torch.allclose(tokens / 1000, wanted / wanted.sum(), atol=3e-3)


def test_a_pass_that_fails_is_an_error_of_those_in_it(folder: Path) -> None:
    model = Local(str(folder), Sampling((0.0,), max_tokens=4), batch=2)
    before, forward = ask(model, ASKED), model._model.forward

    def failing(**given: Any) -> Any:
        raise MemoryError("no room")

    model._model.forward = failing
    with pytest.raises(MemoryError, match="no room"):
        ask(model, ASKED)
    model._model.forward = forward
    assert [said(a)["token_ids"] for a in ask(model, ASKED)] == [said(a)["token_ids"] for a in before]
