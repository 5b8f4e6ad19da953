"""Giving a split up before its slot fills the source's disk.

`slots.over_budget: give_up` lets the stream and the copy do so as soon as the slot
retains more than `limits.wal_retained_bytes_max`.  First it is noted, then the slot
goes: whoever comes between the two finishes it.  A split of which a service has moved
is never given up, since its slots hold what the way back needs.
"""

from __future__ import annotations

import json

from cdc.connect import Connection
from cdc.crash import crash_point
from plans import names
from plans.errors import StreamBroken
from toolkit import state
from toolkit.opened import Split
from toolkit.removal import drop_slot
from toolkit.state import Phase


def is_over_budget(split: Split, source: Connection, retained_bytes: int) -> bool:
    """Whether the plan wants the split to be given up, by what its slot retains now."""
    if split.plan.slots.over_budget != "give_up":
        return False
    if retained_bytes <= split.plan.limits.wal_retained_bytes_max:
        return False
    begun = {Phase.DRAINING, Phase.SETTLED, Phase.MOVED, Phase.COMPLETED}
    return begun.isdisjoint(state.phases(source, split.name).values())


def give_up(split: Split, source: Connection, retained_bytes: int) -> StreamBroken:
    """Note that the split was given up and drop its slot; returns what to raise.

    Nothing of ours reads from the slot any more.
    """
    limit = split.plan.limits.wal_retained_bytes_max
    why = f"its slot retained {retained_bytes:,} bytes, more than {limit:,}"
    note = json.dumps({"why": why})
    with source.transaction():
        source.execute(
            "UPDATE dbsplit.split SET settings = settings"
            " || jsonb_build_object('given_up', %s::jsonb) WHERE split = %s",
            [note, split.name],
        )
        state.note(source, split.name, "given_up", {"why": why})
    crash_point("budget.noted")
    drop_slot(source, names.slot(split.name))
    return _given_up(split.name, why)


def require_not_given_up(split: str, source: Connection) -> None:
    """Raise StreamBroken if the split was given up; its slots are dropped if they still stand."""
    if source.execute("SELECT to_regclass('dbsplit.split')").fetchone() == (None,):
        return
    row = source.execute(
        "SELECT settings -> 'given_up' ->> 'why' FROM dbsplit.split WHERE split = %s", [split]
    ).fetchone()
    if row is not None and row[0] is not None:
        for slot in (names.slot(split), names.refresh_slot(split)):
            drop_slot(source, slot)
        raise _given_up(split, row[0])


def _given_up(split: str, why: str) -> StreamBroken:
    return StreamBroken(
        f"split {split} was given up, as the plan wants it: {why}. The slot is dropped, and the "
        "source's disk safe",
        hint="`dbsplit abort`, then start the split again: it needs a new copy; see to what held "
        "the stream up first, or allow more in limits.wal_retained_bytes_max",
    )
