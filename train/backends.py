"""Models for training: loaded with transformers alone (`plain`) or with Unsloth's kernels, and saved.

A model is a folder, as transformers and vLLM read it: a language model, or for the regression of values the same with
a head for one number in place of the last layer (AutoModelForSequenceClassification). In both backends, all weights are
trained in float32, or float32 adapters on bfloat16 weights, and the loop computes in torch.autocast("cuda",
torch.bfloat16). On a CPU all is float32.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from train.passes import Backend
from train.probe import probe
from trajkit.console import clean
from trajkit.errors import TrajkitError, UsageError
from trajkit.runs.atomic import hide, rename, sync_below
from trajkit.tokens.tokenizer import load_tokenizer, save_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LINEAR = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
]  # what Unsloth's LoRA kernels take


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on every linear layer but the last (https://arxiv.org/abs/2106.09685)."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0


def default_backend() -> Backend:
    """Unsloth where there is a GPU and it is installed, else plain."""
    return "unsloth" if torch.cuda.is_available() and importlib.util.find_spec("unsloth") else "plain"


def load(
    folder: Path,
    *,
    backend: Backend,
    context: int,
    lora: Lora | None,
    seed: int,
    head: bool = False,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """(the model in training mode, on the GPU where there is one; its tokenizer). Nothing is fetched.

    `context` is the longest row in tokens. `lora` None: all weights are trained. `seed` is for the first weights of
    adapters and head. `head`: with a head for one number, the folder's own or, where it has none, a new one (plain
    backend only; with adapters it is trained whole). The plain backend attends to packed rows by train/attention.py,
    Unsloth by its own kernels; where that is not what the model computes for each row, train/probe.py finds it out and
    rows go through one by one (passes.one_row_a_pass says why).
    Raises UsageError where the folder holds no model with a chat template that fits it, the model is not causal, or the
    backend cannot run here.
    """
    if not (folder / "config.json").is_file() or not [
        *folder.glob("*.safetensors"),
        *folder.glob("pytorch_model*.bin"),
    ]:
        raise UsageError(
            f"{folder} is no model's folder: it needs config.json, *.safetensors and the tokenizer's files."
        )
    os.environ["HF_HUB_OFFLINE"] = "1"
    if backend == "unsloth" and head:
        raise UsageError("values are trained on with the backend plain: --set train.backend=plain.")
    if backend == "unsloth":
        _import_unsloth()  # before transformers, which it patches
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of reading weights: ours is the training's
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{folder}: transformers cannot load it: {clean(str(error))}") from error
    tokenizer = load_tokenizer(folder, "--model")
    if not tokenizer.chat_template:
        raise UsageError(f"{folder}: its tokenizer has no chat template: add chat_template.jinja to the folder.")
    longest = getattr(config, "max_position_embeddings", None)
    if longest and context > longest:
        raise UsageError(f"{folder}: context is {context}, but the model has {longest} positions: lower context.")
    if backend == "unsloth":
        _check_padding(folder, tokenizer, config)
        model = _unsloth(folder, context, lora, seed)
    else:
        model = _plain(folder, lora, seed, head)
    rows = model.get_input_embeddings().weight.shape[0]
    needed = 1 + max(tokenizer.get_vocab().values())
    if needed > rows:
        raise UsageError(
            f"{folder}: the tokenizer's ids need {needed} embeddings, but the model has {rows}: take the model's own "
            "tokenizer, or enlarge the model (resize_token_embeddings) and save it."
        )
    # The ids alone: vLLM takes its defaults for sampling from this file, and a policy's samples are to be the model's.
    if not head:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        ids = {name: getattr(model.generation_config, name) for name in names}
        model.generation_config = transformers.GenerationConfig.from_dict(ids)
    if lora is not None:
        model = _with_lora(model, lora, backend, seed, head)
    if backend == "unsloth":
        sys.modules["unsloth"].FastLanguageModel.for_training(model)
    elif torch.cuda.is_available() and model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    try:
        probe(model, _ordinary(tokenizer, rows), context, backend, head=head)
    except UsageError as error:
        raise UsageError(f"{folder}: {error}") from error
    return model, tokenizer


def model_digest(folder: Path) -> str:
    """What tells one model from another wherever it lies: of every file its name, size and first MiB."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(f"{path.name} {path.stat().st_size} ".encode() + file.read(2**20))
    return digest.hexdigest()


def save(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    stop_ids: Collection[int] = (),
    dtype: torch.dtype | None = None,
) -> None:
    """Write `folder`, which vLLM and transformers load: whole or not at all, in place of one that is there.

    Adapters are merged into the weights, and lie beside them in adapter/; the model stays as it is. Generation ends at
    `stop_ids` (the chat template's) and at the model's own. `dtype` None: bfloat16 where there is a GPU, as training
    computed with them, else as they are.
    """
    from transformers import PreTrainedModel

    adapted = hasattr(model, "peft_config")
    base = model.get_base_model() if adapted else model
    if base.can_generate():
        stops = _ids(base.generation_config.eos_token_id)
        stops += [token for token in sorted(stop_ids) if token not in stops]
        base.generation_config.eos_token_id = stops[0] if len(stops) == 1 else stops or None
    else:
        # transformers reads the head at the last token that is no padding, so a stop token must not count as padding.
        pad = tokenizer.pad_token_id
        base.config.pad_token_id = None if pad in stop_ids else pad
    if dtype is None and torch.cuda.is_available():
        dtype = torch.bfloat16
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a save that was killed
    try:
        temporary.mkdir(parents=True)
        # The class's own method: Unsloth puts another one on the model.
        PreTrainedModel.save_pretrained(base, temporary, state_dict=_weights(base, dtype))
        if dtype is not None:
            config = json.loads((temporary / "config.json").read_text())
            config["dtype"] = str(dtype).removeprefix("torch.")
            (temporary / "config.json").write_text(json.dumps(config, indent=2))
        save_tokenizer(tokenizer, temporary)
        if adapted:
            from peft import PeftModel

            PeftModel.save_pretrained(model, str(temporary / "adapter"), save_embedding_layers=False)
        _publish(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise TrajkitError(f"{folder} cannot be saved, and nothing of it was: {clean(str(error))}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _plain(folder: Path, lora: Lora | None, seed: int, head: bool) -> Any:
    import transformers

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if lora is None or device.type == "cpu" else torch.bfloat16
    given: dict[str, Any] = {"dtype": dtype, "output_loading_info": True}
    kind: Any = transformers.AutoModelForCausalLM
    if head:
        kind = transformers.AutoModelForSequenceClassification
        given |= {"num_labels": 1, "problem_type": "regression"}
        torch.manual_seed(seed)  # of a new head
    shown = transformers.utils.logging.get_verbosity()
    try:
        if head:  # it would tell of every weight that is new or has no use
            transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        loaded: Any = kind.from_pretrained(folder, **given)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"{folder}: transformers cannot load it: {clean(str(error))}") from error
    finally:
        transformers.utils.logging.set_verbosity(shown)
    model, report = loaded
    if head:
        if not isinstance(getattr(model, "score", None), torch.nn.Linear):
            raise UsageError(f"{folder}: transformers puts no head named score on this architecture.")
        model.score.float()
    if missing := sorted(set(report["missing_keys"]) - ({"score.weight"} if head else set())):
        raise UsageError(f"{folder}: {len(missing)} of the model's weights are not there, {missing[0]} among them.")
    return model.to(device)


def _import_unsloth() -> None:
    if not torch.cuda.is_available():
        raise UsageError("the backend unsloth needs a GPU, and there is none here: take the backend plain.")
    if importlib.util.find_spec("unsloth") is None:
        raise UsageError("the backend unsloth is not installed: run `make setup-gpu`, or take the backend plain.")
    importlib.import_module("unsloth")


def _check_padding(folder: Path, tokenizer: Any, config: Any) -> None:
    """Unsloth wants a padding token. Where it finds none in the vocabulary, it adds one and enlarges the model."""
    from unsloth_zoo.pad_token import fix_pad_token

    fixed = copy.deepcopy(tokenizer)
    fix_pad_token(fixed, model_config=config, allow_add=False)
    if fixed.pad_token_id in (None, fixed.eos_token_id):
        raise UsageError(f"{folder}: name a pad_token in tokenizer_config.json, one that is not the stop token.")


def _unsloth(folder: Path, context: int, lora: Lora | None, seed: int) -> Any:
    from unsloth import FastLanguageModel
    from unsloth.utils.hf_packed_attention import enable_hf_packed_attention

    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(folder),
        max_seq_length=context,
        dtype=torch.float32 if lora is None else torch.bfloat16,
        load_in_4bit=False,
        full_finetuning=lora is None,
        use_gradient_checkpointing="unsloth",
        use_exact_model_name=True,  # this folder, whatever its name
        random_state=seed,
    )
    # Full fine-tuning runs on transformers' layers: packed rows by variable-length kernels there too.
    enable_hf_packed_attention()
    return model


def _with_lora(model: Any, lora: Lora, backend: Backend, seed: int, head: bool) -> Any:
    if backend == "unsloth":
        return sys.modules["unsloth"].FastLanguageModel.get_peft_model(
            model,
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=LINEAR,
            use_gradient_checkpointing="unsloth",
            random_state=seed,
        )
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(
        model,
        LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules="all-linear",
            task_type="SEQ_CLS" if head else "CAUSAL_LM",  # the former trains the head whole
        ),
    )


def _weights(base: Any, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The weights to save, on the CPU, under the names that they have without adapters; these are added to them."""
    adapted = {f"{name}.weight": layer for name, layer in base.named_modules() if hasattr(layer, "get_delta_weight")}
    weights: dict[str, Tensor] = {}
    copies: dict[int, Tensor] = {}  # by the original's address: tied weights stay one
    for key, original in base.state_dict().items():
        if ".lora_" in key or ".original_module." in key:
            continue
        name = key.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")
        address = original.data_ptr()
        if address not in copies:
            weight = original.detach()
            if name in adapted:
                weight = (weight.float() + adapted[name].get_delta_weight("default").detach().float()).to(weight.dtype)
            copies[address] = weight.to("cpu", dtype if weight.is_floating_point() else None)
        weights[name] = copies[address]
    return weights


def _publish(temporary: Path, folder: Path) -> None:
    """Give the finished folder its name, once all of it is on the disk."""
    sync_below(temporary)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        hide(folder, old)
    rename(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


def _ordinary(tokenizer: Any, rows: int) -> list[int]:
    """The ids of ordinary text: no special tokens, of which some stand for images."""
    every = set(tokenizer.get_vocab().values())
    return sorted(every - set(tokenizer.added_tokens_decoder)) or list(range(rows))


def _ids(token: int | list[int] | None) -> list[int]:
    return [] if token is None else [token] if isinstance(token, int) else list(token)
