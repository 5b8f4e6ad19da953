# ruff: noqa: S608 -- all of the SQL is the benchmark's own
"""Tables to compare, and the differences that are planted in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import psycopg
from psycopg import sql

from benchmarks.contest import server_cpu_s
from toolkit.servers import Server

ROWS_OF_SMALL = 50
_TABLES_PER_TRANSACTION = 200  # each takes locks

MIXED = """
CREATE TABLE t (id bigint PRIMARY KEY, customer integer NOT NULL, state text,
    total numeric(12,2), created timestamptz, updated timestamp, ref uuid, active boolean,
    note varchar(80), day date, qty smallint, score double precision);
INSERT INTO t SELECT i, (i * 7919) % 100000, (ARRAY['new','paid','sent','done'])[i % 4 + 1],
    (i % 100000) / 100.0, '2024-01-01+00'::timestamptz + i * interval '1.001 s',
    '2024-01-01'::timestamp + i * interval '0.7 s', md5(i::text)::uuid, i % 3 = 0,
    CASE WHEN i % 5 = 0 THEN NULL ELSE 'note number ' || i || ' of the customer' END,
    '2020-01-01'::date + (i % 2000)::int, i % 1000, sqrt(i)
FROM generate_series(1::bigint, {rows}) AS i
"""
_KINDS = (
    ("integer", "(i * {n})::int"),
    ("text", "'text {n} of row ' || i"),
    ("numeric", "i / {n}.0"),
    ("timestamptz", "'2024-01-01+00'::timestamptz + i * interval '{n} s'"),
)


def wide(columns: int) -> str:
    """A table of integers, texts, numerics and times, with two columns more than that."""
    some = [(n, *_KINDS[n % len(_KINDS)]) for n in range(1, columns + 1)]
    return (
        "CREATE TABLE t (id bigint PRIMARY KEY, qty smallint, "
        + ", ".join(f"c{n} {kind}" for n, kind, _ in some)
        + "); INSERT INTO t SELECT i, i % 1000, "
        + ", ".join(how.format(n=n) for n, _, how in some)
        + " FROM generate_series(1::bigint, {rows}) AS i"
    )


class Servers:
    """Both sides."""

    def __init__(self, left: Server, right: Server) -> None:
        self.left, self.right = left, right

    @property
    def both(self) -> tuple[Server, Server]:
        """Left, then right."""
        return self.left, self.right

    def execute(self, *statements: str, right_only: bool = False) -> None:
        """Run statements on both sides."""
        for server in (self.right,) if right_only else self.both:
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                for statement in statements:
                    connection.execute(sql.SQL(statement))

    def cpu_s(self) -> float:
        """What all their processes have used, those that have ended too."""
        return sum(map(server_cpu_s, self.both))


def planted(servers: Servers, rows: int, fill: str, differ: Sequence[int]) -> Iterator[int]:
    """Make the table `t`; then the numbers of rows that differ from now on, one by one."""
    servers.execute("DROP TABLE IF EXISTS t", *fill.format(rows=rows).split(";"))
    servers.execute("VACUUM (ANALYZE, FREEZE) t", "CHECKPOINT")
    for differences in differ:
        if differences:
            every = rows // differences
            change = f"UPDATE t SET qty = -1 WHERE id % {every} = {every // 2}"
            servers.execute(change, "VACUUM (ANALYZE) t", "CHECKPOINT", right_only=True)
        with psycopg.connect(servers.right.dsn()) as connection:
            (count,) = connection.execute("SELECT count(*) FROM t WHERE qty = -1").fetchall()
        yield int(count[0])


def fill_many(servers: Servers, tables: int) -> None:
    """Make so many small tables, and no other."""
    create = (
        f"CREATE TABLE s{{n}} AS SELECT i AS id, 'row ' || i AS note"
        f" FROM generate_series(1, {ROWS_OF_SMALL}) AS i; ALTER TABLE s{{n}} ADD PRIMARY KEY (id)"
    )
    servers.execute("DROP TABLE IF EXISTS t")
    for first in range(0, tables, _TABLES_PER_TRANSACTION):
        some = range(first, min(tables, first + _TABLES_PER_TRANSACTION))
        servers.execute("; ".join(create.format(n=n) for n in some))
