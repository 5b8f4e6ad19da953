"""What a refresh is to do, decided once and noted before the first step.

Whoever finds the note, goes on from it: nothing is decided a second time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from psycopg import pq, sql

from cdc.connect import Connection, connect
from plans.catalog import Catalog, TableName
from plans.catalog_read import read_catalog
from plans.compile import compile_routes
from plans.evolution import Change, Kind, Numbers
from plans.load import Plan
from plans.routes import Kind as Kinds
from toolkit.opened import Split, schemas_of, shape_of
from toolkit.prepare import digest_of, entries_of
from toolkit.refresh_ddl import Revision, Wanted, revision
from toolkit.refresh_seen import Noted, Seen, ignored_columns
from toolkit.schema_numbers import read_labels
from toolkit.target_server import ask_server, schema_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceWork:
    """What is run in one target."""

    revision: Revision
    routes: tuple[str, ...]  # that are copied anew
    forgotten: tuple[str, ...]  # routes that are no more
    undoing: Mapping[str, list[str]]
    made: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A whole refresh."""

    id: str
    said: tuple[str, ...]  # the changes, in words
    services: Mapping[str, ServiceWork]
    digest: str
    shapes: Mapping[str, Any]
    numbers: Mapping[str, Any]
    entries: Mapping[str, Any]
    past: Mapping[str, Any]
    publish: tuple[tuple[str, str], ...]
    unpublish: tuple[tuple[str, str], ...]
    until: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, noted: Mapping[str, Any]) -> Work:
        """As it was noted."""
        services = {
            service: ServiceWork(**{**one, "revision": Revision(**one["revision"])})
            for service, one in noted["services"].items()
        }
        return cls(**{**noted, "services": services})

    @property
    def copied(self) -> tuple[str, ...]:
        """The routes that are copied anew."""
        return tuple(route for one in self.services.values() for route in one.routes)


def decide(
    plan: Plan,
    source: Connection,
    noted: Noted,
    seen: Seen,
    ignored: Mapping[TableName, set[str]],
    *,
    also_anew: frozenset[TableName] = frozenset(),
) -> Work:
    """What brings the targets to where plan and source are; `ignored` columns stay behind.

    `also_anew` are tables that are copied anew though it may not be necessary.

    Tries the targets' DDL and rolls it back.  Raises PlanInvalid for a plan that does not
    fit the source, NotReady for a statement that a target refuses.
    """
    catalog = _without(seen, ignored)
    routes = compile_routes(plan, catalog)
    split = Split(plan=plan, catalog=catalog, targets={}, routes=routes)
    changes = [c for c in seen.changes if c.object not in ignored.get(c.table, ())]
    anew = frozenset(
        TableName(*change.now.split(".", 1)) if change.kind is Kind.RENAMED_TABLE else change.table
        for change in changes
        if not change.in_place
    )
    anew |= also_anew
    facts = _Facts(
        noted=noted,
        seen=seen,
        changes=tuple(changes),
        anew=anew,
        ignored=ignored,
        fills=_fills(source, catalog, changes, anew, seen.numbers),
        labels=read_labels(source),
    )
    services = {service: _service(split, source, service, facts) for service in plan.services}
    followed = sorted({route.source.name for route in routes})
    tables = {route.source.name: route.source for route in routes}
    before = {TableName(*name.split(".", 1)) for name in noted.numbers}
    work = Work(
        id="",
        said=tuple(str(change) for change in changes),
        services=services,
        digest=plan.digest,
        shapes={str(name): shape_of(tables[name]) for name in followed},
        numbers={
            str(name): _visible(seen.numbers[str(name)], ignored.get(name, set())).as_dict()
            for name in followed
        },
        entries=entries_of(plan),
        past=_past(facts, set(followed)),
        publish=tuple((name.schema, name.name) for name in followed if name not in before),
        unpublish=tuple((name.schema, name.name) for name in sorted(before - set(followed))),
        until=seen.until,
    )
    return replace(work, id=digest_of(json.dumps(work.as_dict(), sort_keys=True))[:12])


def _without(seen: Seen, ignored: Mapping[TableName, set[str]]) -> Catalog:
    """The source without what stays behind for now."""
    tables = {
        name: replace(
            table, columns=tuple(c for c in table.columns if c.name not in ignored.get(name, ()))
        )
        for name, table in seen.catalog.tables.items()
        if seen.catalog.root(name) not in seen.unassigned
    }
    return replace(seen.catalog, tables=tables)


def _visible(numbers: Numbers, ignored: set[str]) -> Numbers:
    return replace(
        numbers, columns={n: one for n, one in numbers.columns.items() if n not in ignored}
    )


Fills = Mapping[tuple[TableName, str], Mapping[str, str] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What the decision is made of."""

    noted: Noted
    seen: Seen
    changes: tuple[Change, ...]
    anew: frozenset[TableName]  # source tables that are copied anew
    ignored: Mapping[TableName, set[str]]
    fills: Fills
    labels: Mapping[TableName, tuple[str, ...]]


def _service(split: Split, source: Connection, service: str, facts: _Facts) -> ServiceWork:
    dsn = split.dsn(service)
    mine = split.routes_of([service])
    with connect(dsn, name="dbsplit refresh") as target:
        there = read_catalog(target, schemas_of(target))
        enums = frozenset(read_labels(target))
        row = target.execute(
            "SELECT coalesce(settings -> 'made', '[]') FROM dbsplit.split WHERE split = %s",
            [split.name],
        ).fetchone()
        copied = [r for (r,) in target.execute("SELECT route FROM dbsplit.copied").fetchall()]
    schema = schema_of(split, source, service, ask_server(dsn))
    made_for_us = {route.target for route in mine if route.kind is not Kinds.DERIVED}
    gone = tuple(
        change.table
        for change in facts.changes
        if change.kind in (Kind.GONE_TABLE, Kind.RENAMED_TABLE)
        and change.table in there.tables
        and str(change.table) in facts.noted.shapes
    )
    wanted = Wanted(
        routes=mine,
        changes=facts.changes,
        anew=facts.anew & made_for_us,
        gone=gone,
        schema=schema,
        there=there,
        literals={place: fill["sql"] for place, fill in facts.fills.items() if fill is not None},
        labels=facts.labels,
        enums_there=enums,
        made=frozenset(row[0]) if row else frozenset(),
    )
    ids = {route.id for route in mine}
    statements = (*schema.before_data, *schema.after_data)
    return ServiceWork(
        revision=revision(dsn, wanted),
        routes=tuple(r.id for r in mine if r.source.name in facts.anew or r.id not in copied),
        forgotten=tuple(sorted(set(copied) - ids)),
        undoing={
            "before": [statement.drop for statement in schema.before_data],
            "after": [statement.drop for statement in schema.after_data],
        },
        made=tuple(sorted({digest_of(statement.create) for statement in statements})),
    )


def _fills(
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
    """The constant that the server keeps for rows of before, in both forms, and as SQL."""
    query = sql.SQL(
        "SELECT (attmissingval::text::{type}[])[1] FROM pg_attribute"
        " WHERE attrelid = {table}::regclass AND attname = {column}"
    ).format(
        type=sql.SQL(type_),  # of the source's own writing
        table=sql.Literal(table.identifier.as_string(None)),
        column=sql.Literal(column),
    )
    forms: dict[str, bytes | None] = {}
    for form, number in (("text", pq.Format.TEXT), ("binary", pq.Format.BINARY)):
        result = source.pgconn.exec_params(query.as_string(None).encode(), None, None, None, number)
        forms[form] = result.get_value(0, 0)
    text, binary = forms["text"], forms["binary"]
    if text is None or binary is None:
        return None
    literal = sql.SQL("{}::").format(sql.Literal(text.decode())).as_string(None)
    return {"text": text.hex(), "binary": binary.hex(), "sql": literal + type_}


def _past(facts: _Facts, followed: set[TableName]) -> dict[str, Any]:
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
