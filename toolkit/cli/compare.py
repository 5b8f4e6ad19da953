"""``dbsplit compare``: two databases, row by row, without a plan."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from plans.printable import printable
from toolkit.cli.options import JSON, READERS, require_dsn
from toolkit.cli.scoping import NO_ROWS, scope_of, scope_options, scope_text
from toolkit.cli.talk import Talk, told

if TYPE_CHECKING:
    from toolkit.comparing import Compared, Wish
    from validators.results import Progress

_DIFFER, _UNVERIFIED = 5, 4
_NAME = re.compile(r'(?:"(?:[^"]|"")*"|[^,])+')
_QUOTED = re.compile(r'"(?:[^"]|"")+"')


@click.command()
@click.argument("left", metavar="DSN")
@click.argument("right", metavar="DSN")
@JSON
@click.option("--tables", help="Names, with commas between them; all tables of both if not given.")
@click.option(
    "--schema", "schemas", multiple=True, help="Where tables are; may be repeated.  [public]"
)
@click.option("--key", help="Columns that tell rows apart, instead of the primary key.")
@click.option("--exclude", help="Columns that are not compared, with commas between them.")
@click.option("--where", help="SQL condition on the rows, on both sides.")
@scope_options
@READERS
@click.option(
    "--snapshot-limit",
    type=click.IntRange(1),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="Give up a table without an order of keys then: its snapshot keeps VACUUM from cleaning.",
)
@click.option(
    "--settle",
    "settle_s",
    type=click.FloatRange(0, 60),
    default=0.5,
    show_default=True,
    help="Seconds before a row that differs is read again.",
)
def compare(left: str, right: str, *, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - as click has them
    """Compare tables of two databases; exit 5 if rows differ, 4 if that could not be told.

    Reads only, and needs no more than SELECT on the tables.  Tables without a key are
    compared as sets in which a row may come several times.  A row differs if it still
    does a moment later, and has not changed on the left; with a replica on the right
    --settle is its delay.

    \b
    dbsplit compare "$OLD" "$NEW"
    dbsplit compare "$OLD" "$NEW" --tables orders,crm.leads --json
    dbsplit compare "$OLD" "$NEW" --tables events --key id --exclude loaded_at
    dbsplit compare "$OLD" "$NEW" --within updated_at:12h --sample 5
    dbsplit compare "$OLD" "$NEW" --tables events --jobs 8
    """
    with told(as_json=as_json) as talk:
        from toolkit.comparing import compare_databases

        require_dsn(left, "the first DSN")
        require_dsn(right, "the second DSN")
        wish = _wish(options)

        def report(progress: Progress) -> None:
            if progress.step == "done":
                talk.say("compared", {"table": progress.route, "rows": progress.rows})
            else:
                details = {"table": progress.route, "rows": progress.rows, "found": progress.found}
                talk.seldom(progress.step, progress.route, details)

        _tell(talk, compare_databases(left, right, wish, report), wish)


def _wish(options: dict[str, Any]) -> Wish:
    from toolkit.comparing import Wish

    for option in ("tables", "key"):
        # A script's variable that is empty must not mean all tables, or another key.
        if options[option] is not None and not names_of(options[option]):
            raise click.BadParameter("no name is given", param_hint=f"--{option}")
    return Wish(
        tables=names_of(options["tables"]),
        schemas=options["schemas"] or ("public",),
        key=columns_of(options["key"]),
        leave_out=columns_of(options["exclude"]),
        jobs=options["jobs"],
        snapshot_s_max=options["snapshot_limit"],
        settle_s=options["settle_s"],
        scope=scope_of(options, where=options["where"] or ""),
    )


def names_of(text: str | None) -> tuple[str, ...]:
    """Names with commas between them; what stands in double quotes may have some of its own."""
    parts = _NAME.findall(text or "")
    return tuple(part.strip() for part in parts if part.strip())


def columns_of(text: str | None) -> tuple[str, ...]:
    """Names of columns, without the quotes that some are given in."""
    return tuple(
        name[1:-1].replace('""', '"') if _QUOTED.fullmatch(name) else name
        for name in names_of(text)
    )


def _tell(talk: Talk, compared: Compared, wish: Wish) -> None:
    from validators.results import consistent

    results = compared.tables
    rows = sum(one.rows for one in results)
    equal = consistent(results) and rows > 0
    result = {
        "consistent": equal,
        "rows": rows,
        "scope": wish.scope.words,
        "collision_bound": sum(one.collision_bound for one in results),
        "tables": [one.summary() for one in results],
        "unlike_types": [one.as_dict() for one in compared.unlike_types],
        "left_out": [str(name) for name in compared.left_out],
    }
    talk.result(result, "" if talk.as_json else _text(compared, wish))
    if any(one.state == "different" for one in results):
        sys.exit(_DIFFER)
    if not equal:
        sys.exit(_UNVERIFIED)


def _text(compared: Compared, wish: Wish) -> str:
    from toolkit.cli.show import validation_text  # rich takes longer to load than most tables

    lines = [
        f"{one.table}.{one.column} is {one.left} on the left and {one.right} on the right:"
        f" compared as {one.compared_as}"
        for one in compared.unlike_types
    ]
    if compared.left_out:
        names = ", ".join(map(str, compared.left_out))
        lines.append(f"Not compared, since their rows are in other databases: {names}")
    text = validation_text(compared.tables) + scope_text(wish.scope.words)
    text = "\n".join([text, *map(printable, lines)])
    if not any(one.rows for one in compared.tables):
        text += NO_ROWS
    return text
