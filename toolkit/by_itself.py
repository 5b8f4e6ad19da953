"""What a stream carries by itself: decided here alone, for what it begins and what it finds begun.

A refresh notes the keys of the plan's `ddl:` that its changes fall under.  Once it has come
so far that the new shapes are noted, the changes themselves are not to be seen any more.  So
whoever finds it begun asks the plan of now about these keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from plans.errors import StreamBroken
from plans.evolution import Change, Kind
from plans.load import Plan
from toolkit.prepared import RefreshBegun
from toolkit.refresh_edits import Answers
from toolkit.refresh_work import Work
from toolkit.state import Phase

ANEW = "changed_columns"
"""What copying a table anew falls under, if it has not changed, or nobody knows how."""

REFRESHABLE = frozenset({Phase.FOLLOWING, Phase.MOVED})
UNCOPIED = frozenset({Phase.PREPARED, Phase.COPYING})


def is_refreshable(phases: Collection[Phase]) -> bool:
    """Whether all services are where the source's changes can be carried over."""
    return REFRESHABLE.issuperset(phases) or UNCOPIED.issuperset(phases)


def policy(plan: Plan, key: str) -> str:
    """What the plan says of a kind of change: stop, ignore or carry."""
    return str(getattr(plan.ddl, key, "stop"))


def keys_of(changes: Iterable[Change], answers: Answers) -> tuple[str, ...] | None:
    """The keys that a refresh falls under; None if a person's answers are part of it."""
    if answers.owners or answers.columns:
        return None
    keys = {change.kind.policy for change in changes}
    return tuple(sorted(keys | {ANEW} if answers.anew else keys))


def joined(before: tuple[str, ...] | None, more: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The keys of a refresh into which more was taken."""
    return None if before is None or more is None else tuple(sorted({*before, *more}))


def may_go_on(plan: Plan, work: Work, phases: Collection[Phase]) -> bool:
    """Whether a stream may go on with a refresh that was begun, whoever began it."""
    return (
        work.under is not None
        and (UNCOPIED if work.uncopied else REFRESHABLE).issuperset(phases)
        and all(policy(plan, key) != "stop" for key in work.under)
    )


def require_may_go_on(plan: Plan, work: Work, phases: Collection[Phase]) -> None:
    """Raise RefreshBegun, which leaves it to a person, unless a stream may go on with it."""
    if not may_go_on(plan, work, phases):
        raise RefreshBegun.of(plan)


def require_carried(plan: Plan, changes: Iterable[Change]) -> None:
    """Raise StreamBroken with what the plan stops at, if there is any among these changes."""
    if stopping := [one for one in changes if policy(plan, one.kind.policy) == "stop"]:
        raise stopped(plan, stopping)


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
        f"{again}; then run the same command again{other}",
    )
