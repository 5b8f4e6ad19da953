"""Following through changes of the source's schema, as the plan's `ddl:` says.

A stream that meets a change ends before the first row that would be wrong.  If the
plan carries or ignores all that has changed, the refresh is made here and the stream
begins anew, where it ended; otherwise the error says which object changed and what to do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psycopg

from cdc.connect import connect
from cdc.watch import UnknownShape
from plans.errors import GateClosed, NotReady, PlanInvalid, SplitError, StreamBroken
from plans.evolution import Change, Kind
from plans.load import Plan, load_plan
from toolkit import state
from toolkit.leading import require_agreement
from toolkit.opened import Split, open_split
from toolkit.patience import Patience
from toolkit.prepared import Drifted, NoOwner, require_begun
from toolkit.refresh import Refreshed, refresh
from toolkit.refresh_edits import Answers
from toolkit.refresh_seen import read_noted, see
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
        except (Drifted, StreamBroken) as error:
            refreshes += 1
            carry(path, error, say, stop)
        except (NotReady, psycopg.Error) as error:
            if _stopped_before_again(patience, error, say, stop):
                return latest
    raise StreamBroken(
        f"the source's schema has changed {REFRESHES_MAX} times since the stream began",
        hint="start `dbsplit stream` again",
    )


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
    """Carry the changes that a stream has met; raises what ends it."""
    plan = load_plan(path, os.environ)
    met, phases = _met(plan, error)
    unknown = error.table if isinstance(error, UnknownShape) else None
    anew = frozenset[str]()
    if unknown is not None and plan.ddl.changed_columns == "carry":
        anew = frozenset({str(unknown)})
    if isinstance(error, NoOwner):
        raise _broken(error) from None
    if not met and not anew:
        raise (_of_leader(plan, error) if Phase.MOVED in phases else _broken(error)) from None
    stopping = [change for change in met if policy(plan, change) == "stop"]
    if stopping or not phases <= {Phase.FOLLOWING, Phase.MOVED}:
        raise stopped(plan, stopping or met) from error
    say("schema changed", {"changes": [str(change) for change in met]})
    try:
        patience = Patience()
        patience.follows()
        done = refresh_patiently(path, Answers(anew=anew), say, stop, patience)
    except (PlanInvalid, NotReady, GateClosed) as refused:
        raise StreamBroken(str(refused), hint=refused.hint) from error
    if done.to_repair:
        by = f"dbsplit validate {plan.path} --repair --direction source"
        say("to repair", {"routes": list(done.to_repair), "by": by})


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


def _met(plan: Plan, error: SplitError) -> tuple[tuple[Change, ...], frozenset[Phase]]:
    """What has changed in the source, but for what is ignored, and where the services are."""
    try:
        with connect(plan.source.dsn, name="dbsplit refresh") as source:
            noted = read_noted(plan, source)
            require_agreement(plan, source, noted, state.moved(source, plan.split))
            met = () if noted.work is not None else see(plan, source, noted).changes
            phases = frozenset(state.phases(source, plan.split).values())
    except GateClosed as disagreement:
        raise StreamBroken(str(disagreement), hint=disagreement.hint) from error
    except SplitError:
        raise _broken(error) from None
    ignored = noted.past.get("ignored", ())
    hidden = {(s, t, c) for s, t, columns in ignored for c in columns}
    met = tuple(c for c in met if (c.table.schema, c.table.name, c.object) not in hidden)
    return met, phases


def policy(plan: Plan, change: Change) -> str:
    """What the plan says of a change: stop, ignore or carry."""
    return str(getattr(plan.ddl, change.kind.policy, "stop"))


def stopped(plan: Plan, changes: Iterable[Change]) -> StreamBroken:
    """The error that names the changes, and what to do about them."""
    changes = list(changes)
    keys = sorted(
        {f"ddl.{c.kind.policy}: carry" for c in changes if hasattr(plan.ddl, c.kind.policy)}
    )
    anew = sorted(
        {str(c.table) for c in changes if not c.in_place and c.kind is not Kind.NEW_TABLE}
    )
    again = f"; it copies {', '.join(anew)} anew, and nothing else" if anew else ""
    other = f". With {', '.join(keys)} the stream does so by itself" if keys else ""
    return StreamBroken(
        f"the source has changed since split {plan.split} was prepared: "
        f"{'; '.join(map(str, changes))}",
        hint=f"nothing wrong was written. `dbsplit plan refresh {plan.path}` carries it over"
        f"{again}; then start the stream again{other}",
    )


def _of_leader(plan: Plan, error: SplitError) -> StreamBroken:
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


def _broken(error: SplitError) -> StreamBroken:
    if isinstance(error, StreamBroken):
        return error
    return StreamBroken(str(error), hint=error.hint)
