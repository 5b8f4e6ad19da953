"""Whether a service's database has the schema that the source has, but for what the plan says.

This proves what `target_schema` has made, by another way: both databases are read
(`tests.schema_facts`), and the source's facts are cut down to the service's share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from plans.catalog import TableName
from plans.routes import Route
from plans.schema.ddl import LeftOut
from plans.schema.scope import Part, Scope, scope_of
from tests.schema_facts import Fact

_OF_OWNERS = frozenset({"default", "numbers", "trigger", "foreign key"})
"""What a read-only copy does without: nobody but the stream writes there."""

_MADE = "orphan_check"
"""Part of the names of indexes that `plans.schema.orphan_indexes` makes."""


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """One thing that is not as on the source, and that nothing in the plan explains."""

    title: str
    source: str | None  # its definition; None if there is no such thing
    target: str | None  # None if it is missing

    def __str__(self) -> str:
        return f"{self.title}: {self.source!r} on the source, {self.target!r} in the target"


def schema_differences(
    source: Iterable[Fact],
    target: Iterable[Fact],
    service: str,
    routes: Iterable[Route],
    left_out: Iterable[LeftOut],
) -> list[SchemaDifference]:
    """All differences between the service's share of the source and its database.

    `routes` are those of all services, `left_out` what the rendering said.  Tables that
    the source does not have, and what hangs on them, are the service's own.  Views,
    functions, types and sequences may be missing, but must not be others than the source's.
    """
    share = _Share.of(source, scope_of(service, routes), {one.object for one in left_out})
    here = {(one.kind, one.identity): one for one in target}
    found = [
        _difference(wanted, here.get(key))
        for key, wanted in share.facts.items()
        if key not in here or here[key].definition != wanted.definition
    ]
    for key, has in here.items():
        if key not in share.facts and not share.allows(has):
            found.append(_difference(share.everything.get(key), has))
    found += _misplaced(share.facts.values(), here)
    return sorted(found, key=lambda one: one.title)


Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Share:
    """What of the source a service's database has to have."""

    everything: Mapping[Key, Fact]
    facts: Mapping[Key, Fact]
    tables: frozenset[TableName]  # of the source

    @classmethod
    def of(cls, source: Iterable[Fact], scope: Scope, told: Collection[str]) -> _Share:
        everything = {(one.kind, one.identity): one for one in source}
        left_out = {one.identity for one in everything.values() if one.title in told}
        facts = {
            key: one
            for key, one in everything.items()
            if one.table is not None
            and one.table in scope.parts
            and one.identity not in left_out
            and _belongs(one, scope.parts[one.table])
        }
        tables = frozenset(one.table for one in everything.values() if one.table is not None)
        return cls(everything, facts, tables)

    def allows(self, has: Fact) -> bool:
        """Whether something may be there that no table of the service brings."""
        if has.table is not None:
            return has.table not in self.tables or (has.kind == "index" and _MADE in has.identity)
        there = self.everything.get((has.kind, has.identity))
        return there is None or there.definition == has.definition


def _belongs(fact: Fact, part: Part) -> bool:
    """Whether a fact about a table is one about the service's part of it."""
    if not fact.columns <= part.columns:
        return False
    if part.owned:
        return True
    return fact.kind not in _OF_OWNERS and (fact.kind != "privilege" or " SELECT " in fact.identity)


def _misplaced(wanted: Iterable[Fact], here: Mapping[Key, Fact]) -> Iterator[SchemaDifference]:
    """Tables whose columns stand in another order: SELECT * and INSERT without names rely on it."""
    by_table: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for one in wanted:
        has = here.get((one.kind, one.identity))
        if one.kind == "column" and has is not None:
            by_table[one.identity.removesuffix(f".{_last(one)}")].append(
                (one.place, has.place, _last(one))
            )
    for table, places in by_table.items():
        there = ", ".join(name for _, _, name in sorted(places))
        has_now = ", ".join(name for _, name in sorted((p, name) for _, p, name in places))
        if there != has_now:
            yield SchemaDifference(f"order of columns of {table}", there, has_now)


def _last(column: Fact) -> str:
    """The column's name, as it is quoted in the fact's identity."""
    (name,) = column.columns
    quoted = '"' + name.replace('"', '""') + '"'
    return quoted if column.identity.endswith(quoted) else name


def _difference(wanted: Fact | None, has: Fact | None) -> SchemaDifference:
    one = wanted or has
    assert one is not None
    return SchemaDifference(
        one.title,
        wanted.definition if wanted is not None else None,
        has.definition if has is not None else None,
    )
