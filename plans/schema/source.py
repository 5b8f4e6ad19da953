"""Everything of the source's schema that could come along, read once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from plans.schema.attached import (
    read_constraints,
    read_indexes,
    read_others,
    read_replica_identities,
    read_triggers,
)
from plans.schema.bodies import Bodies
from plans.schema.code import Functions, read_functions, read_views
from plans.schema.ddl import Target
from plans.schema.dependencies import Dependencies, read_dependencies
from plans.schema.objects import Address, Need, Object
from plans.schema.reading import Cursor
from plans.schema.relations import Relation, Relations, read_relations
from plans.schema.scope import Scope
from plans.schema.sequences import Sequences, read_sequences
from plans.schema.types import read_types


@dataclass(frozen=True, slots=True)
class Source:
    """The objects of the source, and what they need, as one service sees them."""

    scope: Scope
    relations: Relations
    dependencies: Dependencies
    functions: Functions
    sequences: Sequences
    objects: tuple[Object, ...]
    needs: tuple[Need, ...]

    def tables(self) -> Iterator[Relation]:
        """The tables of the service, with all their partitions."""
        return (one for one in self.relations.by_oid.values() if is_here(self, one.oid))

    def alone(self) -> set[Address]:
        """What comes along on its own account if it reads a table of the service."""
        return {
            one.address
            for one in self.objects
            if one.kind in ("view", "function") and one.address not in self.functions.for_triggers
        }


def is_here(source: Source, oid: int) -> bool:
    """Whether a relation is a table of the service, or a partition of one."""
    if (relation := source.relations.by_oid.get(oid)) is None or relation.kind not in ("r", "p"):
        return False
    return source.relations.root(oid).table in source.scope.parts


@dataclass(frozen=True, slots=True)
class Common:
    """What is the same for every service."""

    relations: Relations
    dependencies: Dependencies
    functions: Functions
    sequences: Sequences


def read_common(cursor: Cursor) -> Common:
    """Read it once; most of the work on a large database is here."""
    dependencies = read_dependencies(cursor)
    return Common(
        read_relations(cursor),
        dependencies,
        read_functions(cursor),
        read_sequences(cursor, dependencies.sequence_owner, dependencies.identity_sequences),
    )


def read_source(
    cursor: Cursor, scope: Scope, schemas: Collection[str], target: Target, common: Common
) -> Source:
    """Read the rest of it, for the database of `target`."""
    relations, dependencies = common.relations, common.dependencies
    functions, sequences = common.functions, common.sequences
    bodies = Bodies.of(scope, relations, functions, schemas)
    objects: list[Object] = [
        *read_types(cursor, target.extensions),
        *(_sequence(one, scope, relations) for one in sequences.alone),
        *functions.objects,
        *read_views(cursor),
        *read_constraints(cursor, relations, scope, target.reference_keys, target.major),
        *read_indexes(cursor, relations),
        *read_others(cursor, target.roles),
        *_defaults(scope, relations),
        *_row_security(relations),
        *(
            Object(address=one.address, kind="table", identity=one.quoted, create=())
            for one in relations.by_oid.values()
            if one.kind in ("r", "p") and relations.root(one.oid).table in scope.parts
        ),
    ]
    needs = [*dependencies.needs, *_of_generated(relations, dependencies), *bodies.function_needs()]
    for identity, index in read_replica_identities(cursor):
        objects.append(identity)
        needs += (Need(identity.address, of) for of in (identity.relation, index) if of)
    for trigger, function, arguments in read_triggers(cursor):
        objects.append(_on_a_copy(trigger, scope, relations))
        needs += bodies.trigger_needs(trigger.address, trigger.relation, function, arguments)
    needs += (Need(by, extension) for by, extension in _extension_users(needs, dependencies))
    return Source(
        scope,
        relations,
        dependencies,
        functions,
        sequences,
        tuple(one for one in objects if one.address not in dependencies.extension),
        tuple(needs),
    )


def _of_generated(relations: Relations, dependencies: Dependencies) -> Iterator[Need]:
    """Who needs a generated column needs its expression."""
    expression = {
        column.address: column.default
        for columns in relations.columns.values()
        for column in columns
        if column.generated and column.default
    }
    for need in dependencies.needs:
        of = expression.get(need.of)
        if of is not None and of != need.by.whole:
            yield Need(need.by, of)


def _extension_users(
    needs: list[Need], dependencies: Dependencies
) -> list[tuple[Address, Address]]:
    """Who needs something that an extension brought needs the extension."""
    return [
        (need.by, dependencies.extension[need.of.whole])
        for need in needs
        if need.of.whole in dependencies.extension
    ]


def _defaults(scope: Scope, relations: Relations) -> Iterator[Object]:
    for relation in relations.by_oid.values():
        if relation.kind not in ("r", "p"):
            continue
        part = scope.parts.get(relations.root(relation.oid).table)
        for column in relations.columns.get(relation.oid, ()):
            if part and column.default and (part.owned or column.generated):
                alter = f"ALTER TABLE ONLY {relation.quoted} ALTER COLUMN {column.quoted} "
                yield Object(
                    address=column.default,
                    kind="default value",
                    identity=f"{relation.quoted}.{column.quoted}",
                    create=(f"{alter}SET DEFAULT {column.expression}",),
                    drop=f"{alter}DROP DEFAULT",
                    relation=relation.address,
                )


def _row_security(relations: Relations) -> Iterator[Object]:
    for relation in relations.by_oid.values():
        if relation.row_security or relation.forced_row_security:
            on = (relation.row_security, relation.forced_row_security)
            words = ("ENABLE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY")
            actions = ", ".join(word for word, is_on in zip(words, on, strict=True) if is_on)
            alter = f"ALTER TABLE {relation.quoted} "
            yield Object(
                address=Address("row security", relation.oid),
                kind="row security",
                identity=relation.quoted,
                create=(alter + actions,),
                drop=f"{alter}NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY",
                relation=relation.address,
            )


def _on_a_copy(trigger: Object, scope: Scope, relations: Relations) -> Object:
    relation = trigger.relation and relations.by_oid.get(trigger.relation.oid)
    if relation and relation.kind in ("r", "p"):
        part = scope.parts.get(relations.root(relation.oid).table)
        if part and not part.owned:
            return trigger.refused("is on a read-only copy, which only the stream writes")
    return trigger


def _sequence(sequence: Object, scope: Scope, relations: Relations) -> Object:
    """Attached to its column only where that is owned: a read-only copy draws no numbers."""
    if sequence.relation is None:
        return sequence
    part = scope.parts.get(relations.root(sequence.relation.oid).table)
    column = relations.column(sequence.relation)
    here = part and part.owned and column and column.name in part.columns
    return sequence if here else replace(sequence, relation=None)
