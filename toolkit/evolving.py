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

from cdc.connect import connect
from cdc.watch import UnknownShape
from plans.errors import NotReady, PlanInvalid, SplitError, StreamBroken
from plans.evolution import Change, Kind
from plans.load import Plan, load_plan
from toolkit import state
from toolkit.opened import Drifted, Split, open_split
from toolkit.refresh import Say, refresh
from toolkit.refresh_edits import Answers
from toolkit.refresh_seen import read_noted, see
from toolkit.state import Phase
from toolkit.streaming import StreamProgress, stream

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
    """Follow as `toolkit.streaming.stream`, and carry what the plan lets us carry."""
    for _ in range(REFRESHES_MAX):
        try:
            split = open_split(path)
            begun(split)
            return stream(split, stop=stop, until_caught_up=until_caught_up, report=report)
        except (Drifted, StreamBroken) as error:
            carry(path, error, say)
    raise StreamBroken(
        f"the source's schema has changed {REFRESHES_MAX} times since the stream began",
        hint="start `dbsplit stream` again",
    )


def carry(path: Path, error: SplitError, say: Say) -> None:
    """Carry the changes that a stream has met; raises what ends it."""
    plan = load_plan(path, os.environ)
    try:
        with connect(plan.source.dsn, name="dbsplit refresh") as source:
            noted = read_noted(plan, source)
            met = () if noted.work is not None else see(plan, source, noted).changes
            phases = set(state.phases(source, plan.split).values())
    except SplitError:
        raise _broken(error) from None
    ignored = noted.past.get("ignored", ())
    hidden = {(s, t, c) for s, t, columns in ignored for c in columns}
    met = tuple(c for c in met if (c.table.schema, c.table.name, c.object) not in hidden)
    unknown = error.table if isinstance(error, UnknownShape) else None
    anew = frozenset[str]()
    if unknown is not None and plan.ddl.changed_columns == "carry":
        anew = frozenset({str(unknown)})
    if not met and not anew:
        raise _broken(error) from None
    stopping = [change for change in met if policy(plan, change) == "stop"]
    if stopping or phases != {Phase.FOLLOWING}:
        raise stopped(plan, stopping or met) from error
    say("schema changed", {"changes": [str(change) for change in met]})
    try:
        refresh(path, Answers(anew=anew), say)
    except (PlanInvalid, NotReady) as refused:
        raise StreamBroken(str(refused), hint=refused.hint) from error


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


def _broken(error: SplitError) -> StreamBroken:
    if isinstance(error, StreamBroken):
        return error
    return StreamBroken(str(error), hint=error.hint)
