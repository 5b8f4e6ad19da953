"""The plan's lists: queries whose rows somebody should see, such as contradictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import pgparse  # type: ignore[import-not-found]  # it has no stubs
import psycopg
from psycopg import sql

from plans.check_subject import Subject
from plans.findings import Finding, Severity
from plans.load import Plan
from plans.model import Listing

ROWS_SHOWN = 20
CONNECT_TIMEOUT_S = 10
TIMEOUT: Final[LiteralString] = "SET LOCAL statement_timeout = '60s'"


@dataclass(frozen=True, slots=True)
class ListRows:
    """The first rows of a list and how many there are, or why it could not be read."""

    name: str
    on: str  # "source" or a service
    reason: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()  # as PostgreSQL writes them
    total: int = 0
    error: str = ""


def run_lists(
    plan: Plan, dsn_of: Callable[[str], str], *, rows_max: int = ROWS_SHOWN
) -> list[ListRows]:
    """Run every list of the plan; `dsn_of` gives the DSN of 'source' or a service."""
    found = []
    for name, listing in plan.lists.items():
        try:
            with psycopg.connect(
                dsn_of(listing.on), connect_timeout=CONNECT_TIMEOUT_S, client_encoding="UTF8"
            ) as conn:
                found.append(run_list(name, listing, conn, rows_max=rows_max))
        except psycopg.OperationalError:
            # Its text may hold the DSN.
            error = f"{listing.on}'s database doesn't answer"
            found.append(ListRows(name, listing.on, listing.reason or "", error=error))
    return found


def run_list(
    name: str, listing: Listing, conn: psycopg.Connection[Any], *, rows_max: int = ROWS_SHOWN
) -> ListRows:
    """Run one list, reading only."""
    reason = listing.reason or ""
    if error := _refused(listing.query):
        return ListRows(name, listing.on, reason, error=error)
    inner = sql.SQL(listing.query.strip().rstrip(";"))
    try:
        with conn.transaction(), conn.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute(TIMEOUT)
            counted = cursor.execute(sql.SQL("SELECT count(*) FROM (\n{}\n) AS l").format(inner))
            (total,) = counted.fetchone() or (0,)
            query = sql.SQL("SELECT * FROM (\n{}\n) AS l LIMIT {}").format(inner, rows_max)
            cursor.execute(query)
            columns = tuple(column.name for column in cursor.description or ())
            rows = tuple(_as_text(row) for row in cursor)
    except psycopg.Error as failed:
        error = failed.diag.message_primary or str(failed)
        return ListRows(name, listing.on, reason, error=error)
    return ListRows(name, listing.on, reason, columns, rows, total)


def _refused(query: str) -> str:
    try:
        statements = pgparse.parse(query)
    except pgparse.PGQueryError as error:
        return f"{error.message} at character {error.position}"
    if len(statements) != 1 or "SelectStmt" not in statements[0]["stmt"]:
        return "isn't one SELECT"
    return ""


def _as_text(row: tuple[Any, ...]) -> tuple[str | None, ...]:
    return tuple(None if value is None else str(value) for value in row)


def check_lists(subject: Subject, conn: psycopg.Connection[Any]) -> Iterator[Finding]:
    """How many rows the source's lists have."""
    for name, listing in subject.plan.lists.items():
        if listing.on != "source":
            continue
        found = run_list(name, listing, conn, rows_max=1)
        path = ("lists", name)
        if found.error:
            yield subject.finding(
                Severity.BLOCKER, "list-failed", name, path, found.error,
                remedy="write one SELECT that the source can run",
            )  # fmt: skip
        elif found.total:
            yield subject.finding(
                Severity.NOTE, "list", name, path,
                f"{found.total} row{'' if found.total == 1 else 's'}", why=found.reason,
            )  # fmt: skip
