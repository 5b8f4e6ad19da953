"""Findings on what lies across the boundary: keys, views, functions, triggers, sequences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from plans.boundary import Cut, Reads, held_columns
from plans.catalog import ForeignKey, TableName
from plans.check_subject import Subject
from plans.dependents import Dependent
from plans.findings import Finding, Severity
from plans.places import Path
from plans.problems import one_of

_ON_DELETE = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def names_of(key: ForeignKey) -> tuple[str, str, str]:
    """The names by which a plan may call a foreign key; the first need not be unique."""
    return key.name, f"{key.table.name}.{key.name}", f"{key.table}.{key.name}"


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
                remedy=f"add reference_in: [{cut.service}] to {cut.key.references},"
                " or replace_with: orphan_check",
            )  # fmt: skip
    cut_names = {name for cut in cuts for name in names_of(cut.key)}
    for name in named:
        if name not in cut_names:
            yield _not_cut(subject, name)


def _unnamed_cut(subject: Subject, cut: Cut) -> Finding:
    key = cut.key
    action = _ON_DELETE.get(key.on_delete)
    lost = f", and ON DELETE {action} no longer happens" if action else ""
    return subject.finding(
        Severity.WARNING, "foreign-key-cut", f"{key.table}.{key.name}", key.table,
        f"{cut.service} doesn't own all rows of {key.references} that the key refers to",
        why=f"the key is left out in {cut.service}'s database{lost}",
        remedy=f"say so under foreign_keys: {key.name}: {{replace_with: none | reference |"
        " orphan_check, reason: …}",
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
        held = {table for table in one.reads if table in subject.boundary.by_table}
        if not held:
            continue  # of dropped tables only
        first = min(held)
        if one.table is not None:
            yield from _trigger(subject, one, one.table)
        elif not subject.boundary.services(one.reads):
            yield subject.finding(
                Severity.WARNING, f"{one.kind.split()[-1]}-across", one.name, first,
                f"the {one.kind} reads {_listed(one.reads)}, which no service has together",
                why="it is left out in every service",
                remedy="move it to an application, or give a service what is missing"
                " (reference_in)",
            )  # fmt: skip


def _trigger(subject: Subject, one: Dependent, table: TableName) -> Iterator[Finding]:
    having = subject.boundary.services(one.reads)
    for route in subject.boundary.by_table.get(table, ()):
        if route.kind.owned and route.service not in having:
            others = {name: columns for name, columns in one.reads.items() if name != table}
            yield subject.finding(
                Severity.WARNING, "trigger-across", one.name, table,
                f"its function reads {_listed(others)}, which {route.service} doesn't have",
                why=f"the trigger is left out in {route.service}'s database",
                remedy=f"do its work in {route.service}'s application or in the orchestrator",
            )  # fmt: skip


def _listed(reads: Reads) -> str:
    return ", ".join(sorted(str(table) for table in reads))


def check_sequences(subject: Subject) -> Iterator[Finding]:
    """Sequences from which several services would draw."""
    users: dict[TableName, dict[str, TableName]] = defaultdict(dict)
    for route in subject.routes:
        columns = held_columns(route) if route.kind.owned else frozenset()
        for column in route.source.columns:
            if column.sequence and column.name in columns:
                users[column.sequence].setdefault(route.service, route.source.name)
    for sequence, by_service in sorted(users.items()):
        if len(by_service) > 1:
            yield subject.finding(
                Severity.NOTE, "sequence-shared", sequence, min(by_service.values()),
                f"{', '.join(sorted(by_service))} draw from it",
                why="each service gets a sequence of its own; the cutover lets them count in"
                f" steps of {len(by_service) + 1}, each from another start, so that no number"
                " is drawn twice",
                remedy="see that nothing relies on numbers without gaps, and that the columns'"
                " types have room for them",
            )  # fmt: skip
