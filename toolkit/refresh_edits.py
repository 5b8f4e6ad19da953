"""What a changed schema asks of the plan's text, and of the person who keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cdc.connect import Connection
from plans.catalog import Catalog, TableName
from plans.check_data import check_expressions
from plans.check_identity import check_source_identity
from plans.check_labels import labels_compared
from plans.check_subject import Subject
from plans.check_tables import check_tables
from plans.errors import PlanInvalid
from plans.evolution import Change, Kind
from plans.load import Plan
from plans.model import DROP
from plans.problems import PlanProblems, Problem
from plans.revision import (
    Edit,
    GoneColumn,
    GoneEntry,
    NewColumn,
    NewEntry,
    RenamedColumn,
    RenamedEntry,
)
from plans.routes import Route
from toolkit.prepared import heir_of, no_inherit
from toolkit.refresh_seen import Noted, Seen, ignored_columns, is_of


@dataclass(frozen=True, slots=True)
class Answers:
    """What the caller has decided; names as people write them."""

    owners: Mapping[str, str] = field(default_factory=dict)  # table to service, or drop
    columns: Mapping[str, str] = field(default_factory=dict)  # table.column to service, or drop
    anew: frozenset[str] = frozenset()  # tables to be copied anew, whatever has changed
    by_itself: bool = False  # no person was asked: the plan's `ddl:` decides


def edits_of(plan: Plan, noted: Noted, seen: Seen, answers: Answers) -> list[Edit]:
    """The edits that make the plan fit the source.

    Raises PlanInvalid with all that a person has to decide first.
    """
    open_questions: list[str] = []
    edits = [
        *_edits(plan, seen, answers, open_questions),
        *_new_entries(plan, noted, seen, answers, open_questions),
        *_names_taken(plan, seen),
    ]
    _check_entries(plan, noted, seen, open_questions)
    if open_questions:
        raise PlanInvalid(
            f"the plan does not say what becomes of all that has changed: "
            f"{'; '.join(open_questions)}",
            hint=f"nothing was changed; decide with --owner TABLE=SERVICE and --column "
            f"TABLE.COLUMN=SERVICE (or =drop), or edit {plan.path}, then repeat",
        )
    return edits


def require_said(plan: Plan, answers: Answers) -> None:
    """Check that the plan says what was answered, where it cannot be made to any more.

    Raises PlanInvalid with each answer that it does not say.
    """
    other = [
        f"--owner {n}={owner}" for n, owner in answers.owners.items() if not _owns(plan, n, owner)
    ]
    other += [
        f"--column {n}={owner}" for n, owner in answers.columns.items() if not _has(plan, n, owner)
    ]
    if other:
        raise PlanInvalid(
            f"a refresh of split {plan.split} was begun and has not ended, and its plan does not "
            f"say {', '.join(other)}",
            hint=f"`dbsplit plan refresh {plan.path}` ends what was begun; then repeat",
        )


def _owns(plan: Plan, table: str, owner: str) -> bool:
    key = _key_of(plan, table)
    return key is not None and plan.tables[key].owner == owner


def _has(plan: Plan, column: str, owner: str) -> bool:
    """Whether the plan gives a column to a service, or drops it."""
    table, _, name = column.rpartition(".")
    if (key := _key_of(plan, table)) is None:
        return False
    entry = plan.tables[key]
    if owner == DROP:
        return name in entry.drop
    if entry.split_columns is not None:
        return name in entry.split_columns.get(owner, ())
    return name not in entry.drop


def _key_of(plan: Plan, table: str) -> str | None:
    """What the plan calls a table, as people write it."""
    return next(
        (
            key
            for key in plan.tables
            if table in (key, *(f"{s}.{key}" for s in plan.source.schemas))
        ),
        None,
    )


def require_expressions(
    plan: Plan, catalog: Catalog, routes: Sequence[Route], source: Connection
) -> None:
    """Check that the source, as it is now, still takes each expression of the plan.

    Raises PlanInvalid with the place of each that it does not, such as one with a value of
    an enum that was renamed: later the copy would find it, with half of the work done.
    """
    refused = [
        Problem(one.place, one.object, one.message, "write it for the source as it is now")
        for one in check_expressions(Subject.of(plan, catalog, routes), source)
        if one.code == "expression-refused"
    ]
    if refused:
        raise PlanProblems(plan.places.file, refused)


def require_followable(plan: Plan, catalog: Catalog, routes: Sequence[Route]) -> None:
    """Check that the source's applications can go on writing the tables, and the stream reading.

    Raises PlanInvalid with the place of each table, before anything is published.
    """
    subject = Subject.of(plan, catalog, routes)
    found = [
        Problem(one.place, one.object, f"{one.message}; {one.why}", one.remedy)
        for one in (*check_tables(subject), *check_source_identity(subject))
        if one.code in ("identity-generated", "column-reserved")
    ]
    if found:
        raise PlanProblems(plan.places.file, found)


def require_labels(
    plan: Plan, catalog: Catalog, routes: Sequence[Route], changes: Sequence[Change]
) -> None:
    """Check that no expression compares an enum's text with a value that was renamed.

    The source takes it, and it would be true of other rows than before: they would change
    their owner without a word.  One that knows the new name, too, is as good as before.

    Raises PlanInvalid with the place of each.
    """
    subject = Subject.of(plan, catalog, routes)
    renamed = [change for change in changes if change.kind is Kind.ENUM_RENAMED]
    found = [
        Problem(
            plan.place(subject.path_of(route)),
            route.id,
            f"the text of {column} is compared with {change.was!r}, which is called "
            f"{change.object!r} now",
            "write the new name, or both until the refresh is done",
        )
        for route in routes
        for change in renamed
        for column, values in _compared(route, change.table).items()
        if change.was in values and change.object not in values
    ]
    if found:
        raise PlanProblems(plan.places.file, found)


def _compared(route: Route, enum: TableName) -> dict[str, set[str]]:
    """What the texts of a route's columns of an enum are compared with."""
    types = {one.type: () for one in route.source.columns if is_of(one.type, enum)}
    found: dict[str, set[str]] = {}
    for column, _, value in labels_compared(route, types):
        found.setdefault(column, set()).add(value)
    return found


def to_ignore(plan: Plan, noted: Noted, seen: Seen) -> dict[TableName, set[str]]:
    """The new columns that the plan leaves aside for now."""
    found = {name: set(columns) for name, columns in ignored_columns(noted).items()}
    if plan.ddl.added_columns != "ignore":
        return {}
    for change in seen.changes:
        if change.kind is Kind.ADDED_COLUMN and not _is_placed(plan, change):
            found.setdefault(change.table, set()).add(change.object)
    for change in seen.changes:
        if change.kind is Kind.ADDED_COLUMN and _is_placed(plan, change):
            found.get(change.table, set()).discard(change.object)
    there = {str(name): numbers.columns for name, numbers in seen.numbers.items()}
    return {
        name: kept
        for name, columns in found.items()
        if (kept := {c for c in columns if c in there.get(str(name), {})})
    }


def entry_key(plan: Plan, table: TableName) -> str | None:
    """What the plan calls a table, whether it exists or not."""
    unqualified = table.schema in plan.source.schemas
    for key in plan.tables:
        bare = key.replace('"', "")
        if bare == str(table) or (unqualified and bare == table.name):
            return key
    return None


def _edits(plan: Plan, seen: Seen, answers: Answers, questions: list[str]) -> Iterator[Edit]:
    for change in seen.changes:
        if key := entry_key(plan, change.table):
            if change.kind is Kind.GONE_TABLE and change.now:
                schema = change.now.partition(".")[0]
                questions.append(f"{change}: add {schema} to source.schemas, or move it back")
                continue
            yield from _of_entry(plan, key, change, str(change.table) in seen.numbers)
            if change.kind is Kind.ADDED_COLUMN:
                yield from _added(plan, key, change, answers, questions)


def _new_entries(
    plan: Plan, noted: Noted, seen: Seen, answers: Answers, questions: list[str]
) -> Iterator[Edit]:
    for table in seen.unassigned:
        owner = _answer(answers.owners, table)
        parent = heir_of(seen.catalog, table, noted.shapes)
        if parent and (owner is not None or plan.ddl.new_tables == "stop"):
            questions.append(
                f"table {table} is new and inherits from {parent}, and inheritance isn't "
                f"supported: first {no_inherit(table, parent)}"
            )
        elif owner is not None:
            name = table.name if table.schema == plan.source.schemas[0] else str(table)
            yield NewEntry(name, owner)
        elif plan.ddl.new_tables == "stop":
            questions.append(f"table {table} is new and has no owner")


def _of_entry(plan: Plan, key: str, change: Change, is_there: bool) -> Iterator[Edit]:  # noqa: FBT001
    listed = _listed(plan, key)
    match change.kind:
        case Kind.GONE_TABLE if not is_there:
            yield GoneEntry(key)
        case Kind.RENAMED_TABLE:
            moved = TableName(*change.now.split(".", 1))
            other = entry_key(plan, moved)
            if other == key:
                return  # in another schema that is listed, and the entry names none
            if other is None:
                yield RenamedEntry(key, str(moved) if "." in key else moved.name)
            else:
                yield GoneEntry(key)
        case Kind.DROPPED_COLUMN if change.object in listed:
            yield GoneColumn(key, change.object)
        case Kind.RENAMED_COLUMN | Kind.EXCHANGED_COLUMN if change.was in listed:
            yield RenamedColumn(key, change.was, _free_name(change))
        case _:
            pass


def _names_taken(plan: Plan, seen: Seen) -> Iterator[Edit]:
    """What gives columns the names that others had, once nobody is called so any more."""
    for change in seen.changes:
        key = entry_key(plan, change.table) if change.kind is Kind.EXCHANGED_COLUMN else None
        if key is not None and change.was in _listed(plan, key):
            yield RenamedColumn(key, _free_name(change), change.object)


def _free_name(change: Change) -> str:
    """The new name of a column, or one that no column can have while it is still another's."""
    return change.object if change.kind is Kind.RENAMED_COLUMN else f"{_NO_NAME}{change.object}"


_NO_NAME = "?" * 64
"""Longer than a name can be (the manual, "Identifiers and Key Words": 63 bytes)."""


def _added(
    plan: Plan, key: str, change: Change, answers: Answers, questions: list[str]
) -> Iterator[Edit]:
    owner = answers.columns.get(f"{key}.{change.object}")
    owner = owner or answers.columns.get(f"{change.table}.{change.object}")
    entry = plan.tables[key]
    if owner is not None:
        if owner != DROP and owner not in (entry.split_columns or {owner: ()}):
            questions.append(f"{key}.{change.object}: {owner} has no part of {key}")
        elif not _is_placed(plan, change):
            yield NewColumn(key, change.object, owner)
        return
    asks = plan.ddl.added_columns != "ignore" and not _is_placed(plan, change)
    if entry.split_columns and asks:
        questions.append(
            f"column {change.object} of {change.table} is new, and the table is split by column"
        )


def _listed(plan: Plan, key: str) -> set[str]:
    """The columns that an entry names."""
    entry = plan.tables[key]
    return {*entry.drop, *(c for part in (entry.split_columns or {}).values() for c in part)}


def _is_placed(plan: Plan, change: Change) -> bool:
    """Whether the plan names a new column."""
    key = entry_key(plan, change.table)
    return key is not None and change.object in _listed(plan, key)


def _answer(answers: Mapping[str, str], table: TableName) -> str | None:
    return answers.get(str(table)) or answers.get(table.name)


def _check_entries(plan: Plan, noted: Noted, seen: Seen, questions: list[str]) -> None:
    """What the plan says otherwise than before, of tables that have not changed, is no refresh."""
    changed = {change.table for change in seen.changes}
    for key, entry in plan.tables.items():
        before = noted.entries.get(key)
        table = seen.catalog.find(key)
        if before is None or table is None or table.name in changed:
            continue
        if entry.model_dump(mode="json") != before:
            questions.append(
                f"the entry of {key} is not as it was prepared, and the table has not changed: "
                "that needs `dbsplit abort` and a new copy"
            )
