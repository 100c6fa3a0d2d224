"""Tokenizers: found in a folder or on the hub, checked against their tokenizer.json, saved as they came.

transformers chooses a tokenizer's class by the model's type, and some of these classes rebuild the tokenizer instead of
reading it: a byte-level tokenizer.json beside model_type llama loses every space and every letter beyond ASCII. So a
probe is encoded with tokenizer.json itself, too, and where the two differ the file is right.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from trajkit.console import clean
from trajkit.errors import UsageError

# Spaces, line ends, digits, contractions, code, other scripts, signs, emoji: whatever tokenizers treat apart.
PROBE = (
    "Hello  world, it's\n\n  a 1 12 123 1234 1234567 3.14 don't DON'T\r\n\r\n\t\tend.\n"
    'def f(x: int) -> str:\n    return [x**2, \'a_b\', "c"]  # ok != no; a/b\\c <tag attr=1/> {"k": null}\n'
    "na\u00efve caf\u00e9 cafe\u0301 stra\u00dfe \u0130stanbul \u01c5 \ufb01ne \u2460 \u00bd x\u00b2 "
    "\u0416\u0443\u043a \u03b1\u03b2\u03b3 \u05e9\u05dc\u05d5\u05dd "
    "\u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947 "
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u65e5\u672c\u8a9e\u306e\u6587 "
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \ud55c\uad6d\uc5b4 \u0663\u0664 \uff11\uff12 "
    "\U0001f642 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2192 \u2581 \u00a0\u2003\u3000 "
    "\u201cquoted\u201d \u2014 \u2026 \u20ac10 \U0001d54f\ue000\ufffd   "
)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = (  # that a tokenizer is made of, in any of its kinds
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "chat_template.json", "additional_chat_templates", "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken",
    "tekken.json",
)  # fmt: skip
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_OLDER_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def is_hub_name(name: str) -> bool:
    """Whether the name, where no such folder is, reads as OWNER/NAME on the Hugging Face hub."""
    return _HUB_NAME.fullmatch(name) is not None and not name.startswith((".", "/"))


def model_folder(name: str | os.PathLike[str], flag: str = "--model", weights: bool = True) -> Path:
    """The folder of that name or, where there is none, that of the hub's OWNER/NAME.

    The hub's files are taken from its cache and fetched where they are not there, unless HF_HUB_OFFLINE forbids it;
    `weights` False: no weights are fetched. Raises UsageError, beginning with `flag`, where neither is found.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if not is_hub_name(str(name)):
        raise UsageError(f"{flag} {name}: there is no such folder, and as OWNER/NAME on the hub it cannot be read.")
    try:
        from huggingface_hub import constants, snapshot_download
    except ImportError as error:
        raise UsageError(
            f"{flag} {name}: there is no such folder, and to fetch it from the hub the package {error.name} is needed: "
            "pip install 'trajkit[server]'"
        ) from error
    wanted = ["config.json", "generation_config.json", *_FILES[:6], "additional_chat_templates/*", *_FILES[7:]]
    try:
        folder = Path(snapshot_download(str(name), allow_patterns=[*wanted, *(_WEIGHTS if weights else ())]))
        if weights and not [*folder.glob("*.safetensors")]:
            snapshot_download(str(name), allow_patterns=[*_OLDER_WEIGHTS])
    except Exception as error:  # of httpx, the hub's, the file system's
        where = "in the hub's cache, and HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "on the hub"
        raise UsageError(
            f"{flag} {name}: there is no such folder, and no such model {where} ({_first_line(error)})."
        ) from error
    return folder


def load_tokenizer(name: str | os.PathLike[str], flag: str = "--tokenizer") -> Any:
    """The tokenizer of transformers in the folder of a model, or of the hub's OWNER/NAME.

    It encodes as its tokenizer.json says. Raises UsageError, beginning with `flag`, where there is none, where
    tokenizer.json is not of the vocabulary that transformers loads, or where the packages for it are not installed.
    """
    # A tokenizer needs no PyTorch, and nobody needs to be told that there is none.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    folder = model_folder(name, flag, weights=False)
    try:
        import jinja2  # noqa: F401 (transformers reads chat templates with it)
        import tokenizers  # noqa: F401
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UsageError(f"{flag} {name} needs the package {error.name}: pip install 'trajkit[server]'") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if (folder / "tokenizer.json").is_file():
            tokenizer = _as_in_the_file(tokenizer, folder, f"{flag} {name}")
    except UsageError:
        raise
    except Exception as error:  # transformers raises what it pleases
        raise UsageError(f"{flag} {name}: no tokenizer can be loaded there ({_first_line(error)}).") from error
    # Some configurations ask for it: decoded text would lose the spaces before full stops, which a model did say.
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write the tokenizer into `folder`: the files that it was loaded from; one made here as transformers saves it."""
    source = Path(tokenizer.name_or_path) if tokenizer.name_or_path else None
    files = [path for name in _FILES for path in source.glob(name)] if source and source.is_dir() else []
    if not files:
        tokenizer.save_pretrained(folder)
    for path in files:
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, folder / path.name)


def _as_in_the_file(tokenizer: Any, folder: Path, named: str) -> Any:
    """The tokenizer, where it encodes and decodes as tokenizer.json does; else one that does."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if _same(tokenizer, file):
        return tokenizer
    known = tokenizer.get_vocab()
    others = [token for token, number in file.get_vocab().items() if known.get(token) != number]
    if not others:
        with _silent():  # it would tell that the class is another one than the configuration's
            own = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if _same(own, file):
            click.echo(
                f"{clean(named)}: transformers loads it as {type(tokenizer).__name__}, which encodes text otherwise "
                f"than its tokenizer.json ({_lost(tokenizer)}). tokenizer.json is used.",
                err=True,
            )
            return own
    different = f"{len(others):,} tokens of it have other ids there" if others else "and it cannot be loaded otherwise"
    raise UsageError(
        f"{named}: transformers loads it as {type(tokenizer).__name__}, which encodes text otherwise than its "
        f"tokenizer.json ({_lost(tokenizer)}); {different}. Copy all of the tokenizer's files from the model that was "
        "trained with them."
    )


def _same(tokenizer: Any, file: Any) -> bool:
    ids = file.encode(PROBE, add_special_tokens=False).ids
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return bool(tokenizer.encode(PROBE, add_special_tokens=False) == ids)
    same = backend.encode(PROBE, add_special_tokens=False).ids == ids
    text: str = file.decode(ids, skip_special_tokens=False)
    return bool(same and backend.decode(ids, skip_special_tokens=False) == text)


def _lost(tokenizer: Any) -> str:
    """What becomes of a word of the probe."""
    word = "it's a caf\u00e9"
    return f"{word!r} becomes {clean(tokenizer.decode(tokenizer.encode(word, add_special_tokens=False)))!r}"


@contextmanager
def _silent() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(shown)


def _first_line(error: Exception) -> str:
    return clean(str(error).strip().partition("\n")[0])[:300] or type(error).__name__
