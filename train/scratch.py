"""A tokenizer and a tiny Llama made from scratch, for worlds that are small enough to be learnt from nothing.

With them the whole of Algorithm 1 runs on a laptop in minutes, without a download.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from train.settings import Scratch
from trajkit.runs.atomic import rename, sync_below
from trajkit.tokens.tokenizer import save_tokenizer

ROLES = ("system", "user", "assistant")
END = "<|end|>"
PAD = "<|pad|>"  # a token of its own: Unsloth takes no model whose padding is its end
# A turn costs two tokens beside its text: who speaks, and the end.
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Words with the blank before them, `click[` and `]` whole, every other sign by itself.
PIECES = r" ?\w+\[?| ?[^\s\w]|\s+"


def make(folder: Path, texts: Iterable[str], settings: Scratch) -> Path:
    """Write a model's folder with random weights; its byte-level BPE is trained on `texts`. Returns the folder.

    The same texts and settings give the same weights. A folder that is there is left as it is.
    """
    if folder.is_dir():
        return folder
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(texts, settings.vocabulary)
    end = tokenizer.convert_tokens_to_ids(END)
    torch.manual_seed(settings.seed)
    model: Any = LlamaForCausalLM(  # type: ignore[no-untyped-call]
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden,
            intermediate_size=2 * settings.hidden,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=settings.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    ids = {"eos_token_id": end, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ids)  # type: ignore[no-untyped-call]
    hidden = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    model.save_pretrained(hidden)
    save_tokenizer(tokenizer, hidden)
    sync_below(hidden)
    rename(hidden, folder)
    return folder


def make_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE of at most `vocabulary` tokens, which decodes to exactly what it encoded, with TEMPLATE."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, as_bytes])
    bpe.decoder = decoders.ByteLevel()
    marks = [*(f"<|{role}|>" for role in ROLES), END, PAD]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=PAD)  # type: ignore[no-untyped-call]
    tokenizer.chat_template = TEMPLATE
    return tokenizer
