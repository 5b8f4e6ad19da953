"""The statements of the initial copy; `dbsplit plan explain` shows the same."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from plans.routes import Kind, Route, RouteColumn


@dataclass(frozen=True, slots=True)
class CopyTask:
    """One route to copy, and where to."""

    route: Route
    target_dsn: str
    alone: bool  # no other route fills the same table


@dataclass(frozen=True, slots=True)
class Blocks:
    """A range of a source table's blocks; its last range has no end."""

    first: int
    end: int | None  # the first block that is not in it


@dataclass(frozen=True, slots=True)
class CopyStatements:
    """What copies one route, or a part of it."""

    empty: sql.Composed | None  # on the target; None where other parts are there already
    read: sql.Composed  # on the source
    write: sql.Composed  # on the target


def largest_first(task: CopyTask) -> int:
    """The order of the copy, so that no large table is left for the end."""
    return -task.route.source.size_bytes


def statements_of(task: CopyTask) -> CopyStatements:
    """The statements that copy a whole route in one transaction."""
    route = task.route
    fresh = is_fresh(task)
    # FREEZE spares the target a second writing of every page; the manual, COPY.
    write = _write(route, freeze=fresh and route.source.kind == "r")
    return CopyStatements(emptying(task), _read(route, None), write)


def statements_of_part(task: CopyTask, blocks: Blocks) -> CopyStatements:
    """The statements that copy the rows of some blocks, beside those of others."""
    return CopyStatements(None, _read(task.route, blocks), _write(task.route, freeze=False))


def is_fresh(task: CopyTask) -> bool:
    """Whether the target's table holds nothing but this route's rows, and is filled by us only."""
    return task.alone and task.route.kind is not Kind.DERIVED


def emptying(task: CopyTask) -> sql.Composed:
    """Remove what an earlier attempt has left of a route."""
    route = task.route
    if is_fresh(task):
        return sql.SQL("TRUNCATE {}").format(route.target.identifier)
    conditions = [
        sql.SQL("{} = ({})").format(sql.Identifier(name), sql.SQL(value))
        for name, value in route.fixed
    ]
    return sql.SQL("DELETE FROM {} WHERE {}").format(
        route.target.identifier,
        sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true"),
    )


def rows_of(route: Route, blocks: Blocks | None = None) -> sql.Composed:
    """The query for a route's rows, or those in some blocks, as the source computes them."""
    where = sql.SQL("({})").format(sql.SQL(route.where)) if route.where else sql.SQL("true")
    conditions: list[sql.Composable] = [where]
    if blocks is not None:
        conditions.append(sql.SQL("ctid >= {}").format(_place(blocks.first)))
        if blocks.end is not None:
            conditions.append(sql.SQL("ctid < {}").format(_place(blocks.end)))
    return sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(map(leader_value, route.columns)),
        route.source.name.identifier,
        sql.SQL(" AND ").join(conditions),
    )


def leader_value(column: RouteColumn) -> sql.Composed:
    """A column's value as the source computes it.

    What is computed is cast to the target's type if the source has that too,
    which it has if the name needs no schema; otherwise its text is handed over.
    """
    if column.plain is not None:
        return sql.SQL("{}").format(sql.Identifier(column.plain))
    type_ = column.type if column.type and "." not in column.type else "text"
    return sql.SQL("({})::{}").format(sql.SQL(column.expression), sql.SQL(type_))


def without_doubles(route: Route) -> sql.Composed:
    """Leave one row of each key in the route's table, which has no index yet."""
    return sql.SQL(
        "DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM (SELECT ctid,"
        " row_number() OVER (PARTITION BY {key}) AS nth FROM {table}) AS r WHERE nth > 1)"
    ).format(
        table=route.target.identifier,
        key=sql.SQL(", ").join(map(sql.Identifier, route.key)),
    )


def _place(block: int) -> sql.Literal:
    return sql.Literal(f"({block},0)")


def _form(route: Route) -> sql.SQL:
    return sql.SQL("binary" if all(column.binary for column in route.columns) else "text")


def _read(route: Route, blocks: Blocks | None) -> sql.Composed:
    return sql.SQL("COPY ({}) TO STDOUT (FORMAT {})").format(rows_of(route, blocks), _form(route))


def _write(route: Route, *, freeze: bool) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT {}{})").format(
        route.target.identifier,
        sql.SQL(", ").join(sql.Identifier(column.name) for column in route.columns),
        _form(route),
        sql.SQL(", FREEZE true" if freeze else ""),
    )
