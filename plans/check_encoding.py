"""Findings on the encoding of the source's text: the split reads and writes UTF8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from plans.catalog import Table
from plans.check_subject import Subject
from plans.expressions import quoted
from plans.findings import Finding, Severity

Connection = psycopg.Connection[Any]

ENCODING: Final[LiteralString] = (
    "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
)

# In a database of SQL_ASCII each byte is a character; The Unicode Standard, table 3-7.
VALID: Final = (
    r"^(?:[\x01-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    r"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    r"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})*$"
)


def check_encoding(subject: Subject, conn: Connection) -> Iterator[Finding]:
    """Text that cannot be carried, in one direction or the other."""
    (encoding,) = conn.execute(ENCODING).fetchone() or ("UTF8",)
    database = subject.catalog.database
    if encoding == "SQL_ASCII":
        yield subject.finding(
            Severity.WARNING, "encoding-unchecked", database, ("source",),
            "its encoding is SQL_ASCII: nobody checks what is written",
            why="a row that isn't valid UTF8 cannot be read: it stops the copy, or the stream",
            remedy="see that all applications write UTF8 (client_encoding)",
        )  # fmt: skip
        tables = {route.source.name: route.source for route in subject.routes}
        for _, table in sorted(tables.items()):
            yield from _invalid(subject, table, conn)
    elif encoding != "UTF8":
        yield subject.finding(
            Severity.WARNING, "encoding-narrow", database, ("source",),
            f"its encoding is {encoding}, and services whose databases are UTF8 may write more",
            why="after a cutover, text that the source lacks cannot come back: the stream stops",
            remedy=f"create the services' databases with ENCODING '{encoding}' too, or let them"
            " write nothing else until complete",
        )  # fmt: skip


def _invalid(subject: Subject, table: Table, conn: Connection) -> Iterator[Finding]:
    shown = table.key or (table.columns[0].name,)
    # The key may itself be what cannot be read.
    query = sql.SQL(
        "SELECT count(*) OVER (),"
        " regexp_replace(pg_catalog.concat_ws(', ', {shown}), {high}, '?', 'g')"
        " FROM {table} AS r WHERE r::text !~ {valid} LIMIT 1"
    ).format(
        shown=sql.SQL(", ").join(sql.SQL(quoted(name)) for name in shown),
        high=r"[\x80-\xff]",
        table=table.name.identifier,
        valid=VALID,
    )
    try:
        with conn.transaction():
            found = conn.execute(query).fetchone()
    except psycopg.Error:
        return  # the warning about the whole database stands
    if found:
        rows, key = found
        yield subject.finding(
            Severity.BLOCKER, "encoding-invalid", table.name, table.name,
            f"{rows} row{'' if rows == 1 else 's'} with text that is not valid UTF8; for example"
            f" {', '.join(shown)} = {key}",
            why="it cannot be read as text of any encoding, and the copy would stop",
            remedy="convert it, such as from LATIN1: SET c = convert_from(convert(convert_to(c,"
            " 'SQL_ASCII'), 'LATIN1', 'UTF8'), 'SQL_ASCII')",
        )  # fmt: skip
