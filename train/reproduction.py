"""The tables of docs/reproduction.md and docs/family.md, from the runs of `make reproduce`.

    python -m train.reproduction reproduction

Each table stands between `<!-- table NAME -->` and `<!-- end -->`; the words around them are people's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from train.results import Arms, judged_by, over_seeds, paired, plot, write_csv
from train.study import read, slug
from trajkit.cli import Command
from trajkit.cli import run as run_command
from trajkit.engines.duckdb import DuckDBEngine
from trajkit.errors import UsageError
from trajkit.runs.atomic import write_whole

DOCS = Path(__file__).resolve().parents[1] / "docs"
STUDIES = Path(__file__).parent / "studies"
# Of each study the page that shows it, where its runs lie below `out`, and the arm that the others are compared with.
SHOWN = {
    "paper": ("reproduction", ".", "RFT x 6"),
    "ablations": ("reproduction", ".", "RFT x 6"),
    "useless": ("reproduction", "useless", "RFT x 6"),
    "scienceworld": ("reproduction", "scienceworld", "RFT"),
    "family": ("family", "family", "SFT POS"),
    "further": ("family", "family", "EEF M=5"),
}
NEEDS = ("nothing", "next", "back", "both")
# Of the train tasks by what they need, those with a solution before theta_2 is trained.
COVERED = """
SELECT
    json_extract_string(t.meta, '$.needs') AS needs,
    count(DISTINCT t.task_id) AS tasks,
    count(DISTINCT CASE WHEN o.solved AND coalesce(o.iteration, 0) <= 1 THEN t.task_id END) AS solved
FROM tasks AS t JOIN task_worlds AS w USING (task_id) LEFT JOIN outcomes AS o USING (task_id)
WHERE w.problem IS NULL AND coalesce(w.split, 'train') = 'train'
GROUP BY ALL
"""


def finished(study: str, out: Path) -> dict[str, list[Path]]:
    """A study's runs that are finished, by arm; arms without any are left out, and seeds that any arm lacks."""
    known = read(STUDIES / f"{study}.toml")
    runs = {name: [out / f"seed-{seed}" / slug(name) for seed in known.seeds] for name in known.arms}
    runs = {name: found for name, found in runs.items() if any((run / "manifest.json").exists() for run in found)}
    whole = [
        n for n in range(len(known.seeds)) if all((found[n] / "manifest.json").exists() for found in runs.values())
    ]
    return {name: [found[n] for n in whole] for name, found in runs.items()}


def arms_table(runs: Arms, reference: str) -> str:
    """One row per arm: its last theta over the seeds, and the paired difference to the reference."""
    titles = f"| arm | test win rate (95%) | less {reference}, same seed (95%) | solved with Next | solved with Back "
    lines = [titles + "| train tasks solved | simulations |", "|---|---|---|---|---|---|---|"]
    for name, given in runs.items():
        row = over_seeds(given)[-1]
        compared = name != reference and reference in runs
        less = _difference(given, runs[reference]) if compared else ""
        share = [f"{row[key]:.3f}" if key in row else "" for key in ("next_solved", "back_solved")]
        lines.append(
            f"| {name} | {row['win_rate']:.3f} ({row['win_rate_low']:.3f} to {row['win_rate_high']:.3f}) | {less} "
            f"| {share[0]} | {share[1]} | {row['train_solved']:.0f} of {row['train_tasks']:.0f} "
            f"| {row['policy_rollouts']:,.0f} |"
        )
    return "\n".join(lines)


def first_iteration_table(runs: Arms) -> str:
    """EEF's Fig. 3: theta_1 of every arm that explored, by its simulations per task."""
    lines = ["| arm | simulations per train task | theta_1's test win rate (95%) |", "|---|---|---|"]
    for name, given in runs.items():
        rows = over_seeds(given)
        if len(rows) > 1 and rows[1]["policy_rollouts"]:
            row = rows[1]
            lines.append(
                f"| {name} | {row['policy_rollouts'] / row['train_tasks']:.1f} "
                f"| {row['win_rate']:.3f} ({row['win_rate_low']:.3f} to {row['win_rate_high']:.3f}) |"
            )
    return "\n".join(lines)


def covered_table(runs: Arms) -> str:
    """Train tasks with a solution after one exploration, by what they need: means over the seeds."""
    lines = ["| arm | " + " | ".join(f"need {needs}" for needs in NEEDS) + " |", "|---|" + "---|" * len(NEEDS)]
    for name, given in runs.items():
        if not over_seeds(given)[-1]["policy_rollouts"]:
            continue
        found = []
        for run in [given] if isinstance(given, Path) else given:
            with DuckDBEngine(run / "runs", judged_by(run)) as opened:
                found.append({row["needs"]: row for row in opened.rows(COVERED)})
        cells = [
            f"{sum(one[needs]['solved'] for one in found) / len(found):.0f} of {found[0][needs]['tasks']}"
            for needs in NEEDS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(a: Path | Sequence[Path], b: Path | Sequence[Path]) -> str:
    ours, theirs = ([one] if isinstance(one, Path) else list(one) for one in (a, b))
    if len(ours) < 2:
        return ""
    found = paired(ours, theirs)
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


@click.command(cls=Command)
@click.argument("out", type=click.Path(exists=True, path_type=Path))
def command(out: Path) -> None:
    """Write the tables of finished runs into the two pages, their CSV and pictures beside them."""
    beside = DOCS / "reproduction"
    beside.mkdir(exist_ok=True)
    for study, (name, folder, reference) in SHOWN.items():
        runs = finished(study, out / folder)
        if not any(runs.values()):
            click.echo(f"{out / folder}: no finished run of {study}; its table stays as it is", err=True)
            continue
        write_csv(runs, beside / f"{study}.csv")
        plot(runs, beside / f"{study}.png")
        tables = {study: arms_table(runs, reference)}
        if study == "paper":
            tables |= {"first": first_iteration_table(runs), "covered": covered_table(runs)}
        _write(DOCS / f"{name}.md", tables)


def _write(page: Path, tables: dict[str, str]) -> None:
    """Put the tables into the page, each in its place."""
    text = page.read_text()
    for name, table in tables.items():
        place = re.search(rf"<!-- table {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
        if not place:
            raise UsageError(f"{page}: there is no place for the table {name} (<!-- table {name} -->).")
        text = text[: place.start(1)] + table + "\n" + text[place.end(1) :]
    write_whole(page, text)


if __name__ == "__main__":
    run_command(command, "python -m train.reproduction")
