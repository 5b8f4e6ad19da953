"""What the log may still tell in another way than the catalog, once a change is carried over.

A column that was added has in the rows of before what the server keeps for them, or NULL;
see `cdc.past` for how such rows are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import pq, sql

from cdc.connect import Connection, connect
from plans.catalog import Catalog, TableName
from plans.evolution import Change, Kind, Numbers
from plans.load import Plan
from plans.routes import Route
from toolkit.refresh_attached import Domain
from toolkit.refresh_composites import Attributes
from toolkit.refresh_seen import Noted, Seen, ignored_columns
from toolkit.schema_numbers import read_numbers

Fills = Mapping[tuple[TableName, str], Mapping[str, str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the decision is made of."""

    noted: Noted
    seen: Seen
    changes: tuple[Change, ...]
    anew: frozenset[TableName]  # source tables that are copied anew
    ignored: Mapping[TableName, set[str]]
    fills: Fills
    labels: Mapping[TableName, tuple[str, ...]]
    moved: frozenset[str]
    domains: Mapping[TableName, Domain]
    composites: Mapping[TableName, Attributes]


def fills_of(
    source: Connection,
    catalog: Catalog,
    changes: list[Change],
    anew: frozenset[TableName],
    numbers: Mapping[str, Numbers],
) -> Fills:
    """What the rows of before have in each column that was added; None is NULL."""
    found: dict[tuple[TableName, str], Mapping[str, str] | None] = {}
    for change in changes:
        if change.kind is not Kind.ADDED_COLUMN or change.table in anew:
            continue
        column = catalog.tables[change.table].column(change.object)
        if column.generated is not None:
            continue
        missing = numbers[str(change.table)].columns[change.object].missing
        found[change.table, change.object] = (
            _missing_value(source, change.table, change.object, column.type) if missing else None
        )
    return found


def _missing_value(
    source: Connection, table: TableName, column: str, type_: str
) -> Mapping[str, str] | None:
    """The constant that the server keeps for rows of before, in its forms, and as SQL.

    A type may have no binary form: then all rows come as text.
    """
    # It is kept in an array of the column's type; of arrays there are no arrays.
    kept = sql.SQL(
        "((attmissingval::text::text[])[1])::{}"
        if type_.endswith("[]")
        else "(attmissingval::text::{}[])[1]"
    )
    query = sql.SQL(
        "SELECT {kept} FROM pg_attribute WHERE attrelid = {table}::regclass AND attname = {column}"
    ).format(
        kept=kept.format(sql.SQL(type_)),  # of the source's own writing
        table=sql.Literal(table.identifier.as_string(None)),
        column=sql.Literal(column),
    )
    text, binary = (
        source.pgconn.exec_params(query.as_string(None).encode(), None, None, None, form)
        for form in (pq.Format.TEXT, pq.Format.BINARY)
    )
    if text.status != pq.ExecStatus.TUPLES_OK:
        raise psycopg.errors.error_from_result(text)
    if (value := text.get_value(0, 0)) is None:
        return None
    literal = sql.SQL("{}::").format(sql.Literal(value.decode())).as_string(None)
    forms = {"text": value.hex(), "sql": literal + type_}
    if binary.status == pq.ExecStatus.TUPLES_OK:
        forms["binary"] = (binary.get_value(0, 0) or b"").hex()
    return forms


def past_of_log(facts: Facts, followed: set[TableName]) -> dict[str, Any]:
    """What the log may still tell in another way than the catalog, see `cdc.past`."""
    noted, seen, anew = facts.noted, facts.seen, facts.anew
    gone = [list(one) for one in noted.past.get("gone", ())]
    by_table: dict[TableName, list[Change]] = defaultdict(list)
    for change in facts.changes:
        by_table[change.table].append(change)
        relation = change.object if change.kind is Kind.LOST_PARTITION else str(change.table)
        if change.kind in (Kind.GONE_TABLE, Kind.RENAMED_TABLE, Kind.LOST_PARTITION):
            gone.append([*relation.split(".", 1), seen.until])
    shapes = [
        one
        for one in (dict(shape) for shape in noted.past.get("shapes", ()))
        if TableName(*one["table"]) in followed - anew
    ]
    for table, some in sorted(by_table.items()):
        if table not in followed - anew or str(table) not in noted.numbers:
            continue
        renamed = {c.object: c.was for c in some if c.kind is Kind.RENAMED_COLUMN}
        filled = {
            c.object: facts.fills.get((table, c.object))
            for c in some
            if c.kind is Kind.ADDED_COLUMN
        }
        for shape in shapes:
            if TableName(*shape["table"]) == table:
                _go_on(shape, renamed, filled)
        shapes.append(
            {
                "table": [table.schema, table.name],
                "until": seen.until,
                "columns": dict(_announced(noted, table, facts.ignored)),
                "renamed": renamed,
                "filled": filled,
            }
        )
    kept = [[t.schema, t.name, sorted(columns)] for t, columns in sorted(facts.ignored.items())]
    return {"shapes": shapes, "gone": gone, "ignored": kept}


def past_of_leaders(
    plan: Plan, routes: Iterable[Route], facts: Facts
) -> tuple[dict[str, Any], frozenset[TableName]]:
    """The same of the logs of moved services, by service; and tables of which it is unknown.

    Columns that were added there have in the rows of before what their server keeps for
    them, or NULL; a text that was made longer has the same bytes.
    """
    found: dict[str, Any] = {service: dict(one) for service, one in facts.noted.leaders.items()}
    unknown: set[TableName] = set()
    led = [r for r in routes if r.service in facts.moved and r.kind.owned]
    for service in sorted({route.service for route in led}):
        tables = {route.source.name: route for route in led if route.service == service}
        changed = [
            c for c in facts.changes
            if c.table in tables and c.kind in (Kind.ADDED_COLUMN, Kind.WIDENED_COLUMN)
        ]  # fmt: skip
        if not changed:
            continue
        with connect(plan.services[service].dsn, name="dbsplit refresh") as target:
            numbers = read_numbers(target, {c.table.schema for c in changed})
            row = target.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            assert row is not None  # noqa: S101
            shapes = [dict(one) for one in found.get(service, {}).get("shapes", ())]
            for table in sorted({c.table for c in changed}):
                mine = [c for c in changed if c.table == table]
                shape = _of_leader(target, tables[table], numbers[str(table)], mine, facts)
                if shape is None:
                    unknown.add(table)
                    continue
                for one in shapes:
                    if TableName(*one["table"]) == table:
                        _go_on(one, {}, shape["filled"])
                shapes.append({**shape, "until": str(row[0])})
            found[service] = {"shapes": shapes}
    return found, frozenset(unknown)


def _of_leader(
    target: Connection, route: Route, now: Numbers, changes: list[Change], facts: Facts
) -> dict[str, Any] | None:
    """How a leader's table was before; None if what its rows had then is unknown."""
    table, filled = route.source.name, dict[str, Any]()
    then = facts.noted.numbers[str(table)].columns
    old = {c.object: then[c.object].type for c in changes if c.kind is Kind.WIDENED_COLUMN}
    for change in changes:
        if change.kind is not Kind.ADDED_COLUMN or change.object not in now.columns:
            continue
        one = now.columns[change.object]
        if one.missing:
            type_ = route.source.column(change.object).type
            filled[change.object] = _missing_value(target, table, change.object, type_)
        elif one.has_default:
            return None
        else:
            filled[change.object] = None
    generated = {c.name for c in route.source.columns if c.generated is not None}
    return {
        "table": [table.schema, table.name],
        "columns": {
            name: list(old.get(name, one.type))
            for name, one in now.columns.items()
            if name not in filled and name not in generated
        },
        "renamed": {},
        "filled": filled,
    }


def _announced(
    noted: Noted, table: TableName, ignored: Mapping[TableName, set[str]]
) -> Iterator[tuple[str, list[int]]]:
    """A table's columns as the stream announced them; generated ones are not sent."""
    shape = noted.shapes[str(table)]["columns"]
    hidden = ignored.get(table, set()) | ignored_columns(noted).get(table, frozenset())
    for name, one in noted.numbers[str(table)].columns.items():
        if name in shape and shape[name][2] is None and name not in hidden:
            yield name, [one.type_oid, one.type_mod]


def _go_on(shape: dict[str, Any], renamed: Mapping[str, str], filled: Mapping[str, Any]) -> None:
    """An older shape, seen from one change further on."""
    before_renamed, before_filled = shape["renamed"], shape["filled"]
    shape["renamed"] = {
        **{name: old for name, old in before_renamed.items() if name not in renamed.values()},
        **{new: before_renamed.get(old, old) for new, old in renamed.items()},
    }
    shape["filled"] = {
        **{name: value for name, value in before_filled.items() if name not in renamed.values()},
        **{new: before_filled[old] for new, old in renamed.items() if old in before_filled},
        **filled,
    }
