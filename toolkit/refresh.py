"""`plan refresh`: the source's schema has changed, and the split goes on without a new copy.

Catalog, plan and what was noted are compared; the plan's next revision is written; then
each target gets an Alembic revision of its own.  Tables of which it is known what the
change did to their rows keep them.  The others, and new ones, are copied, under a horizon
of their own.  What needs the rows of after the change, such as a new foreign key, waits
until the stream has passed it.

What is to be done is noted on the source before the first step, and each step finds out
whether it was done, so that after a crash the same command goes on.  A stream that carries
changes by itself goes the same way, as far as `toolkit.by_itself` lets it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from cdc.connect import Connection
from cdc.crash import crash_point
from cdc.watch import UnknownShape
from plans.catalog import Catalog, TableName
from plans.compile import compile_routes
from plans.errors import GateClosed, PlanInvalid, StreamBroken
from plans.evolution import OF_TYPES
from plans.load import Plan, load_plan
from plans.revision import edit_as_dict
from toolkit import locks, state
from toolkit.by_itself import (
    REFRESHABLE,
    UNCOPIED,
    is_refreshable,
    joined,
    keys_of,
    require_carried,
    require_may_go_on,
)
from toolkit.leading import require_agreement
from toolkit.prepared import heir_of, no_inherit
from toolkit.refresh_edits import Answers, edits_of, entry_key, require_said, to_ignore
from toolkit.refresh_in_place import not_null_statement
from toolkit.refresh_plan import as_begun, pending, revised
from toolkit.refresh_run import carry_out
from toolkit.refresh_seen import Noted, Seen, met, read_noted, see
from toolkit.refresh_work import Work, decide, without
from toolkit.say import Say
from toolkit.state import Phase
from toolkit.stored import stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What a refresh did, or would do."""

    changes: tuple[str, ...] = ()
    edits: tuple[str, ...] = ()  # of the plan file
    statements: Mapping[str, list[str]] = field(default_factory=dict)  # by service
    copied: tuple[str, ...] = ()  # routes that were copied anew
    unassigned: tuple[str, ...] = ()  # new tables that the plan ignores
    heirs: Mapping[str, str] = field(default_factory=dict)
    """Those of them that inherit from a followed table, and what makes them their own."""

    kept: Mapping[str, list[str]] = field(default_factory=dict)
    """By service, how to drop indexes that the source has no more."""

    to_repair: tuple[str, ...] = ()  # routes of which the source may lack what was written
    to_copy: tuple[str, ...] = ()  # routes that the copy, which has not ended, begins anew

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "changes": list(self.changes),
            "edits": list(self.edits),
            "statements": dict(self.statements),
            "copied": list(self.copied),
            "unassigned": list(self.unassigned),
            "heirs": dict(self.heirs),
            "kept": dict(self.kept),
            "to_repair": list(self.to_repair),
            "to_copy": list(self.to_copy),
        }


def refresh(path: Path, answers: Answers, say: Say, *, dry_run: bool = False) -> Refreshed:
    """Bring plan, targets and control rows to where the source is.

    Without a person (`Answers.by_itself`) it does what the plan's `ddl:` lets a stream do, and
    raises RefreshBegun or StreamBroken for what it does not.

    Raises PlanInvalid or GateClosed for what cannot be refreshed, and names it; nothing
    is changed then.  NotReady if a stream runs, or a target refuses a statement.
    """
    plan = load_plan(path, os.environ)
    dsn = plan.source.dsn
    with (
        locks.sole_runner(dsn, plan.split, locks.SETUP),
        locks.sole_runner(dsn, plan.split, locks.STREAM) as source,
    ):
        noted = read_noted(plan, source)
        if noted.work is not None:
            work = Work.of(noted.work)
            if answers.by_itself:
                require_may_go_on(plan, work, state.phases(source, plan.split).values())
            edits = tuple(map(str, pending(plan, work)))
            plan = as_begun(plan, work, dry_run=dry_run)
            require_agreement(plan, source, noted, state.moved(source, plan.split))
            work = _overtaken(plan, source, noted, work, answers)
            if not dry_run:
                _note_work(plan.split, source, work)
                _finish(path, source, work, say, answers)
            return _told(work, edits=edits)
        require_agreement(plan, source, noted, moved_services(plan, source))
        # A move that is under way goes by the tables as they were; the next one finds the note.
        with locks.sole_runner(dsn, plan.split, locks.CUTOVER):
            told, begun = _begin(plan, source, answers, dry_run=dry_run)
        if begun is None:
            return told
        return replace(told, copied=_finish(path, source, begun, say, answers))


def _overtaken(plan: Plan, source: Connection, noted: Noted, work: Work, answers: Answers) -> Work:
    """The work, or what takes its place if the source has changed since it was decided.

    Or if tables are to be copied that it does not copy, or on which it broke.  Raises
    PlanInvalid if that needs another plan, which a refresh that was begun cannot have.
    """
    require_said(plan, answers)
    decided = work.decided(noted)
    seen = see(plan, source, decided)
    later = [change for change in met(decided, seen) if change.kind not in OF_TYPES]
    named = _anew(plan, seen, answers)
    if not later and (
        not named or (named <= _begun(plan, work, decided, seen) and not work.broken)
    ):
        return work
    undo = (
        f"undo it on the source, repeat `dbsplit plan refresh {plan.path}`, which ends what was "
        "begun, and make the change again"
    )
    try:
        edits = edits_of(plan, decided, seen, Answers())
    except PlanInvalid as error:
        raise PlanInvalid(str(error), hint=undo) from None
    if edits:
        raise PlanInvalid(
            f"{'; '.join(map(str, later))}, since the refresh was begun, and that needs another "
            "plan",
            hint=undo,
        )
    now, _ = _decide(plan, source, _begun(plan, work, decided, seen) | named, answers)
    now = replace(now, under=joined(now.under, keys_of((), answers)))
    return _with_rest(now, work, seen.catalog)


def _begin(
    plan: Plan, source: Connection, answers: Answers, *, dry_run: bool
) -> tuple[Refreshed, Work | None]:
    """What is decided, and what is to be carried out, which is noted then; None if nothing is."""
    noted = read_noted(plan, source)
    seen = see(plan, source, noted)
    edits, anew = edits_of(plan, noted, seen, answers), _anew(plan, seen, answers)
    with revised(plan, edits) as (next_plan, _):
        if edits:
            require_agreement(next_plan, source, noted, seen.moved)
        work, unassigned = _decide(next_plan, source, anew, answers)
    # What a person has edited in the plan beforehand is an answer, too.
    is_answered = not answers.by_itself and plan.digest != noted.digest
    work = replace(
        work,
        under=None if is_answered else joined(work.under, keys_of((), answers)),
        edits=tuple(map(edit_as_dict, edits)),
        edited=plan.digest if edits else "",
    )
    told = _told(work, edits=tuple(map(str, edits)), unassigned=unassigned)
    heirs = {
        str(name): no_inherit(name, parent)
        for name in seen.unassigned
        if str(name) in unassigned and (parent := heir_of(seen.catalog, name, noted.shapes))
    }
    told = replace(told, heirs=heirs)
    same = work.digest == noted.digest and work.past == noted.past
    if dry_run or (same and not work.is_something):
        return told, None
    _note_work(plan.split, source, work)
    crash_point("refresh.noted")
    as_begun(plan, work)
    return told, work


def _note_work(split: str, source: Connection, work: Work) -> None:
    source.execute(
        "UPDATE dbsplit.split SET settings = settings"
        " || jsonb_build_object('refreshing', %s::jsonb) WHERE split = %s",
        [stored(source, work.as_dict()), split],
    )


def _finish(
    path: Path, source: Connection, work: Work, say: Say, answers: Answers
) -> tuple[str, ...]:
    """Carry it out; returns the routes that were copied.

    A table whose rows of then cannot be read is copied anew, too.
    """
    anew = frozenset[TableName]()
    while True:
        try:
            carry_out(path, work, say)
        except UnknownShape as unknown:
            if unknown.table in anew:
                raise
            plan = load_plan(path, os.environ)
            noted, before = read_noted(plan, source), work
            seen = see(plan, source, noted)
            anew |= {unknown.table} | _begun(plan, work, noted, seen)
            work, _ = _decide(plan, source, anew, answers)
            work = _with_rest(work, before, seen.catalog)
            _note_work(plan.split, source, work)
        except StreamBroken:
            with suppress(psycopg.Error):
                _note_work(load_plan(path, os.environ).split, source, replace(work, broken=True))
            raise
        else:
            return () if work.uncopied else work.copied


def _begun(plan: Plan, work: Work, noted: Noted, seen: Seen) -> frozenset[TableName]:
    """The tables that a work copies: what takes its place begins them anew, keys and all."""
    routes = compile_routes(plan, without(seen, to_ignore(plan, noted, seen)))
    return frozenset(route.source.name for route in routes if route.id in work.copied)


def _with_rest(work: Work, before: Work, catalog: Catalog) -> Work:
    """What was left over of a work that another takes the place of."""
    services = {}
    needed = {
        not_null_statement(table.name, column.name)
        for table in catalog.tables.values()
        for column in table.columns
        if column.not_null
    }
    for service, one in work.services.items():
        old = before.services[service]
        left = [s for s in old.revision.rest if s in needed]
        rest = (*one.revision.rest, *(s for s in left if s not in one.revision.rest))
        routes = tuple(sorted({*one.routes, *old.routes}))
        services[service] = replace(one, revision=replace(one.revision, rest=rest), routes=routes)
    return replace(
        work,
        services=services,
        said=(*before.said, *work.said),
        passed={**before.passed, **work.passed},
        repaired=tuple(sorted({*before.repaired, *work.repaired})),
        under=joined(before.under, work.under),
    )


def _decide(
    plan: Plan, source: Connection, anew: frozenset[TableName], answers: Answers
) -> tuple[Work, tuple[str, ...]]:
    noted = read_noted(plan, source)
    seen = see(plan, source, noted)
    changes = met(noted, seen)
    if answers.by_itself:
        require_carried(plan, changes)
    ignored = to_ignore(plan, noted, seen)
    work = decide(plan, source, noted, seen, ignored, also_anew=anew)
    work = replace(work, under=keys_of(changes, Answers()))
    return work, tuple(str(name) for name in seen.unassigned)


def _anew(plan: Plan, seen: Seen, answers: Answers) -> frozenset[TableName]:
    """The tables that the caller wants to be copied anew."""
    found = set()
    for name in sorted(answers.anew):
        table = seen.catalog.find(name)
        if table is None or entry_key(plan, table.name) is None:
            raise PlanInvalid(
                f"there is no table {name!r} in the plan", hint="see `dbsplit plan check`"
            )
        found.add(table.name)
    return frozenset(found)


def _told(work: Work, edits: tuple[str, ...] = (), unassigned: tuple[str, ...] = ()) -> Refreshed:
    return Refreshed(
        changes=work.said,
        edits=edits,
        statements={
            service: list(one.revision.statements) for service, one in work.services.items()
        },
        copied=() if work.uncopied else work.copied,
        unassigned=unassigned,
        kept={s: list(one.revision.kept) for s, one in work.services.items() if one.revision.kept},
        to_repair=work.repaired,
        to_copy=work.copied if work.uncopied else (),
    )


def _before_a_refresh(plan: Plan, phase: Phase) -> str:
    if phase in (Phase.PLANNED, *UNCOPIED):
        return f"`dbsplit abort {plan.path}`, and prepare again"
    if phase is Phase.COMPLETED:
        return "the split has ended: the service changes its own schema"
    return "let the cutover or rollback that is under way end first"


def moved_services(plan: Plan, source: Connection) -> frozenset[str]:
    """The services that have moved; GateClosed if one neither follows nor has moved."""
    now = state.phases(source, plan.split)
    for service, phase in sorted(now.items()):
        if phase not in REFRESHABLE and not is_refreshable(now.values()):
            raise GateClosed(
                f"service {service} is {phase.value}: a split is refreshed while each of its "
                "services follows, or has moved, or before all are copied",
                hint=_before_a_refresh(plan, phase),
            )
    return frozenset(service for service, phase in now.items() if phase is Phase.MOVED)
