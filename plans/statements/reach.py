"""From what a statement names to what it touches: through views, functions, triggers, keys."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from plans.catalog import ForeignKey, TableName
from plans.statements.definitions import Definitions
from plans.statements.ledger import Use, Uses
from plans.statements.model import Touch
from plans.statements.names import Names
from plans.statements.parts import Event, Routine, Trigger, WriteEvent

_ON_DELETE_WRITES = {"c", "n", "d"}
Via = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Way:
    """How something was reached, and the search_path there."""

    via: Via
    path: tuple[str, ...]

    def to(self, label: object) -> _Way:
        return _Way((*self.via, str(label)), self.path)

    def into(self, routine: Routine, label: object) -> _Way:
        """A function's own search_path is that of all that it calls, too."""
        path = self.path if routine.search_path is None else routine.search_path
        return _Way((*self.via, str(label)), path)


@dataclass(frozen=True, slots=True)
class Reached:
    """All that is touched, and what about it cannot be known."""

    touches: tuple[Touch, ...]
    unproven: tuple[str, ...]


@dataclass(slots=True)
class _Search:
    """A breadth-first walk: each thing is entered once, by its shortest way."""

    names: Names
    definitions: Definitions
    waiting: deque[tuple[Uses, _Way]] = field(default_factory=deque)
    entered: set[object] = field(default_factory=set)
    touches: dict[tuple[TableName, bool, Via], frozenset[str] | None] = field(default_factory=dict)
    unproven: dict[str, None] = field(default_factory=dict)

    def walk(self, uses: Uses) -> Reached:
        self.waiting.append((uses, _Way((), self.names.path)))
        while self.waiting:
            found, way = self.waiting.popleft()
            self.unproven.update(dict.fromkeys(found.unproven))
            for use in found.relations:
                self._use(use, way)
            for routine in found.routines:
                self._call(routine, way)
        return Reached(
            tuple(
                Touch(table, columns or frozenset(), writes, via)
                for (table, writes, via), columns in self.touches.items()
            ),
            tuple(self.unproven),
        )

    def _enter(self, what: object) -> bool:
        is_new = what not in self.entered
        self.entered.add(what)
        return is_new

    def _call(self, routine: Routine, way: _Way) -> None:
        if self._enter((routine, way.path)):
            uses = self.definitions.routine(routine, way.path)
            self.waiting.append((uses, way.into(routine, routine)))

    def _use(self, use: Use, way: _Way) -> None:
        if self.names.view(use.relation):
            self._use_view(use, way)
            return
        self._touch(use, way)
        self._policies(use, way)
        match use.event:
            case "read" | "alter":
                return
            case _ as event:
                if self._enter(use):
                    self._consequences(use, event, way)

    def _touch(self, use: Use, way: _Way) -> None:
        key = (use.relation, use.event != "read", way.via)
        known = self.touches.get(key, frozenset())
        both = None if known is None or use.columns is None else known | use.columns
        self.touches[key] = both

    def _policies(self, use: Use, way: _Way) -> None:
        for policy in self.names.scope.policies.get(use.relation, ()):
            if use.event in policy.events and self._enter(policy):
                self.waiting.append((self.definitions.policy(policy), way.to(policy)))

    def _use_view(self, use: Use, way: _Way) -> None:
        match use.event:
            case "read" | "alter":
                self._read_view(use.relation, way)
            case _ as event:
                self._write_view(use, event, way)

    def _read_view(self, view: TableName, way: _Way) -> None:
        if self._enter(("read", view)):
            self.waiting.append((self.definitions.view(view), way.to(view)))

    def _write_view(self, use: Use, event: WriteEvent, way: _Way) -> None:
        if not self._enter(use):
            return
        if event in ("update", "delete"):
            self._read_view(use.relation, way)  # the rows that are changed are found there
        replaced = self._rules(use, event, way) | self._triggers(use, event, way)
        if replaced:
            return
        base = self.definitions.base(use.relation)
        if base is None:
            self.unproven[f"what is written through {use.relation} isn't known"] = None
            return
        relation, names = base
        columns = use.columns
        if columns is not None:
            columns = frozenset(names[name] for name in columns if name in names) or None
        below = Uses((Use(relation, event, columns),))
        self.waiting.append((below, way.to(use.relation)))

    def _consequences(self, use: Use, event: WriteEvent, way: _Way) -> None:
        """What the server does besides when a table is written."""
        self._triggers(use, event, way)
        self._rules(use, event, way)
        if event == "insert":
            self._defaults(use, way)
        if event in ("insert", "update"):
            self._attached(use, way)
        for key, below in self._cascades(use, event):
            label = f"foreign key {key.name} on {key.table}"
            self.waiting.append((Uses((below,)), way.to(label)))

    def _triggers(self, use: Use, event: WriteEvent, way: _Way) -> bool:
        """Whether triggers run; on a view they run instead."""
        fired = [
            trigger for trigger in self.names.scope.triggers.get(use.relation, ())
            if _fires(trigger, event, use.columns)
        ]  # fmt: skip
        for trigger in fired:
            if self._enter(trigger):
                uses = self.definitions.routine(trigger.routine, way.path)
                self.waiting.append((uses, way.into(trigger.routine, trigger)))
        return bool(fired)

    def _rules(self, use: Use, event: WriteEvent, way: _Way) -> bool:
        """Whether a rule stands instead of the write."""
        rules = [rule for rule in self.names.scope.rules.get(use.relation, ())
                 if rule.event == event]  # fmt: skip
        for rule in rules:
            if self._enter(rule):
                self.waiting.append((self.definitions.rule(rule), way.to(rule)))
        return any(rule.is_instead for rule in rules)

    def _defaults(self, use: Use, way: _Way) -> None:
        table = self.names.scope.catalog.tables.get(use.relation)
        for column in table.columns if table else ():
            if column.default and column.name not in (use.columns or ()):
                self.waiting.append((self.definitions.default(column.default), way))

    def _attached(self, use: Use, way: _Way) -> None:
        """What the server works out for each row: CHECKs, indexes, computed columns."""
        for one in self.names.scope.attached.get(use.relation, ()):
            if self._enter(one):
                self.waiting.append((Uses(routines=one.routines), way.to(one)))

    def _cascades(self, use: Use, event: WriteEvent) -> Iterator[tuple[ForeignKey, Use]]:
        for key in self.names.scope.referencing.get(use.relation, ()):
            table = self.names.scope.root(key.table)
            action = key.on_delete if event == "delete" else key.on_update
            changed = event == "delete" or (
                event == "update" and _overlap(key.referenced_columns, use.columns)
            )
            if changed and action in _ON_DELETE_WRITES:
                cascades: Event = "delete" if event == "delete" and action == "c" else "update"
                columns = None if cascades == "delete" else frozenset(key.columns)
                yield key, Use(table, cascades, columns)


def reach(uses: Uses, names: Names) -> Reached:
    """All that is touched by what `uses` names, under `names`."""
    return _Search(names, Definitions(names)).walk(uses)


def _fires(trigger: Trigger, event: WriteEvent, columns: frozenset[str] | None) -> bool:
    if event not in trigger.events:
        return False
    return event != "update" or not trigger.columns or _overlap(trigger.columns, columns)


def _overlap(some: tuple[str, ...] | frozenset[str], columns: frozenset[str] | None) -> bool:
    return columns is None or not columns.isdisjoint(some)
