"""Reading the rows of given keys on one side, by the key's index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg import sql

from cdc.connect import Connection
from validators.canonical import Hashing, is_builtin, trusted
from validators.evidence import Reading, readings
from validators.fingerprint import Extent, from_table
from validators.session import read_rows
from validators.sides import Key, KeyColumn, Side

BY_INDEX = MappingProxyType(
    {
        # For 10,000 keys among a million rows the planner likes to merge all of the index,
        # with workers: 160 ms, where looking each of them up takes 40.
        "enable_mergejoin": "off",
        "max_parallel_workers_per_gather": "0",
        "random_page_cost": "1.1",  # the rows asked for were mostly just written
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """How keys are looked up."""

    hashing: Hashing
    same_text: bool
    """Whether only rows whose key has the very text that is asked for are meant.

    Otherwise all rows whose key is equal to it are: 1.00 is found by 1.0.
    """
    timeout_s: float = 0


def read_keys(
    connection: Connection, side: Side, *, extent: Extent, keys: Sequence[Key], how: Lookup
) -> dict[Key, Reading]:
    """What the side holds of these keys; keys without rows are left out.

    For a table without a key the "keys" are row hashes, and it is scanned.
    """
    wanted = {"h": side.row_hash(how.hashing), "v": sql.SQL("xmin::text::int8")}
    planner = {
        **(BY_INDEX if side.key else {}),
        "statement_timeout": f"{how.timeout_s * 1000:.0f}ms",
    }

    def query(some: Sequence[Key]) -> sql.Composed:
        return sql.SQL("SELECT k.n, r.h, count(*), sum(r.v)::int8 FROM {} GROUP BY 1, 2").format(
            matching(side, extent, some, how, wanted)
        )

    return readings(found(connection, side, keys, query, planner))


def found(
    connection: Connection,
    side: Side,
    keys: Sequence[Key],
    query: Callable[[Sequence[Key]], sql.Composed],
    planner: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[Any, ...]]:
    """Keys, each with what a query finds of it.

    `query` is given some of the keys, whose `parameters` it has; what it selects begins
    with ``k.n`` of `matching`.
    """
    for some in alike(keys):
        yield from _found(connection, side, some, query, planner)


def _found(
    connection: Connection,
    side: Side,
    keys: Sequence[Key],
    query: Callable[[Sequence[Key]], sql.Composed],
    planner: Mapping[str, str],
) -> list[tuple[Any, ...]]:
    try:
        rows = read_rows(connection, side.schemas, query(keys), parameters(keys), planner=planner)
    except (psycopg.DataError, psycopg.errors.CheckViolation):
        possible = _possible(connection, side, keys)
        if len(possible) == len(keys):
            raise
        return _found(connection, side, possible, query, planner) if possible else []
    return [(keys[number - 1], *rest) for number, *rest in rows]


def _possible(connection: Connection, side: Side, keys: Sequence[Key]) -> list[Key]:
    """Those of the keys that a row of this side can have.

    Others have a label that the side's enum has not, a value that its domain refuses, or
    a character that its encoding has not: no row there has them.
    """
    refused = [
        _refused(connection, side, column, list({key[n] for key in keys} - {None}))
        for n, column in enumerate(side.key)
    ]
    return [
        key
        for key in keys
        if not any(part in some for part, some in zip(key, refused, strict=False))
    ]


def _refused(
    connection: Connection, side: Side, column: KeyColumn, values: Sequence[str | None]
) -> frozenset[str | None]:
    """The values that are none of the column's type."""
    query = sql.SQL("SELECT count(k.c::{}) FROM unnest($1::text[]) AS k(c)")
    try:
        read_rows(connection, side.schemas, query.format(trusted(column.type)), [list(values)])
    except (psycopg.DataError, psycopg.errors.CheckViolation) as error:
        misspelled = isinstance(error, psycopg.errors.InvalidTextRepresentation)
        if misspelled and is_builtin(column.type):
            raise  # it is no value of any side's, and whoever asks for it is to know
        if len(values) == 1:
            return frozenset(values)
        middle = len(values) // 2
        return _refused(connection, side, column, values[:middle]) | _refused(
            connection, side, column, values[middle:]
        )
    return frozenset()


def alike(keys: Sequence[Key]) -> list[Sequence[Key]]:
    """The keys by which of their columns are NULL: an index finds only what is looked for by ``=``.

    A key that has a NULL is rare, and one of them makes a statement with all others slow.
    """
    if not any(None in key for key in keys):
        return [keys] if keys else []
    groups: dict[tuple[bool, ...], list[Key]] = {}
    for key in keys:
        groups.setdefault(tuple(part is None for part in key), []).append(key)
    return list(groups.values())


def parameters(keys: Sequence[Key]) -> list[list[str | None]]:
    """The keys as arrays, one per column."""
    return [list(column) for column in zip(*keys, strict=True)]


def matching(
    side: Side,
    extent: Extent,
    keys: Sequence[Key],
    how: Lookup,
    wanted: Mapping[str, sql.Composable],
) -> sql.Composed:
    """What to select from: `k` has the number n of each key, `r` what is `wanted` of its rows.

    The keys are the statement's `parameters`.
    """
    searched = side.key or (_hash_as_key(side, how.hashing),)
    texts = side.key_texts if how.same_text else ()
    columns = {
        **{f"s{number}": column.searched for number, column in enumerate(searched)},
        **{f"t{number}": text for number, text in enumerate(texts)},
        **wanted,
    }
    return sql.SQL(
        "unnest({arrays}) WITH ORDINALITY AS k({names}, n)"
        " JOIN (SELECT {columns} FROM {table} WHERE {where}) AS r ON {same}"
    ).format(
        arrays=_list(sql.SQL("${}::text[]").format(n + 1) for n in range(len(searched))),
        names=_list(_name("c", n) for n in range(len(searched))),
        columns=_list(
            sql.SQL("{} AS {}").format(value, sql.Identifier(name))
            for name, value in columns.items()
        ),
        table=from_table(side, extent),
        where=side.where,
        same=_same(searched, len(texts), keys),
    )


def _same(searched: Sequence[KeyColumn], texts: int, keys: Sequence[Key]) -> sql.Composed:
    terms: list[sql.Composable] = []
    for number, column in enumerate(searched):
        stored, given = sql.SQL("r.{}").format(_name("s", number)), _name("c", number)
        if all(key[number] is None for key in keys):
            terms.append(sql.SQL("{} IS NULL").format(stored))
            continue
        # Only where it has to be: no index is used for IS NOT DISTINCT FROM.
        mixed = any(key[number] is None for key in keys)
        equals = sql.SQL("IS NOT DISTINCT FROM" if mixed else "=")
        terms.append(sql.SQL("{} {} k.{}::{}").format(stored, equals, given, trusted(column.type)))
        if number < texts:
            terms.append(
                sql.SQL('r.{} COLLATE "C" {} k.{} COLLATE "C"').format(
                    _name("t", number), equals, given
                )
            )
    return sql.SQL(" AND ").join(terms)


def _hash_as_key(side: Side, hashing: Hashing) -> KeyColumn:
    hashed = side.row_hash(hashing)
    return KeyColumn(value=hashed, searched=hashed, type="bigint", hashed_as="bigint")


def _name(prefix: str, number: int) -> sql.Identifier:
    return sql.Identifier(f"{prefix}{number}")


def _list(items: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(items)
