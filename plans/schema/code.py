"""Functions, procedures and views, in the words of DDL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from plans.schema.mentions import Mention, mentions
from plans.schema.objects import Address, Object
from plans.schema.reading import Cursor

_FUNCTIONS = """
SELECT p.oid, p.proname AS name, n.nspname AS schema,
       format('%s %I.%I(%s)', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
              n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS identity,
       pg_get_functiondef(p.oid) AS definition,
       p.prorettype IN ('trigger'::regtype, 'event_trigger'::regtype) AS for_triggers,
       CASE WHEN p.prosqlbody IS NULL AND l.lanname NOT IN ('c', 'internal') THEN p.prosrc END
         AS body
  FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_language l ON l.oid = p.prolang
 WHERE p.oid >= 16384 AND p.prokind <> 'a'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                      AND d.objid = p.oid AND d.deptype = 'i')
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'dbsplit')
"""

_VIEWS = """
SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS identity, c.relkind = 'm' AS materialized,
       concat(CASE c.relkind WHEN 'm' THEN 'CREATE MATERIALIZED VIEW ' ELSE 'CREATE VIEW ' END,
              format('%I.%I', n.nspname, c.relname),
              (SELECT format(' USING %I', a.amname) FROM pg_am a
                WHERE a.oid = c.relam AND a.amname <> 'heap'),
              (SELECT format(' WITH (%s)', string_agg(
                        format('%I=%L', option_name, option_value), ', '))
                 FROM pg_options_to_table(c.reloptions) HAVING count(*) > 0),
              E' AS\n', rtrim(pg_get_viewdef(c.oid), ';'),
              CASE c.relkind WHEN 'm' THEN E'\n WITH NO DATA' END) AS definition,
       CASE WHEN c.relkind = 'm' AND c.relispopulated
         THEN format('REFRESH MATERIALIZED VIEW %I.%I', n.nspname, c.relname) END AS refresh
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('v', 'm') AND c.oid >= 16384 AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'dbsplit')
"""


@dataclass(frozen=True, slots=True)
class Functions:
    """All functions and procedures, with what their bodies mention."""

    objects: tuple[Object, ...]
    words: Mapping[Address, frozenset[Mention]]  # only where pg_depend does not know
    by_name: Mapping[str, tuple[tuple[str, Address], ...]]  # name -> (schema, function)
    for_triggers: frozenset[Address]


def read_functions(cursor: Cursor) -> Functions:
    """Read them all."""
    objects = []
    words: dict[Address, frozenset[Mention]] = {}
    by_name: dict[str, tuple[tuple[str, Address], ...]] = {}
    for_triggers = set()
    for row in cursor.execute(_FUNCTIONS):
        address = Address("pg_proc", row.oid)
        objects.append(
            Object(
                address=address,
                kind="function",
                identity=row.identity,
                create=(row.definition.rstrip(),),
                drop=f"DROP {row.identity.replace(' ', ' IF EXISTS ', 1)}",
            )
        )
        by_name[row.name] = (*by_name.get(row.name, ()), (row.schema, address))
        if row.body is not None:
            words[address] = mentions(row.body)
        if row.for_triggers:
            for_triggers.add(address)
    return Functions(tuple(objects), words, by_name, frozenset(for_triggers))


def read_views(cursor: Cursor) -> Iterator[Object]:
    """Views, and materialized views with the command that fills them."""
    for row in cursor.execute(_VIEWS):
        address = Address("pg_class", row.oid)
        word = "MATERIALIZED VIEW" if row.materialized else "VIEW"
        yield Object(
            address=address,
            kind="view",
            identity=row.identity,
            create=(row.definition,),
            drop=f"DROP {word} IF EXISTS {row.identity}",
        )
        if row.refresh:
            yield Object(
                address=Address("refresh", row.oid),
                kind="refresh",
                identity=row.identity,
                create=(row.refresh,),
                relation=address,
            )
