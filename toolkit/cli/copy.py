"""``dbsplit copy`` and ``dbsplit throttle``."""

from __future__ import annotations

from pathlib import Path

import click

from toolkit.cli.options import JOBS, JSON, PLAN
from toolkit.cli.talk import Talk, told

CHUNK_MB = 256


@click.command("copy")
@PLAN
@JSON
@JOBS
@click.option(
    "--chunk-mb",
    default=CHUNK_MB,
    show_default=True,
    type=click.IntRange(1, 1 << 20),
    help="Large tables are copied in chunks of this size; a crash costs the chunks in hand.",
)
def copy_command(plan: Path, jobs: int, chunk_mb: int, *, as_json: bool) -> None:
    """Copy all rows, while applications write; goes on where it stopped.

    It goes slower, or pauses, when the source's standbys fall behind or its sessions are
    many (limits in the plan), and when `dbsplit throttle` says so.  Exit 6 if the slot
    retains more log than the plan allows.

    \b
    dbsplit copy plan.yaml
    dbsplit copy plan.yaml --jobs 8
    """
    with told(as_json=as_json) as talk:
        rows = copy_rows(plan, talk, jobs, chunk_mb)
        said = f"{rows:,} rows are copied" if rows else "nothing was left to copy"
        talk.result({"outcome": "copied", "rows": rows}, said)


@click.command("throttle")
@PLAN
@JSON
@click.option(
    "--copy-mb-s",
    type=click.FloatRange(0.01),
    help="Copy so many megabytes a second at most, over all jobs.",
)
@click.option("--pause", is_flag=True, help="Stop moving rows.")
@click.option("--resume", is_flag=True, help="Go on.")
@click.option("--clear", is_flag=True, help="As fast as it goes again, and not paused.")
def throttle_command(
    plan: Path,
    copy_mb_s: float | None,
    *,
    pause: bool,
    resume: bool,
    clear: bool,
    as_json: bool,
) -> None:
    """Make a running copy slower, pause it, or let it go; without options, show what holds.

    A running copy takes it up within two seconds; it holds for later ones, too.

    \b
    dbsplit throttle plan.yaml --copy-mb-s 20
    dbsplit throttle plan.yaml --pause
    dbsplit throttle plan.yaml --resume
    dbsplit throttle plan.yaml --clear
    """
    with told(as_json=as_json) as talk:
        import os

        from cdc.connect import connect
        from cdc.throttle import Wish
        from plans.load import load_plan
        from toolkit.prepared import require_begun
        from toolkit.throttling import read_wish, write_wish

        if clear and (pause or resume or copy_mb_s is not None):
            raise click.UsageError("--clear stands alone: it takes everything else back")
        if pause and resume:
            raise click.UsageError("--pause and --resume are opposites")
        content = load_plan(plan, os.environ)
        with connect(content.source.dsn, name="dbsplit throttle") as source:
            require_begun(content, source)
            before = read_wish(source, content.split)
            now = (
                Wish()
                if clear
                else Wish(
                    pause or (before.paused and not resume),
                    before.bytes_per_s if copy_mb_s is None else copy_mb_s * 1e6,
                )
            )
            if now != before:
                write_wish(source, content.split, now)
        rate = None if now.bytes_per_s is None else now.bytes_per_s / 1e6
        said = "as fast as it goes" if rate is None else f"{rate:g} MB/s at most"
        result = {"outcome": "paused" if now.paused else "running", "copy_mb_s": rate}
        talk.result(result, f"paused; later {said}" if now.paused else said)


def copy_rows(plan: Path, talk: Talk, jobs: int, chunk_mb: int = CHUNK_MB) -> int:
    """Copy what is not copied; returns the rows that are."""
    from toolkit.cli.copy_talk import copy_reporter
    from toolkit.initial import copy as copy_split
    from toolkit.opened import open_split

    split = open_split(plan)
    with copy_reporter(talk, split.routes) as report:
        return copy_split(split, report, jobs=jobs, chunk_bytes=chunk_mb << 20)
