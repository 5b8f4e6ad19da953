"""Reading by which numbers a server knows its tables, and what enums its columns have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, LiteralString

from cdc.connect import Connection
from plans.catalog import TableName
from plans.evolution import ColumnNumbers, Numbers
from plans.partitions_sql import ATTACHED

_COLUMNS: Final[LiteralString] = """
SELECT n.nspname::text, c.relname::text, c.oid::bigint, a.attname::text, a.attnum,
       a.atttypid::bigint, a.atttypmod, a.atthasmissing, a.atthasdef
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ANY (%s)
"""

_FILES: Final[LiteralString] = f"""
WITH RECURSIVE below AS (
    SELECT c.oid AS root, c.oid, false AS attached, '' AS places
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ANY (%s)
     UNION ALL
    SELECT b.root, i.inhrelid, b.attached OR {ATTACHED}, b.places || '/' || i.xmin::text
      FROM below b JOIN pg_inherits i ON i.inhparent = b.oid AND NOT i.inhdetachpending
      JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
      JOIN pg_type t ON t.oid = c.reltype
)
SELECT b.root::bigint, n.nspname::text, c.relname::text, pg_relation_filenode(c.oid)::bigint,
       c.oid <> b.root AS is_leaf, b.attached, b.places
  FROM below b JOIN pg_class c ON c.oid = b.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r'
"""  # noqa: S608 -- all of it is ours

_LABELS: Final[LiteralString] = """
SELECT n.nspname::text, t.typname::text,
       array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
  FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname <> 'dbsplit'
 GROUP BY 1, 2
"""


def read_numbers(connection: Connection, schemas: Iterable[str]) -> dict[str, Numbers]:
    """The numbers of all tables of these schemas, but for partitions, by their names."""
    wanted = list(schemas)
    names: dict[int, str] = {}
    columns: dict[int, dict[str, ColumnNumbers]] = defaultdict(dict)
    for schema, name, oid, column, number, type_oid, mod, missing, default in connection.execute(
        _COLUMNS, [wanted]
    ):
        names[oid] = str(TableName(schema, name))
        columns[oid][column] = ColumnNumbers(
            number=number,
            type_oid=type_oid,
            type_mod=mod,
            missing=missing,
            has_default=default,
        )
    leaves: dict[int, dict[str, bool]] = defaultdict(dict)
    files: dict[int, dict[str, int]] = defaultdict(dict)
    places: dict[int, dict[str, str]] = defaultdict(dict)
    for root, schema, name, file, is_leaf, attached, place in connection.execute(_FILES, [wanted]):
        relation = str(TableName(schema, name))
        files[root][relation] = file or 0
        if is_leaf:
            leaves[root][relation] = attached
            places[root][relation] = place
    return {
        name: Numbers(
            oid=oid,
            columns=columns[oid],
            leaves=leaves[oid],
            files=files[oid],
            places=places[oid],
        )
        for oid, name in names.items()
    }


def read_labels(connection: Connection) -> dict[TableName, tuple[str, ...]]:
    """The values of all enums, in their order."""
    return {
        TableName(schema, name): tuple(labels)
        for schema, name, labels in connection.execute(_LABELS)
    }
