"""What outlives a machine that fails: after a file or folder has got its name, its folder is brought to the disk."""

from __future__ import annotations

import ast
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import pair, trajkit, write_run

from trajkit.runs import atomic as files

CHECKOUT = Path(__file__).parents[1]


class Recorder:
    """The renames below a folder, and which of them were not followed by an fsync of the folder they are in.

    `unsynced` are files whose content was not on the disk when they got a name that readers see.
    """

    def __init__(self) -> None:
        self.renamed: list[Path] = []
        self.waiting: set[Path] = set()
        self.synced: set[tuple[int, int]] = set()
        self.unsynced: list[Path] = []


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    found = Recorder()
    fsync = os.fsync

    def recording(rename: Callable[..., None]) -> Callable[..., None]:
        def renamed(old: Any, new: Any, **more: Any) -> None:
            old, new = Path(old), Path(new)
            if not (new.name.startswith(".") and not new.name.endswith(".old")):  # not one that is hidden to be removed
                inside = [path for path in [old, *old.rglob("*")] if path.is_file()]
                found.unsynced += [path for path in inside if _key(os.stat(path)) not in found.synced]
                found.renamed.append(new)
                found.waiting.add(new.parent.resolve())
            rename(old, new, **more)

        return renamed

    def synced(opened: int) -> None:
        found.synced.add(_key(os.fstat(opened)))
        found.waiting -= {folder for folder in found.waiting if _key(os.fstat(opened)) == _key(os.stat(folder))}
        fsync(opened)

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, recording(getattr(os, name)))
    monkeypatch.setattr(os, "fsync", synced)
    yield found


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


LINES = '{"id": "t", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
COMMANDS = {
    "import": "import openai log.jsonl --runs new/deep/runs --role expert",
    "import, something set aside": "import openai bad.jsonl --runs new/runs --role expert",
    "explore": "explore --env envs.webshop:WebShop --env-arg train_tasks=2 --policy envs.webshop:Expert --role expert "
    "--iteration 0 --plan initial --runs new/runs",
    "select": "select --method sft_all --runs runs --out sft.parquet",
    "select over another": "select --method sft_all --runs runs --out there.parquet",
    "sql": "sql from_outcomes --runs runs --out answer.csv",
    "sql, Parquet": "sql from_outcomes --runs runs --out answer.parquet",
    "report": "report --runs runs --out report.html",
    "export": "export selected.parquet --to openai --out sft.jsonl",
    "export, a folder": "export selected.parquet --to datasets --out ds",
    "compact": "compact runs",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_a_command_writes_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Recorder, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(CHECKOUT)
    Path("log.jsonl").write_text(LINES)
    Path("bad.jsonl").write_text(LINES + "no JSON\n")
    runs = write_run(tmp_path / "runs", pair("e"))
    if command.startswith("compact"):
        for name in "abcd":
            Path("one.jsonl").write_text(LINES.replace('"q"', f'"{name}"'))
            small = trajkit("import", "openai", "one.jsonl", "--runs", runs, "--role", "expert")
            assert small.code == 0, small.err
    if command.startswith("export") or "there.parquet" in command:
        for out in ("selected.parquet", "there.parquet"):
            assert trajkit("select", "--method", "sft_all", "--runs", runs, "--out", out).code == 0
    recorded.__init__()  # type: ignore[misc]
    result = trajkit(*(word.replace("from_", "from ") for word in command.split()))
    assert result.code == 0, result.err
    assert recorded.renamed, "it writes by renaming"
    assert recorded.waiting == set() and recorded.unsynced == []
    made = [folder for folder in (Path("new"), *Path("new").rglob("*")) if folder.is_dir()]
    for folder in made:
        if not folder.name.startswith("."):
            assert _key(os.stat(folder.parent)) in recorded.synced, f"the name of {folder} is not on the disk"


def test_nothing_else_renames() -> None:
    """Whoever renames by himself forgets the folder: `trajkit.runs.atomic` does it for all."""
    sources = sorted(path for name in ("trajkit", "train", "envs") for path in (CHECKOUT / name).rglob("*.py"))
    gc.disable()  # a collection while Python 3.11 parses can break it (python/cpython#106905)
    found = [
        f"{path.relative_to(CHECKOUT)}:{node.lineno}"
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _renames(node, node.func)
    ]
    gc.enable()
    assert len(found) == 2 and all(place.startswith("trajkit/runs/atomic.py:") for place in found), found


def _renames(call: ast.Call, function: ast.Attribute) -> bool:
    if isinstance(function.value, ast.Name) and function.value.id in ("os", "shutil"):
        return function.attr in ("rename", "renames", "replace", "move", "link")
    if function.attr == "replace":  # of a text it has two arguments, of a path one
        return len(call.args) == 1 and not call.keywords and "exp." not in ast.unparse(call)  # nor of SQL
    return function.attr in ("rename", "hardlink_to") and len(call.args) == 1


def test_a_folder_that_cannot_be_synced_is_no_error_and_a_disk_that_fails_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, refused in ((22, False), (95, False), (5, True)):  # EINVAL, ENOTSUP, EIO

        def fail(opened: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            if refused:
                with pytest.raises(OSError, match="Input/output"):
                    files.sync(tmp_path)
            else:
                files.sync(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        files.sync(tmp_path / "file")
