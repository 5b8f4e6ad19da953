"""From executed SQL to what is known of the use of tables."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import pgparse  # type: ignore[import-not-found]  # it has no stubs

from plans.catalog import TableName
from plans.statements.model import Confirm, Statement, as_read, pairs
from plans.statements.read import read_statements
from plans.statements.scope import Scope
from plans.usage.literals import Inserted, inserted
from plans.usage.model import Actor, Executed, Origin, Usage, Used, Values
from plans.usage.search_paths import path_of
from plans.usage.statistics import VALUES_MAX

# Statements that differ in more than their constants.  An application has some thousands;
# one that writes ever new ones would fill the memory.
STATEMENTS_MAX: Final = 50_000

# Transactions whose statements may still follow.  A server has some hundred at a time.
OPEN_MAX: Final = 10_000

_SHOWN_MAX: Final = 120

Key = tuple[str, Actor, str]


@dataclass(slots=True)
class _Calls:
    first: Executed
    statements: tuple[Statement, ...]
    calls: float = 0.0


@dataclass(slots=True)
class Collector:
    """Takes statements one by one, and keeps what is needed of them.

    `paths` are the search paths of roles that have one of their own; "" is the database's.
    Statements of `ignored` roles are left out: what an administrator repairs, loads or
    dumps says nothing about the services.
    """

    scope: Scope
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    confirm: Confirm = as_read
    seen_ignored: set[str] = field(default_factory=set)
    left_out: int = 0  # statements beyond STATEMENTS_MAX
    _calls: dict[Key, _Calls] = field(default_factory=dict)
    _read: dict[tuple[str, tuple[str, ...] | None], tuple[Statement, ...]] = field(
        default_factory=dict
    )
    _open: OrderedDict[str, set[TableName]] = field(default_factory=OrderedDict)
    _together: Counter[tuple[TableName, TableName]] = field(default_factory=Counter)
    _code: set[str] = field(default_factory=set)
    _with_values: set[str] = field(default_factory=set)
    _without_values: list[tuple[str, Inserted, Actor]] = field(default_factory=list)
    _values: dict[tuple[TableName, str, Actor], Values] = field(default_factory=dict)

    def add(
        self,
        origin: str,
        executed: Iterable[Executed],
        *,
        is_code: bool = False,
        is_normalized: bool = False,
    ) -> None:
        """Take in an origin's statements.

        Of code it is not known whether and how often it runs; a normalized text has lost
        its constants, which another origin may know.
        """
        if is_code:
            self._code.add(origin)
        for one in executed:
            if one.actor.role in self.ignored:
                self.seen_ignored.add(one.actor.role)
                continue
            found = self._found(origin, one)
            if found is None:
                continue
            found.calls += 0.0 if is_code else one.calls
            if one.transaction:
                self._remember(one.transaction, found.statements)
            self._insert(one, is_normalized=is_normalized)

    def usage(self, origins: Sequence[Origin]) -> Usage:
        """All that was taken in; calls add up within an origin.

        The origins come with counts of what uses the catalog's tables.
        """
        for tables in self._open.values():
            self._together.update(pairs(tables))
        self._open.clear()
        for fingerprint, row, actor in self._without_values:
            if fingerprint not in self._with_values:
                self._note(row, actor)
        self._without_values.clear()
        used = [
            Used(
                statement=statement,
                actor=actor,
                origin=origin,
                place=found.first.place,
                calls=None if origin in self._code else found.calls,
            )
            for (origin, actor, _), found in self._calls.items()
            for statement in found.statements
        ]
        unread = {
            f"{_shown(one.statement.text)}: {'; '.join(one.statement.unproven)}"
            for one in used
            if one.statement.unproven
        }
        return Usage(
            origins=tuple(self._counted(origin) for origin in origins),
            used=tuple(one for one in used if one.statement.touches),
            together=dict(self._together),
            inserted=dict(self._values),
            unread=tuple(sorted(unread)),
        )

    def _counted(self, origin: Origin) -> Origin:
        found = [
            one
            for (name, *_), one in self._calls.items()
            if name == origin.name and any(statement.touches for statement in one.statements)
        ]
        return replace(origin, statements=len(found), calls=sum(one.calls for one in found))

    def _found(self, origin: str, one: Executed) -> _Calls | None:
        key = (origin, one.actor, _fingerprint(one.text))
        if key not in self._calls:
            if len(self._calls) >= STATEMENTS_MAX:
                self.left_out += 1
                return None
            path = path_of(one, self.paths, self.scope.catalog.schemas)
            self._calls[key] = _Calls(one, self._statements(key[2], one.text, path))
        return self._calls[key]

    def _statements(
        self, fingerprint: str, text: str, path: tuple[str, ...] | None
    ) -> tuple[Statement, ...]:
        if (fingerprint, path) not in self._read:
            found = read_statements(text, self.scope, search_path=path)
            self._read[fingerprint, path] = tuple(self.confirm(one, path) for one in found)
        return self._read[fingerprint, path]

    def _remember(self, transaction: str, statements: Iterable[Statement]) -> None:
        written = {table for one in statements for table in one.writes}
        if not written:
            return
        self._open.setdefault(transaction, set()).update(written)
        self._open.move_to_end(transaction)
        if len(self._open) > OPEN_MAX:
            _, tables = self._open.popitem(last=False)
            self._together.update(pairs(tables))

    def _insert(self, one: Executed, *, is_normalized: bool) -> None:
        for row in inserted(one.text, one.parameters):
            fingerprint = _fingerprint(one.text)
            if is_normalized:
                self._without_values.append((fingerprint, row, one.actor))
            else:
                self._with_values.add(fingerprint)
                self._note(row, one.actor)

    def _note(self, row: Inserted, actor: Actor) -> None:
        table = self.scope.catalog.find(".".join(_quoted(part) for part in row.relation))
        if table is None:
            return
        name = self.scope.root(table.name)
        columns = row.columns or tuple(column.name for column in table.columns)
        for values in row.rows:
            given = dict(zip(columns, values, strict=False))
            for column in table.columns:
                self._add_value((name, column.name, actor), given.get(column.name))

    def _add_value(self, key: tuple[TableName, str, Actor], value: str | None) -> None:
        before = self._values.get(key, Values())
        if value is None or len(before.known) >= VALUES_MAX:
            self._values[key] = Values(before.known, others=True)
        elif value not in before.known:
            self._values[key] = Values(before.known | {value}, before.others)


def _fingerprint(text: str) -> str:
    try:
        return str(pgparse.fingerprint(text))
    except (pgparse.PGQueryError, UnicodeError, ValueError):
        return text


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'


def _shown(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN_MAX else words[: _SHOWN_MAX - 1] + "…"
