"""Findings on rows that refer to nothing: how many there are today, for each key that is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql

from plans.boundary import Cut, names_of
from plans.catalog import TableName
from plans.check_data import Connection, fragment
from plans.check_subject import Subject
from plans.findings import Finding, Severity
from plans.places import Path
from plans.routes import Route
from plans.some import some

_SHOWN_MAX = 12
_TOGETHER = 40
"""Keys that one statement counts: a round trip for each would take most of the time."""


def check_orphans(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """Count, on the source, the rows whose reference no service's rows will fulfil.

    Never a blocker: the source lets such rows be already, or the plan leaves behind
    what they refer to.
    """
    without: list[Cut] = []
    for cut, counted in _counted(conn, list(subject.boundary.cuts(subject.catalog))):
        if isinstance(counted, psycopg.Error):
            yield subject.finding(
                Severity.NOTE, "orphans-uncounted", _named(cut), _path(subject, cut),
                f"rows of {cut.service} that refer to nothing could not be counted:"
                f" {counted.diag.message_primary or counted}",
            )  # fmt: skip
            continue
        rows, example = counted
        if rows:
            yield _found(subject, cut, rows, example)
        else:
            without.append(cut)
    if without:
        names = sorted({one.key.name for one in without})
        yield subject.finding(
            Severity.NOTE, "orphans-none", subject.plan.split, ("foreign_keys",),
            f"0 orphans today in {len(names)} of the keys that the split cuts:"
            f" {some(names, _SHOWN_MAX)}",
        )  # fmt: skip


def _counted(
    conn: Connection, cuts: Sequence[Cut]
) -> Iterator[tuple[Cut, tuple[int, Any] | psycopg.Error]]:
    """Each key with its count and an example, or with what kept it from being counted."""
    for start in range(0, len(cuts), _TOGETHER):
        some = cuts[start : start + _TOGETHER]
        try:
            with conn.transaction():
                rows = conn.execute(_together(some)).fetchall()
        except psycopg.Error as error:
            if len(some) == 1:
                yield some[0], error
            else:  # one of them; what it is shows alone
                for cut in some:
                    yield from _counted(conn, [cut])
            continue
        for number, count, example in rows:
            yield some[number], (count, example)


def _together(cuts: Sequence[Cut]) -> sql.Composed:
    return sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}::int, c.* FROM ({}) AS c").format(number, _counting(cut))
        for number, cut in enumerate(cuts)
    )


def _found(subject: Subject, cut: Cut, rows: int, example: Any) -> Finding:  # noqa: ANN401 - text
    key = cut.key
    entry = next((n for n in names_of(key) if n in subject.plan.foreign_keys), None)
    why = "they stay as they are, and nothing refuses more of them"
    if entry and subject.plan.foreign_keys[entry].replace_with == "reference":
        why = "with them the key to the read-only copy cannot be made"
    elif not cut.owners:
        why = f"no service gets {key.references}, so all references to it lead nowhere"
    many = "row refers" if rows == 1 else "rows refer"
    return subject.finding(
        Severity.WARNING, "orphans", _named(cut), _path(subject, cut),
        f"{rows} {many} to no row of {key.references} that a service gets;"
        f" for example {', '.join(key.columns)} = {example}",
        why=why,
        remedy="delete or correct them on the source, or go on if they do no harm",
    )  # fmt: skip


def _named(cut: Cut) -> str:
    return f"{cut.key.table}.{cut.key.name}"


def _path(subject: Subject, cut: Cut) -> Path | TableName:
    entry = next((name for name in names_of(cut.key) if name in subject.plan.foreign_keys), None)
    return ("foreign_keys", entry) if entry else cut.key.table


def _counting(cut: Cut) -> sql.Composed:
    """The rows of the service whose reference no owner's route fulfils, and one of their keys."""
    key = cut.key
    columns = [sql.Identifier(name) for name in key.columns]
    there = sql.SQL(" AND ").join(
        sql.SQL("there.{} = here.{}").format(sql.Identifier(of), by)
        for of, by in zip(key.referenced_columns, columns, strict=True)
    )
    return sql.SQL(
        "SELECT count(*), min(pg_catalog.concat_ws(', ', {shown})) FROM {table} AS here"
        " WHERE {all} AND {ours}"
        " AND NOT EXISTS (SELECT FROM {references} AS there WHERE {there} AND {theirs})"
    ).format(
        shown=sql.SQL(", ").join(columns),
        table=key.table.identifier,
        # MATCH SIMPLE and MATCH FULL alike: a key with a NULL refers to nothing.
        all=sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(one) for one in columns),
        ours=_any_of([cut.route]),
        references=key.references.identifier,
        there=there,
        theirs=_any_of(cut.owners),
    )


def _any_of(routes: Sequence[Route]) -> sql.Composable:
    """Whether a row is one of those that these routes take."""
    terms = [
        fragment(f"(({route.where}) IS TRUE)") if route.where is not None else sql.SQL("true")
        for route in routes
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(terms)) if terms else sql.SQL("false")
