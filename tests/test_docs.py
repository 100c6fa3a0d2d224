"""The documents are true: what they show is printed today, and no command, flag, option or method is made up.

docs/generate.py runs all `console`, `python` and `sql` blocks. What cannot run here stands in `sh` blocks (a GPU, a
server, hours, a reader's own folders): there, and where a sentence quotes a command, it is read as the real command
line would read it, and not run.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from trajkit.cli import COMMANDS, cli
from trajkit.exporters import formats as exporters
from trajkit.importers import formats as importers
from trajkit.rules import methods, plans, rules

CHECKOUT = Path(__file__).resolve().parents[1]
DOCUMENTS = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

RUN = ("console", "python", "sql")  # by docs/generate.py
DATA = ("text", "json", "yaml", "toml")  # output and files: no commands
# Commands of other programs in `sh` blocks and sentences, which are not checked: why.
OTHERS = {
    "apt-get": "Debian's packages",
    "cd": "the shell's",
    "export": "the shell's",
    "duckdb": "DuckDB's own program; tests/test_sql.py runs the script it is given",
    "llamafactory-cli": "LLaMA-Factory, which needs a GPU",
    "swift": "ms-swift, which needs a GPU",
    "torchrun": "verl, which needs a GPU; tests/test_distributed.py runs train.trainer under it",
    "vllm": "a server, which needs a GPU",
    "marimo": "a browser; tests/test_notebook.py runs the notebook",
}
OTHER_SCRIPTS = {"train_async.py": "slime's"}
# Flags that a sentence names and that are other programs' own.
OTHER_FLAGS = {"--generation-config": "vLLM's", "--max-restarts": "torchrun's"}


def load_generate() -> object:
    spec = importlib.util.spec_from_file_location("generate", CHECKOUT / "docs/generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(.*)\n((?:(?!```).*\n)*)```$", path.read_text(), re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell text as words: continued lines joined, pipes and redirections taken apart."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        words: list[str] = []
        skip = False
        for word in lexer:
            if word and set(word) <= set(";&|"):
                yield words
                words = []
            elif word and set(word) <= set("<>"):
                skip = True
            elif skip:
                skip = False
            elif words or not re.match(r"[A-Z_]+=", word):
                words.append(word)
        if words:
            yield words


# Two halves, so that two processes can share the work: half of it is in these.
LONG = {CHECKOUT / "docs" / f"{name}.md" for name in ("cookbook", "reporting", "showing", "tutorial")}


@pytest.mark.parametrize("long", [True, False])
def test_every_command_prints_what_the_documents_show(long: bool) -> None:
    everything = load_generate().everything()  # type: ignore[attr-defined]
    half = [str(path) for path in everything if (path in LONG) is long]
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check", *half], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"run `make docs`:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_block_escapes(path: Path) -> None:
    generate = load_generate()
    assert path in generate.documents() or path.name in generate.GENERATED  # type: ignore[attr-defined]
    fences = re.findall(r"^\s*```", path.read_text(), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(path)), "a fence that is not at the beginning of a line"
    for language, text in blocks(path):
        if language in ("sh", "console"):
            pip = "\n".join(re.findall(r"^\$ (pip install .*)", text, re.MULTILINE))
            for words in commands(text if language == "sh" else pip):
                check(words)
        elif language in DATA:
            assert not re.search(r"^(\$ |trajkit |make |python -m )", text, re.MULTILINE) or "```console" in text, text
        else:
            assert language in RUN, f"```{language}: write sh, text or one of {RUN}\n{text}"
        if language == "python":
            compile(text, path.name, "exec")
        if file := re.match(r"(?:# (\w+)\.py\n|-- (\w+): )", text if language in ("python", "sql") else ""):
            used = [body for kind, body in blocks(path) if body != text and (file[1] or f"{file[2]}.sql") in body]
            assert used, f"{path.name}: nothing runs {file[0]}"


def test_no_exception_is_left_over() -> None:
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    exceptions = [*load_generate().ELSEWHERE, *OTHERS, *OTHER_SCRIPTS, *OTHER_FLAGS]  # type: ignore[attr-defined]
    assert [name for name in exceptions if name not in text] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_flags_in_sentences_are_there(path: Path) -> None:
    text = re.sub(r"^```.*\n((?:(?!```).*\n)*)```$", "", path.read_text(), flags=re.MULTILINE)
    for quoted in re.findall(r"`([^`\n]+)`", text):
        if re.match(r"(trajkit|make|python|pip) [\w-]", quoted):
            for words in commands(quoted.replace("...", "")):
                check(words, whole=False)
        elif found := re.match(r"--[a-z][\w-]*", quoted):
            assert found[0] in flags() or found[0] in OTHER_FLAGS, f"{path.name}: {quoted}"


def check(words: list[str], whole: bool = True) -> None:
    """Fail unless the command is one that is there and takes these arguments. `whole`: with all that it needs."""
    name, *rest = words
    if name == "trajkit":
        sub, *args = [*rest, "--help"][: len(rest) or 1]
        command = cli.get_command(click.Context(cli), sub)
        assert sub.startswith("-") or command, f"{words}: no such command"
        if command:
            parse(command, args, whole)
    elif name == "python" and rest[:1] == ["-m"]:
        module = importlib.import_module(rest[1])
        parse(module.command, rest[2:], whole)
    elif name == "python" and rest[0] != "-c":
        assert (CHECKOUT / rest[0]).is_file() or rest[0] in OTHER_SCRIPTS, words
    elif name == "make":
        subprocess.run(["make", "-n", *rest], cwd=CHECKOUT, capture_output=True, check=True)
    elif name in ("pip", "pip3"):
        extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for asked in re.findall(r"\[(.+?)\]", " ".join(rest)):
            assert set(asked.split(",")) <= set(extras), words
    elif name != "python":
        assert name in OTHERS, f"{words}: run it in a console block, or say in OTHERS why it cannot be"


def parse(command: click.Command, args: list[str], whole: bool) -> None:
    """Read arguments as the command would. Raises click's errors for what it does not take, but for missing files."""
    if whole:
        try:
            command.make_context(command.name or "", list(args)).close()
        except click.BadParameter as error:
            if "does not exist" not in str(error):
                raise
        return
    context = click.Context(command)
    given, _, _ = command.make_parser(context).parse_args(list(args))
    for parameter in command.params:
        if isinstance(parameter.type, click.Choice) and isinstance(given.get(parameter.name or ""), str):
            parameter.type.convert(given[parameter.name or ""], parameter, context)


def flags() -> set[str]:
    """Every flag of trajkit's and the trainer's commands."""
    found = [cli.get_command(click.Context(cli), name) for name in COMMANDS]
    modules = ("trainer", "loop", "study", "results", "score")
    found += [importlib.import_module(f"train.{name}").command for name in modules]
    return {"--help", "--check"} | {flag for command in found if command for p in command.params for flag in p.opts}


def test_python_in_the_readme_runs_without_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.webshop import Expert, WebShop
    from trajkit.exploration.explore import Settings, explore

    monkeypatch.chdir(tmp_path)
    explore("runs", WebShop(train_tasks=5), Expert(), plans=["initial"], settings=Settings(role="expert", iteration=0))
    [code] = [text for language, text in blocks(CHECKOUT / "README.md") if language == "python"]
    names: dict[str, object] = {}
    exec(code, names)
    assert names["runs"].rule("experts").height == 5  # type: ignore[attr-defined]


def test_nothing_is_undocumented() -> None:
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    readme = DOCUMENTS[0].read_text()
    assert [name for name in COMMANDS if f"trajkit {name}" not in text] == []
    assert [name for name in methods() if f"`{name}`" not in readme] == []
    assert [name for name in [*plans(), *rules()] if f"[{name}]" not in text] == []
    assert [name for name in importers() if f"## {name}\n" not in (CHECKOUT / "docs/importing.md").read_text()] == []
    assert [name for name in exporters() if f"`{name}`" not in (CHECKOUT / "docs/exporting.md").read_text()] == []
    index = (CHECKOUT / "docs/README.md").read_text()
    assert [path.name for path in DOCUMENTS[1:] if path.name != "README.md" and f"({path.name})" not in index] == []


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text()):
            found = path.parent / target if target else path
            assert found.exists(), f"{path.name}: {target}"
            if anchor and found.suffix == ".md":
                assert anchor in anchors(found), f"{path.name}: {target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """What GitHub calls a document's headings."""
    text = re.sub(r"^```.*\n((?:(?!```).*\n)*)```$", "", path.read_text(), flags=re.MULTILINE)
    titles = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
