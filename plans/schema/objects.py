"""The things a schema is made of, by their addresses in the catalog."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from plans.schema.ddl import Build

RANK = {
    # Lower comes first among those that do not depend on each other.
    "schema": 0,
    "extension": 1,
    "collation": 2,
    "type": 3,
    "sequence": 4,
    "table": 6,
    "default value": 8,
    "primary key": 10,
    "index": 11,
    "check": 12,
    "not null": 12,
    "replica identity": 13,
    "statistics object": 14,
    "function": 15,
    "view": 16,
    "foreign key": 17,
    "rule": 18,
    "trigger": 18,
    "policy": 18,
    "row security": 19,
    "refresh": 20,
}


class Address(NamedTuple):
    """How ``pg_depend`` names a thing; column 0 is the thing itself."""

    catalog: str  # pg_class, pg_proc, ...
    oid: int
    column: int = 0

    @property
    def whole(self) -> Address:
        """The thing, whichever of its columns is meant."""
        return Address(self.catalog, self.oid) if self.column else self


class Need(NamedTuple):
    """That one thing cannot be without another.

    It is hard where the server refuses to create the one before the other; a
    word in a function's body is not.
    """

    by: Address
    of: Address
    hard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """Something that can be created, with the text that does it."""

    address: Address
    kind: str  # a key of RANK
    identity: str  # as DDL names it: quoted, qualified, "trg ON public.t" for a trigger
    create: tuple[str, ...]
    drop: str = ""
    relation: Address | None = None  # the table or view it is attached to
    depth: int = 0  # of a partition below its root: the deepest are built first
    objection: str | None = None  # why it is left out whatever it depends on
    build: Build | None = None  # how it may be built beside others, if what it needs allows it

    @property
    def order(self) -> tuple[int, int, str]:
        """Where it stands among those that do not depend on each other."""
        return RANK[self.kind], -self.depth, self.identity

    def refused(self, why: str) -> Object:
        """The same, left out."""
        return replace(self, objection=why)
