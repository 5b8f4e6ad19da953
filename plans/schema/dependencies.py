"""What depends on what, as ``pg_depend`` has it, between the things that DDL creates.

The catalog records dependencies of parts that no command creates on its own: the
rule behind a view, an array's type, the index of a primary key.  They are taken
for the thing that brings them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from plans.schema.objects import Address, Need
from plans.schema.reading import Cursor

# access/transam.h: FirstNormalObjectId.  What is older came with initdb and is everywhere.
_FIRST_NORMAL_OID = 16384

_PARTS = """
SELECT 'pg_rewrite' AS catalog, oid, 'pg_class' AS whole_catalog, ev_class AS whole
  FROM pg_rewrite WHERE rulename = '_RETURN'
UNION ALL
SELECT 'pg_type', oid, 'pg_type', typelem FROM pg_type WHERE typcategory = 'A' AND typelem <> 0
UNION ALL
SELECT 'pg_type', rngmultitypid, 'pg_type', rngtypid FROM pg_range
UNION ALL
SELECT 'pg_type', reltype, 'pg_class', oid
  FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND reltype <> 0
UNION ALL
SELECT 'pg_class', oid, 'pg_type', reltype FROM pg_class WHERE relkind = 'c'
UNION ALL
SELECT 'pg_class', conindid, 'pg_constraint', oid
  FROM pg_constraint WHERE contype IN ('p', 'u', 'x')
UNION ALL
SELECT 'pg_constraint', oid, 'pg_type', contypid FROM pg_constraint WHERE contypid <> 0
UNION ALL
-- A range type's constructor functions come with it.
SELECT 'pg_proc', objid, 'pg_type', refobjid
  FROM pg_depend
 WHERE classid = 'pg_proc'::regclass AND refclassid = 'pg_type'::regclass AND deptype = 'i'
UNION ALL
SELECT 'pg_class', objid, 'pg_class', refobjid
  FROM pg_depend JOIN pg_class s ON s.oid = objid AND s.relkind = 'S'
 WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype = 'i'
"""

_EDGES = """
SELECT c.relname AS catalog, d.objid AS oid, d.objsubid AS "column",
       r.relname AS of_catalog, d.refobjid AS of_oid, d.refobjsubid AS of_column,
       d.deptype::text AS kind,
       coalesce(s.relkind = 'S' AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0, false) AS owned
  FROM pg_depend d
  JOIN pg_class c ON c.oid = d.classid
  JOIN pg_class r ON r.oid = d.refclassid
  LEFT JOIN pg_class s ON d.classid = 'pg_class'::regclass AND s.oid = d.objid
 WHERE d.objid >= %(first)s AND d.refobjid >= %(first)s
   AND d.deptype IN ('n', 'a', 'i', 'e')
   AND c.relname NOT IN ('pg_publication_rel', 'pg_publication_namespace', 'pg_default_acl')
"""

_NAMES = """
SELECT a.catalog, a.oid, i.type, i.identity
  FROM unnest(%s::text[], %s::oid[]) AS a (catalog, oid),
       pg_identify_object(format('pg_catalog.%%I', a.catalog)::regclass, a.oid, 0) i
 WHERE i.identity IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The dependencies of one database."""

    needs: tuple[Need, ...]
    extension: Mapping[Address, Address]  # what an extension brought, and which
    sequence_owner: Mapping[int, Address]  # sequence -> its column, identity or OWNED BY
    identity_sequences: frozenset[int]


def read_dependencies(cursor: Cursor) -> Dependencies:
    """Read all of ``pg_depend`` that is about things made since initdb."""
    whole = {
        Address(row.catalog, row.oid): Address(row.whole_catalog, row.whole)
        for row in cursor.execute(_PARTS)
    }
    needs: list[Need] = []
    extension: dict[Address, Address] = {}
    owners: dict[int, Address] = {}
    identity: set[int] = set()
    for row in cursor.execute(_EDGES, {"first": _FIRST_NORMAL_OID}):
        of = Address(row.of_catalog, row.of_oid, row.of_column)
        if row.kind == "e":
            extension[Address(row.catalog, row.oid)] = of
        elif row.owned:
            owners[row.oid] = of
            if row.kind == "i":
                identity.add(row.oid)
        else:
            by = Address(row.catalog, row.oid, row.column)
            need = Need(_whole(by, whole), _whole(of, whole))
            if need.by.whole != need.of.whole:
                needs.append(need)
    return Dependencies(tuple(needs), extension, owners, frozenset(identity))


def _whole(address: Address, whole: Mapping[Address, Address]) -> Address:
    """What brings the thing, which may be a part of a part: an array of a row type."""
    while (of := whole.get(address.whole)) is not None:
        address = of
    return address


def read_names(cursor: Cursor, addresses: Iterable[Address]) -> dict[Address, tuple[str, str]]:
    """Kind and name of things for a person: ("function", "public.notify_crm()")."""
    wanted = sorted({address.whole for address in addresses if address.catalog.startswith("pg_")})
    cursor.execute("SELECT set_config('quote_all_identifiers', 'off', true)")
    cursor.execute(_NAMES, [[a.catalog for a in wanted], [a.oid for a in wanted]])
    return {Address(catalog, oid): (kind, identity) for catalog, oid, kind, identity in cursor}
