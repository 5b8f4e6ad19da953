"""Orphans: rows that refer to a row which the other service does not have.

A foreign key whose ends are in two databases is watched by no server.  The keys that
the one service's rows refer to are read in their order, a batch at a time, and looked
up among the rows of the services that own what is referred to.

What is not found may only be on its way, if a side follows.  So a key that was not
found is read again, as it refers, looked for again after the owners have caught up
with everything up to then, and read once more after its own service has.  It is an
orphan if it was not found, and the same row versions referred to it before and after:
then there was a moment at which the row was there and what it refers to was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from psycopg import sql

from cdc.connect import Connection
from plans.catalog import TableName
from validators.canonical import is_builtin, text_of, trusted, unlimited
from validators.compare import UNREADABLE
from validators.lookup import BY_INDEX, parameters
from validators.recheck import CatchUp, Limits
from validators.session import pinned
from validators.sides import Key

KEYS_PER_BATCH = 10_000
EXAMPLES = 20
NOT_CAUGHT_UP = "whether a side has applied its leader's changes is unknown"
UNSETTLED = "keys that changed between all rounds are not settled"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of a foreign key, in one service's database."""

    service: str
    connection: Connection = field(repr=False)
    table: TableName
    columns: tuple[str, ...]
    types: tuple[str, ...]
    catch_up: CatchUp = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanCheck:
    """A foreign key whose orphans are looked for; no owners, if nobody got what it refers to."""

    foreign_key: str
    references: TableName
    referring: End
    owners: tuple[End, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanResult:
    """What was found out about one key; `orphans` are rows, and exact if it was checked."""

    foreign_key: str
    service: str
    references: str
    state: Literal["checked", "unverified"]
    orphans: int = 0
    keys: int = 0  # different ones that were looked up
    sample: tuple[Key, ...] = ()  # the first keys that refer to nothing
    reason: str = ""

    def as_dict(self) -> dict[str, object]:
        """The result object that scripts read."""
        return {
            "foreign_key": self.foreign_key,
            "service": self.service,
            "references": self.references,
            "orphans": self.orphans,
            "keys": self.keys,
            "sample": [list(key) for key in self.sample],
            "state": self.state,
            **({"reason": self.reason} if self.reason else {}),
        }


@dataclass(frozen=True, slots=True)
class _Reference:
    """The rows that refer to one key: how many, and the sum of their versions."""

    rows: int
    version: int


@dataclass(slots=True)
class _Found:
    orphans: int = 0
    keys: int = 0
    sample: list[Key] = field(default_factory=list)
    reason: str = ""


def find_orphans(
    checks: Iterable[OrphanCheck], *, limits: Limits | None = None
) -> list[OrphanResult]:
    """Look for the orphans of each key; memory holds one batch of keys at a time.

    A key that cannot be read to the end is "unverified", with the reason.
    """
    return [_checked(check, limits or Limits()) for check in checks]


def _checked(check: OrphanCheck, limits: Limits) -> OrphanResult:
    found = _Found()
    try:
        for batch in _batches(check.referring):
            found.keys += len(batch)
            missing = _missing(check, batch)
            if missing:
                _settle(check, missing, found, limits)
    except UNREADABLE as error:
        found.reason = str(error).strip() or type(error).__name__
    return OrphanResult(
        foreign_key=check.foreign_key,
        service=check.referring.service,
        references=str(check.references),
        state="unverified" if found.reason else "checked",
        orphans=found.orphans,
        keys=found.keys,
        sample=tuple(found.sample),
        reason=found.reason,
    )


def _settle(check: OrphanCheck, keys: Sequence[Key], found: _Found, limits: Limits) -> None:
    """Tell orphans from keys whose rows were only on their way."""
    open_ = _references(check.referring, keys)
    for number in range(limits.rounds):
        if not open_:
            return
        if number:
            time.sleep(min(limits.backoff_s * 2.0 ** (number - 1), limits.backoff_s_max))
        after = _after_a_round(check, list(open_), limits)
        if after is None:
            found.reason = NOT_CAUGHT_UP
            return
        for key, reference in after.items():
            if open_[key] == reference:
                found.orphans += reference.rows
                found.sample += [key] if len(found.sample) < EXAMPLES else []
        open_ = {key: reference for key, reference in after.items() if open_[key] != reference}
    found.reason = UNSETTLED if open_ else found.reason


def _after_a_round(
    check: OrphanCheck, keys: Sequence[Key], limits: Limits
) -> dict[Key, _Reference] | None:
    """What still refers to those keys that no owner has; None if a side did not catch up."""
    if not all(end.catch_up(limits.catch_up_s) for end in check.owners):
        return None
    missing = _missing(check, keys)
    if not check.referring.catch_up(limits.catch_up_s):
        return None
    return _references(check.referring, missing)


def _batches(end: End) -> Iterator[list[Key]]:
    """The different keys that rows refer to, in the order of an index on them."""
    columns = sql.SQL(", ").join(map(sql.Identifier, end.columns))
    last = sql.SQL(", ").join(
        sql.SQL("${}::{}").format(n, trusted(unlimited(type_)))
        for n, type_ in enumerate(end.types, start=1)
    )
    query = sql.SQL(
        "SELECT {texts} FROM (SELECT DISTINCT {columns} FROM {table} WHERE {given} AND {beyond}"
        " ORDER BY {columns} LIMIT {limit}) AS k ORDER BY {columns}"
    )
    known: Key = ()
    while True:
        statement = query.format(
            texts=sql.SQL(", ").join(text_of(sql.Identifier(name)) for name in end.columns),
            columns=columns,
            table=end.table.identifier,
            given=_all_given(end),
            beyond=sql.SQL("({}) > ({})").format(columns, last) if known else sql.SQL("true"),
            limit=KEYS_PER_BATCH,
        )
        with pinned(end.connection, _schemas(end)) as cursor:
            batch: list[Key] = cursor.execute(statement, list(known)).fetchall()
        if batch:
            yield batch
        if len(batch) < KEYS_PER_BATCH:
            return
        known = batch[-1]


def _missing(check: OrphanCheck, keys: Sequence[Key]) -> list[Key]:
    """The keys that no owner has."""
    left = list(keys)
    for owner in check.owners:
        if not left:
            break
        query = sql.SQL("SELECT DISTINCT k.n FROM {}").format(
            _rows_of_keys(owner, check.referring.types)
        )
        with pinned(owner.connection, _schemas(owner), planner=BY_INDEX) as cursor:
            has = {n for (n,) in cursor.execute(query, parameters(left)).fetchall()}
        left = [key for n, key in enumerate(left, start=1) if n not in has]
    return left


def _references(end: End, keys: Sequence[Key]) -> dict[Key, _Reference]:
    """The rows that refer to the keys, now; keys that none refers to are left out."""
    if not keys:
        return {}
    query = sql.SQL(
        "SELECT k.n, count(*), sum(r.xmin::text::int8)::int8 FROM {} GROUP BY 1"
    ).format(_rows_of_keys(end, end.types))
    with pinned(end.connection, _schemas(end), planner=BY_INDEX) as cursor:
        rows = cursor.execute(query, parameters(keys)).fetchall()
    return {keys[n - 1]: _Reference(count, version) for n, count, version in rows}


def _rows_of_keys(end: End, types: Sequence[str]) -> sql.Composed:
    """The keys `k`, numbered n, joined with their rows `r` of one end.

    `types` are the referring columns': the server compares those, too, and a number that is
    written as one type may be refused by the other.
    """
    arrays, names, same = [], [], []
    for number, (column, own, by) in enumerate(zip(end.columns, end.types, types, strict=True)):
        name = sql.Identifier(f"c{number}")
        type_ = unlimited(by if is_builtin(by) else own)
        arrays.append(sql.SQL("${}::text[]").format(number + 1))
        names.append(name)
        same.append(sql.SQL("r.{} = k.{}::{}").format(sql.Identifier(column), name, trusted(type_)))
    return sql.SQL(
        "unnest({arrays}) WITH ORDINALITY AS k({names}, n) JOIN {table} AS r ON {same}"
    ).format(
        arrays=sql.SQL(", ").join(arrays),
        names=sql.SQL(", ").join(names),
        table=end.table.identifier,
        same=sql.SQL(" AND ").join(same),
    )


def _all_given(end: End) -> sql.Composed:
    """A key with a NULL refers to nothing, under MATCH SIMPLE and MATCH FULL alike."""
    return sql.SQL(" AND ").join(
        sql.SQL("{} IS NOT NULL").format(sql.Identifier(name)) for name in end.columns
    )


def _schemas(end: End) -> tuple[str, ...]:
    return tuple(dict.fromkeys((end.table.schema, "public")))
