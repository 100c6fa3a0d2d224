"""Writes what the documents show, so that it is true: tables, rules, arguments, commands' real output, the picture.

    python docs/generate.py           rewrites README.md and docs/
    python docs/generate.py --check   says what would change, and exits with 1 if anything would

In a ```console block the lines that begin with "$ " are run, one folder for each document, and what they print follows
them. Commands that need logs which are not there (TRAJKIT_DATA names their folder) keep the output they have.
"""

from __future__ import annotations

import difflib
import gzip
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("TRAJKIT_DATA") or CHECKOUT.parent / "shared" / "data")
LOGS = DATA / "intercode_sql" / "results"
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

The path of a branch is its parent's messages with step < branch_step, then its own. Its first own message is the
observation at s_branch_step. A branch of a branch is allowed, to any depth.
"""


def main() -> None:
    """Rewrite the documents, or check them."""
    changed = False
    documents = {CHECKOUT / "docs/tables.md": tables(), CHECKOUT / "docs/rules.md": rules()}
    training = CHECKOUT / "docs/training.md"
    documents[training] = re.sub(
        r"(<!-- settings -->\n).*?(<!-- end -->)",
        lambda found: found[1] + settings_table() + found[2],
        training.read_text(),
        flags=re.DOTALL,
    )
    for path in (CHECKOUT / "README.md", CHECKOUT / "docs/importing.md", CHECKOUT / "docs/exploring.md"):
        documents[path] = with_outputs(path.read_text())
    documents[CHECKOUT / "docs/branches.svg"] = picture()
    for path, text in documents.items():
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


def tables() -> str:
    """docs/tables.md."""
    from trajkit.schema import TABLE_DOCS, TABLES

    lines = ["# Tables", "", "Made by `make docs` from trajkit/schema.py.", ""]
    lines += ABOUT_TABLES.splitlines()
    for table, fields in TABLES.items():
        lines += ["", f"## {table}", "", TABLE_DOCS[table], "", "| column | type | meaning |", "|---|---|---|"]
        lines += [f"| {f.name}{' *' if f.required else ''} | {f.type} | {f.doc} |" for f in fields]
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


def rules() -> str:
    """docs/rules.md."""
    from trajkit.rules import rules

    about = {
        "tables": "Rules. Each is a view of `trajkit sql`.",
        "plan": "Plans: which rollouts to make. Each is a view; `trajkit plan` and `explore --plan` take its name.",
        "examples": "Methods: what to train on. Each is a view; `select --method` takes its name.",
        "pairs": "Methods that give pairs: what to prefer. Each is a view; `select --method` takes its name.",
        "values": "Methods that give values of actions. Each is a view; `select --method` takes its name.",
        "report": "Reports: how well it goes. Each is a view of `trajkit sql`.",
        "select": "How `select` writes a method's answer.",
        "checks": "Checks: what `validate` finds, and what `select` refuses when it matters to its answer.",
    }
    lines = ["# Rules", "", "Made by `make docs` from the headers of the files in sql/.", ""]
    lines += ["One rule is one file, one relation, one name everywhere. Every order is total."]
    for kind, text in about.items():
        lines += ["", f"## sql/{kind}/", "", text]
        for rule in rules().values():
            if rule.kind == kind:
                title, _, rest = rule.header.partition("\n")
                lines += ["", f"### [{rule.name}](../sql/{kind}/{rule.name}.sql)", ""]
                lines += [title.partition(": ")[2] or title]
                lines += ["", "```text", rest, "```"] if rest else []
    return "\n".join(lines) + "\n"


def with_outputs(document: str) -> str:
    """The document with every command's output as it is now."""
    from envs.webshop import WebShop

    arguments = inspect.signature(WebShop).parameters.values()
    table = "\n".join(f"| `{p.name}` | `{p.default}` |" for p in arguments)
    document = re.sub(
        r"<!-- webshop-arguments -->\n(\|.*\n)*",
        lambda _: f"<!-- webshop-arguments -->\n| argument | default |\n|---|---|\n{table}\n",
        document,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder)
        return re.sub(r"```console\n(.*?)```", lambda found: run_block(found[1], folder), document, flags=re.DOTALL)


def lay_out(folder: Path) -> None:
    """What the documents' commands find in their folder."""
    (folder / "mine.sql").write_text(MINE)
    (folder / "envs").symlink_to(CHECKOUT / "envs")
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


def run_block(block: str, folder: Path) -> str:
    """A console block with each command's output after it."""
    commands = re.findall(r"^\$ (.*(?:\\\n.*)*)$", block, re.MULTILINE)
    if not LOGS.is_dir() and any("runs/" in command for command in commands) and "explore" not in block:
        return f"```console\n{block}```"
    lines = []
    for command in commands:
        lines += [f"$ {command}", *output(command, folder)]
    return "```console\n" + "\n".join(lines) + "\n```"


def output(command: str, folder: Path) -> list[str]:
    """What a command prints, in the order in which it prints it. `pip install .` is not run here."""
    if command.startswith("pip install"):
        return []
    if command == "make demo":
        recipe = subprocess.run(["make", "-n", "demo"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
        (folder / "demo").mkdir()
        steps = [line[line.index("trajkit ") :] for line in recipe.splitlines() if "/trajkit " in line]
        return [line for step in steps for line in [step, *output(step, folder)]]
    environment = os.environ | {
        "COLUMNS": "110",
        "PYTHONPATH": str(CHECKOUT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} 2>&1"], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"$ {command}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    return [line.rstrip() for line in done.stdout.rstrip("\n").splitlines()]


def picture() -> str:
    """docs/branches.svg: what `trajkit show` draws at the end of `make demo`."""
    from rich.console import Console

    from trajkit.engine import Runs
    from trajkit.show import find
    from trajkit.show import picture as drawn

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "envs").symlink_to(CHECKOUT / "envs")
        output("make demo", folder)
        console = Console(record=True, width=100, file=(folder / "screen").open("w"))
        with Runs(folder / "demo/runs") as runs:
            for part in drawn(runs, find(runs, None, None)[0]):
                console.print(part)
        return console.export_svg(title="trajkit show", unique_id="trajkit")


if __name__ == "__main__":
    assert shutil.which("bash"), "bash is needed"
    main()
