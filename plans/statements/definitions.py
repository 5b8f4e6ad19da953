"""What views, functions, rules and defaults use themselves, each read once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from plans.catalog import TableName
from plans.statements.bodies import Body, body_of
from plans.statements.commands import Session
from plans.statements.ledger import Uses
from plans.statements.names import Names
from plans.statements.parts import Policy, Routine, Rule, View
from plans.statements.problems import Unparsable
from plans.statements.scope import Scope
from plans.statements.tree import Node, kind_of, parse

_NATIVE = frozenset({"internal", "c"})  # they reach tables only if they say so: see `calls`
_READ = frozenset({"sql", "plpgsql"})


class Definitions:
    """Reads definitions under the names of one place in a text."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._scope: Scope = names.scope

    def routine(self, routine: Routine, path: tuple[str, ...]) -> Uses:
        """What a function uses; `path` is its caller's search_path."""
        names = replace(self._names, path=path).within(routine)
        if names.temporary.keys() - routine.transitions:
            return _routine(routine, names)
        return self._once(("routine", routine, names.path), lambda: _routine(routine, names))

    def view(self, name: TableName) -> Uses:
        """What a view reads."""
        view = self._names.view(name)
        if view is None:
            return Uses()
        return self._once(("view", name), lambda: _view(view, self._global()))

    def rule(self, rule: Rule) -> Uses:
        """What a rule's actions use."""
        return self._once(("rule", rule), lambda: _rule(rule, self._global()))

    def default(self, expression: str) -> Uses:
        """What a column's default uses: the functions in it."""
        return self._once(("default", expression), lambda: _default(expression, self._global()))

    def policy(self, policy: Policy) -> Uses:
        """What a policy's expressions use."""
        return self._once(("policy", policy), lambda: _policy(policy, self._global()))

    def base(self, name: TableName) -> tuple[TableName, dict[str, str]] | None:
        """What a view that can be written writes, and its columns' names there."""
        view = self._names.view(name)
        if view is None:
            return None
        try:
            tree = dict(view.tree) if view.tree else parse(view.definition)[0]
        except Unparsable:
            return None
        return _base(tree, view, self._global())

    def _global(self) -> Names:
        """Names of stored definitions, which are qualified; the text's own objects are known."""
        return replace(self._names, temporary={})

    def _once(self, key: object, read: Callable[[], Uses]) -> Uses:
        if not self._names.are_stored:
            return read()
        if key not in self._scope.memo:
            self._scope.memo[key] = read()
        found: Uses = self._scope.memo[key]
        return found


def _routine(routine: Routine, names: Names) -> Uses:
    if routine.steps:
        steps = [one for step in routine.steps for one in names.scope.routines.get(step, ())]
        return Uses(routines=tuple(steps))
    if routine.language in _NATIVE:
        return Uses()
    if routine.language not in _READ:
        return Uses(unproven=(f"{routine} is written in {routine.language}",))
    session = Session(names)
    try:
        (tree, *_) = parse(routine.definition)
        session.run_body(body_of(kind_of(tree)[1], routine.definition), str(routine))
    except (Unparsable, ValueError) as problem:
        return Uses(unproven=(f"{routine} can't be parsed: {problem}",))
    return session.uses()


def _view(view: View, names: Names) -> Uses:
    try:
        tree = dict(view.tree) if view.tree else parse(view.definition)[0]
    except Unparsable as problem:
        return Uses(unproven=(f"{view.name} can't be parsed: {problem}",))
    return Session(names).read(tree, view.definition)[1]


def _rule(rule: Rule, names: Names) -> Uses:
    try:
        (tree,) = parse(rule.definition)
    except (Unparsable, ValueError) as problem:
        return Uses(unproven=(f"{rule} can't be parsed: {problem}",))
    session = Session(names)
    fields = kind_of(tree)[1]
    session.run_body(Body(trees=tuple(fields.get("actions", []))), str(rule))
    return session.uses()


def _default(expression: str, names: Names) -> Uses:
    try:
        (tree,) = parse(f"SELECT {expression}")
    except (Unparsable, ValueError) as problem:
        return Uses(unproven=(f"the default {expression} can't be parsed: {problem}",))
    return Session(names).read(tree, expression)[1]


def _policy(policy: Policy, names: Names) -> Uses:
    session = Session(names)
    table = policy.relation.identifier.as_string()
    for expression in policy.expressions:
        # Only parsed, never sent; under the table's own FROM its columns are found.
        session.run(f"SELECT {expression} FROM {table}", str(policy))  # noqa: S608
    return session.uses()


def _base(tree: Node, view: View, names: Names) -> tuple[TableName, dict[str, str]] | None:
    match tree:
        case {"SelectStmt": {"fromClause": [{"RangeVar": relation}], "targetList": targets}}:
            pass
        case _:
            return None
    columns = {}
    for shown, target in zip(view.columns, targets, strict=False):
        match target:
            case {"ResTarget": {"val": {"ColumnRef": {"fields": [*_, {"String": name}]}}}}:
                columns[shown] = str(name["sval"])
            case _:
                continue
    return names.relation(relation).name, columns
