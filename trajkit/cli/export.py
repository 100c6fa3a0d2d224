"""`trajkit export`."""

from __future__ import annotations

import click

from trajkit.cli import Command, completing, json_option, on_refused_option, print_json, template_arg_option


def _formats() -> list[str]:
    from trajkit.exporters import formats

    return formats()


@click.command(no_args_is_help=True, cls=Command)
@click.argument("source", metavar="SELECTED", type=click.Path())
@click.option(
    "--to",
    required=True,
    metavar="FORMAT",
    shell_complete=completing(_formats),
    help="trl, unsloth, axolotl, llamafactory, ms-swift, openai, verl, slime or datasets.",
)
@click.option("--out", required=True, type=click.Path(), metavar="FILE", help="The file to write (datasets: a folder).")
@click.option(
    "--tokenizer",
    type=click.Path(),
    metavar="FOLDER|OWNER/NAME",
    help="The model's folder or name: write token ids and their loss mask, what train/ trains on (trl, unsloth, verl).",
)
@click.option(
    "--max-length", type=click.IntRange(min=2), metavar="N", help="The most token ids of a row.  [default: 4096]"
)
@click.option(
    "--on-long",
    type=click.Choice(["error", "drop", "split"]),
    help="What becomes of a longer row: an error, left out, or cut between messages.  [default: error]",
)
@click.option("--per-step", is_flag=True, help="One row per trained action (with --tokenizer, or to llamafactory).")
@on_refused_option()
@template_arg_option()
@click.option("--license", metavar="ID", help="The data's licence, for datasets' card.  [default: unknown]")
@json_option()
def command(
    source: str,
    to: str,
    out: str,
    tokenizer: str | None,
    max_length: int | None,
    on_long: str | None,
    per_step: bool,
    on_refused: str | None,
    template_arg: tuple[str, ...],
    license: str | None,
    as_json: bool,
) -> None:
    """Write what select chose as a file that another trainer loads.

    \b
    trajkit export sft.parquet --to axolotl --out sft.jsonl
    trajkit export sft.parquet --to trl --tokenizer path/to/model --out tokens.parquet
    trajkit export sft.parquet --to datasets --out my-dataset --license mit
    trajkit export pairs.parquet --to trl --out dpo.jsonl

    SELECTED is a Parquet file that `trajkit select` wrote. What a format cannot hold is left out and
    counted on stderr, with the reason and the way out.
    """
    from trajkit.exploration.env import key_values
    from trajkit.exporters import Options, export

    options = Options(tokenizer, max_length, on_long, per_step, license, on_refused, key_values(template_arg))
    summary = export(source, out, to, options)
    if as_json:
        print_json(vars(summary) | {"out": out})
        return
    click.echo(summary.text(), err=True)
    click.echo(f"wrote {out}", err=True)
