"""The DDL of fences: their triggers, and the functions that these call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal, LiteralString

from psycopg import sql

from plans.catalog import TableName
from plans.names import APPLIER_SETTING
from toolkit.fence import (
    ALL_TRIGGERS,
    ON_LEAVES,
    PART_TRIGGER,
    ROWS_TRIGGER,
    TRUNCATE_TRIGGER,
    Fence,
    Part,
)

SQLSTATE = "25006"  # read_only_sql_transaction: what drivers take for "not here any more"
ROW_SQLSTATE = "23514"  # check_violation: the row is wrong here, whenever it is written

REFUSE = sql.SQL(
    "CREATE OR REPLACE FUNCTION dbsplit.refuse() RETURNS trigger LANGUAGE plpgsql AS $refuse$"
    " BEGIN RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], HINT = TG_ARGV[1], ERRCODE = {state};"
    " END $refuse$"
).format(state=sql.Literal(SQLSTATE))


def create(fence: Fence, relation: TableName) -> tuple[sql.Composed, ...]:
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
            return drop(relation, ON_LEAVES if fence.is_last else ())
        return tuple(_create_rows(fence, fence.rows, passing))
    # A partial fence stays below one around the whole table.  Without it, leaves
    # would be open from its end until their own turn.
    steps = list(drop(relation, ON_LEAVES))
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
        return [*drop(relation, ON_LEAVES), *truncate]
    tests = sql.SQL(" ").join(_test(part, fence) for part in fence.parts)
    return [
        *drop(relation, ALL_TRIGGERS),
        *_for_each_row(fence, tests, passing, events="INSERT OR UPDATE OR DELETE"),
        *truncate,
    ]


def _create_rows(fence: Fence, predicate: str, passing: sql.Composed) -> list[sql.Composed]:
    """A fence around the rows that are others', by what an INSERT or UPDATE has made."""
    # Not the state by which writers are told to go elsewhere: repeating it never helps.
    refuse = _refuse(fence, fence.hint, state=ROW_SQLSTATE)
    test = _if_row(fence, "NEW", sql.SQL("({}) IS NOT TRUE").format(sql.SQL(predicate)), refuse)
    return [
        *drop(fence.table.name, ALL_TRIGGERS if fence.is_last else (PART_TRIGGER, ROWS_TRIGGER)),
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


def disable(relation: TableName, trigger: str) -> sql.Composed:
    """What opens a relation without waiting for those who read it."""
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


def drop(relation: TableName, triggers: Iterable[str]) -> tuple[sql.Composed, ...]:
    """What takes a fence away, whichever of the triggers it has."""
    return tuple(
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
            sql.Identifier(trigger), relation.identifier
        )
        for trigger in triggers
    )
