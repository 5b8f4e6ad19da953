"""Comparing a part of the rows; what was left out is said, and never counts as proven."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from cdc.connect import connect
from plans.errors import SplitError
from validators.canonical import Hashing, bucket_of, trusted
from validators.sides import KeyColumn, Pair, Side

_PARTS = 1 << 16  # a sample is so many 65,536ths of the keys
_ORDERED = frozenset(
    {
        "smallint",
        "integer",
        "bigint",
        "numeric",
        "uuid",
        "date",
        "timestamp without time zone",
        "timestamp with time zone",
    }
)
"""Types that every server has in the same order; text has an order for each locale."""


class NoScope(SplitError):
    """What was asked for on the command line cannot be had of a table."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which rows are scanned; a row that differs is then looked up as a whole."""

    sample_percent: float | None = None
    time_column: str = ""
    time_from: str = ""  # a timestamp, for rows whose `time_column` is at it or later
    key_from: str | None = None  # of the key's first column
    key_below: str | None = None
    where: str = ""  # SQL that holds on both sides

    @property
    def words(self) -> str:
        """What is compared, "" if that is everything."""
        parts = []
        if self.sample_percent is not None:
            parts.append(f"a sample of {self.sample_percent:g} % of the keys")
        if self.time_column:
            parts.append(f"rows with {self.time_column} since {self.time_from}")
        if self.key_from is not None:
            parts.append(f"keys from {self.key_from}")
        if self.key_below is not None:
            parts.append(f"keys below {self.key_below}")
        if self.where:
            parts.append(f"rows where {self.where}")
        return ", ".join(parts)

    def of(self, pair: Pair) -> Pair:
        """The pair, restricted; NoScope if it has no such column, or no order of keys."""
        if not self.words:
            return pair
        return replace(
            pair,
            leader=replace(pair.leader, within=self._within(pair, pair.leader)),
            follower=replace(pair.follower, within=self._within(pair, pair.follower)),
            scope=self.words,
        )

    def require_bounds(self, pairs: Iterable[Pair]) -> None:
        """Raise NoScope if a bound is none of the keys' types, as the leader reads it."""
        bounds = {"--from": self.key_from, "--below": self.key_below}
        given = {option: text for option, text in bounds.items() if text is not None}
        first = {pair.leader.key[0].type: pair for pair in pairs if given and pair.leader.key}
        for type_, pair in first.items():
            with connect(pair.leader.dsn, name="dbsplit compare", may_be_lent=True) as connection:
                for option, text in given.items():
                    bound = sql.SQL("SELECT {}::{}").format(sql.Literal(text), trusted(type_))
                    try:
                        connection.execute(bound)
                    except psycopg.DataError:
                        raise NoScope(
                            f"{option} {text!r} is no {type_}, which the key of {pair.table} is",
                            hint="give a value of that type, or choose other tables",
                        ) from None

    def _within(self, pair: Pair, side: Side) -> sql.Composable:
        return sql.SQL(" AND ").join(self._terms(pair, side))

    def _terms(self, pair: Pair, side: Side) -> Iterator[sql.Composed]:
        if self.sample_percent is not None:
            chosen = max(1, round(self.sample_percent / 100 * _PARTS))
            yield sql.SQL("{} < {}").format(_part(side), sql.Literal(chosen))
        if self.time_column:
            yield self._since(pair, side)
        if self.key_from is not None:
            yield _ranged(pair, side, sql.SQL(">="), self.key_from)
        if self.key_below is not None:
            yield _ranged(pair, side, sql.SQL("<"), self.key_below)
        if self.where:
            yield sql.SQL("({}\n)").format(trusted(self.where))  # it may end with a comment

    def _since(self, pair: Pair, side: Side) -> sql.Composed:
        if self.time_column not in pair.columns:
            raise NoScope(
                f"{pair.table} has no column {self.time_column!r}",
                hint=f"its columns are {', '.join(pair.columns)}",
            )
        number = pair.columns.index(self.time_column)
        type_ = side.types[number]
        if not (type_ == "date" or type_.startswith("timestamp")):
            raise NoScope(
                f"column {self.time_column} of {pair.table} is no time but {type_ or 'another'}",
                hint="name a column of type date or timestamp",
            )
        # A row without a time is compared: nobody knows that it is old.
        return sql.SQL("({v} IS NULL OR {v} >= {since}::{type})").format(
            v=side.columns[number], since=sql.Literal(self.time_from), type=trusted(type_)
        )


def _part(side: Side) -> sql.Composed:
    # By text, which is the same whatever the servers' hashes are.
    hashing = Hashing(by_bytes=True, typed=False)
    if not side.key:
        return bucket_of(side.row_hash(hashing), _PARTS)
    return side.bucket(hashing, _PARTS)


def _ranged(pair: Pair, side: Side, operator: sql.SQL, bound: str) -> sql.Composed:
    column: KeyColumn | None = side.key[0] if side.key else None
    if column is None or column.type not in _ORDERED:
        raise NoScope(
            f"{pair.table} has no key that both servers have in the same order",
            hint="leave the range of keys out for it; numbers, dates, times and uuids have one",
        )
    return sql.SQL("{} {} {}::{}").format(
        column.searched, operator, sql.Literal(bound), trusted(column.type)
    )
