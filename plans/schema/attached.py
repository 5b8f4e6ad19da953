"""What hangs on a table or view: constraints, indexes, triggers, rules, policies, statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from plans.schema.ddl import Build
from plans.schema.objects import Address, Object
from plans.schema.reading import Cursor
from plans.schema.relations import Relations
from plans.schema.scope import Scope

_SINCE_18 = 18

_CONSTRAINTS = """
SELECT k.oid, k.conrelid AS relation, k.contype::text AS type, k.conname AS name,
       quote_ident(k.conname) AS quoted, k.conrelid::regclass::text AS "table",
       pg_get_constraintdef(k.oid) AS definition, k.confrelid AS references,
       coalesce((to_jsonb(k) ->> 'conperiod')::bool, false) AS temporal,
       coalesce((to_jsonb(k) ->> 'conenforced')::bool, true) AS enforced,
       c.relkind = 'p' AS partitioned, k.convalidated AS valid, k.condeferrable AS deferrable,
       c.relhassubclass OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
         AS inherits,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)) AS columns,
       coalesce(CASE WHEN k.contype IN ('p', 'u', 'x') THEN pg_relation_size(k.conindid)
                     ELSE pg_table_size(k.conrelid) END, 0) AS size_bytes
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
 WHERE (k.contype IN ('p', 'u', 'x')
        OR k.contype = 'c' AND k.conislocal
        OR k.contype = 'f' AND k.conparentid = 0
        OR k.contype = 'n' AND k.conislocal AND NOT k.convalidated)
   -- The parent's takes no partition's as its own, as others do: it makes one itself.
   AND NOT (k.conparentid <> 0 AND EXISTS (SELECT FROM pg_index i
                                            WHERE i.indexrelid = k.conindid AND i.indisexclusion))
"""

_INDEXES = """
SELECT i.indexrelid AS oid, i.indrelid AS relation, i.indisvalid AS valid,
       format('%I.%I', n.nspname, x.relname) AS identity,
       pg_get_indexdef(i.indexrelid) AS definition,
       format('CREATE %sINDEX %I ON ', CASE WHEN i.indisunique THEN 'UNIQUE ' END, x.relname)
         AS head,
       x.relkind = 'I' AS partitioned,
       -- What is sorted: equal keys share their space in the file, but not before.
       greatest(pg_relation_size(x.oid), 0,
                CASE WHEN x.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')
                     THEN (22 * x.reltuples)::bigint END) AS size_bytes,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = i.indrelid AND i.indisunique AND i.indimmediate
                AND i.indpred IS NULL AND i.indexprs IS NULL
                AND a.attnum = ANY (i.indkey[:i.indnkeyatts-1])) AS columns
  FROM pg_index i
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = x.relnamespace
 WHERE n.nspname !~ '^pg_' AND i.indexrelid >= 16384
   AND NOT EXISTS (SELECT FROM pg_constraint k
                    WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
"""

_IDENTITIES = """
SELECT c.oid AS relation, c.oid::regclass::text AS "table", c.relreplident::text AS identity,
       x.relname AS index, quote_ident(x.relname) AS quoted, i.indexrelid AS index_oid,
       (SELECT k.oid FROM pg_constraint k
         WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')) AS constraint_oid
  FROM pg_class c
  LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident
  LEFT JOIN pg_class x ON x.oid = i.indexrelid
 WHERE c.relkind IN ('r', 'p') AND c.relreplident IN ('f', 'n', 'i') AND c.oid >= 16384
"""

_TRIGGERS = """
SELECT t.oid, t.tgrelid AS relation, t.tgfoid AS function,
       format('%I ON %s', t.tgname, t.tgrelid::regclass) AS identity,
       pg_get_triggerdef(t.oid) AS definition, t.tgenabled::text AS enabled,
       quote_ident(t.tgname) AS quoted, t.tgrelid::regclass::text AS "table",
       encode(t.tgargs, 'escape') AS arguments
  FROM pg_trigger t
  JOIN pg_proc p ON p.oid = t.tgfoid
  JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND n.nspname <> 'dbsplit'
"""

_RULES = """
SELECT r.oid, r.ev_class AS relation, format('%I ON %s', r.rulename, r.ev_class::regclass)
         AS identity,
       pg_get_ruledef(r.oid) AS definition, r.ev_enabled::text AS enabled,
       quote_ident(r.rulename) AS quoted, r.ev_class::regclass::text AS "table"
  FROM pg_rewrite r WHERE r.rulename <> '_RETURN' AND r.oid >= 16384
"""

_STATISTICS = """
SELECT s.oid, s.stxrelid AS relation, format('%I.%I', n.nspname, s.stxname) AS identity,
       pg_get_statisticsobjdef(s.oid) AS definition, s.stxstattarget AS target
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
"""

_POLICIES = """
SELECT p.oid, p.polrelid AS relation, format('%I ON %s', p.polname, p.polrelid::regclass)
         AS identity,
       format('AS %s FOR %s', CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
              CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                            WHEN 'd' THEN 'DELETE' ELSE 'ALL' END) AS head,
       concat(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
              ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')') AS tail,
       0 = ANY (p.polroles) AS public,
       ARRAY(SELECT ARRAY[r.rolname::text, quote_ident(r.rolname)] FROM pg_roles r
              WHERE r.oid = ANY (p.polroles) ORDER BY r.rolname) AS roles
  FROM pg_policy p
"""

_STATES = {"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


def read_constraints(
    cursor: Cursor, relations: Relations, scope: Scope, keys: frozenset[str], major: int
) -> Iterator[Object]:
    """Keys, unique, exclusion and check constraints, and foreign keys.

    Foreign keys named in `keys` may point at read-only copies.
    """
    kinds = {"c": "check", "f": "foreign key", "n": "not null"}
    for row in cursor.execute(_CONSTRAINTS).fetchall():
        if row.relation not in relations.by_oid:
            continue
        only = "" if row.partitioned or row.type == "c" else "ONLY "
        constraint = Object(
            address=Address("pg_constraint", row.oid),
            kind=kinds.get(row.type, "primary key"),
            identity=f"{row.quoted} ON {row.table}",
            create=(f"ALTER TABLE {only}{row.table} ADD CONSTRAINT {row.quoted} {row.definition}",),
            drop=f"ALTER TABLE {row.table} DROP CONSTRAINT IF EXISTS {row.quoted}",
            relation=Address("pg_class", row.relation),
            depth=relations.depth(row.relation),
            build=_constraint_build(relations, row, only, major),
        )
        why = None
        if major < _SINCE_18 and (row.temporal or row.type == "n" or not row.enforced):
            why = f"PostgreSQL {major} has no such constraint: {row.definition}"
        elif row.type == "f":
            why = _foreign_key_objection(
                relations,
                scope,
                row.relation,
                row.references,
                may_reference=not keys.isdisjoint(called(relations, row.relation, row.name)),
            )
        yield constraint.refused(why) if why else constraint


def _constraint_build(
    relations: Relations,
    row: Any,  # noqa: ANN401 - a row
    only: str,
    major: int,
) -> Build | None:
    """How a constraint may be built beside others; None if it is known of none that it may."""
    table = relations.by_oid[row.relation].table
    build = Build(
        what=f"constraint {row.quoted} on {row.table}",
        table=table,
        root=relations.root(row.relation).table,
        alone=True,
        size_bytes=row.size_bytes,
    )
    if row.type in ("p", "u", "x"):
        tells_apart = row.type != "x" and not row.deferrable
        unique = frozenset(row.columns if tells_apart else ())
        return replace(build, gathers=row.partitioned, unique=unique)
    if row.type == "c" and not row.inherits and not row.partitioned:
        return build
    if row.type != "f" or row.references not in relations.by_oid:
        return None
    build = replace(build, references=relations.root(row.references).table)
    if not (row.valid and row.enforced) or (row.partitioned and major < _SINCE_18):
        return build  # there is nothing to check, or it cannot be checked later
    alter = f"ALTER TABLE {only}{row.table} "
    adding = f"{alter}ADD CONSTRAINT {row.quoted} {row.definition} NOT VALID"
    steps = (adding, f"{alter}VALIDATE CONSTRAINT {row.quoted}")
    return replace(build, steps=steps, checks=row.name)


def called(relations: Relations, relation: int, name: str) -> tuple[str, str, str]:
    """The names by which a plan may call a constraint, as `plans.boundary.names_of` does."""
    table = relations.by_oid[relation].table
    return name, f"{table.name}.{name}", f"{table}.{name}"


def _foreign_key_objection(
    relations: Relations, scope: Scope, relation: int, references: int, *, may_reference: bool
) -> str | None:
    here = scope.parts.get(relations.root(relation).table)
    there = scope.parts.get(relations.root(references).table)
    if here is None or there is None:
        return None  # what it depends on says so
    if not here.owned:
        return f"{here.table} is a read-only copy, whose rows are checked by their owner"
    if not there.owned and not may_reference:
        return f"references {there.table}, of which there is only a read-only copy"
    if not there.all_rows:
        return f"references {there.table}, some of whose rows are in another service"
    return None


def read_indexes(cursor: Cursor, relations: Relations) -> Iterator[Object]:
    """Indexes that are not behind a constraint.

    Leaves come before their parents, under their own names: creating the
    parent's index then takes them as its partitions.
    """
    for row in cursor.execute(_INDEXES).fetchall():
        if row.relation not in relations.by_oid:
            continue
        definition = row.definition
        if definition.startswith(row.head + "ONLY "):
            definition = row.head + definition.removeprefix(row.head + "ONLY ")
        index = Object(
            address=Address("pg_class", row.oid),
            kind="index",
            identity=row.identity,
            create=(definition,),
            drop=f"DROP INDEX IF EXISTS {row.identity}",
            relation=Address("pg_class", row.relation),
            depth=relations.depth(row.relation),
            build=Build(
                what=f"index {row.identity}",
                table=relations.by_oid[row.relation].table,
                root=relations.root(row.relation).table,
                gathers=row.partitioned,
                unique=frozenset(row.columns),
                size_bytes=row.size_bytes,
            ),
        )
        yield index if row.valid else index.refused("is not valid on the source")


def read_replica_identities(cursor: Cursor) -> Iterator[tuple[Object, Address | None]]:
    """Replica identities other than the primary key, each with the index it needs."""
    settings = {"f": "FULL", "n": "NOTHING"}
    for row in cursor.execute(_IDENTITIES).fetchall():
        if row.identity == "i" and row.index is None:
            continue  # its index was dropped, which is the same as NOTHING
        setting = settings.get(row.identity) or f"USING INDEX {row.quoted}"
        index = row.index_oid and Address("pg_class", row.index_oid)
        if row.constraint_oid:
            index = Address("pg_constraint", row.constraint_oid)
        identity = Object(
            address=Address("replica identity", row.relation),
            kind="replica identity",
            identity=row.table,
            create=(f"ALTER TABLE ONLY {row.table} REPLICA IDENTITY {setting}",),
            drop=f"ALTER TABLE ONLY {row.table} REPLICA IDENTITY DEFAULT",
            relation=Address("pg_class", row.relation),
        )
        yield identity, index


def read_triggers(cursor: Cursor) -> Iterator[tuple[Object, int, str]]:
    """Triggers, each with its function and its arguments."""
    for row in cursor.execute(_TRIGGERS).fetchall():
        trigger = Object(
            address=Address("pg_trigger", row.oid),
            kind="trigger",
            identity=row.identity,
            create=(row.definition, *_state(row.enabled, row.table, f"TRIGGER {row.quoted}")),
            drop=f"DROP TRIGGER IF EXISTS {row.identity}",
            relation=Address("pg_class", row.relation),
        )
        yield trigger, row.function, row.arguments


def _state(enabled: str, table: str, what: str) -> tuple[str, ...]:
    state = _STATES.get(enabled)
    return (f"ALTER TABLE {table} {state} {what}",) if state else ()


def read_others(cursor: Cursor, roles: Collection[str]) -> Iterator[Object]:
    """Rules, extended statistics and row security policies."""
    for row in cursor.execute(_RULES).fetchall():
        yield Object(
            address=Address("pg_rewrite", row.oid),
            kind="rule",
            identity=row.identity,
            create=(
                row.definition.removesuffix(";"),
                *_state(row.enabled, row.table, f"RULE {row.quoted}"),
            ),
            drop=f"DROP RULE IF EXISTS {row.identity}",
            relation=Address("pg_class", row.relation),
        )
    for row in cursor.execute(_STATISTICS).fetchall():
        target = row.target is not None and row.target >= 0
        set_target = (f"ALTER STATISTICS {row.identity} SET STATISTICS {row.target}",)
        yield Object(
            address=Address("pg_statistic_ext", row.oid),
            kind="statistics object",
            identity=row.identity,
            create=(row.definition, *(set_target if target else ())),
            drop=f"DROP STATISTICS IF EXISTS {row.identity}",
            relation=Address("pg_class", row.relation),
        )
    for row in cursor.execute(_POLICIES).fetchall():
        here = ["PUBLIC"] if row.public else [q for name, q in row.roles if name in roles]
        policy = Object(
            address=Address("pg_policy", row.oid),
            kind="policy",
            identity=row.identity,
            create=(f"CREATE POLICY {row.identity} {row.head} TO {', '.join(here)}{row.tail}",),
            drop=f"DROP POLICY IF EXISTS {row.identity}",
            relation=Address("pg_class", row.relation),
        )
        yield policy if here else policy.refused("is for roles that the service does not have")
