"""Following through changes of the source's schema, as the plan's `ddl:` says.

A stream that meets a change ends before the first row that would be wrong.  If the
plan carries or ignores all that has changed, the refresh is made here and the stream
begins anew, where it ended; otherwise the error says which object changed and what to do.
A refresh that was begun and has not ended, because its process died, is gone on with in the
same way: `toolkit.by_itself` decides whether it may be.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from cdc.connect import connect
from cdc.relations import NewPartition
from cdc.watch import UnknownShape
from plans.catalog_read import read_catalog
from plans.errors import GateClosed, NotReady, PlanInvalid, SplitError, StreamBroken
from plans.evolution import Change
from plans.load import Plan, load_plan
from toolkit import state
from toolkit.by_itself import (
    ANEW,
    REFRESHABLE,
    UNCOPIED,
    is_refreshable,
    policy,
    require_carried,
    require_may_go_on,
    stopped,
)
from toolkit.leading import require_agreement
from toolkit.opened import Split, open_split
from toolkit.patience import Patience
from toolkit.prepared import (
    Drifted,
    NoOwner,
    RefreshBegun,
    require_begun,
    require_prepared,
    without_ignored,
)
from toolkit.recovery import recover
from toolkit.refresh import Refreshed, refresh
from toolkit.refresh_edits import Answers
from toolkit.refresh_seen import met, read_noted, see
from toolkit.refresh_work import Work
from toolkit.say import Say
from toolkit.state import Phase
from toolkit.streaming import NOTHING_YET, StreamProgress, stream

REFRESHES_MAX = 100
"""Of one run of the verb: each carries something, and a schema that changes so often is a bug."""


def follow(
    path: Path,
    *,
    stop: threading.Event,
    until_caught_up: bool,
    report: Callable[[StreamProgress], None],
    say: Say,
    begun: Callable[[Split], None] = lambda _split: None,
) -> StreamProgress:
    """Follow as `toolkit.streaming.stream`, and carry what the plan lets us carry.

    A connection that breaks is made again, see `toolkit.patience`.
    """
    patience, latest, refreshes = Patience(), NOTHING_YET, 0
    split: Split | None = None

    def reported(progress: StreamProgress) -> None:
        nonlocal latest
        latest = progress
        if progress.connected:
            patience.follows()
        report(progress)

    while refreshes < REFRESHES_MAX:
        patience.begin()
        try:
            _require_agreement(path)
            split = open_split(path)
            begun(split)
            return stream(split, stop=stop, until_caught_up=until_caught_up, report=reported)
        except (Drifted, RefreshBegun, StreamBroken) as error:
            refreshes += 1
            carry(path, error, say, stop)
        except (NotReady, psycopg.Error) as error:
            if split is not None:
                _let_writers_in(split)
            if _stopped_before_again(patience, error, say, stop):
                return latest
    raise StreamBroken(
        f"the source's schema has changed {REFRESHES_MAX} times since the stream began",
        hint="start `dbsplit stream` again",
    )


def _let_writers_in(split: Split) -> None:
    """End what a dead cutover left, for which no target has to answer; as far as it can be now."""
    with (
        suppress(SplitError, psycopg.Error),
        connect(split.plan.source.dsn, name="dbsplit stream") as source,
    ):
        recover(split, source, thorough=False)


def _require_agreement(path: Path) -> None:
    """Check that moved services' databases are what the source has to follow.

    Raises StreamBroken before a row is carried that would lack something.
    """
    plan = load_plan(path, os.environ)
    with connect(plan.source.dsn, name="dbsplit stream") as source:
        try:
            require_begun(plan, source)
            if moved := state.moved(source, plan.split):
                require_agreement(plan, source, read_noted(plan, source), moved)
        except NotReady:
            return  # whoever opens the split tells, or tries again
        except GateClosed as disagreement:
            raise StreamBroken(str(disagreement), hint=disagreement.hint) from None


def carry(path: Path, error: SplitError, say: Say, stop: threading.Event) -> None:
    """Carry the changes that a stream has met, or go on with it; raises what ends the stream.

    What changes while they are carried may keep the refresh from its end.  Then it is left
    begun, and whoever comes next goes on with it and takes that in.
    """
    plan = load_plan(path, os.environ)
    changes, phases, begun = _met(plan, error)
    patience = Patience()
    if begun is not None:
        require_may_go_on(plan, begun, phases)
        answers = Answers(by_itself=True)
        say("refresh goes on", {"changes": list(begun.said)})
    elif isinstance(error, RefreshBegun) or (isinstance(error, NewPartition) and not changes):
        return  # it has ended meanwhile, or is gone again
    else:
        answers = Answers(anew=_to_carry(plan, error, changes, phases), by_itself=True)
        say("schema changed", {"changes": [str(change) for change in changes]})
        patience.follows()
    try:
        done = refresh_patiently(path, answers, say, stop, patience)
    except (PlanInvalid, GateClosed, NotReady, StreamBroken) as refused:
        if _is_overtaken(plan, changes if begun else ()):
            say("schema changed again", {"why": str(refused)})
            return
        if isinstance(refused, StreamBroken) or (begun and isinstance(refused, NotReady)):
            raise  # whoever starts a stream is told at once, and may start it again
        raise StreamBroken(str(refused), hint=refused.hint) from error
    if done.to_repair:
        by = f"dbsplit validate {plan.path} --repair --direction source"
        say("to repair", {"routes": list(done.to_repair), "by": by})


def _to_carry(
    plan: Plan, error: SplitError, changes: tuple[Change, ...], phases: frozenset[Phase]
) -> frozenset[str]:
    """The tables that are to be copied anew besides; raises what ends the stream."""
    anew = frozenset[str]()
    if isinstance(error, UnknownShape) and policy(plan, ANEW) == "carry":
        anew = frozenset({str(error.table)})
    if isinstance(error, NoOwner):
        raise _broken(error) from None
    if not changes and not anew:
        raise (_of_leader(plan, error) if Phase.MOVED in phases else _broken(error)) from None
    require_carried(plan, changes)
    if not is_refreshable(phases):
        raise stopped(plan, changes) from error
    return anew


def through_changes(path: Path, work: Callable[[], object], say: Say) -> None:
    """Do what comes before the stream; what the plan lets a stream carry does not end it.

    Raises Drifted or RefreshBegun for what the plan leaves to a person.
    """
    for _ in range(REFRESHES_MAX):
        try:
            work()
        except (Drifted, RefreshBegun) as error:
            if not _is_uncopied(path):
                raise
            try:
                carry(path, error, say, threading.Event())
            except StreamBroken as left:
                if isinstance(error, RefreshBegun):
                    raise
                raise Drifted(str(left), hint=left.hint) from None
        else:
            return
    raise NotReady(
        f"the source's schema has changed {REFRESHES_MAX} times since this began",
        hint="stop whoever changes it for a while, then run the same command again",
    )


def _is_uncopied(path: Path) -> bool:
    plan = load_plan(path, os.environ)
    with connect(plan.source.dsn, name="dbsplit run") as source:
        return UNCOPIED.issuperset(state.phases(source, plan.split).values())


def is_to_be_carried(path: Path) -> bool:
    """Whether the split follows, and what is not as it was prepared is the stream's to carry.

    To `prepare` and `copy`, which are done then, it would be in the way.
    """
    plan = load_plan(path, os.environ)
    with connect(plan.source.dsn, name="dbsplit run") as source:
        phases = state.phases(source, plan.split) if state.has_control(source) else {}
        if not phases or not REFRESHABLE.issuperset(phases.values()):
            return False
        catalog = without_ignored(read_catalog(source, plan.source.schemas), plan, source)
        try:
            require_prepared(plan, catalog, source)
        except (Drifted, RefreshBegun):
            return True
        except SplitError:
            return False  # whoever prepares tells
    return False


def refresh_patiently(
    path: Path,
    answers: Answers,
    say: Say,
    stop: threading.Event,
    patience: Patience,
    *,
    dry_run: bool = False,
) -> Refreshed:
    """Refresh; what a broken connection has interrupted goes on where it stopped."""

    def said(step: str, details: dict[str, Any]) -> None:
        patience.follows()  # who begins a refresh is told at once what does not answer
        say(step, details)

    while True:
        patience.begin()
        try:
            return refresh(path, answers, said, dry_run=dry_run)
        except (NotReady, psycopg.Error) as error:
            if _stopped_before_again(patience, error, say, stop):
                raise


def _stopped_before_again(
    patience: Patience, error: Exception, say: Say, stop: threading.Event
) -> bool:
    """Wait until it is to be tried again; True if it is to stop.  Raises what ends patience."""
    pause_s = patience.pause_s(error)
    why = str(error).strip().partition("\n")[0]
    say("reconnecting", {"why": why, "in_s": pause_s})
    return stop.wait(pause_s)


def _met(plan: Plan, error: SplitError) -> tuple[tuple[Change, ...], frozenset[Phase], Work | None]:
    """What has changed in the source, where the services are, and the refresh that was begun.

    If one was begun, it is what has changed since.
    """
    try:
        with connect(plan.source.dsn, name="dbsplit refresh") as source:
            noted = read_noted(plan, source)
            require_agreement(plan, source, noted, state.moved(source, plan.split))
            begun = None if noted.work is None else Work.of(noted.work)
            known = noted if begun is None else begun.decided(noted)
            changes = met(known, see(plan, source, known))
            phases = frozenset(state.phases(source, plan.split).values())
    except GateClosed as disagreement:
        raise StreamBroken(str(disagreement), hint=disagreement.hint) from error
    except SplitError:
        raise _broken(error) from None
    return changes, phases, begun


def _is_overtaken(plan: Plan, known: tuple[Change, ...]) -> bool:
    """Whether more than is known has changed since the refresh that was begun."""
    with suppress(SplitError, psycopg.Error), connect(plan.source.dsn) as source:
        noted = read_noted(plan, source)
        if noted.work is not None:
            decided = Work.of(noted.work).decided(noted)
            return not set(met(decided, see(plan, source, decided))) <= set(known)
    return False


def _of_leader(plan: Plan, error: SplitError) -> SplitError:
    """The error, where a change in a moved service's database may be behind it."""
    broken = _broken(error)
    if "plan refresh" not in broken.hint:
        return broken
    return StreamBroken(
        str(error),
        hint="nothing is lost: the service that has moved leads. If the change was made in its "
        f"database, make it on the source, too; then `dbsplit plan refresh {plan.path} --anew "
        "TABLE` lets the stream go on behind it, and once it runs `dbsplit validate "
        f"{plan.path} --table TABLE --repair --direction source` brings the source what was "
        "written meanwhile",
    )


def _broken(error: SplitError) -> SplitError:
    if isinstance(error, StreamBroken | RefreshBegun):
        return error
    return StreamBroken(str(error), hint=error.hint)
