"""``dbsplit demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli.options import (
    JSON,
)
from toolkit.cli.talk import told

if TYPE_CHECKING:
    pass


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="New directory for the report and what else stays; dbsplit-demo-… here if not given.",
)
@click.option(
    "--scale",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 10, min_open=True),
    help="Size of the database; 1 is 100,000 orders.",
)
@click.option("--keep", is_flag=True, help="Leave the servers running.")
@click.option("--pg-version", metavar="MAJOR", help="Of PostgreSQL; 18 if not given.")
@JSON
def demo(
    directory: Path | None, scale: float, pg_version: str | None, *, keep: bool, as_json: bool
) -> None:
    """See it all at work on servers of its own; exit 1 unless every write is there once.

    A shared database of a CRM, a shop and an MES is split while they write to it, moved,
    rolled back, and moved again.  Nothing is left but a directory with a report.

    \b
    dbsplit demo
    dbsplit demo --scale 1 --dir /tmp/demo
    dbsplit demo --keep
    """
    with told(as_json=as_json) as talk:
        from toolkit.cli.demo_screen import show_demo

        if not show_demo(talk, directory, scale=scale, version=pg_version, keep=keep):
            sys.exit(1)
