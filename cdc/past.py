"""How the leader's tables looked before they were changed, for what the log still has of then.

The log tells rows in the shape that their table had when they were written.  Once a
change was carried over, rows of before still come: a `PastShape` says how they become
rows of now.  What stands before a table's horizon, or of a table that is gone, needs
no such thing: nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from cdc.lsn import LSN
from plans.catalog import TableName

NULL = b"n"

Columns = Mapping[str, tuple[int, int]]
"""Names, with type and modifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastShape:
    """A table's columns as they were announced until some position."""

    table: TableName
    until: LSN
    columns: Columns
    values: Mapping[str, str | bytes]
    """A column of now: by its name of then, or by the value that every row of then has."""

    def then(self, name: str) -> str | bytes:
        """What a column of now was."""
        return self.values.get(name, name)

    def seen_in(self, announced: Columns, now: Columns) -> PastShape | None:
        """This shape on its way to that of now, as it is announced; None if that is unknown.

        Several changes may have been carried over at once.  A column that is neither of
        then nor of now may be any of those that are not announced.
        """
        if announced == self.columns:
            return self
        if not announced.keys() <= self.columns.keys() | now.keys():
            return None
        values: dict[str, str | bytes] = {}
        for name, type_ in now.items():
            then = self.then(name)
            if isinstance(then, str) and then in announced:
                known = {self.columns.get(then), type_}
                values[name] = then
            elif name in announced:
                known = {type_}
                values[name] = name
            elif isinstance(then, bytes):
                values[name] = then
                continue
            else:
                return None
            if announced[str(values[name])] not in known:
                return None
        return replace(self, columns=announced, values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """All that a leader's log may still tell and the catalog does not."""

    shapes: tuple[PastShape, ...] = ()
    gone: Mapping[TableName, LSN] = field(default_factory=dict)  # relations, and until when
    ignored: Mapping[TableName, frozenset[str]] = field(default_factory=dict)
    """Columns that are left behind for the time being."""

    @classmethod
    def of(cls, noted: Mapping[str, Any], *, binary: bool) -> Self:
        """As it was noted; values in the form in which the stream brings others."""
        return cls(
            shapes=tuple(_shape(one, binary=binary) for one in noted.get("shapes", ())),
            gone={
                TableName(schema, name): LSN.parse(until)
                for schema, name, until in noted.get("gone", ())
            },
            ignored={
                TableName(schema, name): frozenset(columns)
                for schema, name, columns in noted.get("ignored", ())
            },
        )


def _shape(noted: Mapping[str, Any], *, binary: bool) -> PastShape:
    values: dict[str, str | bytes] = dict(noted["renamed"])
    for name, forms in noted["filled"].items():
        values[name] = NULL if forms is None else _value(forms, binary=binary)
    return PastShape(
        table=TableName(*noted["table"]),
        until=LSN.parse(noted["until"]),
        columns={name: (oid, mod) for name, (oid, mod) in noted["columns"].items()},
        values=values,
    )


def _value(forms: Mapping[str, str], *, binary: bool) -> bytes:
    data = bytes.fromhex(forms["binary" if binary else "text"])
    return (b"b" if binary else b"t") + len(data).to_bytes(4, "big") + data


NO_PAST = Past()
