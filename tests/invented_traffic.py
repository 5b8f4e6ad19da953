"""Writers for any schema: they insert, change and delete invented rows in a service's tables.

Beside them runs the ledger, whose counters show a lost or doubled update.  Of the invented
rows the history tells which were acknowledged as inserted or deleted; that they are equal
on both sides is for the comparison to say.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from plans.crm_shop.workload.attempt import Attempt, NothingToDo
from plans.crm_shop.workload.check import HistoryReport, check_history
from plans.crm_shop.workload.crew import Crew
from plans.crm_shop.workload.routing import Routing
from plans.crm_shop.workload.subject import RowSubject, by_name
from plans.crm_shop.workload.writer import Operation, Writer
from tests.history import BALANCES, ENTRIES, ENTRY_COUNTS, LedgerWriters
from tests.invented_rows import Invented, RowInventor
from tests.writer_groups import WriterGroups
from toolkit.servers_watchdog import wait_until

RETRY_S_MAX = 30.0
WRITE_AGAIN_S_MAX = 30.0


class InventedWrites:
    """One service's operations, over those of its tables whose rows have a name."""

    def __init__(self, service: str, inventor: RowInventor, tables: Sequence[str]) -> None:
        self.tables = [inventor.tables[name] for name in tables if inventor.tables[name].key]
        self.subjects = {
            table.name: RowSubject(f"{service}.{table.name}", service, *_sql_of(table))
            for table in self.tables
        }
        self.issued_twice: list[str] = []
        self._inventor = inventor
        self._referred = {
            (one.table, key)
            for table in inventor.tables.values()
            for one in table.references
            for key in one.keys
        }

    def operations(self) -> tuple[Operation, ...]:
        return (
            Operation("insert", 4, self.insert),
            Operation("change", 5, self.change),
            Operation("delete", 2, self.delete),
        )

    def insert(self, attempt: Attempt) -> None:
        """Insert a row that nothing will refer to."""
        table = attempt.chance.choice(self.tables)
        values = self._inventor.values(table)
        if values is None:
            raise NothingToDo
        subject = self.subjects[table.name]
        query = _query(
            "INSERT INTO {} ({}) VALUES ({}) RETURNING {{}}",
            sql.Identifier(table.name),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join([sql.Placeholder()] * len(values)),
        )
        try:
            attempt.add(subject, query, *values.values())
        except psycopg.errors.UniqueViolation as error:
            if error.diag.constraint_name == table.key_name and not values.keys() & set(table.key):
                self.issued_twice.append(str(error))
            raise
        attempt.remember(table.name, attempt.rows[-1].key)

    def change(self, attempt: Attempt) -> None:
        """Update a column of a row that was there before."""
        table = attempt.chance.choice(self.tables)
        columns = [
            column
            for column in table.columns
            if column.name not in table.key
            and not column.generated
            and (table.name, column.name) not in self._referred
            and not any(column.name in one.columns for one in table.references)
        ]
        if not columns or not table.rows:
            raise NothingToDo
        column, row = attempt.chance.choice(columns), attempt.chance.choice(table.rows)
        attempt.query(
            _query(
                "UPDATE {} SET {} = %s WHERE {} = %s",
                sql.Identifier(table.name),
                sql.Identifier(column.name),
                sql.SQL(self.subjects[table.name].key),
            ),
            self._inventor.value(column),
            "/".join(str(row[key]) for key in table.key),
        )

    def delete(self, attempt: Attempt) -> None:
        """Delete a row of one's own."""
        table = attempt.chance.choice(self.tables)
        subject = self.subjects[table.name]
        query = _query(
            "DELETE FROM {} WHERE {} = %s RETURNING {{}}",
            sql.Identifier(table.name),
            sql.SQL(subject.key),
        )
        attempt.remove(subject, query, attempt.recall(table.name))


class InventedTraffic(WriterGroups):
    """The writers of all services and of the ledger; they follow the routing file."""

    def __init__(
        self,
        source: str,
        tables: Mapping[str, Sequence[str]],
        *,
        ledger: str,
        routing: Path,
        history_dir: Path,
        rate: float = 12.0,
    ) -> None:
        """`tables` are each service's own; `ledger` is the service that has the ledger."""
        self._history_dir, self._ledger_at = history_dir, ledger
        self._subjects = by_name(ENTRIES, ENTRY_COUNTS, BALANCES)
        self._writes: list[InventedWrites] = []
        crews: dict[str, Crew] = {}
        seed = secrets.token_hex(4)
        with psycopg.connect(source) as connection:
            for service, names in tables.items():
                writes = InventedWrites(service, RowInventor(connection, seed), names)
                self._writes.append(writes)
                self._subjects = {**self._subjects, **by_name(*writes.subjects.values())}
                writer = Writer(
                    service,
                    writes.operations(),
                    place=_place(routing, service),
                    history_dir=history_dir,
                    interval_s=1 / rate,
                    seed=seed,
                    retry_s_max=RETRY_S_MAX,
                )
                crews[service] = Crew([writer])
        writers = LedgerWriters(
            _place(routing, ledger), history_dir, writers=1, rate=rate, retry_s_max=RETRY_S_MAX
        )
        super().__init__(writers, crews)

    def flows(self, more: int = 10) -> None:
        """Return when every group of writers was acknowledged some more."""
        before = self.tallies()

        def all_acknowledged() -> bool:
            now = self.tallies()
            return all(now[one].acknowledged >= before[one].acknowledged + more for one in now)

        assert wait_until(all_acknowledged, timeout_s=WRITE_AGAIN_S_MAX), self.tallies()

    def issued_twice(self) -> list[str]:
        """What the databases said of numbers that they gave away again."""
        return [said for writes in self._writes for said in writes.issued_twice]

    def check(self, places: Mapping[str, str]) -> HistoryReport:
        """Hold the histories against the databases; the writers must be at rest."""
        with_ledger = {"ledger": places[self._ledger_at], **places}
        return check_history(self._history_dir, with_ledger, self._subjects)


def _place(routing: Path, service: str) -> Callable[[], str]:
    places = Routing(routing)  # read by one thread
    return lambda: places.place(service, service)


def _sql_of(table: Invented) -> tuple[str, str]:
    """The table, and its key as one text."""
    keys = [sql.SQL("{}::text").format(sql.Identifier(name)) for name in table.key]
    joined = sql.SQL("concat_ws('/', {})").format(sql.SQL(", ").join(keys))
    return sql.Identifier(table.name).as_string(None), joined.as_string(None)


def _query(text: LiteralString, *parts: sql.Composable) -> str:
    return sql.SQL(text).format(*parts).as_string(None)
