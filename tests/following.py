"""A split that follows, in this process, by the toolkit's own functions."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

import psycopg
from psycopg import sql

from cdc.connect import connect, pin_settings
from plans import names
from plans.errors import SplitError
from plans.routes import Route
from tests.conftest import fresh_database
from toolkit import initial, streaming
from toolkit.opened import Split, open_split
from toolkit.prepare import prepare
from toolkit.servers import Server
from toolkit.validation import validate_all
from validators.results import TableResult

SERVICES = ("a", "b", "hub")
DEADLINE_S = 120.0

PLAN = """\
split: traps
source: {{dsn: "{source}", schemas: [public, odd]}}
services:
  a: {{dsn: "{a}"}}
  b: {{dsn: "{b}"}}
  hub: {{dsn: "{hub}", revisions: revisions}}
tables:
"""

REVISION = '''\
"""Tables of derived routes."""

from alembic import op

revision = "derived"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """{tables}"""


def upgrade() -> None:
    op.execute(TABLES.replace(":", "\\\\:"))


def downgrade() -> None:
    """What is derived goes with its database."""
'''


class Live:
    """A stream that runs until it is stopped, or breaks."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._stop = threading.Event()
        self._connected = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._connected.wait(DEADLINE_S)

    def broken(self) -> SplitError:
        """What made it end by itself."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the stream goes on"
        assert isinstance(self.failure, SplitError), repr(self.failure)
        return self.failure

    def end(self) -> None:
        """Stop it, unless it has ended by itself."""
        self._stop.set()
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        try:
            streaming.stream(
                self._split, stop=self._stop, until_caught_up=False, report=self._report
            )
        except BaseException as error:  # noqa: BLE001 - looked at by the test's thread
            self.failure = error
        finally:
            self._connected.set()

    def _report(self, progress: streaming.StreamProgress) -> None:
        if progress.connected:
            self._connected.set()


@dataclass(frozen=True)
class Following:
    """A source and three services, with a plan."""

    source: str
    targets: dict[str, str]
    path: Path

    def prepare(self) -> Split:
        return prepare(self.path, lambda _step, _details: None)

    def copy(self) -> int:
        return initial.copy(self.open(), lambda _progress: None, jobs=2)

    def open(self) -> Split:
        return open_split(self.path)

    def stream(self) -> streaming.StreamProgress:
        """Follow until everything that the source has now is applied."""
        stop = threading.Event()
        alarm = threading.Timer(DEADLINE_S, stop.set)
        alarm.start()
        try:
            progress = streaming.stream(
                self.open(), stop=stop, until_caught_up=True, report=lambda _progress: None
            )
        finally:
            alarm.cancel()
        assert not stop.is_set(), f"not caught up within {DEADLINE_S} s: {progress}"
        return progress

    @contextmanager
    def live(self) -> Iterator[Live]:
        """Follow in the background while the block runs."""
        live = Live(self.open())
        try:
            yield live
        finally:
            live.end()

    def forgive(self) -> None:
        """Make the stream go on behind everything that it has not applied."""
        slot = names.slot("traps")
        with psycopg.connect(self.source, autocommit=True) as source:
            row = source.execute(
                "SELECT end_lsn::text"
                " FROM pg_replication_slot_advance(%s, pg_current_wal_insert_lsn())",
                [slot],
            ).fetchone()
            assert row is not None
        for dsn in self.targets.values():
            with psycopg.connect(dsn, autocommit=True) as target:
                target.execute("UPDATE dbsplit.progress SET lsn = %s", row)

    def execute(self, *transactions: str) -> None:
        """Run statements on the source, each string in a transaction of its own."""
        self.execute_on("source", *transactions)

    def execute_on(self, place: str, *transactions: str) -> None:
        """Run statements on a service, or on the source."""
        with psycopg.connect(self._dsn(place), autocommit=True) as connection:
            for text in transactions:
                connection.execute(text.encode())

    def rows(self, place: str, query: str) -> list[tuple[Any, ...]]:
        """Rows of a service, or of the source."""
        with psycopg.connect(self._dsn(place), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def _dsn(self, place: str) -> str:
        return self.source if place == "source" else self.targets[place]

    def validated(self) -> dict[str, TableResult]:
        """What the toolkit's own comparison says, by route."""
        split = self.open()
        with connect(self.source) as source:
            compared = validate_all(split, split.routes, source, lambda _step, _details: None)
        return {result.route: result for result in compared.results}

    def differences(self, split: Split, route: Route) -> tuple[list[Any], list[Any]]:
        """Rows that the target lacks, and that it has too many, by their text alone."""
        there = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            _texts(sql.SQL(column.expression) for column in route.columns),
            route.source.name.identifier,
            sql.SQL(route.where or "true"),
        )
        here = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            _texts(sql.Identifier(column.name) for column in route.columns),
            route.target.identifier,
            sql.SQL(" AND ").join(
                [sql.SQL("true")]
                + [
                    sql.SQL("{} = ({})").format(sql.Identifier(name), sql.SQL(value))
                    for name, value in route.fixed
                ]
            ),
        )
        wanted, found = (
            self._counted(self.source, there),
            self._counted(split.dsn(route.service), here),
        )
        return sorted((wanted - found).elements()), sorted((found - wanted).elements())

    def _counted(self, dsn: str, query: sql.Composed) -> Counter[tuple[str, ...]]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            pin_settings(connection)
            return Counter(
                tuple("NULL" if value is None else f"={value}" for value in row)
                for row in connection.execute(query)
            )


@contextmanager
def following(
    source: Server, target: Server, directory: Path, *, tables: str, derived: str = ""
) -> Iterator[Following]:
    """Empty databases and a plan with these `tables:`, whose derived ones are in `hub`."""
    with ExitStack() as stack:
        source_dsn = stack.enter_context(fresh_database(source))
        targets = {service: stack.enter_context(fresh_database(target)) for service in SERVICES}
        versions = directory / "revisions" / "versions"
        versions.mkdir(parents=True)
        revision = REVISION.format(tables=derived or "SELECT 1")
        (versions / "derived.py").write_text(revision)
        path = directory / "plan.yaml"
        path.write_text(
            PLAN.format(source=source_dsn, **targets) + indent(tables or "x: drop\n", "  ")
        )
        yield Following(source_dsn, targets, path)


def _texts(values: Iterator[sql.Composable] | Sequence[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL("({})::text").format(value) for value in values)
