"""Options by which `validate` and `compare` look at a part of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plans.printable import printable

if TYPE_CHECKING:
    from validators.scope import Scope

F = TypeVar("F", bound=Callable[..., Any])


def scope_options(command: F) -> F:
    """The options by which a part is chosen."""
    for option in (
        click.option(
            "--sample",
            type=click.FloatRange(0, 100, min_open=True),
            metavar="PERCENT",
            help="Only so many of the keys.",
        ),
        click.option(
            "--within", metavar="COLUMN:AGE", help="Only rows of the last time: updated_at:2d."
        ),
        click.option("--below", "key_below", help="Only keys below."),
        click.option("--from", "key_from", help="Only keys from here on."),
    ):
        command = option(command)
    return command


def scope_of(options: Mapping[str, Any], *, where: str = "") -> Scope:
    """The part that is wanted."""
    from validators.scope import Scope

    column, since = _since(options["within"]) if options["within"] else ("", "")
    return Scope(
        sample_percent=options["sample"],
        time_column=column,
        time_from=since,
        key_from=options["key_from"],
        key_below=options["key_below"],
        where=where,
    )


NO_ROWS = "\nNo rows were compared, which proves nothing: is it the right database, the right part?"


def scope_text(words: str) -> str:
    """What has to be said where a part was compared."""
    return f"\nCompared: {printable(words)}. The other rows were not looked at." if words else ""


def _since(text: str) -> tuple[str, str]:
    """A column and the moment from which on it is looked at."""
    from datetime import UTC, datetime, timedelta

    column, _, age = text.rpartition(":")
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    number, unit = age[:-1], age[-1:]
    if not (column and number.isdecimal() and unit in units):
        raise click.UsageError(
            f"--within {text!r} is no column with an age; say updated_at:2d, with s, m, h, d or w"
        )
    try:
        return column, (datetime.now(UTC) - timedelta(**{units[unit]: int(number)})).isoformat()
    except OverflowError:
        raise click.UsageError(
            f"--within {text!r} is more than all years there are; leave it out"
        ) from None
