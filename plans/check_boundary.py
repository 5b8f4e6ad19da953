"""Findings on what lies across the boundary: keys, views, functions, triggers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plans.boundary import Cut, Reads, held_columns, names_of
from plans.catalog import ForeignKey, TableName
from plans.check_subject import Subject
from plans.dependents import Dependent, sets_for_others
from plans.findings import Finding, Severity
from plans.places import Path
from plans.problems import one_of

_ACTIONS = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def check_foreign_keys(subject: Subject) -> Iterator[Finding]:
    """Keys that are cut without a word, and words about keys that aren't cut."""
    cuts = list(subject.boundary.cuts(subject.catalog))
    named = subject.plan.foreign_keys
    for cut in cuts:
        entry = next((name for name in names_of(cut.key) if name in named), None)
        if entry is None:
            yield _unnamed_cut(subject, cut)
        elif named[entry].replace_with == "reference" and not cut.has_reference:
            yield subject.finding(
                Severity.BLOCKER, "foreign-key-reference", cut.key.name, ("foreign_keys", entry),
                f"{cut.service} has no read-only copy of {cut.key.references}",
                remedy=f"add reference_in: [{cut.service}] to"
                f" {subject.catalog.root(cut.key.references)}, or replace_with: orphan_check",
            )  # fmt: skip
        elif actions := _actions(cut.key):
            yield subject.finding(
                Severity.NOTE, "foreign-key-action", cut.key.name, ("foreign_keys", entry),
                f"{actions} no longer happens in {cut.service}'s database",
                why=_refused_meanwhile(cut),
                remedy="let the applications do it, and cut both services over together",
            )  # fmt: skip
    yield from _split_keys(subject)
    yield from _outside(subject)
    cut_names = {name for cut in cuts for name in names_of(cut.key)}
    for name in named:
        if name not in cut_names:
            yield _not_cut(subject, name)


def _unnamed_cut(subject: Subject, cut: Cut) -> Finding:
    key = cut.key
    actions = _actions(key)
    lost = f", and {actions} no longer happens; {_refused_meanwhile(cut)}" if actions else ""
    return subject.finding(
        Severity.WARNING, "foreign-key-cut", f"{key.table}.{key.name}", key.table,
        f"{cut.service} doesn't own all rows of {key.references} that the key refers to",
        why=f"the key is left out in {cut.service}'s database{lost}",
        remedy=f"say so under foreign_keys: {key.name}: {{replace_with: none | reference |"
        " orphan_check, reason: …}",
    )  # fmt: skip


def _actions(key: ForeignKey) -> str:
    """What the key does by itself when a row that it refers to changes."""
    return " and ".join(
        f"{event} {_ACTIONS[action]}"
        for event, action in (("ON DELETE", key.on_delete), ("ON UPDATE", key.on_update))
        if action in _ACTIONS
    )


def _refused_meanwhile(cut: Cut) -> str:
    return (
        f"while {cut.service} has moved and the owner of {cut.key.references} has not, the fence on"
        f" {cut.key.table} refuses a change that would reach its rows"
    )


def _split_keys(subject: Subject) -> Iterator[Finding]:
    """Keys of several columns, which no part of a table has together."""
    for key in subject.catalog.foreign_keys:
        parts = subject.boundary.by_table.get(subject.catalog.root(key.table), ())
        routes = [route for route in parts if route.kind.owned]
        if routes and not any(set(key.columns) <= held_columns(route) for route in routes):
            yield subject.finding(
                Severity.WARNING, "foreign-key-split", f"{key.table}.{key.name}", key.table,
                f"no service has all of its columns ({', '.join(key.columns)})",
                why="the key is left out in every service's database",
                remedy="give its columns to one service",
            )  # fmt: skip


def _outside(subject: Subject) -> Iterator[Finding]:
    """Keys of tables that the plan doesn't speak about."""
    for key in subject.catalog.foreign_keys:
        if key.table not in subject.catalog.tables and key.references in subject.roots:
            yield subject.finding(
                Severity.WARNING, "foreign-key-outside", f"{key.table}.{key.name}",
                key.references,
                f"{key.table}, whose schema isn't listed, refers to {key.references}",
                why="its table stays behind; after complete its key refers to a table that is"
                " retired",
                remedy="list its schema under source.schemas and say what becomes of the table, or"
                " drop the key before complete",
            )  # fmt: skip


def _not_cut(subject: Subject, name: str) -> Finding:
    path: Path = ("foreign_keys", name)
    known = {called for key in subject.catalog.foreign_keys for called in names_of(key)}
    if name in known:
        return subject.finding(
            Severity.WARNING, "foreign-key-kept", name, path,
            "both ends are in one service; the key is kept as it is",
            remedy="take the entry out",
        )  # fmt: skip
    return subject.finding(
        Severity.BLOCKER, "foreign-key-unknown", name, path,
        f"there is no foreign key {name!r}",
        remedy=one_of(name, {key.name for key in subject.catalog.foreign_keys}),
    )  # fmt: skip


def check_dependents(subject: Subject, dependents: Sequence[Dependent]) -> Iterator[Finding]:
    """Views and functions that no service can have whole, triggers that one cannot have."""
    for one in dependents:
        if one.unproven:
            yield _unproven(subject, one)
        if not any(table in subject.boundary.by_table for table in one.reads):
            continue  # of dropped tables only
        if one.table is not None:
            yield from _trigger(subject, one, one.table)
        elif not _services(subject, one):
            yield _across(subject, one)


def _services(subject: Subject, one: Dependent) -> frozenset[str]:
    """The services that have all it touches, and own something of what it writes."""
    found = subject.boundary.services(one.reads)
    for table in one.writes:
        routes = subject.boundary.by_table.get(table, ())
        found &= {route.service for route in routes if route.kind.owned}
    return found


def _across(subject: Subject, one: Dependent) -> Finding:
    code = "view-across" if one.kind.endswith("view") else "function-across"
    first = min(table for table in one.reads if table in subject.boundary.by_table)
    comes_along = subject.boundary.services(one.reads)
    return subject.finding(
        Severity.WARNING, code, one.name, first,
        f"the {one.kind} touches {_listed(one.reads)}, which no service has together",
        why=f"{' and '.join(sorted(comes_along))} may read all of it, and not write it"
        if comes_along
        else "it is left out in every service",
        remedy="move it to an application, or give a service what is missing (reference_in)",
    )  # fmt: skip


def _unproven(subject: Subject, one: Dependent) -> Finding:
    moves = one.table in subject.roots
    first = min((table for table in one.reads if table in subject.roots), default=None)
    return subject.finding(
        Severity.WARNING if moves else Severity.NOTE, "code-unproven", one.name,
        first or ("source",), f"what the {one.kind} touches cannot be known: {one.unproven[0]}",
        why="it may need a table that another service owns, and fail when it runs there",
        remedy="read it; see that a service that calls it has what it needs",
    )  # fmt: skip


def _trigger(subject: Subject, one: Dependent, table: TableName) -> Iterator[Finding]:
    yield from _sets(subject, one, table)
    having = _services(subject, one)
    others = {name: columns for name, columns in one.reads.items() if name != table}
    for route in subject.boundary.by_table.get(table, ()):
        if route.kind.owned and route.service not in having:
            yield subject.finding(
                Severity.WARNING, "trigger-across", one.name, table,
                f"its function touches {_listed(others or one.reads)}, which {route.service}"
                " doesn't have, or not to write it",
                why=f"the trigger is left out in {route.service}'s database, or fails there; and"
                f" once such a table has moved and {table} has not, the source's fence refuses what"
                " the trigger writes",
                remedy=f"do its work in {route.service}'s application or in the orchestrator",
            )  # fmt: skip


def _sets(subject: Subject, one: Dependent, table: TableName) -> Iterator[Finding]:
    """What keeps a table's time of change, such as: it is one service's, and all set it off."""
    for found in sets_for_others(one, subject.boundary.by_table.get(table, ())):
        columns, others = ", ".join(found.columns), " and ".join(found.others)
        fitting = sorted(
            name
            for route in subject.boundary.by_table[table]
            if route.service == found.owner
            for name in held_columns(route) - set(route.source.key) - set(found.columns)
        )
        only = f"BEFORE UPDATE OF {', '.join(fitting)}" if fitting else "for nobody else"
        yield subject.finding(
            Severity.WARNING, "trigger-part", one.name, table,
            f"it sets {columns}, which {found.owner} has, also when {others} changes a row",
            why=f"once {found.owner} has moved and {others} has not, the source's fence refuses"
            f" each UPDATE by {others}; later {columns} tells of {found.owner}'s changes only",
            remedy=f"cut both over together, or let the trigger fire {only}",
        )  # fmt: skip


def _listed(reads: Reads) -> str:
    return ", ".join(sorted(str(table) for table in reads))
