"""`trajkit export`."""

from __future__ import annotations

import click


@click.command(no_args_is_help=True)
@click.argument("source", metavar="PAIRS", type=click.Path())
@click.option("--to", required=True, metavar="FORMAT", help="trl, llamafactory, axolotl or ms-swift.")
@click.option("--out", required=True, type=click.Path(), metavar="FILE", help="The file to write, a .jsonl.")
def command(source: str, to: str, out: str) -> None:
    """Write what select chose as a file that another trainer loads.

    \b
    trajkit export pairs.parquet --to trl --out dpo.jsonl
    trajkit export pairs.parquet --to llamafactory --out data/dpo.jsonl

    PAIRS is a Parquet file that `trajkit select` wrote with a method of pairs. What a format cannot
    hold is left out and counted on stderr, with the reason and the way out.
    """
    from trajkit.exporters import export

    summary = export(source, out, to)
    click.echo(summary.text(), err=True)
    click.echo(f"wrote {out}", err=True)
