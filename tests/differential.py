# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Ours beside a native subscription of the same publication: three databases, equal row for row.

What a native subscription makes of the log is right by definition.  Both are held against
the source, too, so that a mistake which both make would be seen.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent
from typing import Any

import psycopg
import pytest
from hypothesis import strategies as st
from psycopg import sql

from cdc.connect import connect
from plans import names
from tests.conftest import fresh_database
from tests.following import Following
from tests.random_schemas import Schema, schemas
from tests.random_transactions import Session, Transaction, rows, run_all, transactions
from toolkit.servers import Server

NATIVE_S_MAX = 60.0
ROUNDS_MAX = 3
PUBLICATION = names.publication("traps")

PLAN = """\
split: traps
source: {{dsn: "{source}", schemas: [public]}}
services:
  a: {{dsn: "{a}"}}
tables:
"""

DROP_FOREIGN_KEYS = """\
DO $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT conrelid::regclass AS t, conname FROM pg_constraint
        WHERE contype = 'f' AND conparentid = 0
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', one.t, one.conname);
    END LOOP;
END
$$"""

STREAMED: Mapping[str, int] = {}
PULLED = {
    "cdc.follow.PULL_BYTES_MIN": -1,
    "cdc.pull.CALL_BYTES_MIN": 2_000,
    "cdc.pull.CALL_BYTES_MAX": 10_000,
}
BY_CHANGE = {"cdc.apply.BATCH_CHANGES_MAX": 1, "cdc.apply.PART_CHANGES_MAX": 1}
SMALL = {"cdc.apply.BATCH_CHANGES_MAX": 7, "cdc.apply.PART_CHANGES_MAX": 5}
SETTINGS = (STREAMED, SMALL, BY_CHANGE, PULLED, PULLED | SMALL, PULLED | BY_CHANGE)


@dataclass(frozen=True, slots=True)
class Round:
    """Transactions, and how they are followed."""

    transactions: tuple[Transaction, ...]
    settings: Mapping[str, int]
    live: bool  # the stream runs meanwhile, else it finds a backlog


@dataclass(frozen=True, slots=True)
class Case:
    """All that happens in a database."""

    schema: Schema
    rows: tuple[str, ...]  # there before anything else
    while_prepared: tuple[Transaction, ...]  # between the slot and the copy
    rounds: tuple[Round, ...]


@st.composite
def cases(draw: st.DrawFn, transactions_max: int = 6) -> Case:
    schema = draw(schemas())
    some = st.lists(transactions(schema), min_size=1, max_size=transactions_max).map(tuple)
    one = st.builds(Round, some, st.sampled_from(SETTINGS), st.booleans())
    return Case(
        schema,
        tuple(draw(rows(table)) for table in schema.tables),
        draw(some),
        tuple(draw(st.lists(one, min_size=1, max_size=ROUNDS_MAX))),
    )


@dataclass
class Native:
    """A database that subscribes to the same publication."""

    source: str
    dsn: str
    slot: str

    def start(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            # Its worker neither checks nor cascades, but would stop for ever at a TRUNCATE of
            # a table and all leaves of one that refers to it: the root is not in the log.
            connection.execute(DROP_FOREIGN_KEYS)
            connection.execute(
                sql.SQL(
                    "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH (copy_data = false)"
                ).format(
                    sql.Identifier(self.slot),
                    sql.Literal(self.source),
                    sql.Identifier(PUBLICATION),
                )
            )

    def catch_up(self) -> None:
        """Wait until it has what the source has now."""
        deadline = time.monotonic() + NATIVE_S_MAX
        with psycopg.connect(self.source, autocommit=True) as connection:
            goal = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
            while time.monotonic() < deadline:
                row = connection.execute(
                    "SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots"
                    " WHERE slot_name = %s",
                    [*(goal or ()), self.slot],
                ).fetchone()
                if row == (True,):
                    return
                time.sleep(0.02)
        raise AssertionError("the native subscription does not follow: see the target's log")

    def stop(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            name = sql.Identifier(self.slot)
            connection.execute(sql.SQL("DROP SUBSCRIPTION IF EXISTS {}").format(name))


@dataclass
class Differential:
    """The databases of one case."""

    case: Case
    ours: Following
    native: Native
    said: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Everything of the case; compares after each round."""
        self._set_up()
        self.ours.prepare()
        self.native.start()
        run_all(self.ours.source, self.case.while_prepared)
        self.ours.copy()
        for number, one in enumerate(self.case.rounds):
            self._follow(one)
            self.compare(f"after round {number + 1}")

    def _set_up(self) -> None:
        for dsn in (self.ours.source, self.native.dsn):
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(self.case.schema.ddl.encode())
            session = Session(dsn)
            for text in self.case.rows:
                session.begin()
                session.run(text)
                session.end(commits=True)
            session.close()

    def _follow(self, one: Round) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in one.settings.items():
                patch.setattr(name, value)
            if one.live:
                with self.ours.live() as live:
                    run_all(self.ours.source, one.transactions)
                assert live.failure is None, live.failure
            else:
                run_all(self.ours.source, one.transactions)
            self.ours.stream()

    def compare(self, when: str) -> None:
        """The same rows in the same partitions, three times."""
        self.native.catch_up()
        for table in self.case.schema.tables:
            source, ours, native = (
                _image(dsn, table.name)
                for dsn in (self.ours.source, self.ours.targets["a"], self.native.dsn)
            )
            assert (native - source, source - native) == (Counter(), Counter()), (
                f"{table.name}: the native subscription differs {when}"
            )
            assert (ours - source, source - ours) == (Counter(), Counter()), (
                f"{table.name}: ours differs {when}; too many, then missing"
            )


def _image(dsn: str, table: str) -> Counter[tuple[Any, ...]]:
    with connect(dsn) as connection:
        found = connection.execute(
            f"SELECT tableoid::regclass::text, t::text FROM {table} AS t".encode()
        )
        return Counter(found.fetchall())


@contextmanager
def differential(
    case: Case, source: Server, target: Server, directory: Path
) -> Iterator[Differential]:
    """The databases of a case, which go with everything that was made in them."""
    with ExitStack() as stack:
        there, ours_dsn, dsn = (
            stack.enter_context(fresh_database(server)) for server in (source, target, target)
        )
        plan = directory / "plan.yaml"
        plan.write_text(PLAN.format(source=there, a=ours_dsn) + indent(case.schema.plan, "  "))
        ours = Following(there, {"a": ours_dsn}, plan)
        native = Native(ours.source, dsn, "native_" + dsn.rpartition("_")[2])
        stack.callback(native.stop)
        yield Differential(case, ours, native)
