"""The tokenizer that `--tokenizer FOLDER` names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trajkit.errors import UsageError
from trajkit.terminal import clean


def load_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """The tokenizer of transformers in the folder of a model; nothing is fetched.

    Raises UsageError where there is none, or where the packages for it are not installed.
    """
    # A tokenizer needs no PyTorch, and nobody needs to be told that there is none.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not Path(folder).is_dir():
        raise UsageError(f"--tokenizer {folder}: there is no such folder. It holds tokenizer.json and a chat template.")
    try:
        import jinja2  # noqa: F401 (transformers reads chat templates with it)
        import tokenizers  # noqa: F401
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UsageError(f"--tokenizer needs the package {error.name}: pip install 'trajkit[server]'") from error
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises what it pleases
        raise UsageError(
            f"--tokenizer {folder}: no tokenizer can be loaded there ({clean(str(error))[:300]})."
        ) from error
