"""Fences: triggers that refuse an application's writes on the side that does not lead.

CREATE TRIGGER takes a SHARE ROW EXCLUSIVE lock: it waits for every writer in
flight on the table and refuses every later one, whatever its snapshot and role.
Revoked privileges and read-only defaults lose writes that were under way.

The applier is let through by a session setting, not by its role: where an
application logs in as the role that runs the split, the role would tell nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, LiteralString

import psycopg
from psycopg import sql

from cdc.connect import Connection
from cdc.crash import crash_point
from cdc.holders import advice, holding
from plans.catalog import Table, TableName
from plans.errors import GivenUp
from plans.names import APPLIER_SETTING

TRIGGER = "dbsplit_fence"
PART_TRIGGER = "dbsplit_fence_part"  # for each row, where others still write the table
TRUNCATE_TRIGGER = "dbsplit_fence_truncate"  # beside that one, which cannot see TRUNCATE
INSERT_TRIGGER = "dbsplit_fence_insert"  # on a side that leads, and is open for all but inserts
ROWS_TRIGGER = "dbsplit_fence_rows"  # on a side that leads, and is open for its own rows alone
ON_LEAVES = (TRIGGER, TRUNCATE_TRIGGER, INSERT_TRIGGER)  # a leaf's row trigger is its table's
ALL_TRIGGERS = (*ON_LEAVES, PART_TRIGGER, ROWS_TRIGGER)
SQLSTATE = "25006"  # read_only_sql_transaction: what drivers take for "not here any more"
ROW_SQLSTATE = "23514"  # check_violation: the row is wrong here, whenever it is written

REFUSE = sql.SQL(
    "CREATE OR REPLACE FUNCTION dbsplit.refuse() RETURNS trigger LANGUAGE plpgsql AS $refuse$"
    " BEGIN RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], HINT = TG_ARGV[1], ERRCODE = {state};"
    " END $refuse$"
).format(state=sql.Literal(SQLSTATE))


@dataclass(frozen=True, slots=True)
class Part:
    """What of a table is fenced while other services still write the rest."""

    service: str
    predicate: str | None = None  # rows of a table split by rows
    columns: tuple[str, ...] = ()  # columns, but the key, of one split by columns


@dataclass(frozen=True, slots=True)
class Fence:
    """The fence of one table: what is refused, and what the writer is told."""

    split: str
    table: Table
    message: str
    hint: str
    parts: tuple[Part, ...] = ()  # () fences the whole table
    inserts_only: bool = False
    rows: str | None = None  # fences all rows for which this is not true
    is_last: bool = True  # whether it takes the place of all others

    @property
    def relations(self) -> tuple[TableName, ...]:
        """The relations that carry a trigger: leaves can be written directly."""
        return (self.table.name, *self.table.leaves)

    @property
    def trigger(self) -> str:
        """The trigger by which each of the relations tells that the fence stands."""
        if self.parts:
            return PART_TRIGGER
        if self.rows is not None:
            return ROWS_TRIGGER
        return INSERT_TRIGGER if self.inserts_only else TRIGGER


def moved(split: str, table: Table, services: Iterable[str]) -> Fence:
    """The fence of a table that its service took along."""
    names = " and ".join(sorted(services))
    return Fence(
        split,
        table,
        f"table {table.name.name} has moved to service {names}",
        f"write to the database of service {names}",
    )


def not_yet(split: str, table: Table, service: str) -> Fence:
    """The fence of a table in a target that does not lead yet."""
    return Fence(
        split,
        table,
        f"table {table.name.name} has not moved to service {service}",
        "write to the source; this database follows it",
    )


def no_inserts(split: str, table: Table, service: str, missing: Iterable[str]) -> Fence:
    """What stays of a fence where rows that the service inserts could not travel back."""
    return Fence(
        split,
        table,
        f"rows of {table.name.name} cannot be inserted by service {service} until the split is "
        f"complete: the source needs {', '.join(missing)}, and a rollback would not have it",
        "let the service that owns these columns insert the row, or give them a default in the "
        "source before the cutover",
        inserts_only=True,
    )


def own_rows(
    split: str,
    table: Table,
    service: str,
    others: Iterable[str],
    predicate: str,
    *,
    is_last: bool,
) -> Fence:
    """What stays of a fence around a table whose other rows other services own.

    A row that came to be another service's here would be in both databases, and each
    would go on writing it.  `is_last` if no other fence comes in place of the whole one.
    """
    return Fence(
        split,
        table,
        f"this row of {table.name.name} is not one of service {service}: {predicate} is not true",
        f"such rows belong to the database of service {' or '.join(sorted(others))}: let that "
        "service insert the row, and delete it here",
        rows=predicate,
        is_last=is_last,
    )


def copy_of(split: str, table: Table, owners: Iterable[str]) -> Fence:
    """The fence of a table that is fed from rows that other services own, or nobody."""
    names = " and ".join(sorted(owners))
    whose = f"the data of service {names}" if names else "the source"
    return Fence(
        split,
        table,
        f"table {table.name.name} is kept from {whose}, and read-only here",
        f"write to the database of service {names}" if names else "write to the source",
    )


def set_up(connection: Connection) -> None:
    """Create what the triggers call; harmless when repeated."""
    connection.execute(REFUSE)


def raise_fences(
    connection: Connection, fences: Iterable[Fence], *, lock_timeout_ms: int, deadline: float
) -> dict[str, float]:
    """Raise the fences, one relation per transaction, in the order of their names.

    All in one transaction would hold the first table's lock while it waits for
    the last one's.  `deadline` is of `time.monotonic()`; GivenUp when it passes.
    Returns the milliseconds that each relation took.
    """
    took: dict[str, float] = {}
    for fence in in_order(fences):
        for relation in fence.relations:
            began = time.monotonic()
            _retry(
                connection,
                statements(fence, relation),
                lock_timeout_ms=lock_timeout_ms,
                deadline=deadline,
                what="the lock that fences",
                relation=relation,
            )
            took[str(relation)] = round((time.monotonic() - began) * 1000, 1)
            crash_point("cutover.fence_table")
    return took


def in_order(fences: Iterable[Fence]) -> list[Fence]:
    """The order in which fences are raised: that of their tables' names, always."""
    return sorted(fences, key=lambda fence: fence.table.name)


def drop_fences(
    connection: Connection,
    tables: Iterable[Table],
    *,
    lock_timeout_ms: int,
    deadline: float,
) -> None:
    """Let writers in again; harmless where there is no fence.

    DROP TRIGGER waits for all who read the table, and a report may read for hours.
    A fence that cannot be dropped at once is disabled, which waits for writers only.
    """
    standing = fenced(connection, *ALL_TRIGGERS)
    for table in sorted(tables, key=lambda table: table.name):
        for relation in (table.name, *table.leaves):
            if relation not in standing:
                continue
            triggers = ALL_TRIGGERS if relation == table.name else ON_LEAVES
            drop = _drop(relation, triggers)
            if _try(connection, drop, lock_timeout_ms=lock_timeout_ms):
                continue
            _retry(
                connection,
                tuple(
                    _disable(relation, trigger)
                    for trigger in triggers
                    if relation in fenced(connection, trigger)
                ),
                lock_timeout_ms=lock_timeout_ms,
                deadline=deadline,
                what="the lock that opens",
                relation=relation,
            )


def unfenced(connection: Connection, fences: Iterable[Fence]) -> list[TableName]:
    """The relations whose fence is not there, or not enabled always."""
    standing = {
        trigger: fenced(connection, trigger)
        for trigger in (PART_TRIGGER, INSERT_TRIGGER, ROWS_TRIGGER, TRIGGER)
    }
    return [
        relation
        for fence in fences
        for relation in fence.relations
        if relation not in standing[fence.trigger]
    ]


def fenced(connection: Connection, *triggers: str) -> frozenset[TableName]:
    """The relations of a database that carry a fence which is always enabled."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE t.tgname = ANY (%s) AND t.tgenabled = 'A'",
        [list(triggers or (TRIGGER, PART_TRIGGER))],
    ).fetchall()
    return frozenset(TableName(schema, name) for schema, name in rows)


def statements(fence: Fence, relation: TableName) -> tuple[sql.Composed, ...]:
    """What raises a fence on one of its relations, all in one transaction."""
    passing = sql.SQL("current_setting({}, true) IS DISTINCT FROM {}").format(
        APPLIER_SETTING, fence.split
    )
    if fence.parts:
        on_leaf = relation != fence.table.name
        return tuple(_create_partial(fence, relation, passing, on_leaf=on_leaf))
    if fence.rows is not None:
        if relation != fence.table.name:
            # It has the table's own row trigger.
            return _drop(relation, ON_LEAVES if fence.is_last else ())
        return tuple(_create_rows(fence, fence.rows, passing))
    # A partial fence stays below one around the whole table.  Without it, leaves
    # would be open from its end until their own turn.
    steps = list(_drop(relation, ON_LEAVES))
    events = "INSERT" if fence.inserts_only else "INSERT OR UPDATE OR DELETE OR TRUNCATE"
    steps.append(
        sql.SQL(
            "CREATE TRIGGER {trigger} BEFORE {events} ON {table}"
            " FOR EACH STATEMENT WHEN ({passing})"
            " EXECUTE FUNCTION dbsplit.refuse({message}, {hint})"
        ).format(
            trigger=sql.Identifier(fence.trigger),
            events=sql.SQL(events),
            table=relation.identifier,
            passing=passing,
            message=fence.message,
            hint=fence.hint,
        )
    )
    steps.append(_enable(relation, fence.trigger))
    return tuple(steps)


def _create_partial(
    fence: Fence, relation: TableName, passing: sql.Composed, *, on_leaf: bool
) -> list[sql.Composed]:
    """A fence around some rows or columns; the rest of the table stays writable.

    The trigger comes AFTER the row: the table's own BEFORE triggers may change it
    yet, and in which order they run depends on their names.  That of a partitioned
    table reaches its leaves by itself, but for TRUNCATE.
    """
    truncate = [
        sql.SQL(
            "CREATE TRIGGER {trigger} BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
            " WHEN ({passing}) EXECUTE FUNCTION dbsplit.refuse({message}, {hint})"
        ).format(
            trigger=sql.Identifier(TRUNCATE_TRIGGER),
            table=relation.identifier,
            passing=passing,
            message=fence.message,
            hint=fence.hint,
        ),
        _enable(relation, TRUNCATE_TRIGGER),
    ]
    if on_leaf:
        return [*_drop(relation, ON_LEAVES), *truncate]
    tests = sql.SQL(" ").join(_test(part, fence) for part in fence.parts)
    return [
        *_drop(relation, ALL_TRIGGERS),
        *_for_each_row(fence, tests, passing, events="INSERT OR UPDATE OR DELETE"),
        *truncate,
    ]


def _create_rows(fence: Fence, predicate: str, passing: sql.Composed) -> list[sql.Composed]:
    """A fence around the rows that are others', by what an INSERT or UPDATE has made."""
    # Not the state by which writers are told to go elsewhere: repeating it never helps.
    refuse = _refuse(fence, fence.hint, state=ROW_SQLSTATE)
    test = _if_row(fence, "NEW", sql.SQL("({}) IS NOT TRUE").format(sql.SQL(predicate)), refuse)
    return [
        *_drop(fence.table.name, ALL_TRIGGERS if fence.is_last else (PART_TRIGGER, ROWS_TRIGGER)),
        *_for_each_row(fence, test, passing, events="INSERT OR UPDATE"),
    ]


def _for_each_row(
    fence: Fence, tests: sql.Composable, passing: sql.Composed, *, events: LiteralString
) -> tuple[sql.Composed, ...]:
    """The fence's row trigger, and the function that it calls."""
    relation = fence.table.name
    function = _refusing(relation)
    return (
        sql.SQL(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql"
            " SET search_path = {schema}, pg_catalog AS {body}"
        ).format(
            function=function,
            schema=sql.Identifier(relation.schema),
            body=sql.Literal(
                sql.SQL("#variable_conflict use_column\nBEGIN {} RETURN NULL; END")
                .format(tests)
                .as_string(None)
            ),
        ),
        sql.SQL(
            "CREATE TRIGGER {trigger} AFTER {events} ON {table}"
            " FOR EACH ROW WHEN ({passing}) EXECUTE FUNCTION {function}()"
        ).format(
            trigger=sql.Identifier(fence.trigger),
            events=sql.SQL(events),
            table=relation.identifier,
            passing=passing,
            function=function,
        ),
        _enable(relation, fence.trigger),
    )


def _enable(relation: TableName, trigger: str) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(
        relation.identifier, sql.Identifier(trigger)
    )


def _disable(relation: TableName, trigger: str) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}").format(
        relation.identifier, sql.Identifier(trigger)
    )


def _refusing(relation: TableName) -> sql.Identifier:
    """The function of one relation's partial fence; names may be too long to be joined."""
    digest = hashlib.sha256(f"{relation.schema}\0{relation.name}".encode()).hexdigest()[:12]
    return sql.Identifier("dbsplit", f"refuse_{digest}")


def _test(part: Part, fence: Fence) -> sql.Composed:
    refuse = _refuse(fence, f"write to the database of service {part.service}")
    if part.predicate is not None:
        predicate = sql.SQL("({})").format(sql.SQL(part.predicate))
        return sql.SQL(" ").join(_if_row(fence, name, predicate, refuse) for name in ("NEW", "OLD"))
    old = sql.SQL(", ").join(sql.SQL("OLD.{}").format(sql.Identifier(c)) for c in part.columns)
    new = sql.SQL(", ").join(sql.SQL("NEW.{}").format(sql.Identifier(c)) for c in part.columns)
    return sql.SQL(
        "IF TG_OP = 'UPDATE' AND ROW({})::text IS DISTINCT FROM ROW({})::text THEN {} END IF;"
    ).format(old, new, refuse)


def _if_row(
    fence: Fence, name: Literal["NEW", "OLD"], condition: sql.Composable, then: sql.Composed
) -> sql.Composed:
    """What is done if a row of the trigger's, where it has one, fulfils a condition."""
    return sql.SQL(
        "IF TG_OP <> {op} AND EXISTS (SELECT FROM (SELECT {row}.*) AS {table}"
        " WHERE {condition}) THEN {then} END IF;"
    ).format(
        op="DELETE" if name == "NEW" else "INSERT",
        row=sql.SQL(name),
        table=sql.Identifier(fence.table.name.name),
        condition=condition,
        then=then,
    )


def _refuse(fence: Fence, hint: str, *, state: str = SQLSTATE) -> sql.Composed:
    return sql.SQL(
        "RAISE EXCEPTION USING MESSAGE = {message}, HINT = {hint}, ERRCODE = {state};"
    ).format(message=fence.message, hint=hint, state=state)


def _drop(relation: TableName, triggers: Iterable[str]) -> tuple[sql.Composed, ...]:
    return tuple(
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
            sql.Identifier(trigger), relation.identifier
        )
        for trigger in triggers
    )


def _retry(
    connection: Connection,
    statements: tuple[sql.Composed, ...],
    *,
    lock_timeout_ms: int,
    deadline: float,
    what: str,
    relation: TableName,
) -> None:
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise GivenUp(
                f"{what} {relation} could not be had in time",
                hint=advice(
                    holding(connection, relation),
                    "end long transactions on the table (pg_stat_activity), or allow a longer "
                    "limits.write_pause_s_max",
                ),
            )
        wait_ms = max(1, min(lock_timeout_ms, int(left * 1000)))
        if _try(connection, statements, lock_timeout_ms=wait_ms):
            return
        # Whoever waits behind us gets a turn before the next attempt.
        time.sleep(min(0.02, max(left, 0)))


def _try(
    connection: Connection, statements: tuple[sql.Composed, ...], *, lock_timeout_ms: int
) -> bool:
    """Run statements in one transaction; False if their locks could not be had in time."""
    limit = sql.SQL("SET LOCAL lock_timeout = {}").format(lock_timeout_ms)
    try:
        # Several statements at once are one transaction, and one round trip.
        connection.execute(sql.SQL("; ").join([limit, *statements]), prepare=False)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        return False
    return True
