"""Composite types of the targets that have other attributes than the source's.

The log has values of before with the old attributes, so tables with such columns are
copied anew.  The type itself is altered, not made anew: a service's own tables and
functions may use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import takewhile

from psycopg import sql

from cdc.connect import Connection
from plans.catalog import TableName
from plans.evolution import Change, Kind

Attributes = tuple[tuple[str, str], ...]
"""Names and types, in their order."""

_ATTRIBUTES = """
SELECT n.nspname::text, c.relname::text,
       coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attnum > 0), '{}'),
       coalesce(array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
                FILTER (WHERE a.attnum > 0), '{}')
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND NOT a.attisdropped
 WHERE c.relkind = 'c' AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'dbsplit')
 GROUP BY 1, 2
"""


def read_composites(connection: Connection) -> dict[TableName, Attributes]:
    """The attributes of all composite types; their types as the plan's catalog writes them."""
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        rows = connection.execute(_ATTRIBUTES).fetchall()
    return {
        TableName(schema, name): tuple(zip(names, types, strict=True))
        for schema, name, names, types in rows
    }


def composite_changes(
    ours: Mapping[TableName, Attributes], theirs: Mapping[TableName, Attributes]
) -> Iterator[Change]:
    """The types that are not as the source's."""
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name] != theirs[name]:
            was, now = (
                ", ".join(f"{attribute} {type_}" for attribute, type_ in some)
                for some in (theirs[name], ours[name])
            )
            yield Change(Kind.ATTRIBUTES, name, was=was, now=now)


def altered(name: TableName, ours: Attributes, theirs: Attributes) -> Iterator[str]:
    """What gives the target's type the source's attributes, in their order.

    An attribute that both have stays, unless one comes to stand before it.  One that is
    renamed stays if nothing else is done to their number.
    """
    left = list(theirs)
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        is_new = mine[0] not in dict(theirs) and other[0] not in dict(ours)
        if len(ours) == len(theirs) and is_new and mine[1] == other[1]:
            yield _text("ALTER TYPE {} RENAME ATTRIBUTE {} TO {}", name, other[0], mine[0])
            left[place] = mine
    kept = [one for one in left if one in ours]
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(kept, ours, strict=False))))
    for attribute, _ in left:
        if attribute not in dict(ours[:same]):
            yield _text("ALTER TYPE {} DROP ATTRIBUTE {}", name, attribute)
    for attribute, type_ in ours[same:]:
        words = sql.SQL(type_.replace("{", "{{").replace("}", "}}"))  # of the source's own writing
        yield _text("ALTER TYPE {} ADD ATTRIBUTE {} ", name, attribute) + words.as_string(None)


def _text(template: str, name: TableName, *names: str) -> str:
    composed = sql.SQL(template)  # ours
    return composed.format(name.identifier, *map(sql.Identifier, names)).as_string(None)
