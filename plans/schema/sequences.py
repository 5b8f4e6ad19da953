"""Sequences: those that stand alone, those of serial columns, those behind identity columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plans.schema.objects import Address, Object
from plans.schema.reading import Cursor

_SEQUENCES = """
SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS identity,
       CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END AS unlogged,
       format_type(s.seqtypid, NULL) AS type,
       format('START WITH %s INCREMENT BY %s MINVALUE %s MAXVALUE %s CACHE %s %s',
              s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
              CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END) AS options
  FROM pg_sequence s
  JOIN pg_class c ON c.oid = s.seqrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'dbsplit'
"""


@dataclass(frozen=True, slots=True)
class Sequences:
    """All sequences of a database; their values are a cutover's business."""

    alone: tuple[Object, ...]  # to be created by a command of their own
    identity_options: Mapping[Address, str]  # of a column, for GENERATED AS IDENTITY (...)


def read_sequences(
    cursor: Cursor, owners: Mapping[int, Address], identity: frozenset[int]
) -> Sequences:
    """Read names and parameters; `owners` says which column owns which sequence."""
    alone, options = [], {}
    for row in cursor.execute(_SEQUENCES):
        if row.oid in identity:
            options[owners[row.oid]] = f"SEQUENCE NAME {row.identity} {row.options}"
            continue
        owner = owners.get(row.oid)
        alone.append(
            Object(
                address=Address("pg_class", row.oid),
                kind="sequence",
                identity=row.identity,
                create=(
                    f"CREATE {row.unlogged}SEQUENCE {row.identity} AS {row.type} {row.options}",
                ),
                drop=f"DROP SEQUENCE IF EXISTS {row.identity}",
                relation=owner,
            )
        )
    return Sequences(tuple(alone), options)
