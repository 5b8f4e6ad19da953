"""What functions and triggers touch by the words in their bodies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from plans.schema.code import Functions
from plans.schema.mentions import Mention, mentions
from plans.schema.objects import Address, Need
from plans.schema.relations import Relations
from plans.schema.scope import Scope

Named = Mapping[str, tuple[tuple[str, Address], ...]]


@dataclass(frozen=True, slots=True)
class Bodies:
    """Resolves words to what they could name."""

    scope: Scope
    relations: Relations
    functions: Functions
    by_name: Named
    schemas: Collection[str]  # the plan's: where unqualified names are looked up first

    @classmethod
    def of(
        cls, scope: Scope, relations: Relations, functions: Functions, schemas: Collection[str]
    ) -> Bodies:
        """With every relation of the database to be found by its name."""
        by_name: dict[str, tuple[tuple[str, Address], ...]] = {}
        for relation in relations.by_oid.values():
            found = (relation.schema, relation.address)
            by_name[relation.name] = (*by_name.get(relation.name, ()), found)
        return cls(scope, relations, functions, by_name, schemas)

    def function_needs(self) -> Iterator[Need]:
        """What the bodies of functions mention."""
        for function, words in self.functions.words.items():
            for of in self._mentioned(words):
                if of.whole != function:
                    yield Need(function, of, hard=False)

    def trigger_needs(
        self, trigger: Address, table: Address | None, function: int, arguments: str
    ) -> Iterator[Need]:
        """What a trigger touches beside its function: arguments, and columns of its table."""
        # Arguments are C strings, one after the other.
        words = frozenset(word for one in arguments.split("\\000") for word in mentions(one))
        for of in self._mentioned(words):
            yield Need(trigger, of, hard=False)
        if table is not None:
            body = self.functions.words.get(Address("pg_proc", function), frozenset())
            for of in self._missing_columns([table], body | words):
                yield Need(trigger, of, hard=False)

    def _mentioned(self, words: Iterable[Mention]) -> set[Address]:
        words = tuple(words)
        tables: set[Address] = set()
        found: set[Address] = set()
        for word in words:
            tables |= self._resolved(word, self.by_name)
            if word.call:
                found |= self._resolved(word, self.functions.by_name)
        return found | tables | self._missing_columns(tables, words)

    def _resolved(self, word: Mention, named: Named) -> set[Address]:
        candidates = named.get(word.name, ())
        qualified = {address for schema, address in candidates if schema == word.schema}
        usual = {address for schema, address in candidates if schema in self.schemas}
        return qualified or usual or {address for _, address in candidates}

    def _missing_columns(self, tables: Iterable[Address], words: Iterable[Mention]) -> set[Address]:
        """Columns named by words that their tables have on the source only."""
        names = {word.name for word in words}
        missing = set()
        for table in tables:
            part = self.scope.parts.get(self.relations.root(table.oid).table)
            for column in self.relations.columns.get(table.oid, ()):
                if part and column.name in names and column.name not in part.columns:
                    missing.add(column.address)
        return missing
