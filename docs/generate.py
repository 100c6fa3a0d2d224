"""Writes what the documents show, so that it is true: tables, rules, arguments, commands' real output, the picture.

    python docs/generate.py                   rewrites README.md and docs/
    python docs/generate.py docs/cookbook.md  rewrites that document alone
    python docs/generate.py --check           says what would change, and exits with 1 if anything would

Every document is run from its top to its end, in a folder of its own that holds what `lay_out` puts there:

    ```console   lines that begin with "$ " are commands; what they print follows them
    ```python    is run; where its first line is "# NAME.py" it becomes that file instead
    ```sql       is asked of demo/runs, or of the folder that the last <!-- sql: FOLDER --> before it names; where its
                 first line is "-- NAME: ..." (a rule's header) it becomes the file NAME.sql instead
    ```text      directly after one of the last two is what that printed

Other blocks are not run: tests/test_docs.py says what may be in them and why. Without InterCode's logs (TRAJKIT_DATA
names their folder) a document that reads them keeps the output it has from there on.
"""

from __future__ import annotations

import atexit
import difflib
import gzip
import importlib
import inspect
import io
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))
DATA = Path(os.environ.get("TRAJKIT_DATA") or CHECKOUT.parent / "shared" / "data")
LOGS = DATA / "intercode_sql" / "results"
GENERATED = ("tables.md", "rules.md", "python.md", "performance.md")  # from other files; performance.md by `make bench`
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"[$`\\]|^(?:[^\"]|\"[^\"]*\")*?[|<>&;*?~]")  # what only bash can read, outside of single quotes
WARM = multiprocessing.get_context("forkserver")  # `trajkit` in a tenth of a second: the server has imported these
_OURS = (f"trajkit.{name}" for name in ("cli.sql", "explain", "explore", "importers", "select", "show"))
_OTHERS = ("duckdb", "polars", "pyarrow.dataset", "rich.console", "tqdm", "transformers.models.auto")
WARM.set_forkserver_preload(["__main__", *_OTHERS, "envs.webshop", *_OURS])
ELSEWHERE = {  # Python that needs what is not installed here, by a text it holds: why
    "from datasets import": "TRL's and datasets' own; tests/other_trainers.py loads the same files with them",
    "from openai import": "a key and OpenAI's servers",
    "class Tokens(torch.utils.data.Dataset)": "a file for verl, which needs a GPU",
}
MINE = """\
-- mine: solved trajectories that took at most `longest` actions.
SELECT trajectory_id, 'short' AS kind
FROM outcomes CROSS JOIN params
WHERE solved AND n_actions BETWEEN 1 AND longest AND split = 'train' AND role != 'scorer' AND branch_step = 0
"""

ABOUT_TABLES = """\
A `runs/` folder holds any number of runs. Readers take `**/trajectories*.parquet`, `**/messages*.parquet` and
`**/tasks*.parquet`, wherever they lie (folders whose name begins with a dot are passed over). Only the columns marked *
must be there; a missing one reads as null, an unknown one is kept and can be queried. A trajectory that lies in two
files counts once.

A `SHA256SUMS` in a part holds the digests of its files. By them a change on the disk is found (faq.md, "A disk, a copy
or a memory changed a file").

The path of a branch is its parent's messages with step < branch_step, then its own. Its first own message is the
observation at s_branch_step. A branch of a branch is allowed, to any depth.
"""


def main() -> None:
    """Rewrite the documents, or check them."""
    asked = [Path(name).resolve() for name in sys.argv[1:] if not name.startswith("-")]
    changed = False
    for path, text in ((path, make(path)) for path in asked or everything()):
        before = path.read_text() if path.exists() else ""
        if before != text:
            changed = True
            name = str(path.relative_to(CHECKOUT))
            sys.stdout.writelines(
                difflib.unified_diff(before.splitlines(True), text.splitlines(True), name, f"{name} (now)", n=1)
                if path.suffix == ".md"
                else [f"{name} differs\n"]
            )
            if "--check" not in sys.argv:
                path.write_text(text)
    sys.exit(changed and "--check" in sys.argv)


def documents() -> list[Path]:
    """The documents that are run: all that people write."""
    return [CHECKOUT / "README.md", *(p for p in sorted((CHECKOUT / "docs").glob("*.md")) if p.name not in GENERATED)]


def everything() -> list[Path]:
    """All that this writes."""
    return [
        *documents(),
        *(CHECKOUT / "docs" / name for name in ("tables.md", "rules.md", "python.md", "branches.svg")),
    ]


def make(path: Path) -> str:
    """What belongs into a file."""
    made = {"tables.md": tables, "rules.md": rules, "python.md": python, "branches.svg": picture}
    if path.name in made:
        return made[path.name]()
    document = path.read_text()
    for name, text in {"settings": settings_table, "webshop-arguments": webshop_arguments}.items():
        if f"<!-- {name} -->" in document:
            before, _, rest = document.partition(f"<!-- {name} -->\n")
            document = f"{before}<!-- {name} -->\n{text()}<!-- end -->{rest.partition('<!-- end -->')[2]}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder)
        return run(document, folder)


# --- what is made from other files ---------------------------------------------------------------


def tables() -> str:
    """docs/tables.md."""
    from trajkit.runs.schema import TABLE_DOCS, TABLES

    lines = ["# Tables", "", "Made by `make docs` from trajkit/runs/schema.py.", ""]
    lines += ABOUT_TABLES.splitlines()
    for table, fields in TABLES.items():
        lines += ["", f"## {table}", "", TABLE_DOCS[table], "", "| column | type | meaning |", "|---|---|---|"]
        lines += [f"| {f.name}{' *' if f.required else ''} | {f.type} | {f.doc} |" for f in fields]
    return "\n".join(lines) + "\n"


def rules() -> str:
    """docs/rules.md."""
    from trajkit.engines.base import column_meanings
    from trajkit.engines.duckdb import DuckDBEngine
    from trajkit.rules import rules, views

    with tempfile.TemporaryDirectory() as empty, DuckDBEngine(empty) as runs:
        meanings = {name: column_meanings(name, runs.columns(name)) for name in views()}
    about = {
        "concepts": "Concepts that the methods are made of. Each is a view of `trajkit sql`.",
        "plan": "Plans: which rollouts to make. Each is a view; `trajkit plan` and `explore --plan` take its name.",
        "examples": "Methods: what to train on. Each is a view; `select --method` takes its name.",
        "pairs": "Methods that give pairs: what to prefer. Each is a view; `select --method` takes its name.",
        "values": "Methods that give values of actions. Each is a view; `select --method` takes its name.",
        "report": "Reports: how good the trajectories are. Each is a view of `trajkit sql`.",
        "explain": "What `trajkit explain` reports for a task.",
        "select": "The steps by which `select` writes a method's answer. They are not views.",
        "explore": "What `explore` checks. It is not a view.",
        "checks": "Checks: what `validate` finds, and what `select` refuses where it could change the answer.",
        "warnings": "Warnings: what `validate` finds that may not be a mistake.",
    }
    found = list(rules().values())
    kinds = [kind for kind in about if any(rule.kind == kind for rule in found)]
    assert {rule.kind for rule in found} == set(kinds), "a folder of sql/ that rules.md does not tell of"
    lines = ["# Rules", "", "Made by `make docs` from the headers of the files in sql/.", ""]
    lines += ["One rule is one file, one relation, one name everywhere. Every order is total.", ""]
    for kind in kinds:
        names = (f"[{rule.name}](#{rule.name})" for rule in found if rule.kind == kind)
        lines += [f"- [sql/{kind}/](#sql{kind}): {', '.join(sorted(names))}"]
    for kind in kinds:
        lines += ["", f"## sql/{kind}/", "", about[kind]]
        for rule in found:
            if rule.kind == kind:
                title, _, rest = rule.header.partition("\n")
                lines += ["", f"### [{rule.name}](../sql/{kind}/{rule.name}.sql)", ""]
                lines += [title.partition(": ")[2] or title]
                lines += ["", "```text", rest, "```"] if rest else []
                if columns := meanings.get(rule.name):
                    lines += ["", "| column | meaning |", "|---|---|"]
                    lines += [
                        f"| {name} | {meaning.replace('|', chr(92) + '|')} |" for name, meaning in columns.items()
                    ]
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """What train/settings.py knows: keys and defaults."""
    from dataclasses import asdict

    from train.settings import Settings

    lines = ["| section | key | default |", "|---|---|---|"]
    for section, values in asdict(Settings()).items():
        for key, value in values.items():
            shown = json.dumps(value) if value is not None else "none"
            lines.append(f"| `{section}` | `{key}` | `{shown.replace('|', chr(92) + '|')}` |")
    return "\n".join(lines) + "\n"


def webshop_arguments() -> str:
    """The arguments of the built-in environment."""
    from envs.webshop import WebShop

    lines = ["| argument | default |", "|---|---|"]
    lines += [f"| `{p.name}` | `{p.default}` |" for p in inspect.signature(WebShop).parameters.values()]
    return "\n".join(lines) + "\n"


def python() -> str:
    """docs/python.md."""
    import trajkit

    lines = [
        "# Python",
        "",
        "Made by `make docs` from the docstrings of trajkit/api.py.",
        "",
        "`import trajkit` gives what the command line does, as functions, and `trajkit.open` a folder of runs to ask.",
        "Answers are Polars frames. It works in a script and in a notebook alike; nothing needs widgets.",
        "",
    ]
    functions = ["open", "import_logs", "explore", "select", "export", "report", "validate"]
    for name in functions:
        lines += _described(f"trajkit.{name}", getattr(trajkit, name), "##")
    lines += ["## trajkit.Runs", "", *_docstring(trajkit.Runs)]
    for name, method in vars(trajkit.Runs).items():
        if not name.startswith("_"):
            lines += _described(f"runs.{name}", method, "###")
    others = [name for name in trajkit.__all__ if name not in (*functions, "Runs", "Message")]
    for name in others:
        lines += [f"## trajkit.{name}", "", *_docstring(getattr(trajkit, name))]
    lines += ["## trajkit.Message", "", "A dict: a chat message in OpenAI's format.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _described(name: str, function: Callable[..., object], level: str) -> list[str]:
    """A function as Markdown: its name, its signature, a parameter a line, and what its docstring says."""
    signature = inspect.signature(function)
    lines, keywords = [], False
    for p in signature.parameters.values():
        if p.name == "self":
            continue
        if p.kind is p.KEYWORD_ONLY and not keywords:
            keywords = True
            lines.append("    *,")
        stars = {p.VAR_KEYWORD: "**", p.VAR_POSITIONAL: "*"}.get(p.kind, "")
        default = "" if p.default is p.empty else f" = {p.default!r}"
        lines.append(f"    {stars}{p.name}: {p.annotation}{default},")
    shown = [f"{name}(", *lines, f") -> {signature.return_annotation}"]
    return [
        f"{level} {name}",
        "",
        "```text",
        *(shown if lines else [f"{name}() -> {signature.return_annotation}"]),
        "```",
        "",
        *_docstring(function),
    ]


def _docstring(thing: object) -> list[str]:
    """The docstring, its indented examples as code."""
    lines, code = [], False
    for line in (inspect.getdoc(thing) or "").splitlines():
        if line.startswith("    ") != code and line:
            lines.append("```" if code else "```text")
            code = not code
        lines.append(line.removeprefix("    ") if code else line)
    if code:
        lines.append("```")
    return [*lines, ""]


def picture() -> str:
    """docs/branches.svg: what `trajkit show` draws at the end of `make demo`."""
    from rich.console import Console

    from trajkit.display.terminal import find
    from trajkit.display.terminal import picture as drawn
    from trajkit.engines.duckdb import DuckDBEngine

    console = Console(record=True, width=100, file=io.StringIO())
    with DuckDBEngine(demo() / "demo/runs") as runs:
        for part in drawn(runs, find(runs, None, None)[0]):
            console.print(part)
    return console.export_svg(title="trajkit show", unique_id="trajkit")


# --- what is run ---------------------------------------------------------------------------------


def lay_out(folder: Path) -> None:
    """What the documents' commands find: a checkout after `make demo`, and logs of other projects."""
    shutil.copytree(demo() / "demo", folder / "demo")
    for name in ("docs", "envs", "sql"):
        (folder / name).symlink_to(CHECKOUT / name)
    (folder / "mine.sql").write_text(MINE)
    messages = [{"role": "user", "content": "Open the door."}, {"role": "assistant", "content": "push"}]
    rows = [{"messages": messages, "info": {"task": "door", "score": 1.0}, "reward": 1.0, "task_id": "door"}]
    with gzip.open(folder / "rollouts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    trial = folder / "jobs/2026-01-02__10-00-00/open-door__abc"
    (trial / "agent").mkdir(parents=True)
    agent = {"name": "my-agent", "version": "1.0", "model_name": "my-model"}
    steps = [
        {"step_id": 1, "source": "user", "message": "Open the door."},
        {"step_id": 2, "source": "agent", "message": "push"},
    ]
    trajectory = {"schema_version": "ATIF-v1.7", "session_id": "s", "agent": agent, "steps": steps}
    (trial / "agent/trajectory.json").write_text(json.dumps(trajectory))
    result = {"task_name": "open-door", "trial_name": "open-door__abc", "verifier_result": {"rewards": {"reward": 1.0}}}
    (trial / "result.json").write_text(json.dumps(result))
    if LOGS.is_dir():
        for log in LOGS.glob("*.json"):
            for link in {log.name, log.name.removeprefix("ic_sql_multiturn_")}:
                (folder / link).symlink_to(log)
        (folder / "results").symlink_to(LOGS)


@cache
def demo() -> Path:
    """A folder in which the recipe of `make demo` was run, and in `said` what it printed. Removed at the end."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    (folder / "envs").symlink_to(CHECKOUT / "envs")
    (folder / "demo").mkdir()
    recipe = subprocess.run(["make", "-n", "demo"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    steps = [line[line.index("trajkit ") :] for line in recipe.splitlines() if "/trajkit " in line]
    said = [line for step in steps for line in [step, *output(step, folder)]]
    (folder / "said").write_text("\n".join(said))
    return folder


def run(document: str, folder: Path) -> str:
    """The document with what its blocks print now."""
    parts, end, printed, asked = [], 0, None, "demo/runs"
    for found in BLOCK.finditer(document):
        between, (kind, body) = document[end : found.start()], found.groups()
        if not LOGS.is_dir() and kind == "console" and ("_turns.json" in body or "results/" in body):
            break
        asked = (re.findall(r"<!-- sql: (\S+) -->", between) or [asked])[-1]
        name = re.match(r"# (\w+\.py)\n|-- (\w+): ", body) if kind in ("python", "sql") else None
        if name:
            (folder / (name[1] or f"{name[2]}.sql")).write_text(body)
        elif kind == "console":
            body = console(body, folder)
        elif kind == "text" and printed is not None and not between.strip():
            body = printed
        printed = None
        if kind == "python" and not name and not any(text in body for text in ELSEWHERE):
            printed = "".join(f"{line}\n" for line in warm(["python", "-c", body], folder))
        if kind == "sql" and not name:
            printed = "".join(f"{line}\n" for line in warm(["trajkit", "sql", body, "--runs", asked], folder))
        parts += [between, f"```{kind}\n{body}```"]
        end = found.end()
    return "".join([*parts, document[end:]])


def console(block: str, folder: Path) -> str:
    """A console block's commands, each with its output after it."""
    lines = []
    for command in re.findall(r"^\$ (.*(?:\\\n.*)*)$", block, re.MULTILINE):
        if command == "make demo":
            printed = (demo() / "said").read_text().splitlines()
        elif command.startswith(("pip install", ". .venv/")):  # tests/test_docs.py looks at the extras
            printed = []
        else:
            printed = output(command, folder)
        lines += [f"$ {command}", *printed]
    return "".join(f"{line}\n" for line in lines)


def output(command: str, folder: Path) -> list[str]:
    """What a command prints, without colours. Ends everything where it fails."""
    found = re.fullmatch(r"(trajkit (?:[^\"'|]|\"[^\"]*\"|'[^']*')*?)(?: \| (.*))?", command)
    if not found or SHELL.search(re.sub(r"'[^']*'", "", found[1])):
        return bash(command, folder)
    first, rest = found.groups()
    if not rest:
        return warm(shlex.split(first), folder)
    with tempfile.NamedTemporaryFile() as piped:
        said = warm(shlex.split(first), folder, piped.name)
        return [*bash(f"cat {piped.name} | {rest}", folder), *said]


def bash(command: str, folder: Path) -> list[str]:
    """What bash prints."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"exec 2>&1\n{command}"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    return printed_by(command, done.stdout, done.returncode)


def warm(words: list[str], folder: Path, stdout: str = "") -> list[str]:
    """What `trajkit ...` or `python -c ...` prints (but for stdout, where that goes to a file), in a process that is
    forked from one that has imported what they need: to start anew takes longer than most of them run."""
    with tempfile.NamedTemporaryFile("r") as said:
        process = WARM.Process(target=become, args=(words, str(folder), stdout or said.name, said.name, environment()))
        process.start()
        process.join()
        return printed_by(shlex.join(words), said.read(), process.exitcode)


def become(words: list[str], folder: str, stdout: str, stderr: str, given: dict[str, str]) -> None:
    """Be that command in this process."""
    os.environ.update(given)
    os.chdir(folder)
    for number, name in ((1, stdout), (2, stderr)):
        with open(name, "a") as file:
            os.dup2(file.fileno(), number)
    program, *sys.argv[1:] = words
    sys.argv[0], sys.path[0] = program, folder
    if program == "trajkit":
        importlib.import_module("trajkit.cli").main()
    else:
        exec(compile(words[2], "<block>", "exec"), {"__name__": "__main__"})


def printed_by(command: str, text: str, code: int | None) -> list[str]:
    """The lines that a command printed. Ends everything where it failed."""
    if code:
        sys.exit(f"$ {command}\n{text}exit code {code}")
    return [line.rstrip() for line in re.sub(r"\x1b\[\d*m", "", text).rstrip("\n").splitlines()]


def environment() -> dict[str, str]:
    """Where commands run: this checkout's trajkit, in a terminal of 110 columns."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"COLUMNS": "110", "PYTHONPATH": str(CHECKOUT), "PATH": path}


if __name__ == "__main__":
    assert shutil.which("bash"), "bash is needed"
    main()
